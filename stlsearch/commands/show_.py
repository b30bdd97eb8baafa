"""`stlsearch show`: one algorithm, its factors as formulas."""

from __future__ import annotations

import json
import math

import click

from stlsearch.commands.options import emit_json, json_option, registry_option
from stlsearch.commands.summary import metric_rows, missing, printable, summary, table
from stlsearch.registry.codec import encode
from stlsearch.registry.formulas import formula_lines
from stlsearch.registry.store import Entry, Registry


@click.command("show")
@click.argument("name")
@registry_option()
@json_option()
def command(name: str, registry: Registry, as_json: bool) -> None:
    """Show one algorithm: what it computes, how well, where it comes from, and its formulas.

    NAME is a name, the beginning of one, the beginning of an id, or a .json file. Formulas of inexact algorithms are
    rounded to 4 digits; `stlsearch export` writes every digit.
    """
    entry = registry.get(name)
    algorithm = entry.algorithm
    lines = formula_lines(algorithm)
    if as_json:
        details = {
            **summary(entry),
            "exact_over": algorithm.valid_rings(),
            "additions": algorithm.additions,
            "nonzeros": list(algorithm.nonzeros),
            "provenance": encode(algorithm)["provenance"],
            "formulas": lines,
        }
        emit_json({"algorithm": details})
        return
    click.echo(algorithm.name)
    click.echo(table(_header(entry)))
    click.echo()
    click.echo("\n".join(lines))


def _header(entry: Entry) -> list[tuple[str, str]]:
    algorithm = entry.algorithm
    a, b, c = algorithm.target.dims
    rings = algorithm.valid_rings()
    nonzeros = ", ".join(f"{name} {count}" for name, count in zip("UVW", algorithm.nonzeros, strict=True))
    rows = [
        ("target", f"{algorithm.target.kind} {algorithm.target.slug}, dims {a}, {b}, {c}"),
        ("rank", str(algorithm.rank)),
        ("ring", f"{algorithm.ring}, exact over {', '.join(rings)}" if rings else f"{algorithm.ring}, inexact"),
        ("rel_sq_error", f"{algorithm.error:.6g} (e, squared; its root is {math.sqrt(algorithm.error):.6g})"),
        ("missing", missing(algorithm, 6)),
        ("amplification", f"{algorithm.amplification:.6g} (g)"),
        ("additions", str(algorithm.additions)),
        ("nonzeros", nonzeros),
        *metric_rows(algorithm),
        ("id", algorithm.id),
        ("where", f"{entry.layer}, {entry.path}"),
    ]
    provenance: dict = encode(algorithm)["provenance"]  # type: ignore[assignment]
    rows += [("provenance", f"{key}: {_shown(value)}") for key, value in provenance.items()]
    return [(f"  {key}", printable(value)) for key, value in rows]


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

"""`stlsearch border`: algorithms of border rank, families with a parameter eps."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from stlsearch.border import BorderAlgorithm, Polynomial
from stlsearch.commands.options import PositiveType, emit_json, json_option, registry_option
from stlsearch.commands.summary import printable, summary, table
from stlsearch.constructions.border_expression import construct_family
from stlsearch.errors import InputError
from stlsearch.registry.atomic import write_atomic
from stlsearch.registry.families import dumps, read_family
from stlsearch.registry.store import Registry

MAX_AMPLIFICATION = 1000.0
DTYPES = ("float32", "float16", "bfloat16")
BEST = "least e + g u^2 at eps {eps:.4g}: e {rel_sq_error:.4g}, g {amplification:.4g}"


@click.group("border")
def command() -> None:
    """Border-rank families [[U,V,W]](eps) = T + O(eps^k): verify them, and register what they are at one eps.

    \b
    stlsearch border verify bini
    stlsearch border at family.json --max-amplification 1000
    stlsearch border at "permute(bini,2,3,1) +p standard(2,2,1)" --eps 0.3

    FAMILY is a file (our JSON, plain JSON with Ueps, Veps, Weps, or the text of the fast-matmul collection: docs/format.md),
    or an expression as for `stlsearch construct` in which bini may occur, the family <3,2,2;10>.
    """


@command.command("verify")
@click.argument("family")
@registry_option()
@json_option()
def verify(family: str, registry: Registry, as_json: bool) -> None:
    """Verify FAMILY over Q[eps, 1/eps], and say how its error and its amplification depend on eps.

    A family that does not tend to its target is named on stderr with its first wrong coefficient, exit code 2.
    """
    found = load(family, registry)
    choices = {dtype: _member(found, found.eps_for_dtype(dtype)) for dtype in DTYPES}
    if as_json:
        emit_json({"family": {**_summary(found), "best_eps": choices}})
        return
    click.echo(found.name)
    rows = [
        ("target", found.target.slug),
        ("rank", str(found.rank)),
        ("order", "exact at every eps" if found.order is None else f"[[U,V,W]] = T + O(eps^{found.order}), checked over Q[eps,1/eps]"),
        ("rel_sq_error", f"e = {_leading(found.error_polynomial)}"),
        ("amplification", f"g = {_leading(found.amplification_polynomial)}"),
        *((dtype, BEST.format(**choices[dtype])) for dtype in DTYPES),
        *((key, printable(str(found.provenance[key]))) for key in ("source", "licence", "convention") if key in found.provenance),
        ("id", found.id),
    ]
    click.echo(table([(f"  {key}", value) for key, value in rows]))


@command.command("at")
@click.argument("family")
@click.option("--eps", type=float, help="The eps itself, of either sign.")
@click.option("--optimize-for", help="The eps of least e + g u^2 when values are stored as float32, bfloat16, float16, e4m3 or float64.")
@click.option("--max-amplification", type=PositiveType(), help="The eps of least e with amplification g at most this.  [default: 1000]")
@registry_option()
@json_option()
def at(
    family: str, eps: float | None, optimize_for: str | None, max_amplification: float | None, registry: Registry, as_json: bool
) -> None:
    """Register what FAMILY is at one eps: a basis over R, a start for `stlsearch fit --init known:NAME`."""
    if sum(option is not None for option in (eps, optimize_for, max_amplification)) > 1:
        raise InputError("give one of --eps, --optimize-for and --max-amplification: each decides eps")
    registry.check_writable()
    found = load(family, registry)
    if eps is None and optimize_for is not None:
        eps = found.eps_for_dtype(optimize_for)
    elif eps is None:
        eps = found.eps_for_amplification(max_amplification or MAX_AMPLIFICATION)
    words = ["stlsearch", "border", "at", shlex.quote(family if is_expression(family) else Path(family).name), "--eps", repr(eps)]
    algorithm = found.at(eps).with_provenance(command=" ".join(words))
    registry.add(algorithm)
    entry = registry.get(algorithm.name)
    if as_json:
        emit_json({"algorithm": summary(entry), "family": _summary(found), "eps": eps})
        return
    click.echo(algorithm.name)
    rows = [
        ("family", f"{found.name}, {'exact at every eps' if found.order is None else f'order {found.order}'}"),
        ("eps", repr(eps)),
        ("rank", str(algorithm.rank)),
        ("rel_sq_error", f"{algorithm.error:.6g}"),
        ("amplification", f"{algorithm.amplification:.6g}"),
        ("file", str(entry.path)),
    ]
    click.echo(table([(f"  {key}", value) for key, value in rows]))


@command.command("write")
@click.argument("family")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The JSON file to write.")
@registry_option()
def write(family: str, out: Path, registry: Registry) -> None:
    """Write FAMILY, from any format or an expression, as our JSON (docs/format.md)."""
    found = load(family, registry)
    write_atomic(out, dumps(found).encode())
    click.echo(f"wrote {found.name} to {out}", err=True)


def is_expression(family: str) -> bool:
    """Whether the argument of a command is an expression and no file."""
    # os.path.exists: Path.exists raises on a name that is too long for a file, as an expression may be
    return not (os.path.exists(family) or family.endswith(".json") or os.sep in family)  # noqa: PTH110


def load(family: str, registry: Registry) -> BorderAlgorithm:
    """The family in a file or of an expression.

    Raises:
        InputError: neither, or a family that is wrong.
    """
    if not is_expression(family):
        return read_family(Path(family))
    return construct_family(family, lambda name: registry.get(name).algorithm)


def _summary(family: BorderAlgorithm) -> dict[str, object]:
    return {
        "name": family.name,
        "id": family.id,
        "target": family.target.describe(),
        "rank": family.rank,
        "order": family.order,
        "error_polynomial": {str(order): value for order, value in family.error_polynomial.items()},
        "amplification_polynomial": {str(order): value for order, value in family.amplification_polynomial.items()},
    }


def _member(family: BorderAlgorithm, eps: float) -> dict[str, float]:
    algorithm = family.at(eps)
    return {"eps": eps, "rel_sq_error": algorithm.error, "amplification": algorithm.amplification}


def _leading(polynomial: Polynomial) -> str:
    """The term that decides as eps tends to 0."""
    if not polynomial:
        return "0"
    order = min(polynomial)
    return f"{polynomial[order]:.4g} eps^{order} + ..." if order else f"{polynomial[order]:.4g} + ..."

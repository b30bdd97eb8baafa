"""`stlsearch construct`: an exact algorithm from an expression."""

from __future__ import annotations

from pathlib import Path

import click

from stlsearch.commands.options import emit_json, json_option, registry_option
from stlsearch.commands.summary import summary, table
from stlsearch.constructions.expression import construct
from stlsearch.registry.atomic import write_atomic
from stlsearch.registry.codec import dumps
from stlsearch.registry.store import Registry


@click.command("construct")
@click.argument("expression")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the algorithm to this JSON file.")
@registry_option()
@json_option()
def command(expression: str, out: Path | None, registry: Registry, as_json: bool) -> None:
    """Build an algorithm from EXPRESSION, verify it and store it in the registry.

    \b
    Formulas:      strassen  winograd  laderman  standard(n,m,p)  karatsuba
                   toom(m,n)  convolution(n)  gauss  gram(n,m), or a registered name
    Composition:   strassen*strassen           Kronecker product
    Direct sum:    strassen +p standard(2,2,1) along n, m or p
    Other forms:   transpose(x)  cyclic(x)  permute(x,2,3,1)
                   simplify(x)                 lower amplification
    """
    registry.check_writable()
    algorithm = construct(expression, lambda name: registry.get(name).algorithm)
    registry.add(algorithm)
    if out is not None:
        write_atomic(out, dumps(algorithm).encode())
    entry = registry.get(algorithm.name)
    if as_json:
        emit_json({"algorithm": summary(entry)})
        return
    click.echo(algorithm.name)
    rows = [("rank", str(algorithm.rank)), ("rel_sq_error", f"{algorithm.error:.6g}"), ("amplification", f"{algorithm.amplification:.6g}")]
    click.echo(table([*rows, ("ring", algorithm.ring), ("file", str(entry.path))]))

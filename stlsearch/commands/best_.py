"""`stlsearch best`: the best registered algorithm of a tile and rank."""

from __future__ import annotations

import click

from stlsearch.commands.options import (
    amplification_option,
    emit_json,
    json_option,
    rank_option,
    registry_option,
    tile_option,
)
from stlsearch.commands.summary import report_broken, summary
from stlsearch.errors import InputError
from stlsearch.registry.store import Registry
from stlsearch.targets import Target


@click.command("best")
@tile_option()
@rank_option()
@click.option("--exact/--inexact", "exact", default=None, help="Only exact algorithms, or only inexact ones.")
@amplification_option()
@registry_option()
@json_option()
def command(tile: Target, rank: int, exact: bool | None, max_amplification: float | None, registry: Registry, as_json: bool) -> None:
    """Name the registered algorithm of that tile and rank with the lowest error, then the lowest amplification.

    Only algorithms for real matrices count, none over Z2, Zp or complex numbers.
    """
    tile.check_rank(rank)
    entry = registry.best(tile, rank, max_amplification=max_amplification, exact=exact)
    if entry is None:
        found, broken = registry.find(tile, exact=exact, max_amplification=max_amplification)
        report_broken(broken)
        ranks = sorted({other.algorithm.rank for other in found if other.algorithm.is_real})
        there = f"ranks that do: {', '.join(map(str, ranks))}" if ranks else f"none of {tile.slug} does"
        raise InputError(f"no registered algorithm of {tile.slug} and rank {rank} meets the request; {there}")
    if as_json:
        emit_json({"algorithm": summary(entry)})
    else:
        click.echo(
            f"{entry.algorithm.name}  rel_sq_error {entry.algorithm.error:.6g}  g {entry.algorithm.amplification:.6g}  {entry.layer}"
        )

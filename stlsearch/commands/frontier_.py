"""`stlsearch frontier`: the best registered basis at every rank of a tile, as a table and a picture."""

from __future__ import annotations

from pathlib import Path

import click

from stlsearch.commands.options import CountType, PositiveType, emit_json, json_option, registry_option, tile_option
from stlsearch.commands.progress import ProgressLine
from stlsearch.commands.summary import report_broken, summary, table
from stlsearch.compare import compare
from stlsearch.devices import resolve_device
from stlsearch.plots import Point, check_picture, draw_frontier
from stlsearch.registry.store import Entry, Registry
from stlsearch.targets import Target

MAX_AMPLIFICATION = 1000.0


@click.command("frontier")
@tile_option()
@click.option(
    "--max-amplification", type=PositiveType(), default=MAX_AMPLIFICATION, show_default=True, help="Largest amplification g shown."
)
@click.option(
    "--random",
    "random_starts",
    type=CountType("random starts"),
    help="Beside it, the best of this many random starts (ALS) at every rank shown.",
)
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw error against the FLOP factor to this .png, .svg or .pdf."
)
@registry_option()
@json_option()
def command(
    tile: Target, max_amplification: float, random_starts: int | None, plot: Path | None, registry: Registry, as_json: bool
) -> None:
    """Show the best registered basis at every rank of a tile, and draw the trade of error against FLOPs.

    \b
    stlsearch frontier --tile 4 --random 64 --plot frontier.png
    """
    if plot is not None:
        check_picture(plot)
    found, broken = registry.find(tile, max_amplification=max_amplification)
    report_broken(broken)
    front: dict[int, Entry] = {}
    for entry in found:  # sorted by rank, then by e
        if entry.algorithm.is_real:
            front.setdefault(entry.algorithm.rank, entry)
    random = (
        {} if random_starts is None else _random_errors(tile, [rank for rank in front if front[rank].algorithm.error > 0], random_starts)
    )
    if plot is not None:
        fronts = {f"registered, g <= {max_amplification:g}": [Point(rank, entry.algorithm.error) for rank, entry in front.items()]}
        if random:
            fronts[f"best of {random_starts} random starts"] = [Point(rank, error) for rank, error in random.items()]
        draw_frontier(tile, fronts, plot)
    if as_json:
        rows = [{**summary(entry), "random_rel_sq_error": random.get(rank)} for rank, entry in front.items()]
        emit_json({"tile": list(tile.shape or ()), "max_amplification": max_amplification, "front": rows})
        return
    click.echo(
        table(
            [
                ("rank", "FLOP factor", "rel_sq_error", "missing", "g", "random", "name"),
                *(_row(tile, entry, random) for entry in front.values()),
            ],
            range(6),
        )
    )


def _random_errors(tile: Target, ranks: list[int], starts: int) -> dict[int, float]:
    line = ProgressLine()
    try:
        device = resolve_device("auto")
        return {
            rank: float(compare(tile, rank, ["random"], seeds=starts, device=device, progress=line).outcomes[0].errors.min())
            for rank in ranks
        }
    finally:
        line.close()


def _row(tile: Target, entry: Entry, random: dict[int, float]) -> tuple[str, ...]:
    algorithm = entry.algorithm
    return (
        str(algorithm.rank),
        f"{tile.norm_sq / algorithm.rank:.2f}",
        f"{algorithm.error:.5f}",
        f"{algorithm.missing_products:.2f}",
        f"{algorithm.amplification:.4g}",
        f"{random[algorithm.rank]:.5f}" if algorithm.rank in random else "-",
        algorithm.name,
    )

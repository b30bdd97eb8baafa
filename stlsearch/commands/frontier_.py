"""`stlsearch frontier`: the best registered basis at every rank of a tile, searched for, as a table and a picture."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from stlsearch.commands.options import (
    INTERRUPTED,
    CountType,
    PositiveType,
    RanksType,
    device_option,
    emit_json,
    json_option,
    registry_option,
    seed_option,
    threads_option,
    tile_option,
)
from stlsearch.commands.progress import ProgressLine
from stlsearch.commands.summary import report_broken, summary, table
from stlsearch.compare import compare
from stlsearch.devices import resolve_device, set_threads
from stlsearch.errors import InputError
from stlsearch.frontier import Step, improve_front
from stlsearch.plots import Point, check_picture, draw_frontier
from stlsearch.registry.store import Entry, Registry
from stlsearch.solvers.polish import Goal
from stlsearch.targets import Target

MAX_AMPLIFICATION = 1000.0


@click.command("frontier")
@tile_option()
@click.option("--ranks", type=RanksType(), help="Ranks to search, such as 24, 16-32 or 16,24,30-32; by default those registered.")
@click.option("--time-limit", type=PositiveType(), help="Search for better bases for this many seconds, improving on the registry.")
@click.option("--steps", type=CountType("steps"), help="Search for this many fits instead.")
@seed_option("Of the search; the same seed resumes it.")
@device_option()
@threads_option()
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
    tile: Target,
    ranks: list[int] | None,
    time_limit: float | None,
    steps: int | None,
    seed: int,
    device: str,
    threads: int,
    max_amplification: float,
    random_starts: int | None,
    plot: Path | None,
    registry: Registry,
    as_json: bool,
) -> int:
    """Show the best registered basis at every rank of a tile, and draw the trade of error against FLOPs.

    \b
    stlsearch frontier --tile 4 --random 64 --plot frontier.png
    stlsearch frontier --tile 4 --ranks 16-48 --time-limit 3600

    With --time-limit or --steps it first searches: every rank in turn, each fit with a strategy that has improved something
    before; better bases are registered as they are found. Ctrl-C ends the search and keeps them; the same seed resumes it.
    """
    if plot is not None:
        check_picture(plot)
    set_threads(threads)
    where = resolve_device(device)
    interrupted = False
    if time_limit is not None or steps is not None:
        registry.check_writable()
        interrupted = _search(tile, ranks, registry, max_amplification, seed, steps, time_limit, where.type)
    elif ranks is not None:
        raise InputError("--ranks are the ranks to search: give --time-limit or --steps too")
    found, broken = registry.find(tile, max_amplification=max_amplification)
    report_broken(broken)
    front: dict[int, Entry] = {}
    for entry in found:  # sorted by rank, then by e
        if entry.algorithm.is_real:
            front.setdefault(entry.algorithm.rank, entry)
    random: dict[int, float] = {}
    if random_starts is not None and not interrupted:
        interrupted = _random_errors(tile, [rank for rank in front if front[rank].algorithm.error > 0], random_starts, where, random)
    if as_json:
        rows = [{**summary(entry), "random_rel_sq_error": random.get(rank)} for rank, entry in front.items()]
        emit_json({"tile": list(tile.shape or ()), "max_amplification": max_amplification, "interrupted": interrupted, "front": rows})
    else:
        click.echo(
            table(
                [
                    ("rank", "FLOP factor", "rel_sq_error", "missing", "g", "random", "name"),
                    *(_row(tile, entry, random) for entry in front.values()),
                ],
                range(6),
            )
        )
    if plot is not None:
        fronts = {f"registered, g <= {max_amplification:g}": [Point(rank, entry.algorithm.error) for rank, entry in front.items()]}
        if random:
            fronts[f"best of {random_starts} random starts"] = [Point(rank, error) for rank, error in random.items()]
        draw_frontier(tile, fronts, plot)
    return INTERRUPTED if interrupted else 0


def _search(
    tile: Target,
    ranks: list[int] | None,
    registry: Registry,
    bound: float,
    seed: int,
    steps: int | None,
    time_limit: float | None,
    device: str,
) -> bool:
    """Run the search and report its steps on stderr; True when Ctrl-C ended it."""
    line = ProgressLine()

    def tell(step: Step) -> None:
        line.close()
        before = "none" if step.previous is None else f"{step.previous:.5f}"
        found = f"rank {step.rank}, {step.strategy}: e {step.algorithm.error:.5f}, g {step.algorithm.amplification:.3g}"
        click.echo(f"{found}, before {before}{', registered' if step.improved else ''}", err=True)

    wanted = ranks or sorted({entry.algorithm.rank for entry in registry.find(tile)[0]})
    if not wanted:
        raise InputError(f"no basis of {tile.slug} is registered yet: give --ranks")
    try:
        improve_front(
            tile,
            sorted(wanted, reverse=True),
            registry,
            goal=Goal(bound),
            seed=seed,
            steps=steps,
            time_limit=time_limit,
            device=device,
            progress=line,
            on_step=tell,
        )
    except KeyboardInterrupt:
        return True
    finally:
        line.close()
    return False


def _random_errors(tile: Target, ranks: list[int], starts: int, device: torch.device, errors: dict[int, float]) -> bool:
    """Fill `errors` with the best of some random starts, rank by rank; True when Ctrl-C ended it."""
    line = ProgressLine()
    try:
        for rank in ranks:
            errors[rank] = float(compare(tile, rank, ["random"], seeds=starts, device=device, progress=line).outcomes[0].errors.min())
    except KeyboardInterrupt:
        return True
    finally:
        line.close()
    return False


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

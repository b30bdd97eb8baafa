"""`stlsearch frontier`: the best registered basis at every rank of a tile, searched for, as a table and a picture."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands.options import (
    INTERRUPTED,
    WRITTEN,
    CountType,
    PositiveType,
    RanksType,
    device_option,
    emit_json,
    json_option,
    registry_option,
    seed_option,
    target_option,
    threads_option,
)
from stlsearch.commands.progress import ProgressLine
from stlsearch.commands.summary import report_broken, summary, table
from stlsearch.compare import compare
from stlsearch.devices import resolve_device, set_threads
from stlsearch.errors import InputError
from stlsearch.frontier import Step, improve_front
from stlsearch.parents import WITHIN, Parents, best_by_rank, usable_algorithms
from stlsearch.plots import Point, check_picture, draw_frontier
from stlsearch.registry.store import Registry
from stlsearch.solvers.polish import Goal
from stlsearch.targets import Target

MAX_AMPLIFICATION = 1000.0
MODEST_AMPLIFICATION = 30.0  # drawn beside it: what hardly amplifies the rounding of bfloat16


@click.command("frontier")
@target_option()
@click.option("--ranks", type=RanksType(), help="Ranks to search, such as 24, 16-32 or 16,24,30-32; by default those registered.")
@click.option("--time-limit", type=PositiveType(), help="Search for better bases for this many seconds, improving on the registry.")
@click.option("--steps", type=CountType("steps"), help="Search for this many fits instead.")
@seed_option("Of the search; the same seed resumes it.")
@device_option()
@threads_option()
@click.option(
    "--max-amplification", type=PositiveType(), default=MAX_AMPLIFICATION, show_default=True, help="Largest amplification g shown."
)
@click.option("--optimize-for", help="Instead: least e + g u^2 for values stored as bfloat16, float16, e4m3, ...")
@click.option(
    "--pool",
    type=CountType("bases"),
    default=1,
    show_default=True,
    help="Keep, and show, up to so many bases at every rank that differ beyond a change of basis, and search from them all.",
)
@click.option(
    "--within",
    type=PositiveType(),
    default=100 * WITHIN,
    show_default=True,
    help="How many percent above the best one's error a basis of the pool may lie.",
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
    target: Target,
    ranks: list[int] | None,
    time_limit: float | None,
    steps: int | None,
    seed: int,
    device: str,
    threads: int,
    max_amplification: float,
    optimize_for: str | None,
    pool: int,
    within: float,
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
    before; better bases are registered as they are found, and with --pool others that are nearly as good and differ. Ctrl-C ends
    the search and keeps them; the same seed resumes it.
    """
    goal = Goal(max_amplification, optimize_for)
    parents = Parents(goal, pool, within / 100)
    if plot is not None:
        check_picture(plot)
    set_threads(threads)
    where = resolve_device(device)
    interrupted = False
    if time_limit is not None or steps is not None:
        registry.check_writable()
        interrupted = _search(target, ranks, registry, parents, seed, steps, time_limit, where.type)
    elif ranks is not None:
        raise InputError("--ranks are the ranks to search: give --time-limit or --steps too")
    report_broken(registry.find(target)[1])
    usable = usable_algorithms(target, registry)
    front = best_by_rank(usable, goal)
    parents.update(usable)
    random: dict[int, float] = {}
    if random_starts is not None and not interrupted:
        interrupted = _random_errors(target, [rank for rank in front if front[rank].error > 0], random_starts, goal, where, random)
    if as_json:
        rows = [
            {
                **summary(registry.get(held.name)),
                "score": goal.score(held.error, held.amplification),
                "random_rel_sq_error": random.get(rank),
                "pool": [summary(registry.get(member.name)) for member in parents.pool(target, rank)],
            }
            for rank, held in front.items()
        ]
        document = {"tile": list(target.shape or ()), "target": target.describe(), "max_amplification": max_amplification}
        document |= {"optimize_for": optimize_for} if optimize_for else {}
        emit_json({**document, "interrupted": interrupted, "front": rows})
    else:
        click.echo(
            table(
                [
                    ("rank", "FLOP factor", "rel_sq_error", "missing", "g", "e+g*u^2" if optimize_for else "", "random", "name"),
                    *(_row(target, member, goal, random) for rank in front for member in parents.pool(target, rank)),
                ],
                range(7),
            )
        )
    if plot is not None:
        fronts = {}
        for bound in sorted({max_amplification, min(max_amplification, MODEST_AMPLIFICATION)}, reverse=True):
            points = [Point(rank, held.error) for rank, held in best_by_rank(usable, Goal(bound)).items()]
            fronts[f"registered, g <= {bound:g}"] = points
        if random:
            fronts[f"best of {random_starts} random starts"] = [Point(rank, error) for rank, error in random.items()]
        draw_frontier(target, fronts, plot)
    return INTERRUPTED if interrupted else 0


def _search(
    target: Target,
    ranks: list[int] | None,
    registry: Registry,
    parents: Parents,
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
        outcome = ", registered" if step.improved else ", registered for the pool" if step.pooled else ""
        click.echo(f"{found}, before {before}{outcome}", err=True)

    wanted = ranks or sorted({entry.algorithm.rank for entry in registry.find(target)[0]})
    if not wanted:
        raise InputError(f"no basis of {target.slug} is registered yet: give --ranks")
    try:
        improve_front(
            target,
            sorted(wanted, reverse=True),
            registry,
            goal=parents.goal,
            pool=parents.size,
            within=parents.within,
            seed=seed,
            steps=steps,
            time_limit=time_limit,
            device=device,
            written=click.get_current_context().meta.get(WRITTEN),
            progress=line,
            on_step=tell,
        )
    except KeyboardInterrupt:
        return True
    finally:
        line.close()
    return False


def _random_errors(target: Target, ranks: list[int], starts: int, goal: Goal, device: torch.device, errors: dict[int, float]) -> bool:
    """Fill `errors` with the best of some random starts, rank by rank; True when Ctrl-C ended it."""
    line = ProgressLine()
    try:
        for rank in ranks:
            errors[rank] = float(
                compare(target, rank, ["random"], seeds=starts, goal=goal, device=device, progress=line).outcomes[0].errors.min()
            )
    except KeyboardInterrupt:
        return True
    finally:
        line.close()
    return False


def _row(tile: Target, algorithm: BilinearAlgorithm, goal: Goal, random: dict[int, float]) -> tuple[str, ...]:
    return (
        str(algorithm.rank),
        f"{tile.trivial_rank / algorithm.rank:.2f}",
        f"{algorithm.error:.5f}",
        f"{algorithm.missing_products:.2f}",
        f"{algorithm.amplification:.4g}",
        f"{goal.score(algorithm.error, algorithm.amplification):.5f}" if goal.optimize_for else "",
        f"{random[algorithm.rank]:.5f}" if algorithm.rank in random else "-",
        algorithm.name,
    )

"""`stlsearch compare`: initialisation strategies against each other."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from stlsearch.commands.fit_ import make_goal
from stlsearch.commands.options import (
    INTERRUPTED,
    CountType,
    PositiveType,
    device_option,
    dtype_option,
    emit_json,
    json_option,
    rank_option,
    registry_option,
    seed_option,
    target_option,
    threads_option,
)
from stlsearch.commands.progress import ProgressLine
from stlsearch.commands.summary import table
from stlsearch.compare import Outcome, compare
from stlsearch.devices import resolve_device, set_threads
from stlsearch.inits import INITS
from stlsearch.plots import check_picture, draw_comparison
from stlsearch.registry.store import Registry
from stlsearch.solvers import SOLVERS
from stlsearch.targets import Target

SIGNIFICANT = 0.05


@click.command("compare")
@target_option()
@rank_option()
@click.option(
    "--init", default="random,strassen,kron,polynomial,fourier,subtiles", show_default=True, help=f"Of {', '.join(INITS)}; known:NAME."
)
@click.option("--solver", default="als", show_default=True, help=f"One of {', '.join(SOLVERS)}.")
@click.option("--seeds", type=CountType("seeds"), default=8, show_default=True, help="Starts per strategy, fitted as one batch.")
@click.option("--iterations", type=CountType("iterations"), help="Iterations of the solver; by default chosen by solver.")
@seed_option()
@device_option()
@dtype_option()
@threads_option()
@click.option("--optimize-for", help="Weigh e against g for values stored as float32, bfloat16, float16 or e4m3.")
@click.option("--max-amplification", type=PositiveType(), help="Search for amplification g at most about this.  [default: 1000]")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw error against iterations to this .png, .svg or .pdf.")
@registry_option()
@json_option()
def command(
    target: Target,
    rank: int,
    init: str,
    solver: str,
    seeds: int,
    iterations: int | None,
    seed: int,
    device: str,
    dtype: str,
    threads: int,
    optimize_for: str | None,
    max_amplification: float | None,
    plot: Path | None,
    registry: Registry,
    as_json: bool,
) -> int:
    """Compare initialisation strategies: same solver and iterations for each, nothing polished; building the starts is timed apart.

    \b
    stlsearch compare --tile 4 --rank 24 --seeds 8 --plot compare.png
    stlsearch compare --tile 4 --rank 24 --solver sgd-tiles --init random-small,strassen,kron

    Errors are relative squared errors e; "missing" is the best one counted in scalar products of the tile; p is the
    one-sided Mann-Whitney probability, Holm-corrected, of errors this low if the strategy were no better than random starts.
    """
    target.check_rank(rank)
    goal = make_goal(optimize_for, max_amplification)
    set_threads(threads)
    if plot is not None:
        check_picture(plot)
    line = ProgressLine()
    try:
        result = compare(
            target,
            rank,
            [name.strip() for name in init.split(",")],
            solver=solver,
            seeds=seeds,
            iterations=iterations,
            seed=seed,
            device=resolve_device(device),
            dtype=dtype,
            goal=goal,
            lookup=lambda name: registry.get(name).algorithm,
            progress=line,
        )
    finally:
        line.close()
    outcomes = result.outcomes
    if as_json:
        documents = [_document(each, target) for each in outcomes]
        header = {"tile": list(target.shape or ()), "target": target.describe(), "rank": rank, "solver": solver}
        emit_json({**header, "interrupted": result.interrupted, "outcomes": documents})
    else:
        _print(outcomes, target)
    if plot is not None:
        draw_comparison(outcomes, f"{target.slug}, rank {rank}, {solver}", plot)
    if result.interrupted:
        click.echo("interrupted: only the strategies above were finished", err=True)
    return INTERRUPTED if result.interrupted else 0


def _print(outcomes: list[Outcome], target: Target) -> None:
    click.echo(
        table(
            [
                ("init", "best e", "median e", "worst e", "missing", "g", "start s", "solver s", "p"),
                *(_row(each, target) for each in outcomes),
            ],
            range(1, 9),
        )
    )
    for outcome in outcomes:
        if outcome.refused:
            click.echo(f"{outcome.init}: {outcome.refused}")
    click.echo(_verdict(outcomes))


def _row(outcome: Outcome, target: Target) -> tuple[str, ...]:
    if outcome.refused:
        return (outcome.init, *["-"] * 8)
    errors, best = outcome.errors, int(outcome.errors.argmin())
    return (
        outcome.init,
        f"{errors[best]:.5f}",
        f"{np.median(errors):.5f}",
        f"{errors.max():.5f}",
        f"{errors[best] * target.norm_sq:.2f}",
        f"{outcome.amplifications[best]:.4g}",
        f"{outcome.start_seconds:.1f}",
        f"{outcome.seconds:.1f}",
        "-" if outcome.p_value is None else f"{outcome.p_value:.2g}",
    )


def _document(outcome: Outcome, target: Target) -> dict[str, object]:
    if outcome.refused:
        return {"init": outcome.init, "refused": outcome.refused}
    return {
        "init": outcome.init,
        "rel_sq_errors": outcome.errors.tolist(),
        "best": float(outcome.errors.min()),
        "median": float(np.median(outcome.errors)),
        "worst": float(outcome.errors.max()),
        "missing_products": float(outcome.errors.min() * target.norm_sq),
        "amplifications": outcome.amplifications.tolist(),
        "start_seconds": outcome.start_seconds,
        "seconds": outcome.seconds,
        "p_value": outcome.p_value,
        "iterations": outcome.iterations.tolist(),
        "curves": outcome.curves.tolist(),
    }


def _verdict(outcomes: list[Outcome]) -> str:
    """The paper's claim, theory-backed starts beat random ones, as these figures have it."""
    tested = [outcome for outcome in outcomes if outcome.p_value is not None]
    if not tested:
        return "No strategy was tested against a random baseline (name random and one other, with at least 2 seeds)."
    better = [outcome.init for outcome in tested if (outcome.p_value or 0.0) < SIGNIFICANT]
    others = [outcome.init for outcome in tested if outcome.init not in better]
    text = f"Better than random (p < {SIGNIFICANT}): {', '.join(better) or 'none'}."
    return text + (f" Not shown to be better: {', '.join(others)}." if others else "")

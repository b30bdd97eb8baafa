"""`stlsearch fit`: fit a rank-r decomposition and store it."""

from __future__ import annotations

import math
from pathlib import Path

import click
import torch

from stlsearch.algorithm import UNIT_ROUNDOFF
from stlsearch.commands.options import (
    INTERRUPTED,
    CountType,
    PositiveType,
    command_line,
    device_option,
    dtype_option,
    emit_json,
    json_option,
    rank_option,
    registry_option,
    seed_option,
    threads_option,
    tile_option,
    uninterrupted,
)
from stlsearch.commands.progress import ProgressLine
from stlsearch.commands.summary import summary, table
from stlsearch.devices import resolve_device, set_threads
from stlsearch.errors import InputError, RegistryError
from stlsearch.fit import FitResult, fit
from stlsearch.inits import INITS
from stlsearch.registry.atomic import check_destination, write_atomic
from stlsearch.registry.codec import dumps
from stlsearch.registry.store import Entry, Registry
from stlsearch.solvers import SOLVERS
from stlsearch.solvers.polish import Goal
from stlsearch.targets import Target


@click.command("fit")
@tile_option()
@rank_option()
@click.option("--solver", default="als", show_default=True, help=f"One of {', '.join(SOLVERS)}.")
@click.option(
    "--init",
    default="auto",
    show_default=True,
    help=f"auto (a known exact algorithm if there is one, else a portfolio), {', '.join(INITS)}; known:NAME starts from a registered one.",
)
@click.option("--restarts", type=CountType("restarts"), help="Starts fitted as one batch; by default chosen by solver and rank.")
@click.option("--iterations", type=CountType("iterations"), help="Iterations of the solver; by default chosen by solver.")
@seed_option()
@device_option()
@dtype_option()
@threads_option()
@click.option("--time-limit", type=PositiveType(), help="Seconds, after which the best so far is kept (and marked as not reproducible).")
@click.option("--optimize-for", help="Least e + g u^2 when values are stored as float32, bfloat16, float16, e4m3 or float64.")
@click.option("--max-amplification", type=PositiveType(), help="Least e with amplification g at most this.  [default: 1000]")
@click.option(
    "--penalty", type=PositiveType(), help="Multiplier of g in the search, before the polish: larger keeps g small, smaller lets e fall."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the basis to this JSON file.")
@registry_option()
@json_option()
def command(
    tile: Target,
    rank: int,
    solver: str,
    init: str,
    restarts: int | None,
    iterations: int | None,
    seed: int,
    device: str,
    dtype: str,
    threads: int,
    time_limit: float | None,
    optimize_for: str | None,
    max_amplification: float | None,
    penalty: float | None,
    out: Path | None,
    registry: Registry,
    as_json: bool,
) -> int:
    """Fit a rank-r decomposition of the matrix product of a tile, and store it in the registry.

    \b
    stlsearch fit --tile 4 --rank 24
    stlsearch fit --tile 2x3x4 --rank 18 --optimize-for bfloat16

    It minimises the relative squared error e = ||T - [[U,V,W]]||^2/||T||^2 with amplification g (how much rounding is
    amplified) at most 1000, or e + g u^2 for a storage dtype. Ctrl-C keeps and saves the best so far and exits with
    code 130. Ranks at which an exact algorithm is known return it.
    """
    tile.check_rank(rank)
    goal = make_goal(optimize_for, max_amplification, penalty)
    set_threads(threads)
    chosen = resolve_device(device)
    registry.check_writable()
    if out is not None:
        check_destination(out)
    line = ProgressLine()
    try:
        result = fit(
            tile,
            rank,
            solver=solver,
            init=init,
            restarts=restarts,
            iterations=iterations,
            seed=seed,
            device=chosen,
            dtype=dtype,
            goal=goal,
            time_limit=time_limit,
            lookup=lambda name: registry.get(name).algorithm,
            progress=line,
        )
    finally:
        line.close()
    algorithm = result.algorithm
    if "command" not in algorithm.provenance:
        algorithm = algorithm.with_provenance(command=command_line(device=chosen.type, threads=torch.get_num_threads()))
    with uninterrupted():  # a second Ctrl-C must not lose what the first one kept
        best = registry.best(tile, algorithm.rank, max_amplification=None if optimize_for else goal.max_amplification)
        failure, entry = None, Entry(algorithm, Path("-"), "not saved")
        try:
            registry.add(algorithm)
            entry = registry.get(algorithm.name)
        except RegistryError as error:  # a full disk: what was computed is shown all the same
            failure = error
        if as_json:
            emit_json(_document(entry, result, rank, best))
        else:
            click.echo(table(_rows(entry, result, rank, goal, best)))
        if out is not None:
            write_atomic(out, dumps(algorithm).encode())
        if failure is not None:
            raise failure
    return INTERRUPTED if result.status == "interrupted" else 0


def make_goal(optimize_for: str | None, max_amplification: float | None, penalty: float | None = None) -> Goal:
    """The goal of the options, of which the first two exclude each other."""
    if optimize_for is not None and max_amplification is not None:
        raise InputError("give --optimize-for or --max-amplification, not both: the first already weighs e against g")
    return Goal(max_amplification or Goal().max_amplification, optimize_for, penalty)


def _document(entry: Entry, result: FitResult, rank: int, best: Entry | None) -> dict[str, object]:
    return {
        "algorithm": summary(entry),
        "requested_rank": rank,
        "total_error": {dtype: entry.algorithm.total_error(dtype) for dtype in UNIT_ROUNDOFF},
        "status": result.status,
        "reproducible": result.reproducible,
        "seconds": result.seconds,
        "best_in_registry": None if best is None else summary(best),
    }


def _rows(entry: Entry, result: FitResult, rank: int, goal: Goal, best: Entry | None) -> list[tuple[str, str]]:
    algorithm = entry.algorithm
    products = algorithm.target.norm_sq
    rows = [
        ("name", algorithm.name),
        ("tile", algorithm.target.slug),
        ("rank", f"{algorithm.rank} ({products / algorithm.rank:.3g} times fewer multiplications)"),
        ("rel_sq_error", f"{algorithm.error:.6g} (e, squared; its root is {math.sqrt(algorithm.error):.4g})"),
        ("missing", f"{algorithm.missing_products:.4g} of {products:g} products"),
        ("amplification", f"{algorithm.amplification:.4g} (g)"),
    ]
    if goal.optimize_for:
        rows.append(("total error", f"{algorithm.total_error(goal.optimize_for):.6g} (e + g u^2 in {goal.optimize_for})"))
    elif algorithm.amplification > goal.max_amplification:
        rows.append(("warning", f"no basis with g <= {goal.max_amplification:g} was found: this one comes closest"))
    if algorithm.is_exact and algorithm.rank < rank:
        rows.append(("note", f"exact at rank {algorithm.rank}: rank {rank} is not needed"))
    how = "a known exact algorithm" if algorithm.is_exact else f"{algorithm.provenance['init']}, {algorithm.provenance['solver']}"
    status = result.status if result.reproducible else f"{result.status}: cut short, not reproducible"
    beside = "none" if best is None else f"{best.algorithm.name}, e {best.algorithm.error:.6g}, g {best.algorithm.amplification:.4g}"
    rows += [
        ("found by", how),
        ("status", f"{status}, {result.seconds:.1f} s"),
        ("best in the registry", beside),
        ("file", str(entry.path)),
    ]
    return rows

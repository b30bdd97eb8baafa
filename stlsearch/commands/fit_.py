"""`stlsearch fit`: fit a rank-r decomposition and store it."""

from __future__ import annotations

import math
from pathlib import Path

import click
import torch

from stlsearch.algorithm import UNIT_ROUNDOFF, BilinearAlgorithm
from stlsearch.commands.metric_options import ASSUMPTIONS, MetricChoice, metric_options, resolve_metric
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
    target_option,
    threads_option,
    uninterrupted,
)
from stlsearch.commands.progress import ProgressLine
from stlsearch.commands.summary import metric_rows, missing, summary, table
from stlsearch.devices import resolve_device, set_threads
from stlsearch.errors import InputError, RegistryError
from stlsearch.evaluate.data import Line, beside_baselines
from stlsearch.fit import FitResult, fit
from stlsearch.inits import INITS
from stlsearch.lineage import lineage
from stlsearch.registry.atomic import check_destination, write_atomic
from stlsearch.registry.codec import dumps
from stlsearch.registry.store import Entry, Registry
from stlsearch.solvers import SOLVERS
from stlsearch.solvers.polish import Goal
from stlsearch.targets import Target


@click.command("fit")
@target_option()
@rank_option()
@click.option("--solver", default="als", show_default=True, help=f"One of {', '.join(SOLVERS)}.")
@click.option(
    "--init",
    default="auto",
    show_default=True,
    help=f"auto (a known exact algorithm if there is one, else a portfolio), {', '.join(INITS)}; known:NAME, hop:NAME and orbits:NAME "
    "start from a registered one, cyclic:RANK from a higher rank.",
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
@click.option("--polish", type=CountType("restarts to polish"), help="Polish this many of the best restarts; by default 1 to 4, by rank.")
@metric_options()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the basis to this JSON file.")
@registry_option()
@json_option()
def command(
    target: Target,
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
    polish: int | None,
    metric: str | None,
    activations: Path | None,
    weights: str | None,
    channels: str,
    out: Path | None,
    registry: Registry,
    as_json: bool,
) -> int:
    """Fit a rank-r decomposition of the matrix product of a tile, or of any bilinear map, and store it in the registry.

    \b
    stlsearch fit --tile 4 --rank 24
    stlsearch fit --tile 2x3x4 --rank 18 --optimize-for bfloat16
    stlsearch fit --target polymul:4 --rank 6

    It minimises the relative squared error e = ||T - [[U,V,W]]||^2/||T||^2 with amplification g (how much rounding is
    amplified) at most 1000, or e + g u^2 for a storage dtype. Ctrl-C keeps and saves the best so far and exits with
    code 130. Ranks at which an exact algorithm is known return it.

    \b
    stlsearch fit --tile 4 --rank 24 --metric ar1:0.7,0.3
    stlsearch fit --tile 4 --rank 24 --metric data --activations acts.npy --weights layer.safetensors:w

    With --metric it minimises E|XW - STL(X, W)|^2/E|XW|^2 for activation and weight tiles of given second moments, and
    shows beside the result what an isotropic basis, its best rotation and plain truncation reach, modelled and, with
    samples, measured on those held out.
    """
    target.check_rank(rank)
    goal = make_goal(optimize_for, max_amplification, penalty)
    choice = resolve_metric(target, rank, metric, activations, weights, channels)
    set_threads(threads)
    chosen = resolve_device(device)
    registry.check_writable()
    if out is not None:
        check_destination(out)
    line = ProgressLine()
    try:
        result = fit(
            target,
            rank,
            solver=solver,
            init=init,
            restarts=restarts,
            iterations=iterations,
            seed=seed,
            device=chosen,
            dtype=dtype,
            goal=goal,
            metric=choice.metric,
            polished=polish,
            time_limit=time_limit,
            lookup=lambda name: registry.get(name).algorithm,
            progress=line,
        )
        algorithm = result.algorithm
        lines = [] if result.status == "interrupted" else _compared(algorithm, choice, registry, goal, time_limit, line)
    finally:
        line.close()
    if "command" not in algorithm.provenance:
        command = command_line(device=chosen.type, threads=torch.get_num_threads())
        made_by = lineage(algorithm.provenance, lambda name: registry.get(name).algorithm)
        algorithm = algorithm.with_provenance(command=command, **({"lineage": made_by} if made_by else {}))
    with uninterrupted():  # a second Ctrl-C must not lose what the first one kept
        bound = None if optimize_for else goal.max_amplification
        best = registry.best(target, algorithm.rank, max_amplification=bound, metric=choice.metric)
        failure, entry = None, Entry(algorithm, Path("-"), "not saved")
        try:
            registry.add(algorithm)
            entry = registry.get(algorithm.name)
        except RegistryError as error:  # a full disk: what was computed is shown all the same
            failure = error
        if as_json:
            emit_json(_document(entry, result, rank, best, lines))
        else:
            click.echo(table(_rows(entry, result, rank, goal, best, choice)))
            if lines:
                click.echo("\n" + _comparison(lines, choice))
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


def _compared(
    algorithm: BilinearAlgorithm,
    choice: MetricChoice,
    registry: Registry,
    goal: Goal,
    time_limit: float | None,
    progress: ProgressLine,
) -> list[Line]:
    """Under a metric, the result beside its baselines; the isotropic one from the registry, else from a quick fit."""
    target, rank = algorithm.target, algorithm.rank
    if choice.metric is None or target.shape is None:
        return []
    try:
        known = registry.best(target, rank, max_amplification=None if goal.optimize_for else goal.max_amplification)
        if known is None:
            quick = fit(target, rank, restarts=8, iterations=300, goal=goal, time_limit=time_limit, progress=progress).algorithm
        return beside_baselines(algorithm, quick if known is None else known.algorithm, choice.metric, choice.held_out)
    except (KeyboardInterrupt, InputError) as error:  # the result is there: it is saved and shown without company
        if isinstance(error, InputError):
            click.echo(f"note: nothing to compare it with: {error}", err=True)
        return []


def _comparison(lines: list[Line], choice: MetricChoice) -> str:
    header = ["rel_sq_error", "modelled", "g"]
    rows = [[line.label, f"{line.error:.4f}", f"{line.amplification:.4g}"] for line in lines]
    if choice.held_out is not None:
        header += ["held out, modelled", "held out, measured"]
        rows = [
            [*row, f"{line.held_out:.4f}", "-" if line.measured is None or math.isnan(line.measured) else f"{line.measured:.4f}"]
            for row, line in zip(rows, lines, strict=True)
        ]
    return table([header, *rows], right=range(1, len(header))) + f"\nmodel: {ASSUMPTIONS}"


def _document(entry: Entry, result: FitResult, rank: int, best: Entry | None, lines: list[Line]) -> dict[str, object]:
    return {
        "algorithm": summary(entry),
        "requested_rank": rank,
        "total_error": {dtype: entry.algorithm.total_error(dtype) for dtype in UNIT_ROUNDOFF},
        "status": result.status,
        "reproducible": result.reproducible,
        "seconds": result.seconds,
        "best_in_registry": None if best is None else summary(best),
        **({"under_the_metric": [line.to_dict() for line in lines]} if lines else {}),
    }


def _rows(entry: Entry, result: FitResult, rank: int, goal: Goal, best: Entry | None, choice: MetricChoice) -> list[tuple[str, str]]:
    algorithm = entry.algorithm
    metric = choice.metric
    rows = [
        ("name", algorithm.name),
        ("tile" if algorithm.target.shape else "target", algorithm.target.slug),
        ("rank", f"{algorithm.rank} ({algorithm.target.trivial_rank / algorithm.rank:.3g} times fewer multiplications)"),
        ("rel_sq_error", f"{algorithm.error:.6g} (e, squared; its root is {math.sqrt(algorithm.error):.4g})"),
        ("missing", missing(algorithm, 4)),
        ("amplification", f"{algorithm.amplification:.4g} (g)"),
    ]
    if metric is not None:
        rows += (
            metric_rows(algorithm)
            if algorithm.metric is not None
            else [("metric", f"{metric.source}; {'exact under every one' if algorithm.is_exact else 'white'}")]
        )
    if goal.optimize_for and metric is None:
        rows.append(("total error", f"{algorithm.total_error(goal.optimize_for):.6g} (e + g u^2 in {goal.optimize_for})"))
    elif (algorithm.amplification if metric is None else metric.amplification(algorithm)) > goal.max_amplification:
        rows.append(("warning", f"no basis with g <= {goal.max_amplification:g} was found: this one comes closest"))
    if algorithm.is_exact and algorithm.rank < rank:
        rows.append(("note", f"exact at rank {algorithm.rank}: rank {rank} is not needed"))
    how = "a known exact algorithm" if algorithm.is_exact else f"{algorithm.provenance['init']}, {algorithm.provenance['solver']}"
    status = result.status if result.reproducible else f"{result.status}: cut short, not reproducible"
    beside = "none"
    if best is not None:
        held = best.algorithm
        e, g = (held.error, held.amplification) if metric is None else (metric.error(held), metric.amplification(held))
        beside = f"{held.name}, e {e:.6g}, g {g:.4g}"
    rows += [
        ("found by", how),
        ("status", f"{status}, {result.seconds:.1f} s"),
        ("best in the registry", beside),
        ("file", str(entry.path)),
    ]
    return rows

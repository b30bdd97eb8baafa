"""The one verb: fit a rank-r decomposition of a bilinear map.

A fit runs in stages: exact algorithms that are known, starts by strategy, a batched solver on all restarts,
then a polish of the best few to the goal. Its default budget is a deterministic amount of work.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

import stlsearch
from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import standard_terms
from stlsearch.constructions.known import best_exact
from stlsearch.devices import available_memory
from stlsearch.errors import InputError
from stlsearch.inits import Request, Start, find_init
from stlsearch.inits.request import NotApplicable, embed
from stlsearch.metric import Metric
from stlsearch.recorder import Best, Progress, Recorder, Sample, TimeUp
from stlsearch.registry.store import open_registry, shipped_exact
from stlsearch.solvers import als, find_solver
from stlsearch.solvers.polish import Goal, polish
from stlsearch.solvers.problem import Factors, Monitor, Problem, silent, take, unknowns
from stlsearch.targets import Target

DTYPES = {"float64": torch.float64, "float32": torch.float32}
RANKING_SWEEPS = 400
WORTH_REFINING = 1.01  # of the objective to beat: how far behind it a restart may lie as ALS left it, ...
WORTH_POLISHING = 0.9999  # ... and after sweeps at the penalty of the comparison: it must be another basis, and a better one
WORTH_INEXACTNESS = 0.999  # an exact algorithm is given up only for a gain that shows
# What wins somewhere: fourier and subtiles were behind these at every tile and rank tried.
AUTO_STRATEGIES = ("kron", "strassen", "polynomial", "random")
METRIC_STRATEGIES = ("strassen", "kron", "random", "modes")


@dataclass(frozen=True)
class FitResult:
    """What a fit found.

    Attributes:
        algorithm: the best basis by the goal; its provenance records how to make it again.
        status: "exact" (a known exact algorithm), "finished", "time limit" or "interrupted". The last two
            were cut short: another run may get elsewhere.
        history: best and median error of every stage over its iterations.
        seconds: wall clock.
        polished: it has been taken to the goal, not given up before as behind what was to be beaten.
    """

    algorithm: BilinearAlgorithm
    status: str
    history: tuple[Sample, ...]
    seconds: float
    polished: bool = False

    @property
    def error(self) -> float:
        """e of the algorithm."""
        return self.algorithm.error

    @property
    def amplification(self) -> float:
        """g of the algorithm."""
        return self.algorithm.amplification

    @property
    def reproducible(self) -> bool:
        """The whole budget was spent, so the same call gives the same result."""
        return self.status in ("exact", "finished")


def fit(
    target: Target,
    rank: int,
    *,
    solver: str = "als",
    init: str = "auto",
    restarts: int | None = None,
    iterations: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: str = "float64",
    goal: Goal | None = None,
    metric: Metric | None = None,
    time_limit: float | None = None,
    lookup: Callable[[str], BilinearAlgorithm] | None = None,
    progress: Callable[[Progress], None] | None = None,
    polished: int | None = None,
    to_beat: float | None = None,
) -> FitResult:
    """Fit a rank-r decomposition minimising e = ||T - [[U,V,W]]||^2/||T||^2 under the goal on g.

    With a metric, e and g are those of the weighted problem (`stlsearch.metric`) throughout. The algorithm's factors
    are of the product itself all the same, and its `metric_error` and `metric_amplification` are what was minimised.

    Args:
        target: the bilinear map.
        rank: r, from 1 to `target.trivial_rank`.
        solver: a key of `stlsearch.solvers.SOLVERS`.
        init: a key of `stlsearch.inits.INITS` (``known:NAME`` with an argument), or "auto": a known exact
            algorithm of at most this rank when there is one, else a portfolio of the structured strategies.
        restarts: starts fitted as one batch; default by solver and rank.
        iterations: of the solver; default by solver.
        seed: of every random choice. Same seed, device, thread count and versions: same result.
        device, dtype: of the solver; float64 or float32. The polish of a float32 fit is float64.
        goal: least e under a bound on g (default g <= 1000), or least e + g u^2.
        metric: second moments of the data to fit for; None (or a white one) for white inputs.
        time_limit: seconds, after which the best so far is returned, marked "time limit".
        lookup: finds registered algorithms by name, for ``known:NAME``; default the user's registry.
        progress: called as the fit advances. KeyboardInterrupt returns the best so far, marked "interrupted".
        polished: how many of the most promising restarts are polished; by default 4, or fewer where that costs more.
        to_beat: the objective at `ranking_penalty(goal)` of the basis to be beaten: what falls clearly behind it is not
            polished, which is most of the cost. None polishes in any case.

    Raises:
        InputError: a rank, solver, init, restart count, dtype or goal that is not valid, or a batch beyond the memory.
        KeyboardInterrupt: interrupted before any basis was found.
    """
    goal = goal or Goal()
    target.check_rank(rank)
    if metric is not None and metric.check(target).is_white:
        metric = None
    chosen = find_solver(solver)
    portfolio = AUTO_STRATEGIES if metric is None else METRIC_STRATEGIES
    strategies = portfolio if init == "auto" else (init,)
    for name in strategies:
        find_init(name)
    problem = Problem.of(target, device, solver_dtype(dtype), metric)
    restarts = _positive("restarts", restarts, default_restarts(rank, chosen.restarts))
    iterations = _positive("iterations", iterations, chosen.iterations)
    check_memory(problem, rank, restarts)
    recorder = Recorder(goal, progress, time_limit)
    known = _best_known(target, rank, goal, metric) if init == "auto" else None
    if known is not None and goal.optimize_for is None and _amplification(known, metric) <= goal.max_amplification:
        return FitResult(known, "exact", (), time.monotonic() - recorder.began)

    generator = torch.Generator().manual_seed(seed)
    options = {"seed": seed} if chosen.seeded else {}
    origins: dict[str, Mapping[str, object]] = {}
    worthy: list[tuple[int, Factors]] = []
    try:
        batches = []
        for name in strategies:
            recorder.strategy, recorder.stage, recorder.keeping = name, f"{name} starts", False
            try:
                start = start_from(name, problem, rank, restarts, generator, goal, lookup, recorder)
            except NotApplicable:
                if init != "auto":
                    raise
                continue
            origins[name] = start.provenance
            recorder.stage, recorder.keeping = f"{name} {solver}", True
            batches.append(
                chosen.solve(
                    problem,
                    start.factors,
                    penalty=goal.working_penalty,
                    iterations=iterations,
                    monitor=recorder,
                    every=chosen.every,
                    **options,
                    **({"start_penalty": goal.working_penalty} if start.settled and chosen.anneals else {}),
                )
            )
        accurate = Problem.of(target, device, metric=metric)
        U, V, W = (torch.cat([batch[mode] for batch in batches]).double() for mode in range(3))
        owners = [name for name, batch in zip(origins, batches, strict=True) for _ in range(len(batch[0]))]
        worthy = _most_promising(accurate, (U, V, W), owners, goal, recorder, polished, to_beat)
        for index, factors in worthy:
            recorder.strategy, recorder.stage = owners[index], f"{owners[index]} polish"
            polish(accurate, factors, goal, recorder)
        status = "finished"
    except TimeUp:
        status = "time limit"
    except KeyboardInterrupt:
        status = "interrupted"
        if recorder.best is None and known is None:
            raise
    best = recorder.best
    if known is not None and (best is None or goal.score(0.0, _amplification(known, metric)) * WORTH_INEXACTNESS <= best.score):
        status = "exact" if status == "finished" else status
        return FitResult(known, status, tuple(recorder.history), time.monotonic() - recorder.began)
    if best is None or status != "finished":  # cut short before any strategy had come to anything
        definition = _truncated_definition(problem, rank, goal)
        best = definition if best is None or definition.score < best.score else best
    provenance = {
        "method": "fit",
        "solver": solver,
        "init": best.strategy,
        "requested_init": init,
        **origins.get(best.strategy, {}),
        "seed": seed,
        "restarts": restarts,
        "iterations": iterations,
        "dtype": dtype,
        "device": torch.device(device).type,
        "threads": torch.get_num_threads(),
        "goal": goal.describe(),
        "penalty": goal.working_penalty,
        **({} if metric is None else {"metric": metric.source}),
        "status": status,
        "versions": {
            "stlsearch": stlsearch.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
    }
    U, V, W = problem.restore(tuple(factor.double().cpu() for factor in best.factors))  # type: ignore[arg-type]
    algorithm = BilinearAlgorithm.from_floats(target, U.numpy(), V.numpy(), W.numpy(), metric=metric, provenance=provenance)
    finished = status == "finished" and len(worthy) > 0
    return FitResult(algorithm, status, tuple(recorder.history), time.monotonic() - recorder.began, finished)


def _amplification(algorithm: BilinearAlgorithm, metric: Metric | None) -> float:
    return algorithm.amplification if metric is None else metric.amplification(algorithm)


def _best_known(target: Target, rank: int, goal: Goal, metric: Metric | None) -> BilinearAlgorithm | None:
    """The exact algorithm of at most that rank that serves the goal best: few terms, or the small amplification of the definition."""
    candidates = [known_exact(target), standard_terms(target)]
    affordable = [algorithm for algorithm in candidates if algorithm.is_exact and algorithm.rank <= rank]
    return min(affordable, key=lambda algorithm: goal.score(0.0, _amplification(algorithm, metric)), default=None)


def _truncated_definition(problem: Problem, rank: int, goal: Goal) -> Best:
    """The first r products of the definition: e = 1 - r/nmp for a matrix product."""
    definition = standard_terms(problem.target)
    U, V, W = (torch.tensor(factor[:rank]).to(problem.tensor)[None] for factor in (definition.U, definition.V, definition.W))
    factors = problem.whiten((U, V, W))
    error, amplification = float(problem.error(factors)), float(problem.amplification(factors))
    U, V, W = (factor[0] for factor in factors)
    return Best((U, V, W), goal.score(error, amplification), error, amplification, "definition")


def check_memory(problem: Problem, rank: int, restarts: int) -> None:
    """Refuse a batch that cannot fit, before it brings the machine down.

    The largest arrays of a solver: pairs of factors (B, r, ab), Gram matrices (B, r, r), residuals (B, a, b, c).

    Raises:
        InputError: more than the device has free.
    """
    a, b, c = problem.target.dims
    needed = 3 * problem.tensor.element_size() * restarts * max(rank * max(a * b, b * c, a * c), rank * rank, a * b * c)
    free = available_memory(problem.tensor.device)
    if free is not None and needed > free:
        raise InputError(
            f"{restarts} restarts of {problem.target.slug} at rank {rank} need about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "give fewer --restarts"
        )


def default_restarts(rank: int, most: int) -> int:
    """Fewer restarts for larger ranks, so that the default budget stays within a minute on two cores."""
    return max(4, min(most, most * 12 // rank))


def start_from(
    name: str,
    problem: Problem,
    rank: int,
    restarts: int,
    generator: torch.Generator,
    goal: Goal,
    lookup: Callable[[str], BilinearAlgorithm] | None = None,
    monitor: Monitor = silent,
) -> Start:
    """The starts of one strategy, wired to the known exact algorithms and the registry.

    Raises:
        NotApplicable: the strategy cannot start this target and rank.
        InputError: an unknown strategy, or a name that the registry does not have.
    """
    strategy, argument = find_init(name)
    return strategy(
        Request(
            problem,
            rank,
            restarts,
            generator,
            penalty=goal.working_penalty,
            argument=argument,
            lookup=lookup or (lambda wanted: open_registry().get(wanted).algorithm),
            exact=integer_exact,
            monitor=monitor,
        )
    )


def known_exact(target: Target) -> BilinearAlgorithm:
    """The exact algorithm of least rank from formulas and the shipped ones: never from the user's own registry,
    so that a fit depends on nothing but its arguments and the version."""
    return best_exact(target, shipped_exact())


def integer_exact(target: Target) -> BilinearAlgorithm:
    """What structured starts lose terms from: as `known_exact`, but of the shipped ones only those over Z.

    `strassen` is to be Strassen's algorithm and what composes with it; others have `known:NAME`.
    """
    return best_exact(target, [algorithm for algorithm in shipped_exact() if algorithm.ring == "Z"])


def solver_dtype(name: str) -> torch.dtype:
    """float64 or float32 by name.

    Raises:
        InputError: any other name.
    """
    if name not in DTYPES:
        raise InputError(f"unknown dtype {name!r} of the solver; valid: {', '.join(DTYPES)}")
    return DTYPES[name]


def ranking_penalty(goal: Goal) -> float:
    """The multiplier at which restarts are compared: between that of the search and that where the polish ends."""
    return goal.working_penalty / 5


def objective_to_beat(algorithm: BilinearAlgorithm, goal: Goal, device: torch.device | str = "cpu") -> float:
    """The objective of a basis at `ranking_penalty(goal)`, refined there by as much as restarts are (see `fit`)."""
    problem = Problem.of(algorithm.target, device)
    factors = embed(algorithm, problem, 1)
    penalty = ranking_penalty(goal)
    settled = als.settle(problem, factors, penalty, RANKING_SWEEPS)
    return float(problem.objective(settled, penalty))


def _most_promising(
    problem: Problem, pool: Factors, owners: Sequence[str], goal: Goal, recorder: Recorder, polished: int | None, to_beat: float | None
) -> list[tuple[int, Factors]]:
    """The restarts to polish with their places in the pool, best first: fewer where a polish costs more.

    Ranked by the objective at about the multiplier of the polish, first as they are, then the best few that
    differ after sweeps at that multiplier: they have not converged everywhere, and what they reached so far can mislead.
    """
    size = unknowns(pool)
    count = polished or (4 if size <= 800 else 2 if size <= 1600 else 1)
    penalty = ranking_penalty(goal)
    values = problem.objective(pool, penalty).nan_to_num(float("inf")).tolist()
    chosen: list[int] = []
    for index in sorted(range(len(values)), key=values.__getitem__):
        if to_beat is not None and values[index] > to_beat * WORTH_REFINING:
            break
        if all(abs(values[index] - values[other]) > 1e-4 * values[other] for other in chosen):
            chosen.append(index)
        if len(chosen) == 3 * count:
            break
    if not chosen:
        return []
    recorder.strategy, recorder.stage = owners[chosen[0]], "ranking"
    candidates = take(pool, torch.tensor(chosen, device=pool[0].device))
    candidates = als.settle(problem, candidates, penalty, RANKING_SWEEPS, recorder)
    refined = problem.objective(candidates, penalty).nan_to_num(float("inf")).tolist()
    order = sorted(range(len(chosen)), key=refined.__getitem__)
    worthy = [k for k in order if to_beat is None or refined[k] < to_beat * WORTH_POLISHING]
    return [(chosen[k], take(candidates, torch.tensor([k], device=pool[0].device))) for k in worthy[:count]]


def _positive(name: str, value: int | None, default: int) -> int:
    if value is not None and value < 1:
        raise InputError(f"{name} must be at least 1, not {value}")
    return default if value is None else value

"""The one verb: fit a rank-r decomposition of a bilinear map.

A fit runs in stages: exact algorithms that are known, starts by strategy, a batched solver on all restarts,
then a polish of the best few to the goal. Its default budget is a deterministic amount of work.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.known import best_exact
from stlsearch.errors import InputError
from stlsearch.inits import Request, Start, find_init
from stlsearch.inits.request import NotApplicable
from stlsearch.registry.store import open_registry, shipped_exact
from stlsearch.solvers import find_solver
from stlsearch.solvers.polish import Goal, polish
from stlsearch.solvers.problem import Factors, Monitor, Problem, Report, silent, take
from stlsearch.targets import Target

DTYPES = {"float64": torch.float64, "float32": torch.float32}
AUTO_STRATEGIES = ("kron", "strassen", "polynomial", "random")


@dataclass(frozen=True)
class Progress:
    """The state of a running fit: the stage, restarts in it, best error and its amplification, seconds elapsed."""

    stage: str
    iteration: int
    restarts: int
    error: float
    amplification: float
    seconds: float


@dataclass(frozen=True)
class Sample:
    """One point of the history: stage, iteration within it, and e of every restart."""

    stage: str
    iteration: int
    errors: tuple[float, ...]


@dataclass(frozen=True)
class FitResult:
    """What a fit found.

    Attributes:
        algorithm: the best basis by the goal; its provenance records how to make it again.
        status: "exact" (a known exact algorithm), "finished", "time limit" or "interrupted". The last two
            were cut short: another run may get elsewhere.
        history: error of every restart over the iterations.
        seconds: wall clock.
    """

    algorithm: BilinearAlgorithm
    status: str
    history: tuple[Sample, ...]
    seconds: float

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


class _TimeUp(Exception):
    pass


@dataclass
class _Recorder:
    """Watches the solvers: keeps the best factors seen, the history, and stops at the time limit."""

    problem: Problem
    rank: int
    goal: Goal
    progress: Callable[[Progress], None] | None
    time_limit: float | None
    began: float = field(default_factory=time.monotonic)
    stage: str = "start"
    best: Factors | None = None
    best_score: float = float("inf")
    best_measures: tuple[float, float] = (float("inf"), float("inf"))
    best_origin: str = ""
    history: list[Sample] = field(default_factory=list)

    def __call__(self, report: Report) -> None:
        self.keep(report)
        self.history.append(Sample(self.stage, report.iteration, tuple(report.error.tolist())))
        if self.progress is not None:
            error, amplification = self.best_measures
            self.progress(Progress(self.stage, report.iteration, len(report.error), error, amplification, time.monotonic() - self.began))
        if self.time_limit is not None and time.monotonic() - self.began > self.time_limit:
            raise _TimeUp

    def keep(self, report: Report) -> None:
        if report.factors[0].shape[1] != self.rank:
            return  # a strategy on its way down from a higher rank
        for index, (error, amplification) in enumerate(zip(report.error.tolist(), report.amplification.tolist(), strict=True)):
            score = self.goal.score(error, amplification)
            if score < self.best_score:  # False for NaN
                self.best_score, self.best_measures, self.best_origin = score, (error, amplification), self.stage
                U, V, W = (factor[index].detach().clone() for factor in report.factors)
                self.best = (U, V, W)


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
    time_limit: float | None = None,
    lookup: Callable[[str], BilinearAlgorithm] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FitResult:
    """Fit a rank-r decomposition minimising e = ||T - [[U,V,W]]||^2/||T||^2 under the goal on g.

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
        time_limit: seconds, after which the best so far is returned, marked "time limit".
        lookup: finds registered algorithms by name, for ``known:NAME``; default the user's registry.
        progress: called as the fit advances. KeyboardInterrupt returns the best so far, marked "interrupted".

    Raises:
        InputError: a rank, solver, init, restart count, dtype or goal that is not valid.
        KeyboardInterrupt: interrupted before any basis was found.
    """
    goal = goal or Goal()
    target.check_rank(rank)
    chosen = find_solver(solver)
    strategies = AUTO_STRATEGIES if init == "auto" else (init,)
    for name in strategies:
        find_init(name)
    restarts = _positive("restarts", restarts, default_restarts(rank, chosen.restarts))
    iterations = _positive("iterations", iterations, chosen.iterations)
    began = time.monotonic()
    if init == "auto":
        exact = known_exact(target)
        if exact.rank <= rank:
            return FitResult(exact, "exact", (), time.monotonic() - began)

    problem = Problem.of(target, device, solver_dtype(dtype))
    recorder = _Recorder(problem, rank, goal, progress, time_limit, began)
    generator = torch.Generator().manual_seed(seed)
    origins: dict[str, dict] = {}
    try:
        batches = []
        for name in strategies:
            recorder.stage = name
            try:
                start = start_from(name, problem, rank, restarts, generator, goal, lookup, recorder)
            except NotApplicable:
                if init != "auto":
                    raise
                continue
            origins[name] = dict(start.provenance)
            factors = chosen.solve(
                problem, start.factors, penalty=goal.working_penalty, iterations=iterations, monitor=recorder, every=chosen.every
            )
            batches.append(factors)
        pool: Factors = tuple(torch.cat([batch[mode] for batch in batches]).double() for mode in range(3))  # type: ignore[assignment]
        origin = [name for name, batch in zip(origins, batches, strict=True) for _ in range(len(batch[0]))]
        accurate = Problem.of(target, device)
        for index in _most_promising(accurate, pool, goal):
            recorder.stage = f"polish {origin[index]}"
            polish(accurate, take(pool, torch.tensor([index], device=pool[0].device)), goal, recorder)
        status = "finished"
    except _TimeUp:
        status = "time limit"
    except KeyboardInterrupt:
        status = "interrupted"
        if recorder.best is None:
            raise
    if recorder.best is None:
        raise InputError(f"the time limit of {time_limit} s was too short to find any basis")
    winner = recorder.best_origin.removeprefix("polish ")
    provenance = {
        "method": "fit",
        "solver": solver,
        "init": winner,
        "requested_init": init,
        **origins.get(winner, {}),
        "seed": seed,
        "restarts": restarts,
        "iterations": iterations,
        "dtype": dtype,
        "device": torch.device(device).type,
        "threads": torch.get_num_threads(),
        "goal": {"optimize_for": goal.optimize_for} if goal.optimize_for else {"max_amplification": goal.max_amplification},
        "status": status,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
    }
    U, V, W = (factor.double().cpu().numpy() for factor in recorder.best)
    algorithm = BilinearAlgorithm.from_floats(target, U, V, W, provenance=provenance)
    return FitResult(algorithm, status, tuple(recorder.history), time.monotonic() - began)


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
            exact=known_exact,
            monitor=monitor,
        )
    )


def known_exact(target: Target) -> BilinearAlgorithm:
    """The exact algorithm of least rank from formulas and the shipped ones: never from the user's own registry,
    so that a fit depends on nothing but its arguments and the version."""
    return best_exact(target, shipped_exact())


def solver_dtype(name: str) -> torch.dtype:
    """float64 or float32 by name.

    Raises:
        InputError: any other name.
    """
    if name not in DTYPES:
        raise InputError(f"unknown dtype {name!r} of the solver; valid: {', '.join(DTYPES)}")
    return DTYPES[name]


def _most_promising(problem: Problem, pool: Factors, goal: Goal) -> list[int]:
    """The restarts to polish: the best few that differ, fewer where a polish costs more."""
    unknowns = sum(factor[0].numel() for factor in pool)
    count = 4 if unknowns <= 800 else 2 if unknowns <= 1600 else 1
    values = problem.objective(pool, goal.working_penalty)
    chosen: list[int] = []
    for index in values.argsort().tolist():
        if all(abs(float(values[index] - values[other])) > 1e-4 * float(values[other]) for other in chosen):
            chosen.append(index)
    return chosen[:count]


def _positive(name: str, value: int | None, default: int) -> int:
    if value is not None and value < 1:
        raise InputError(f"{name} must be at least 1, not {value}")
    return default if value is None else value

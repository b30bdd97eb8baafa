"""Compare initialisation strategies: the same solver and the same budget for each, one restart a seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.stats import mannwhitneyu

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.fit import check_memory, solver_dtype, start_from
from stlsearch.inits import SELECTING, Start, find_init
from stlsearch.inits.request import NotApplicable
from stlsearch.recorder import Progress
from stlsearch.solvers import find_solver
from stlsearch.solvers.polish import Goal
from stlsearch.solvers.problem import Monitor, Problem, Report
from stlsearch.targets import Target

BASELINES = ("random", "random-small")
POPULATION = 8  # from which a strategy that selects picks each of its starts


@dataclass(frozen=True)
class Outcome:
    """What one strategy reached.

    Attributes:
        init: the strategy.
        errors: e of every seed at the end, shape (seeds,); empty when the strategy does not apply.
        amplifications: g of every seed at the end.
        iterations: at which `curves` were taken.
        curves: e of every seed over the iterations, shape (len(iterations), seeds).
        start_seconds, seconds: wall clock of building the starts, and of the solver, for all seeds.
        p_value: one-sided Mann-Whitney test that this strategy's errors are lower than the baseline's, with
            Holm's correction for the number of strategies tested; None for baselines or when there is none.
        refused: why the strategy does not apply to this target and rank, else "".
    """

    init: str
    errors: np.ndarray = field(default_factory=lambda: np.empty(0))
    amplifications: np.ndarray = field(default_factory=lambda: np.empty(0))
    iterations: np.ndarray = field(default_factory=lambda: np.empty(0))
    curves: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    start_seconds: float = 0.0
    seconds: float = 0.0
    p_value: float | None = None
    refused: str = ""


@dataclass(frozen=True)
class Comparison:
    """The outcomes in the order asked for; those finished before Ctrl-C when `interrupted`."""

    outcomes: list[Outcome]
    interrupted: bool = False


def compare(
    target: Target,
    rank: int,
    inits: Sequence[str],
    *,
    solver: str = "als",
    seeds: int = 8,
    iterations: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: str = "float64",
    goal: Goal | None = None,
    lookup: Callable[[str], BilinearAlgorithm] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Comparison:
    """Run every strategy from `seeds` starts with one solver and one budget.

    Nothing is polished: what is compared is where the solver gets from each start. Building a start is not
    part of the budget (some strategies refit while they drop terms), so its time is given beside the solver's.
    The baseline of the significance test is the first of `random`, `random-small` among `inits`.

    Raises:
        InputError: an unknown or repeated strategy, or options that `stlsearch.fit.fit` refuses.
        KeyboardInterrupt: interrupted before any strategy was finished.
    """
    goal = goal or Goal()
    target.check_rank(rank)
    chosen = find_solver(solver)
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, not {seeds}")
    for name in inits:
        find_init(name)
    if len(set(inits)) < len(inits):
        raise InputError(f"an init is named twice in {','.join(inits)}")
    problem = Problem.of(target, device, solver_dtype(dtype))
    check_memory(problem, rank, seeds)
    options = {"seed": seed} if chosen.seeded else {}
    outcomes = []
    for name in inits:
        watch = _Watch(name, progress)
        began = time.monotonic()
        try:
            start = _starts(name, problem, rank, seeds, seed, goal, lookup, watch)
            started = time.monotonic()
            watch.started = True
            factors = chosen.solve(
                problem,
                start.factors,
                penalty=goal.working_penalty,
                iterations=iterations or chosen.iterations,
                monitor=watch,
                every=chosen.every,
                **options,
                **({"start_penalty": goal.working_penalty} if start.settled and chosen.anneals else {}),
            )
        except NotApplicable as error:
            outcomes.append(Outcome(name, refused=str(error)))
            continue
        except KeyboardInterrupt:
            if not outcomes:
                raise
            return Comparison(_tested(outcomes, inits), interrupted=True)
        outcomes.append(
            Outcome(
                name,
                problem.error(factors).double().cpu().numpy(),
                problem.amplification(factors).double().cpu().numpy(),
                np.array(watch.iterations),
                np.stack(watch.curves),
                started - began,
                time.monotonic() - started,
            )
        )
    return Comparison(_tested(outcomes, inits))


def _starts(
    name: str,
    problem: Problem,
    rank: int,
    seeds: int,
    seed: int,
    goal: Goal,
    lookup: Callable[[str], BilinearAlgorithm] | None,
    watch: Monitor,
) -> Start:
    """One independent start per seed: of a strategy that selects, the best of a population of its own for each."""
    if name.partition(":")[0] not in SELECTING:
        return start_from(name, problem, rank, seeds, torch.Generator().manual_seed(seed), goal, lookup, watch)
    starts = [
        start_from(name, problem, rank, POPULATION, torch.Generator().manual_seed(seed + k), goal, lookup, watch) for k in range(seeds)
    ]
    U, V, W = (torch.cat([start.factors[mode][:1] for start in starts]) for mode in range(3))
    return Start((U, V, W), starts[0].provenance, starts[0].settled)


@dataclass
class _Watch(Monitor):
    """Collects the curves of one strategy, from the moment its starts are ready."""

    init: str
    progress: Callable[[Progress], None] | None
    began: float = field(default_factory=time.monotonic)
    started: bool = False
    iterations: list[int] = field(default_factory=list)
    curves: list[np.ndarray] = field(default_factory=list)

    def report(self, report: Report) -> None:
        if self.started:
            self.iterations.append(report.iteration)
            self.curves.append(report.error.double().cpu().numpy())
        if self.progress is not None:
            best = int(report.error.argmin())
            measures = (float(report.error[best]), float(report.amplification[best])) if self.started else (float("inf"), float("inf"))
            self.progress(Progress(self.init, report.iteration, len(report.error), *measures, time.monotonic() - self.began))


def _tested(outcomes: list[Outcome], inits: Sequence[str]) -> list[Outcome]:
    """The same outcomes with each structured strategy's p-value against the random baseline, Holm-corrected.

    The correction is for all strategies that were asked for, also when Ctrl-C left some undone.
    """
    baseline = next((outcome for outcome in outcomes if outcome.init in BASELINES and not outcome.refused), None)
    tested = [outcome for outcome in outcomes if outcome.init not in BASELINES and not outcome.refused]
    if baseline is None or len(baseline.errors) < 2 or not tested:
        return outcomes
    raw = {outcome.init: float(mannwhitneyu(outcome.errors, baseline.errors, alternative="less").pvalue) for outcome in tested}
    family = sum(name not in BASELINES for name in inits) - sum(bool(outcome.refused) for outcome in outcomes)
    corrected: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(raw, key=raw.__getitem__)):
        largest = max(largest, min(1.0, raw[name] * (family - place)))
        corrected[name] = largest
    return [replace(outcome, p_value=corrected.get(outcome.init)) for outcome in outcomes]

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
from stlsearch.fit import Progress, solver_dtype, start_from
from stlsearch.inits import find_init
from stlsearch.inits.request import NotApplicable
from stlsearch.solvers import find_solver
from stlsearch.solvers.polish import Goal
from stlsearch.solvers.problem import Problem, Report
from stlsearch.targets import Target

BASELINES = ("random", "random-small")


@dataclass(frozen=True)
class Outcome:
    """What one strategy reached.

    Attributes:
        init: the strategy.
        errors: e of every seed at the end, shape (seeds,); empty when the strategy does not apply.
        amplifications: g of every seed at the end.
        iterations: at which `curves` were taken.
        curves: e of every seed over the iterations, shape (len(iterations), seeds).
        seconds: wall clock of start and solver for all seeds.
        p_value: one-sided Mann-Whitney test that this strategy's errors are lower than the baseline's; None
            for the baseline itself or when there is none.
        refused: why the strategy does not apply to this target and rank, else "".
    """

    init: str
    errors: np.ndarray = field(default_factory=lambda: np.empty(0))
    amplifications: np.ndarray = field(default_factory=lambda: np.empty(0))
    iterations: np.ndarray = field(default_factory=lambda: np.empty(0))
    curves: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    seconds: float = 0.0
    p_value: float | None = None
    refused: str = ""


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
) -> list[Outcome]:
    """Run every strategy from `seeds` starts with one solver and one budget.

    Nothing is polished: what is compared is where the solver gets from each start. The baseline of the
    significance test is the first of `random`, `random-small` among `inits`.

    Raises:
        InputError: an unknown or repeated strategy, or options that `stlsearch.fit.fit` refuses.
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
    outcomes = []
    for name in inits:
        began = time.monotonic()
        iterations_seen: list[int] = []
        curves: list[np.ndarray] = []

        def watch(report: Report, name: str = name, began: float = began, seen: list = iterations_seen, curves: list = curves) -> None:
            seen.append(report.iteration)
            curves.append(report.error.double().cpu().numpy())
            if progress is not None:
                best = int(report.error.argmin())
                measures = float(report.error[best]), float(report.amplification[best])
                progress(Progress(name, report.iteration, seeds, *measures, time.monotonic() - began))

        try:
            start = start_from(name, problem, rank, seeds, torch.Generator().manual_seed(seed), goal, lookup)
        except NotApplicable as error:
            outcomes.append(Outcome(name, refused=str(error)))
            continue
        factors = chosen.solve(
            problem,
            start.factors,
            penalty=goal.working_penalty,
            iterations=iterations or chosen.iterations,
            monitor=watch,
            every=chosen.every,
        )
        outcomes.append(
            Outcome(
                name,
                problem.error(factors).double().cpu().numpy(),
                problem.amplification(factors).double().cpu().numpy(),
                np.array(iterations_seen),
                np.stack(curves),
                time.monotonic() - began,
            )
        )
    return _tested(outcomes)


def _tested(outcomes: list[Outcome]) -> list[Outcome]:
    """The same outcomes with the p-value of each structured strategy against the random baseline."""
    baseline = next((outcome for outcome in outcomes if outcome.init in BASELINES and not outcome.refused), None)
    if baseline is None or len(baseline.errors) < 2:
        return outcomes
    return [
        outcome
        if outcome.init in BASELINES or outcome.refused
        else replace(outcome, p_value=float(mannwhitneyu(outcome.errors, baseline.errors, alternative="less").pvalue))
        for outcome in outcomes
    ]

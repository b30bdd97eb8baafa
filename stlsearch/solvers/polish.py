"""The last stage of a fit: LM along a falling amplification penalty, to the goal that was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from stlsearch.algorithm import UNIT_ROUNDOFF
from stlsearch.errors import InputError
from stlsearch.solvers import als, lm
from stlsearch.solvers.problem import Factors, Monitor, Problem, silent, unknowns

LEAST_PENALTY = 1e-10  # for g <= 1000, in proportion to 1/g^2: below it e no longer falls visibly
NO_PENALTY = 1e-16  # as good as none in float64
LM_UNKNOWNS = 4000  # above it an LM step takes seconds, and ALS gets further in the same time
SETTLED = 0.9999  # a third of the penalty that lowers e by less than this factor: e is at its limit
NEARLY_EXACT = 1e-6  # below this e falls with the penalty, to 0
STEPS = 15
FINAL_STEPS = 60
BISECTIONS = 5


@dataclass(frozen=True)
class Goal:
    """What "best" means: least e with g <= max_amplification, or least e + g u^2 for a storage dtype.

    Attributes:
        max_amplification: the bound on g; ignored when a dtype is given.
        optimize_for: a key of `stlsearch.algorithm.UNIT_ROUNDOFF`, or None.
        search_penalty: the multiplier to search at, by default one that suits the rest.
    """

    max_amplification: float = 1000.0
    optimize_for: str | None = None
    search_penalty: float | None = None

    def __post_init__(self) -> None:
        if self.optimize_for is not None and self.optimize_for not in UNIT_ROUNDOFF:
            raise InputError(f"unknown dtype {self.optimize_for!r} to optimise for; valid: {', '.join(UNIT_ROUNDOFF)}")
        if not self.max_amplification > 0:
            raise InputError(f"the amplification bound must be positive, not {self.max_amplification}")
        if self.search_penalty is not None and not 0 < self.search_penalty < 1:
            raise InputError(f"the penalty to search at must lie between 0 and 1, not {self.search_penalty}")

    def describe(self) -> dict[str, object]:
        """The goal as provenance records it: what was minimised, not how it was searched for."""
        return {"optimize_for": self.optimize_for} if self.optimize_for else {"max_amplification": self.max_amplification}

    @property
    def roundoff_penalty(self) -> float | None:
        """u^2 of the dtype, the multiplier at which F is the total error; None under a bound."""
        return None if self.optimize_for is None else UNIT_ROUNDOFF[self.optimize_for] ** 2

    @property
    def working_penalty(self) -> float:
        """The multiplier to search at, before the polish: about where the goal's optimum lies, or the one asked for."""
        if self.search_penalty is not None:
            return self.search_penalty
        aim = 0.05 / self.max_amplification if self.roundoff_penalty is None else self.roundoff_penalty
        return min(max(aim, 3e-5), 3e-3)

    @property
    def least_penalty(self) -> float:
        """The multiplier at which the polish ends, at the latest."""
        return LEAST_PENALTY * min(1.0, (1000.0 / self.max_amplification) ** 2) if self.roundoff_penalty is None else self.roundoff_penalty

    def score(self, error: float, amplification: float) -> float:
        """Lower is better; a basis beyond the bound scores behind every basis within it."""
        if self.roundoff_penalty is not None:
            return error + amplification * self.roundoff_penalty
        excess = amplification / self.max_amplification
        return error if excess <= 1 else 1e3 * min(excess, 1e300) + error


def polish(problem: Problem, start: Factors, goal: Goal, monitor: Monitor = silent) -> Factors:
    """One restart (B = 1) taken to the goal.

    For a dtype: LM while the penalty falls to u^2. Under a bound: the penalty falls while g stays within the
    bound, then bisection on its logarithm for the least e at g just below the bound.
    """

    penalty = goal.working_penalty
    last = max(goal.least_penalty, NO_PENALTY)
    factors = descend(problem, start, penalty, STEPS, monitor)
    if goal.roundoff_penalty is not None:
        while penalty > last:
            penalty = max(penalty / 5, last)
            factors = descend(problem, factors, penalty, STEPS, monitor)
        return descend(problem, factors, last, FINAL_STEPS, monitor)

    def within(trial: Factors) -> bool:
        return float(problem.amplification(trial)) <= goal.max_amplification

    while not within(factors) and penalty < 1:  # searched too greedily: back into the bound first
        penalty *= 4
        factors = descend(problem, factors, penalty, STEPS, monitor)
    beyond = None
    while penalty > last:
        trial = descend(problem, factors, penalty / 3, STEPS, monitor)
        if not within(trial):
            beyond = penalty / 3
            break
        gained = float(problem.error(trial) / problem.error(factors))
        factors, penalty = trial, penalty / 3
        if SETTLED < gained <= 1 and float(problem.error(trial)) > NEARLY_EXACT:
            break
    for _ in range(BISECTIONS):
        if beyond is None:
            break
        middle = (penalty * beyond) ** 0.5
        trial = descend(problem, factors, middle, STEPS, monitor)
        if within(trial):
            factors, penalty = trial, middle
        else:
            beyond = middle
    settled = descend(problem, factors, penalty, FINAL_STEPS, monitor)
    return settled if within(settled) else factors


def descend(problem: Problem, factors: Factors, penalty: float, steps: int, monitor: Monitor = silent) -> Factors:
    """`steps` LM steps at a fixed penalty, or ten times as many ALS sweeps when there are too many unknowns."""
    if unknowns(factors) > LM_UNKNOWNS:
        return als.solve(problem, factors, penalty=penalty, start_penalty=penalty, iterations=10 * steps, monitor=monitor)
    # The last descent goes to rounding, so that exact solutions show; the others only lead the way there.
    tolerance = 1e-12 if steps == FINAL_STEPS else 1e-7
    return lm.solve(problem, factors, penalty=penalty, iterations=steps, monitor=monitor, tolerance=tolerance)

"""Solvers by name. Each minimises the penalised objective of `stlsearch.solvers.problem` for a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stlsearch.errors import InputError
from stlsearch.solvers import als, cyclic, lbfgs, lm, sgd
from stlsearch.solvers.problem import Factors


@dataclass(frozen=True)
class Solver:
    """A solver and its default budget.

    Attributes:
        solve: (problem, start, *, penalty, iterations, monitor, every) -> factors.
        iterations: the default budget.
        every: iterations between reports.
        restarts: the default batch.
        seeded: `solve` draws random numbers and takes a `seed`.
        anneals: `solve` begins at a larger penalty and takes that as `start_penalty`.
    """

    solve: Callable[..., Factors]
    iterations: int
    every: int
    restarts: int
    seeded: bool = False
    anneals: bool = False


SOLVERS: dict[str, Solver] = {
    "als": Solver(als.solve, iterations=1000, every=50, restarts=64, anneals=True),
    "lm": Solver(lm.solve, iterations=100, every=2, restarts=8),
    "sgd": Solver(sgd.solve, iterations=4000, every=100, restarts=32),
    "sgd-tiles": Solver(sgd.solve_tiles, iterations=4000, every=100, restarts=32, seeded=True),
    "lbfgs": Solver(lbfgs.solve, iterations=500, every=25, restarts=64, anneals=True),
    "cyclic": Solver(cyclic.solve, iterations=150, every=5, restarts=16, anneals=True),
}


def find_solver(name: str) -> Solver:
    """The solver of that name.

    Raises:
        InputError: unknown name; the message lists the valid ones.
    """
    if name not in SOLVERS:
        raise InputError(f"unknown solver {name!r}; valid: {', '.join(SOLVERS)}")
    return SOLVERS[name]

"""From a point of a manifold of solutions to an exact one: coefficients pinned to round values one after the other.

What has a round value already is pinned where it is. Then, while the solutions that are left have a direction to go in (the
kernel of the Jacobian in the free coefficients), the coefficient that has the shortest way along it to a round value is moved
there, the others follow by `stlsearch.solvers.complex_lm.newton`, and it is pinned. Where it cannot get there the next one is
tried, and where none can, finer values. In the end no direction is left, every free coefficient is determined by those pinned, and
where the solutions have a rational parametrisation it is a fraction (see `stlsearch.search.gaussian`).

Pulling to round values and holding what has got there is an old way (Johnson and McLoughlin, Noncommutative bilinear algorithms
for 3 x 3 matrix multiplication, 1986; Smirnov 2013); choosing by the kernel is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stlsearch.search.brent import joined, separated
from stlsearch.solvers.complex_lm import kernel, newton

ROUND = 1e-7  # from a round value, within which a coefficient has it
SOLVED = 1e-22  # missing products of a solution to double precision
POLISHED = 1e-27
MOVABLE = 1e-3  # least share of a coefficient in the kernel
LARGEST_STEP = 4.0  # of any coefficient at a time
LARGEST = 20.0  # coefficient: beyond it a solution is on its way to infinity
STEPS = 10  # of Newton's method for a move
TRIES = 10  # moves to coarse, and then to fine values, before a solution is given up
COSTS, HALVES = [1.0, 3.0, 10.0], 20.0  # of ways to zero, to a unit, to another Gaussian integer; to one with halves
REAL_UNITS, UNITS = np.array([0, 1, -1]), np.array([0, 1, -1, 1j, -1j])


@dataclass(frozen=True)
class Values:
    """The round values of a ring.

    Attributes:
        coarse: what is tried first.
        costs: what distances to them are multiplied by: the plainer the value, the longer a way is worth it.
        fine: multiples of 1/fine that are tried next, each coefficient's nearest; 0 for none.
        is_real: no imaginary parts.
    """

    coarse: np.ndarray
    costs: np.ndarray
    fine: int
    is_real: bool

    @staticmethod
    def of(ring: str) -> Values:
        """Of Z, Z[1/2], Q, Z[i] or Q(i)."""
        is_real = ring in ("Z", "Z[1/2]", "Q")
        parts = np.arange(-4, 5) / 2 if ring not in ("Z", "Z[i]") else np.arange(-2.0, 3)
        values = parts.astype(complex) if is_real else (parts[:, None] + 1j * parts).ravel()
        sizes = np.abs(values)
        values, sizes = values[sizes <= 2], sizes[sizes <= 2]
        costs = np.select([sizes == 0, np.isin(values, UNITS), (values == np.rint(values.real) + 1j * np.rint(values.imag))], COSTS, HALVES)
        return Values(values, costs, 0 if ring in ("Z", "Z[i]") else 4, is_real)


def pinned(factors: Sequence[np.ndarray], tensor: np.ndarray, values: Values, generator: np.random.Generator) -> list[np.ndarray]:
    """Where the pinning of coefficients ends, a solution to double precision: nothing can move there, or nothing can be moved further.

    Args:
        factors: U, V, W of shapes (r, a), (r, b), (r, c), a solution to double precision, float64 or complex128, in a gauge with
            many round coefficients (see `stlsearch.search.frames`).
        tensor: T, shape (a, b, c).
        generator: of the order in which nearly equal ways are tried.
    """
    dims = [factor.shape[1] for factor in factors]
    x = joined(factors)
    free = np.ones(len(x), bool)
    x, free = _held(x, free)
    solution = list(factors)
    while True:
        current, missing = newton(separated(x, dims), tensor, free, iterations=10, damping=1e-10, tolerance=POLISHED)
        x = joined(current)
        if not missing <= SOLVED:  # NaN included
            return solution
        solution = current
        directions = kernel(current, free)
        if not directions.shape[1]:
            return solution
        moved = _moved(x, free, directions, dims, tensor, values, generator)
        if moved is None:
            return solution
        x, free = _held(*moved)


def _held(x: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients that are 0 or a unit already put there exactly, and those that stay free."""
    units = UNITS if np.iscomplexobj(x) else REAL_UNITS
    nearest = np.abs(x[:, None] - units).argmin(axis=1)
    hit = free & (np.abs(x - units[nearest]) < ROUND)
    return np.where(hit, units[nearest], x), free & ~hit


def _moved(
    x: np.ndarray,
    free: np.ndarray,
    directions: np.ndarray,
    dims: Sequence[int],
    tensor: np.ndarray,
    values: Values,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray] | None:
    """The solution after one more coefficient was moved to a round value, and what stays free; None when none could be."""
    places = np.flatnonzero(free)
    freedom = np.linalg.norm(directions, axis=1)
    movable = np.flatnonzero(freedom > MOVABLE)
    here = x[places[movable]][:, None]
    for aims, costs in _aims(here, values):
        ways = np.abs(here - aims) * costs / np.sqrt(freedom[movable])[:, None]
        ways = ways * generator.uniform(0.75, 1.5, ways.shape)
        for way in np.argsort(ways, axis=None)[:TRIES]:
            which, value = np.unravel_index(way, ways.shape)
            row, aim = movable[which], aims[which, value]
            step = directions @ directions[row].conj() / freedom[row] ** 2 * (aim - x[places[row]])
            if np.abs(step).max() > LARGEST_STEP:
                continue
            trial, left = x.copy(), free.copy()
            trial[places] += step
            trial[places[row]] = aim
            left[places[row]] = False
            factors, missing = newton(separated(trial, dims), tensor, left, iterations=STEPS, tolerance=POLISHED)
            trial = joined(factors)
            if missing < SOLVED and np.abs(trial).max() < LARGEST:
                return trial, left
    return None


def _aims(here: np.ndarray, values: Values) -> list[tuple[np.ndarray, np.ndarray]]:
    """Round values for coefficients (m, 1), shape (m, values), with their costs: coarse ones, then the nearest fine one."""
    coarse = values.coarse if np.iscomplexobj(here) else values.coarse[values.coarse.imag == 0].real
    costs = values.costs if np.iscomplexobj(here) else values.costs[values.coarse.imag == 0]
    aims = [(np.broadcast_to(coarse, (len(here), len(coarse))), costs)]
    if values.fine:
        near = np.rint(here.real * values.fine) / values.fine
        if np.iscomplexobj(here):
            near = near + (0 if values.is_real else 1j * np.rint(here.imag * values.fine) / values.fine)
        aims.append((near, np.ones(1)))
    return aims

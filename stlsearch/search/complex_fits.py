"""Numeric solutions over the complex numbers from random starts: ALS, then Newton's method.

The amplification penalty stays for half of a fit and then falls. Beyond `SMALL` ranks nearly every fit ends short of a solution: there a
start is kicked by noise on V and W and fitted again, and keeps what lowers ||T||^2 (e + mu g), as in `stlsearch.search.rounding`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stlsearch.search.pinning import SOLVED
from stlsearch.search.rounding import SMALL, Stats
from stlsearch.solvers.complex_als import complex_sweeps, missing_of_batch, random_starts
from stlsearch.solvers.complex_lm import newton
from stlsearch.targets import Target

BATCH = 16
DEVIATION = 0.6
KICK = 0.42  # as much in the real and in the imaginary part as real starts get
HOPS = 200  # of a start beyond rank `SMALL`
SWEEPS, HELD = 600, 300  # the second at the first penalty
PENALTIES = (1.5e-2, 1e-4)
CONVERGED = 2e-2  # missing products after a fit below which Newton's method is tried
POLISH_STEPS = 20
UNBOUNDED = 20.0  # coefficient of a polished solution, terms balanced, that is on its way to infinity


def complex_solutions(
    target: Target, rank: int, *, seed: int, max_starts: int, stats: Stats
) -> Iterator[tuple[int, list[np.ndarray]] | None]:
    """The number of a start and the solution U, V, W it led to, complex128, to double precision; None after every batch of fits.

    Args:
        stats: whose starts, fits and converged solutions are counted.
    """
    tensor = target.tensor.astype(np.float64)
    hops = 0 if rank <= SMALL else HOPS
    penalties = np.concatenate([np.full(HELD, PENALTIES[0]), np.geomspace(*PENALTIES, SWEEPS - HELD)])
    factors = [np.zeros((0, rank, extent), np.complex128) for extent in target.dims]
    numbers, turns, scores = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    while len(numbers) or stats.starts < max_starts:
        fresh = np.arange(stats.starts, min(stats.starts + BATCH - len(numbers), max_starts))
        if len(fresh):
            drawn = random_starts(target.dims, rank, [[seed, int(number)] for number in fresh], DEVIATION)
            factors = [np.concatenate(pair) for pair in zip(factors, drawn, strict=True)]
            numbers, turns = np.concatenate([numbers, fresh]), np.concatenate([turns, np.zeros_like(fresh)])
            scores = np.concatenate([scores, np.full(len(fresh), np.inf)])
            stats.starts += len(fresh)
        fitted = complex_sweeps(_kicked(factors, numbers, turns, seed), tensor, penalties)
        missing = missing_of_batch(fitted, tensor)
        sizes = [np.square(np.abs(factor)).sum(axis=2) for factor in fitted]
        reached = missing + PENALTIES[1] * (sizes[0] * sizes[1] * sizes[2]).sum(axis=1)
        better = reached < scores
        factors = [np.where(better[:, None, None], after, before) for before, after in zip(factors, fitted, strict=True)]
        scores, turns = np.where(better, reached, scores), turns + 1
        stats.fits += len(numbers)
        yield None
        left = turns <= hops
        for lane in np.flatnonzero(missing < CONVERGED):
            solution, remaining = newton([factor[lane] for factor in fitted], tensor, iterations=POLISH_STEPS, damping=1e-4)
            if remaining < SOLVED and max(np.abs(factor).max() for factor in solution) < UNBOUNDED:
                left[lane] = False
                stats.converged += 1
                yield int(numbers[lane]), solution
        factors, numbers, turns, scores = [factor[left] for factor in factors], numbers[left], turns[left], scores[left]


def _kicked(factors: list[np.ndarray], numbers: np.ndarray, turns: np.ndarray, seed: int) -> list[np.ndarray]:
    """Copies of the factors, with noise on V and W of the starts that have been fitted before."""
    kicked = [factor.copy() for factor in factors]
    for lane in np.flatnonzero(turns):
        dims = (0, kicked[1].shape[2], kicked[2].shape[2])
        noise = random_starts(dims, kicked[0].shape[1], [[seed, int(numbers[lane]), int(turns[lane])]], KICK)
        for factor, part in zip(kicked[1:], noise[1:], strict=True):
            factor[lane] += part[0]
    return kicked

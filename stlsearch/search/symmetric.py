"""Exact algorithms that have a symmetry group, from random numeric starts.

A group of a given order is drawn at random (`stlsearch.search.sign_groups`); with it the Brent equations shrink by its order, both
in unknowns and in number (`stlsearch.search.orbit_equations`). A few short fits tell whether the group leads anywhere: for most groups
none comes near a solution, so the others get the effort. A solution is written in a basis of its own terms and made exact
(`stlsearch.search.gaussian_rounding`).

Symmetric parametrisations found new algorithms in Ballard, Ikenmeyer, Landsberg and Ryder, arXiv 1801.00843, with groups chosen by
hand.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.search.gaussian_rounding import RINGS, plain_algorithm
from stlsearch.search.orbit_equations import OrbitEquations, orbit_equations
from stlsearch.search.rounding import Discovery, Stats
from stlsearch.search.sign_groups import SignGroup, random_groups
from stlsearch.solvers.orbit_lm import solve
from stlsearch.targets import Target

DEVIATION = 0.5
RIDGE, DECAY = 3e-2, 0.9
BATCH, BATCHES = 8, 8  # starts of a group, the first batch to see whether it leads anywhere
STEPS, PATIENCE = 120, 60  # of a start, and after how many a hopeless one is given up
PROMISING = 2.0  # missing products of the best start, above which a group gets no more of them
CLOSE = 1e-8  # missing products that are worth polishing: what is left is the ridge's
POLISH = ((1e-7, 100), (0.0, 60))  # ridge and steps
SOLVED = 1e-22
UNBOUNDED = 20.0  # coefficient of a solution that is on its way to infinity
PASSED = 100  # groups without orbits that make up the rank before a search is given up
SEQUENCES = 3  # of pinning, for one solution
PINNING, ORBITS, FITS = 1, 2, 3  # what random numbers are for
SECONDS = 0.5  # between two looks at a fit


@dataclass(frozen=True)
class Solution:
    """A numeric solution with a symmetry group: factors U, V, W, and where they came from."""

    factors: list[np.ndarray]
    group: SignGroup
    turn: int
    number: int
    start: int
    orbits: list[int]


def default_order(target: Target) -> int:
    """The order of groups that is tried first: 16 has found <4,4,4;48>, and 2 <2,2,2;7> and <2,2,3;11>."""
    return 16 if target.shape is not None and min(target.shape) >= 4 else 2


def discover_symmetric(
    target: Target,
    rank: int,
    *,
    order: int,
    ring: str = "Q",
    seed: int = 0,
    count: int = 1,
    max_starts: int = 100_000,
    threads: int = 1,
    callback: Callable[[Stats], bool | None] | None = None,
) -> Discovery:
    """Search exact algorithms of one rank that have a symmetry group of one order, until `count` are found or the starts are used up.

    A group that leads to a solution is left: the next one comes from another group. When no new groups turn up, all of them have
    another turn, with other orbits and starts. Where a term of a solution vanishes, what is found has a lower rank than was asked for.

    Args:
        order: of the group of changes of basis. The rank is made of as many orbits of this size as fit, and of smaller ones.
        ring: Z, Z[1/2] or Q, where an algorithm must lie to count.
        max_starts: of fits, with all groups together.
        threads: fits side by side; the results do not depend on them.
        callback: told the figures after every fit; returning True ends the search.

    Raises:
        InputError: a target that is no matrix product of sizes up to 5, an order outside 2 to 64 or a rank that makes no
            sense, another ring, or budgets below 1.
    """
    target.check_rank(rank)
    rings = RINGS[:3]
    if target.shape is None:
        raise InputError(f"groups of changes of basis act on matrix products, not on {target.slug}")
    if ring not in rings:
        raise InputError(f"symmetric searches know the rings {', '.join(rings)}, not {ring!r:.20}")
    if min(count, max_starts, threads) < 1:
        raise InputError("count, max_starts and threads must be at least 1")
    stats, began = Stats(), time.process_time()
    found: list[BilinearAlgorithm] = []
    for solution in _solutions(target, rank, order, seed, max_starts, threads, stats):
        if solution is not None:
            generator = np.random.default_rng(_seeds(seed, solution.turn, solution.number, PINNING))
            for _ in range(SEQUENCES):
                algorithm, turns = plain_algorithm(solution.factors, target, ring, generator, _provenance(solution, seed, ring))
                stats.rounds += turns
                if algorithm is not None:
                    found.append(algorithm)
                    break
        stats.exact, stats.core_seconds = len(found), time.process_time() - began
        if len(found) == count:
            return Discovery(found, stats, "reached")
        if callback is not None and callback(replace(stats)):
            return Discovery(found, stats, "stopped")
    return Discovery(found, stats, "budget")


def _provenance(solution: Solution, seed: int, ring: str) -> dict[str, object]:
    return {
        "solver": "symmetric",
        "ring": ring,
        "seed": seed,
        "turn": solution.turn,
        "group": solution.number,
        "start": solution.start,
        "order": solution.group.order,
        "orbits": " + ".join(map(str, solution.orbits)),
        "generators": solution.group.describe(),
    }


def _solutions(target: Target, rank: int, order: int, seed: int, max_starts: int, threads: int, stats: Stats) -> Iterator[Solution | None]:
    """The first solution of every visit to a group that has one among its starts; None after every fit, and after what was in vain."""
    assert target.shape is not None
    passed = 0
    pool, stop = ThreadPoolExecutor(threads), np.zeros(1, dtype=np.int8)
    try:
        for turn, number, group in _visits(target.shape, order, seed):
            if group is None:
                yield None
                continue
            equations = orbit_equations(target, rank, group, np.random.default_rng(_seeds(seed, turn, number, ORBITS)))
            if equations is None:
                passed += 1
                if not stats.starts and passed == PASSED:
                    break
                yield None
                continue
            for solution in _of_group(equations, group, (turn, number), seed, max_starts, stats, pool, stop):
                yield solution
                if stats.starts >= max_starts:
                    return
    finally:
        stop[0] = 1
        pool.shutdown(cancel_futures=True)
    if not stats.starts:
        rest = f" with orbits that make up rank {rank}: try a smaller one" if passed else ""
        raise InputError(f"no group of order {order} was found for {target.slug}{rest}")


def _visits(shape: tuple[int, int, int], order: int, seed: int) -> Iterator[tuple[int, int, SignGroup | None]]:
    """Turn 0: new groups with their numbers as they are drawn, None for a draw in vain; then all of them again, turn after turn."""
    groups: list[SignGroup] = []
    for group in random_groups(shape, order, np.random.default_rng([seed, 0])):
        yield 0, len(groups), group
        if group is not None:
            groups.append(group)
    for turn in itertools.count(1) if groups else ():
        for number, group in enumerate(groups):
            yield turn, number, group


def _seeds(seed: int, turn: int, number: int, use: int) -> list[int]:
    """Random numbers of their own for every turn of every group and for everything they are used for."""
    return [seed, number, use + 4 * turn]


def _of_group(
    equations: OrbitEquations, group: SignGroup, visit: tuple[int, int], seed: int, max_starts: int, stats: Stats,
    pool: ThreadPoolExecutor, stop: np.ndarray,
) -> Iterator[Solution | None]:  # fmt: skip
    """The first solution; None after every fit, and now and then while one runs."""
    best = np.inf
    for batch in range(BATCHES):
        first = batch * BATCH
        last = min(first + BATCH, first + max_starts - stats.starts)
        fit = partial(_fit, equations, _seeds(seed, *visit, FITS), stop=stop)
        fits = [pool.submit(fit, start) for start in range(first, last)]
        try:
            for start, future in enumerate(fits, first):
                while not wait([future], timeout=SECONDS).done:
                    yield None
                x, missing = future.result()
                stats.starts, stats.fits, best = stats.starts + 1, stats.fits + 1, min(best, missing)
                if missing < CLOSE and (polished := _polished(equations, x)) is not None:
                    stats.converged += 1
                    yield Solution(equations.expand(polished), group, *visit, start, equations.sizes())
                    return
                yield None
        finally:
            for future in fits:
                future.cancel()
        if best > PROMISING:
            return


def _fit(equations: OrbitEquations, seed: list[int], start: int, stop: np.ndarray) -> tuple[np.ndarray, float]:
    generator = np.random.default_rng([*seed, start])
    x = DEVIATION * generator.standard_normal((equations.orbits, 3, equations.source.shape[2]))
    x = (equations.embedding @ (equations.embedding.T @ x.ravel())).reshape(x.shape)
    return _solve(equations, x, STEPS, RIDGE, DECAY, PATIENCE, stop)


def _polished(equations: OrbitEquations, x: np.ndarray) -> np.ndarray | None:
    """The solution to double precision; None if there is none nearby."""
    missing = np.inf
    for ridge, steps in POLISH:
        x, missing = _solve(equations, x, steps, ridge, 1.0, steps, np.zeros(1, dtype=np.int8))
    return x if missing < SOLVED and np.abs(x).max() < UNBOUNDED else None


def _solve(
    equations: OrbitEquations, x: np.ndarray, steps: int, ridge: float, decay: float, patience: int, stop: np.ndarray
) -> tuple[np.ndarray, float]:
    embedding = equations.embedding
    return solve(
        x, equations.source, equations.sign, equations.rows, equations.values, equations.weights, equations.members, equations.ends,
        (embedding.indptr, embedding.indices, embedding.data), embedding.shape[1], steps, ridge, decay, patience, stop,
    )  # fmt: skip

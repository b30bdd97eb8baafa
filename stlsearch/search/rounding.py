"""Exact algorithms from random numeric starts: fit, sparsify, normalise, pull to a grid, round, verify.

A numeric solution of <n,m,p> lies on a manifold of solutions: de Groote's changes of basis, rescaled terms, and often
families beyond these. Nothing on it looks round until the right point is found:

1. FIT from normal starts, ALS under a decaying amplification penalty; a start that falls behind leaves early. At larger ranks
   nearly every fit ends on its way to infinity (border rank) or a product short: there a start is kicked by noise and fitted
   again, many times, and keeps what lowers e + mu g (basin hopping).
2. SPARSIFY: proximal ALS descends along the manifold to many zeros (`Anchors.sparse`).
3. NORMALISE the diagonal freedom, so that most other coefficients become 1 or -1 (`stlsearch.search.gauge`).
4. GRID: ALS pulled to the nearest grid point, harder and harder (`Anchors.grid`).
5. ROUND, and check the Brent equations in integers. What is not exact goes back to 2 from where it stands: the grid has
   moved it far along the manifold, which makes it as good as a new solution, for less.

All steps run on lanes of the vector unit, in float32; only the check counts, and that is exact. A lane's path depends on the
seed and the number of its start alone, not on its neighbours, up to the instruction set of the machine.

Pulling ALS to rounded values is from Smirnov 2013; sparse points first, through the freedom of bases, is in the spirit of
Tichavsky, Phan and Cichocki (Numerical CP decomposition of some difficult tensors, 2016).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix, without_null_terms
from stlsearch.search.gauge import normalise
from stlsearch.solvers.anchored import Anchors, anchored_sweeps
from stlsearch.solvers.plan import Plan
from stlsearch.targets import Target

Lanes = list[np.ndarray]  # U, V, W of shape (dims[mode], r, lanes)

GRIDS = {"Z": (1, 1.0), "Z[1/2]": (2, 2.0)}
"""The grid of a ring: denominator and largest size of what coefficients are pulled to. Any size is accepted in the end."""
START_DEVIATION = 0.6
PROXIMITY = 0.1  # lam, in units of the squared size of a coefficient
SMALL = 25  # ranks up to it need fewer sweeps
NEVER = float("inf")
DIVERGED = 2.0  # missing products at which a lane that is being rounded has left the manifold


@dataclass(frozen=True)
class Effort:
    """How much work goes into one start.

    Attributes:
        batch: starts fitted together.
        fit_sweeps: of step 1, the penalty staying at `penalties[0]` for the share `hold`, then falling to `penalties[1]`.
        leave: (share of the fit's sweeps, missing products beyond which a start leaves there).
        converged: missing products after a fit below which it is taken for a solution.
        hops: kicks that a start gets until it converges; 0 for one fit from every start.
        kick: standard deviation of the noise on V and W. It decides: at <3,4,4;38> nothing was found with 0.15 or with 0.35.
        round_batch: converged lanes that go through steps 2 to 5 together.
        sparse_sweeps, grid_sweeps: of steps 2 and 4, each round.
        rounds: of steps 2 to 5 before a solution is given up.
        sparse, grid: first and last length of their steps.
    """

    batch: int = 64
    fit_sweeps: int = 600
    penalties: tuple[float, float] = (1e-2, 1e-5)
    hold: float = 0.0
    leave: tuple[tuple[float, float], ...] = ((0.2, 2.3), (0.3, 1.6), (0.5, 1.2), (0.7, 0.5))
    converged: float = 0.3
    hops: int = 0
    kick: float = 0.3
    round_batch: int = 64
    sparse_sweeps: int = 400
    grid_sweeps: int = 400
    rounds: int = 4
    sparse: tuple[float, float] = (0.1, 0.005)
    grid: tuple[float, float] = (0.003, 0.3)

    @staticmethod
    def of(rank: int) -> Effort:
        """What did well in trials at that rank."""
        if rank <= SMALL:
            return Effort()
        return Effort(
            fit_sweeps=600,
            penalties=(1.5e-2, 1e-4),
            hold=0.6,
            leave=(),
            converged=0.006,
            hops=200,
            round_batch=16,
            sparse_sweeps=600,
            rounds=6,
        )


@dataclass
class Stats:
    """What a search has done: starts made, fits of them, solutions converged to, rounds of steps 2 to 5, exact ones, core seconds."""

    starts: int = 0
    fits: int = 0
    converged: int = 0
    exact: int = 0
    rounds: int = 0
    core_seconds: float = 0.0


@dataclass(frozen=True)
class Discovery:
    """The exact algorithms found, in the order they were found, and how it went.

    Attributes:
        status: "reached" the count asked for, "budget" (of starts) used up, or "stopped" by the callback.
    """

    algorithms: list[BilinearAlgorithm]
    stats: Stats
    status: str


@dataclass
class _Pool:
    """Lanes that wait for their turn: `starts` numbers where they came from, `turns` counts those they had."""

    factors: Lanes
    starts: np.ndarray
    turns: np.ndarray
    scores: np.ndarray  # e + mu g of lanes being fitted, times ||T||^2

    @staticmethod
    def empty(target: Target, rank: int) -> _Pool:
        none = np.zeros(0, np.int64)
        return _Pool([np.zeros((extent, rank, 0), np.float32) for extent in target.dims], none, none, np.zeros(0))

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, lanes: np.ndarray | slice) -> _Pool:
        return _Pool(take(self.factors, lanes), self.starts[lanes], self.turns[lanes], self.scores[lanes])

    def join(self, other: _Pool) -> _Pool:
        factors = [np.concatenate(pair, axis=2) for pair in zip(self.factors, other.factors, strict=True)]
        starts, turns = np.concatenate([self.starts, other.starts]), np.concatenate([self.turns, other.turns])
        return _Pool(factors, starts, turns, np.concatenate([self.scores, other.scores]))


def discover(
    target: Target,
    rank: int,
    *,
    ring: str = "Z",
    seed: int = 0,
    count: int = 1,
    max_starts: int = 100_000,
    effort: Effort | None = None,
    callback: Callable[[Stats], bool | None] | None = None,
) -> Discovery:
    """Search exact algorithms of one rank from random starts, until `count` are found or `max_starts` starts are used up.

    Args:
        ring: Z or Z[1/2]: the grid that coefficients are pulled to, and where an algorithm must lie to count.
        callback: told the figures after every batch; returning True ends the search.

    Raises:
        InputError: a rank that makes no sense, another ring, a target without exact entries, or budgets below 1.
    """
    target.check_rank(rank)
    denominator, bound = _grid(ring)
    if target.rational is None:
        raise InputError(f"the entries of {target.slug} are no fractions of small denominators: nothing is exact for it")
    if min(count, max_starts) < 1:
        raise InputError("count and max_starts must be at least 1")
    effort = effort or Effort.of(rank)
    tensor = target.tensor.astype(np.float32)
    plans = [Plan.of(tensor, mode) for mode in range(3)]
    fitting, solutions = _Pool.empty(target, rank), _Pool.empty(target, rank)
    stats, began = Stats(), time.process_time()
    found: list[BilinearAlgorithm] = []
    while len(found) < count:
        more = min(effort.batch - len(fitting), max_starts - stats.starts)
        if len(solutions) < effort.round_batch and (len(fitting) or more):
            if more > 0:
                fitting = fitting.join(_fresh(target, rank, seed, np.arange(stats.starts, stats.starts + more)))
                stats.starts += more
            stats.fits += len(fitting)
            fitting, converged = _fit(fitting, target, plans, seed, effort)
            stats.converged += len(converged)
            solutions = solutions.join(converged)
        elif len(solutions):
            lanes = solutions.take(slice(effort.round_batch))
            stats.rounds += len(lanes)
            rounded, lanes.factors = round_once(lanes.factors, target, plans, effort, denominator, bound)
            missing = missing_products([part / denominator for part in rounded], target)
            for lane in np.flatnonzero(missing == 0)[: count - len(found)]:
                integers = [part[:, :, lane].T.astype(np.int64) for part in rounded]
                how = {"seed": seed, "start": int(lanes.starts[lane]), "round": int(lanes.turns[lane]) + 1}
                if (algorithm := _verified(target, integers, denominator, ring, how)) is not None:
                    found.append(algorithm)
            stats.exact = len(found)
            lanes.turns += 1
            again = (missing != 0) & (lanes.turns < effort.rounds) & (missing_products(lanes.factors, target) < DIVERGED)
            solutions = solutions.take(slice(effort.round_batch, None)).join(lanes.take(again))
        else:
            return Discovery(found, stats, "budget")
        stats.core_seconds = time.process_time() - began
        if callback is not None and callback(replace(stats)) and len(found) < count:
            return Discovery(found, stats, "stopped")
    return Discovery(found, stats, "reached")


def round_once(
    factors: Lanes, target: Target, plans: list[Plan], effort: Effort, denominator: int = 1, bound: float = 1.0
) -> tuple[Lanes, Lanes]:
    """Steps 2 to 4 on converged lanes: the integers `denominator` times the rounded coefficients, and where the lanes stand.

    `factors` are overwritten.
    """
    sweeps = effort.sparse_sweeps
    anchored_sweeps(factors, plans, np.full(sweeps, effort.penalties[1]), Anchors.sparse(sweeps, PROXIMITY, *effort.sparse))
    factors = normalise(factors, target)
    sweeps = effort.grid_sweeps
    anchored_sweeps(factors, plans, np.zeros(sweeps), Anchors.grid(sweeps, PROXIMITY, *effort.grid, denominator, bound))
    return [np.rint(factor * denominator) for factor in factors], factors


def missing_products(factors: Lanes, target: Target) -> np.ndarray:
    """||T - [[U,V,W]]||^2 per lane, shape (lanes,), in float64.

    By Gram matrices: sum (U^T U * V^T V * W^T W) - 2 <T, [[U,V,W]]> + ||T||^2. Of integer factors (and fractions with powers of
    two below them) every number here is exact as long as it stays below 2^53, and then 0 means exact.
    """
    U, V, W = (factor.astype(np.float64) for factor in factors)
    grams = [factor.transpose(2, 1, 0) @ factor.transpose(2, 0, 1) for factor in (U, V, W)]
    i, j, k = np.nonzero(target.tensor)
    entries = target.tensor[i, j, k].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        cross = np.einsum("erl,erl,e->l", U[i] * V[j], W[k], entries)
        total = (grams[0] * grams[1] * grams[2]).sum((1, 2)) - 2 * cross + float((entries**2).sum())
    return np.where(np.isfinite(total), total, np.inf)


def take(factors: Lanes, lanes: np.ndarray | slice) -> Lanes:
    """The chosen lanes."""
    return [factor[:, :, lanes] for factor in factors]


def _fresh(target: Target, rank: int, seed: int, starts: np.ndarray) -> _Pool:
    """The random starts of these numbers."""
    size = sum(target.dims) * rank
    drawn = np.stack([np.random.default_rng([seed, int(start)]).standard_normal(size, np.float32) for start in starts], axis=-1)
    cuts = np.cumsum([extent * rank for extent in target.dims])[:-1]
    factors = [part.reshape(-1, rank, len(starts)) * np.float32(START_DEVIATION) for part in np.split(drawn, cuts)]
    return _Pool(factors, starts, np.zeros_like(starts), np.full(len(starts), NEVER))


def _fit(lanes: _Pool, target: Target, plans: list[Plan], seed: int, effort: Effort) -> tuple[_Pool, _Pool]:
    """One fit of every lane, after a kick unless it is the first: the lanes to be fitted again, and those that converged."""
    held = round(effort.hold * effort.fit_sweeps)
    penalties = np.concatenate([np.full(held, effort.penalties[0]), np.geomspace(*effort.penalties, effort.fit_sweeps - held)])
    tried = lanes.take(slice(None))
    tried.factors = _kicked(lanes, seed, effort.kick)
    done = 0
    for share, most in (*effort.leave, (1.0, NEVER)):
        until = round(share * effort.fit_sweeps)
        anchored_sweeps(tried.factors, plans, penalties[done:until], Anchors.free(until - done))
        missing, done = missing_products(tried.factors, target), until
        kept = missing < most
        if not kept.all():
            tried, missing = tried.take(kept), missing[kept]
        if not len(tried):
            break
    sizes = [np.square(factor, dtype=np.float64).sum(axis=0) for factor in tried.factors]
    scores = missing + effort.penalties[1] * (sizes[0] * sizes[1] * sizes[2]).sum(axis=0)
    converged = missing < effort.converged
    solutions = tried.take(converged)
    solutions.turns = np.zeros_like(solutions.turns)
    if not effort.hops:
        return lanes.take(slice(0)), solutions
    better = scores < lanes.scores
    for before, after in zip(lanes.factors, tried.factors, strict=True):
        np.copyto(before, after, where=better)
    lanes.scores = np.where(better, scores, lanes.scores)
    lanes.turns += 1
    return lanes.take(~converged & (lanes.turns <= effort.hops)), solutions


def _kicked(lanes: _Pool, seed: int, deviation: float) -> Lanes:
    """Copies of the factors, with noise on V and W of the lanes that have been fitted before."""
    factors = [factor.copy() for factor in lanes.factors]
    for lane in np.flatnonzero(lanes.turns):
        generator = np.random.default_rng([seed, int(lanes.starts[lane]), int(lanes.turns[lane])])
        for factor in factors[1:]:
            factor[:, :, lane] += np.float32(deviation) * generator.standard_normal(factor.shape[:2], np.float32)
    return factors


def _verified(target: Target, integers: list[np.ndarray], denominator: int, ring: str, how: dict) -> BilinearAlgorithm | None:
    """The algorithm, checked again in exact arithmetic; None for one outside the ring, which a large integer may hide."""
    matrices = [ExactMatrix.make(part, denominator) for part in integers]
    try:
        return BilinearAlgorithm.from_exact(target, *without_null_terms(matrices), provenance={"solver": "rounding", "ring": ring, **how})
    except InputError:
        return None


def _grid(ring: str) -> tuple[int, float]:
    if ring not in GRIDS:
        raise InputError(f"rounding knows the rings {', '.join(GRIDS)}, not {ring!r:.20}")
    return GRIDS[ring]

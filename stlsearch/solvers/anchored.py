"""Compiled ALS sweeps that pull every coefficient towards an anchor: to zero, or to the nearest point of a grid.

With two factors fixed, the third minimises, up to the balance of the terms,

    ||T - [[U,V,W]]||^2 + mu sum_r |u_r|^2 |v_r|^2 |w_r|^2 + lam ||X - anchor(X_before)||^2,

so the normal equations of a plain sweep only gain lam on the diagonal and lam * anchor on the right: one factorisation for
all rows, as before. With the coefficient itself as the anchor this is a proximal step, which stays on the set of solutions
once it is there; the anchor moves each coefficient by at most `step` from itself:

- SPARSE: towards zero (soft thresholding, the proximal map of step |x|), so that the iteration descends along the
  set of solutions to one of small l1 norm, through changes of basis and continuous families alike;
- GRID: towards the nearest multiple of 1/denominator within [-bound, bound].

Regularising ALS towards rounded values and letting the pull grow is Smirnov's way (The bilinear complexity and practical
algorithms for matrix multiplication, 2013); the proximal form and the clipped step are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from stlsearch.solvers.lane_algebra import contract, factorise, gram, substitute
from stlsearch.solvers.machine_code import compiled
from stlsearch.solvers.plan import Plan
from stlsearch.solvers.simd import (
    add,
    aligned,
    divide,
    largest,
    load,
    multiply,
    nearest,
    plus_product,
    smallest,
    splat,
    square_root,
    store,
    subtract,
    width,
)

FREE, SPARSE, GRID = 0, 1, 2
BALANCE_EVERY = 8  # sweeps between rescalings of the terms, which the objective without anchors does not see


@dataclass(frozen=True)
class Anchors:
    """What the coefficients are pulled to, and how: one pull lam and one step per sweep.

    Attributes:
        kind: FREE, SPARSE or GRID.
        pull: lam, shape (sweeps,).
        step: the largest distance of an anchor from the coefficient, shape (sweeps,).
        denominator, bound: of the grid.
    """

    kind: int
    pull: np.ndarray
    step: np.ndarray
    denominator: int = 1
    bound: float = 1.0

    @staticmethod
    def free(sweeps: int) -> Anchors:
        """No anchors: plain ALS."""
        return Anchors(FREE, np.zeros(sweeps), np.zeros(sweeps))

    @staticmethod
    def sparse(sweeps: int, pull: float, first: float, last: float) -> Anchors:
        """Towards zero, the step going geometrically from `first` to `last`."""
        return Anchors(SPARSE, np.full(sweeps, pull), np.geomspace(first, last, sweeps))

    @staticmethod
    def grid(sweeps: int, pull: float, first: float, last: float, denominator: int = 1, bound: float = 1.0) -> Anchors:
        """Towards the nearest multiple of 1/denominator, the step going geometrically from `first` to `last`."""
        return Anchors(GRID, np.full(sweeps, pull), np.geomspace(first, last, sweeps), denominator, bound)


def least_pivot(itemsize: int) -> float:
    """The least pivot of the normal equations relative to the mean of their diagonal, for floats of 8 or 4 bytes."""
    return 1e-14 if itemsize == 8 else 1e-7


def anchored_sweeps(factors: list[np.ndarray], plans: list[Plan], penalties: np.ndarray, anchors: Anchors) -> None:
    """ALS sweeps in place: U, then V, then W, once per row of `penalties`.

    The terms are balanced every `BALANCE_EVERY` sweeps, but not under GRID: the grid knows which scale is right. What a lane
    comes to does not depend on its neighbours, nor on whether the code was compiled just now or read back from the disk,
    bit by bit.

    Args:
        factors: U, V, W of shape (dims[mode], r, lanes) and any strides, one floating dtype; float32 is twice as fast.
        plans: one per mode.
        penalties: the multiplier mu of every sweep, shape (sweeps,), or of every sweep and lane, (sweeps, lanes).
        anchors: of as many sweeps.
    """
    dtype = factors[0].dtype
    rank, lanes, group = factors[0].shape[1], factors[0].shape[2], width(dtype)
    packed = [_pack(factor, group) for factor in factors]
    if penalties.ndim == 1:
        penalties = penalties[:, None]
    levels = _pack(np.broadcast_to(penalties, (len(penalties), lanes)).astype(dtype)[:, None], group)
    entries = tuple((plan.rows, plan.first, plan.second, plan.values.astype(dtype, copy=False)) for plan in plans)
    work = aligned((5, rank * rank * group), dtype)
    grid = (dtype.type(anchors.denominator), dtype.type(anchors.bound))
    least = dtype.type(least_pivot(dtype.itemsize))
    pulls, steps = anchors.pull.astype(dtype), anchors.step.astype(dtype)
    _sweep_blocks(tuple(packed), entries, levels, pulls, steps, anchors.kind, grid, least, work, rank)
    for factor, block in zip(factors, packed, strict=True):
        _unpack(block, factor, group)


def _pack(array: np.ndarray, group: int) -> np.ndarray:
    """(n, r, lanes) -> (blocks, n r group): every block's vectors one after the other; the last lane fills up the last block."""
    extent, rank, lanes = array.shape
    packed = aligned((-(-lanes // group), extent, rank, group), array.dtype)
    whole = lanes // group
    packed[:whole] = array[:, :, : whole * group].reshape(extent, rank, whole, group).transpose(2, 0, 1, 3)
    if whole < len(packed):
        packed[whole] = array[:, :, -1:]
        packed[whole, :, :, : lanes - whole * group] = array[:, :, whole * group :]
    return packed.reshape(len(packed), -1)


def _unpack(packed: np.ndarray, array: np.ndarray, group: int) -> None:
    """The inverse of `_pack`, into `array`."""
    extent, rank, lanes = array.shape
    blocks = packed.reshape(-1, extent, rank, group)
    for block, first in zip(blocks, range(0, lanes, group), strict=True):
        array[:, :, first : first + group] = block[:, :, : lanes - first]


@compiled(error_model="numpy")
def _sweep_blocks(factors, plans, penalties, pulls, steps, kind, grid, floor, work, rank):  # type: ignore[no-untyped-def]
    """All sweeps on one block of lanes, then on the next: a block stays in the nearest caches.

    `factors` and `plans` are tuples by mode, `work` (5, rank * rank * lanes): three Gram matrices, the normal equations, scales.
    """
    lanes = work.shape[1] // (rank * rank)
    for block in range(penalties.shape[0]):
        for mode in range(3):
            X = factors[mode][block]
            gram(X, work[mode], X.shape[0] // (rank * lanes), rank)
        for s in range(pulls.shape[0]):
            if kind != GRID and s % BALANCE_EVERY == 0:
                _scales(work, rank, lanes)
                for mode in (1, 2):
                    X = factors[mode][block]
                    _rescale(X, work[mode], work[4], X.shape[0] // (rank * lanes), rank)
                    gram(X, work[mode], X.shape[0] // (rank * lanes), rank)
            penalty = load(penalties[block], s)
            for mode in range(3):
                X, first, second = factors[mode][block], 0 if mode else 1, 1 if mode == 2 else 2
                extent = X.shape[0] // (rank * lanes)
                least = _normal_equations(work[3], work[first], work[second], penalty, pulls[s], floor, rank)
                _set_anchors(X, pulls[s], steps[s], kind, grid, extent * rank)
                contract(X, factors[first][block], factors[second][block], plans[mode], rank)
                factorise(work[3], least, rank)
                substitute(work[3], X, extent, rank)
                gram(X, work[mode], extent, rank)


@njit(nogil=True, error_model="numpy")
def _normal_equations(K, gram_a, gram_b, penalty, pull, floor, rank):  # type: ignore[no-untyped-def]
    """K = gram_a * gram_b with its diagonal times 1 + penalty, plus pull and the least pivot, which is returned."""
    total = splat(K, 0.0)
    for p in range(rank):
        for q in range(p, rank):
            store(K, p * rank + q, multiply(load(gram_a, p * rank + q), load(gram_b, p * rank + q)))
        total = add(total, load(K, p * rank + p))
    least = plus_product(total, splat(K, floor / rank), splat(K, 1e-30))
    grown, more = add(splat(K, 1.0), penalty), add(least, splat(K, pull))
    for p in range(rank):
        store(K, p * rank + p, plus_product(load(K, p * rank + p), grown, more))
    return least


@njit(nogil=True, error_model="numpy")
def _set_anchors(X, pull, step, kind, grid, vectors):  # type: ignore[no-untyped-def]
    """X = pull * anchor(X)."""
    zero, weight, far = splat(X, 0.0), splat(X, pull), splat(X, step)
    back = subtract(zero, far)
    if kind == FREE:
        for at in range(vectors):
            store(X, at, zero)
    elif kind == SPARSE:
        for at in range(vectors):
            x = load(X, at)
            store(X, at, multiply(weight, add(largest(subtract(x, far), zero), smallest(add(x, far), zero))))
    else:
        fine, coarse = splat(X, grid[0]), splat(X, 1 / grid[0])
        high, low = splat(X, grid[1]), splat(X, -grid[1])
        for at in range(vectors):
            x = load(X, at)
            aim = smallest(high, largest(low, multiply(nearest(multiply(x, fine)), coarse)))
            store(X, at, multiply(weight, add(x, smallest(far, largest(back, subtract(aim, x))))))


@njit(nogil=True, error_model="numpy")
def _scales(work, rank, lanes):  # type: ignore[no-untyped-def]
    """The geometric mean of |u|, |v|, |w| of every term and lane."""
    for p in range(rank):
        for lane in range(lanes):
            at = (p * rank + p) * lanes + lane
            work[4, p * lanes + lane] = (work[0, at] * work[1, at] * work[2, at]) ** (1.0 / 6.0)


@njit(nogil=True, error_model="numpy")
def _rescale(X, gram_x, scale, extent, rank):  # type: ignore[no-untyped-def]
    """Give every term of X the norm `scale`; u is recomputed next, from V and W."""
    tiny = splat(X, 1e-30)
    for p in range(rank):
        ratio = divide(load(scale, p), largest(square_root(load(gram_x, p * rank + p)), tiny))
        for i in range(extent):
            store(X, i * rank + p, multiply(load(X, i * rank + p), ratio))

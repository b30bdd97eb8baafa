"""Bases made of an algorithm's own terms: where they are rational, an algorithm equivalent to a rational one shows it.

With u as a map from the m-space to the n-space, v from p to m and w^T from n to p, a change of basis (de Groote 1978) is

    u -> P u Q^-1,   v -> Q v R^-1,   w^T -> R w^T P^-1.

A u of rank 1 is a vector of the n-space times a covector of the m-space, one that lacks one rank has a kernel (a vector of the
m-space) and a cokernel (a covector of the n-space), and so on: points that every change of basis carries along. Written in a
basis of n of them, scaled so that what further points have in common becomes 1, an algorithm has the same coefficients in
whatever basis it was given, up to the scale of its terms. If it is equivalent to one over Q(i), or over Q, these are
in Q(i), or in Q: no search is needed. Points that occur often make good bases, for they make zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stlsearch.targets import Target

SINGULAR = 1e-5  # singular values below this share of the largest count as zero
SAME = 1e-8  # 1 - |cosine| of points that count as one
INDEPENDENT = 0.03  # least distance of a unit vector from the span of those chosen before
ZERO = 1e-6  # a coordinate below this share of the largest counts as zero
WHOLE = 1e-6  # how near to a Gaussian integer a coefficient lies that counts as one
KEPT = 4  # random bases that are scaled
POWERS = (0.5, 1.0, 2.0)  # of its multiplicity that a point is drawn with


@dataclass(frozen=True)
class Points:
    """Distinct points of one space, unit rows, and how often each occurs: `vectors` go to P a, `covectors` to a P^-1."""

    vectors: np.ndarray
    vector_counts: np.ndarray
    covectors: np.ndarray
    covector_counts: np.ndarray


def framed(factors: Sequence[np.ndarray], target: Target, generator: np.random.Generator, tries: int) -> list[np.ndarray]:
    """The algorithm in a basis of its points, terms scaled as by `scaled`, with many zeros and ones.

    Of `tries` random bases the `KEPT` with the most zeros are scaled, and the plainest of those is returned. Targets other than
    matrix products have their terms scaled only.

    Args:
        factors: U, V, W of shapes (r, a), (r, b), (r, c), float64 or complex128.
    """
    if target.shape is None:
        return scaled(factors)
    spaces = points(factors, target.shape)
    drawn = []
    for _ in range(tries):
        power = float(generator.choice(POWERS))
        bases = [_drawn(space, size, generator, power) for space, size in zip(spaces, target.shape, strict=True)]
        drawn.append((_zeros(in_bases(factors, target.shape, bases)), bases))
    drawn.sort(key=lambda pair: -pair[0])
    forms = []
    for _, bases in drawn[:KEPT]:
        scales = [_equalising(space, basis, generator) for space, basis in zip(spaces, bases, strict=True)]
        forms.append(scaled(in_bases(factors, target.shape, [x[:, None] * P for x, P in zip(scales, bases, strict=True)])))
    return max(forms, key=_plainness)


def in_bases(factors: Sequence[np.ndarray], shape: tuple[int, int, int], bases: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The algorithm after u -> P u Q^-1, v -> Q v R^-1, w^T -> R w^T P^-1 with P, Q, R = `bases`."""
    n, m, p = shape
    P, Q, R = bases
    P_inverse, Q_inverse, R_inverse = (np.linalg.inv(basis) for basis in bases)
    u, v, wt = _maps(factors, shape)
    moved = (R @ wt @ P_inverse).transpose(0, 2, 1)
    return [(P @ u @ Q_inverse).reshape(-1, n * m), (Q @ v @ R_inverse).reshape(-1, m * p), moved.reshape(-1, n * p)]


def points(factors: Sequence[np.ndarray], shape: tuple[int, int, int]) -> list[Points]:
    """The points of the three spaces n, m, p."""
    vectors: list[list[np.ndarray]] = [[], [], []]
    covectors: list[list[np.ndarray]] = [[], [], []]
    for (to, source), maps in zip(((0, 1), (1, 2), (2, 0)), _maps(factors, shape), strict=True):
        left, sizes, right = np.linalg.svd(maps)
        ranks = (sizes > SINGULAR * sizes[:, :1]).sum(axis=1)
        for r in range(len(maps)):
            if ranks[r] == 1:
                vectors[to].append(left[r, :, 0])
                covectors[source].append(right[r, 0])
            if 1 < shape[to] == ranks[r] + 1 and ranks[r]:
                covectors[to].append(left[r, :, -1].conj())
            if 1 < shape[source] == ranks[r] + 1 and ranks[r]:
                vectors[source].append(right[r, -1].conj())
    return [Points(*_distinct(ours, size), *_distinct(theirs, size)) for ours, theirs, size in zip(vectors, covectors, shape, strict=True)]


def scaled(factors: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Every u and v divided by the coefficient that makes the most others Gaussian integers; w multiplied by it.

    A vanishing u or v stays as it is.
    """
    U, V, W = (factor.copy() for factor in factors)
    rows = np.arange(len(U))
    for factor in (U, V):
        sizes = np.abs(factor)
        largest = sizes.max(axis=1, keepdims=True)
        usable = sizes > ZERO * largest
        leads = np.where(usable, factor, 1)
        merit = _is_whole(factor[:, None, :] / leads[:, :, None]).sum(axis=2) + 0.5 * sizes / np.where(largest, largest, 1)
        lead = leads[rows, np.where(usable, merit, -1).argmax(axis=1)][:, None]
        factor /= lead
        W *= lead
    return [U, V, W]


def _maps(factors: Sequence[np.ndarray], shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, m, p = shape
    U, V, W = factors
    return U.reshape(-1, n, m), V.reshape(-1, m, p), W.reshape(-1, n, p).transpose(0, 2, 1)


def _zeros(factors: Sequence[np.ndarray]) -> int:
    """Coefficients that are 0, which no scaling changes."""
    return sum(int((np.abs(factor) < ZERO * np.abs(factor).max(axis=1, keepdims=True)).sum()) for factor in factors)


def _plainness(factors: Sequence[np.ndarray]) -> int:
    """Zeros and other Gaussian integers, a zero counting three times."""
    return 2 * _zeros(factors) + sum(int(_is_whole(factor).sum()) for factor in factors)


def _is_whole(values: np.ndarray) -> np.ndarray:
    near = (np.abs(values.real - np.rint(values.real)) < WHOLE) & (np.abs(values.imag - np.rint(values.imag)) < WHOLE)
    return near & (np.abs(values) < 2.5)


def _distinct(found: list[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """The different directions among unit vectors, and how often each occurs."""
    kept, counts = np.zeros((0, size)), np.zeros(0, np.int64)
    for point in found:
        same = np.flatnonzero(np.abs(kept.conj() @ point) > 1 - SAME)
        if len(same):
            counts[same[0]] += 1
        else:
            kept, counts = np.vstack([kept, point]), np.append(counts, 1)
    return kept, counts


def _drawn(space: Points, size: int, generator: np.random.Generator, power: float) -> np.ndarray:
    """A change of basis P that takes points, or covectors, to the unit vectors."""
    several, many = space.vector_counts.sum(), space.covector_counts.sum()
    if generator.random() * (several + many) < several:
        return np.linalg.inv(_chosen(space.vectors, space.vector_counts, size, generator, power).T)
    return _chosen(space.covectors, space.covector_counts, size, generator, power)


def _chosen(found: np.ndarray, counts: np.ndarray, size: int, generator: np.random.Generator, power: float) -> np.ndarray:
    """Independent points, drawn with probabilities that grow with their counts; what they do not span is filled with unit vectors."""
    drawn = np.argsort(generator.exponential(size=len(found)) / counts**power)
    candidates = np.concatenate([found[drawn], np.eye(size)[generator.permutation(size)]])
    basis, kept = [], np.zeros((0, size), candidates.dtype)
    for candidate in candidates:
        rest = candidate - kept.T @ (kept.conj() @ candidate)
        length = np.linalg.norm(rest)
        if length > INDEPENDENT:
            basis.append(candidate)
            kept = np.vstack([kept, rest / length])
            if len(basis) == size:
                break
    return np.array(basis)


def _equalising(space: Points, basis: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Scales x of the coordinates after P that make those of the points equal, along a spanning tree, those that occur often first."""
    seen = np.concatenate([space.vectors @ basis.T, space.covectors @ np.linalg.inv(basis)])
    signs = np.repeat([1, -1], [len(space.vectors), len(space.covectors)])  # covectors are divided by x
    counts = np.concatenate([space.vector_counts, space.covector_counts])
    order = np.argsort(-counts + 0.01 * generator.random(len(counts)))
    held = np.abs(seen) > ZERO * np.abs(seen).max(axis=1, keepdims=True)
    scales = np.zeros(len(basis), seen.dtype)
    for root in range(len(basis)):
        if scales[root]:
            continue
        scales[root] = 1  # of a part of the tree that nothing joins to the others
        while True:
            known = scales != 0
            joining = order[((held & known).any(axis=1) & (held & ~known).any(axis=1))[order]]
            if not len(joining):
                break
            point, held_here = seen[joining[0]], held[joining[0]]
            first, others = np.flatnonzero(held_here & known)[0], held_here & ~known
            scales[others] = scales[first] * (point[first] / point[others]) ** float(signs[joining[0]])
    return scales

"""One numeric algorithm made exact: the steps of `stlsearch.search.rounding` from where it stands, in many bases at once.

The algorithm is refitted until it is a solution to single precision, copied to every lane, and every copy but the first turned
by random orthogonal changes of basis (de Groote 1978), which leave e and g as they are. Sparsifying then descends from as many
sides. What rounds in two factors and not in the third is completed: with U and V fixed the Brent equations are linear in W,
so W is their least-squares solution, put over small denominators, and checked exactly like everything else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import EXACT_RINGS, ExactMatrix
from stlsearch.search.rounding import GRIDS, Discovery, Effort, Lanes, Stats, missing_products, round_once, take
from stlsearch.solvers.anchored import Anchors, anchored_sweeps
from stlsearch.solvers.kernels import Plan
from stlsearch.targets import Target

LANES = 64
REFIT_SWEEPS = 1000
NEAR = 1e-4  # missing products beyond which an algorithm is no approximation of an exact one nearby
LARGEST_DENOMINATOR = 48  # of completed factors
OFF = 1e-5  # how far a completed coefficient may lie from its fraction
RINGS = ("Z", "Z[1/2]", "Q", "Q(i)")


def round_algorithm(
    algorithm: BilinearAlgorithm,
    ring: str = "Z",
    *,
    seed: int = 0,
    rounds: int = 8,
    callback: Callable[[Stats], bool | None] | None = None,
) -> Discovery:
    """An exact algorithm over `ring` on the solution manifold of a numeric one; none is found when the budget ends.

    Real algorithms go to Z, Z[1/2], Q or Q(i) in the same way, with a finer grid beyond Z. Complex ones only go to Q(i), and only
    by rescaling their terms and completing: no change of basis is searched for them.

    Args:
        seed: of the changes of basis.
        rounds: of sparsifying, normalising and pulling to the grid.
        callback: told the figures after every round; returning True ends the search.

    Raises:
        InputError: an algorithm that is exact already or far from every solution, or a ring that does not hold it.
    """
    if ring not in RINGS:
        raise InputError(f"rounding knows the rings {', '.join(RINGS)}, not {ring!r:.20}")
    if algorithm.is_exact:
        raise InputError(f"{algorithm.name} is exact already, over {algorithm.ring}")
    if rounds < 1:
        raise InputError("rounds must be at least 1")
    target = algorithm.target
    if target.rational is None:
        raise InputError(f"the entries of {target.slug} are no fractions of small denominators: nothing is exact for it")
    began, stats = time.process_time(), Stats(starts=1)
    provenance = {"solver": "rounding", "seed": seed, "parents": [{"id": algorithm.id, "name": algorithm.name}]}
    if not algorithm.is_real:
        if ring != "Q(i)":
            raise InputError(f"{algorithm.name} is complex: it can only be rounded to Q(i), not to {ring}")
        found = _round_complex(algorithm, provenance)
        stats.converged, stats.exact = 1, int(found is not None)
        stats.core_seconds = time.process_time() - began
        return Discovery([found] if found else [], stats, "reached" if found else "budget")
    denominator, bound = GRIDS["Z" if ring == "Z" else "Z[1/2]"]
    factors = _copies(algorithm, seed)
    tensor = target.tensor.astype(np.float32)
    plans = [Plan.of(tensor, mode) for mode in range(3)]
    effort = Effort.of(algorithm.rank)
    stats.converged = 1
    for _ in range(rounds):
        rounded, factors = round_once(factors, target, plans, effort, denominator, bound)
        stats.rounds += factors[0].shape[2]
        missing = missing_products([part / denominator for part in rounded], target)
        found = next(
            (exact for lane in np.argsort(missing) if (exact := _exact(rounded, lane, denominator, target, ring, provenance))), None
        )
        stats.exact = int(found is not None)
        stats.core_seconds = time.process_time() - began
        if found is not None:
            return Discovery([found], stats, "reached")
        if callback is not None and callback(stats):
            return Discovery([], stats, "stopped")
        near = missing_products(factors, target) < 2
        if not near.any():
            break
        factors = take(factors, near)
    return Discovery([], stats, "budget")


def complete(others: Sequence[np.ndarray], tensor: np.ndarray) -> np.ndarray | None:
    """The third factor (r, c) that solves sum_r first[r, i] second[r, j] X[r, k] = T[i, j, k]; None when there is none.

    Of several it is the least one in norm, which need not be made of small fractions.
    """
    first, second = others
    products = (first[:, :, None] * second[:, None, :]).reshape(len(first), -1).T
    right = tensor.reshape(-1, tensor.shape[2])
    solution, _, _, _ = np.linalg.lstsq(products, right, rcond=None)
    return solution if np.abs(products @ solution - right).max() < OFF else None


def fractions(matrix: np.ndarray) -> list[list[Fraction]] | None:
    """Every coefficient as a fraction of a denominator up to `LARGEST_DENOMINATOR`; None when one is too far from any."""
    rows = [[Fraction(float(value)).limit_denominator(LARGEST_DENOMINATOR) for value in row] for row in matrix]
    return rows if np.abs(np.array(rows, dtype=np.float64) - matrix).max() < OFF else None


def random_bases(factors: Lanes, target: Target, generator: np.random.Generator) -> Lanes:
    """Every lane turned by orthogonal X, Y, Z of its own (see `stlsearch.constructions.transforms.sandwich`)."""
    assert target.shape is not None
    n, m, p = target.shape
    lanes = factors[0].shape[2]
    X, Y, Z = (np.linalg.qr(generator.standard_normal((lanes, size, size)))[0] for size in (n, m, p))
    U, V, W = (factor.reshape(*sides, -1, lanes) for factor, sides in zip(factors, ((n, m), (m, p), (n, p)), strict=True))
    turned = (
        np.einsum("lai,ijrl,lbj->abrl", X, U, Y, optimize=True),
        np.einsum("lai,ijrl,lbj->abrl", Y, V, Z, optimize=True),
        np.einsum("lai,ijrl,lbj->abrl", X, W, Z, optimize=True),
    )
    return [np.ascontiguousarray(part.reshape(factor.shape)) for part, factor in zip(turned, factors, strict=True)]


def _copies(algorithm: BilinearAlgorithm, seed: int) -> Lanes:
    """The algorithm in every lane, refitted, all but the first in another basis; float32."""
    target = algorithm.target
    plans = [Plan.of(target.tensor.astype(np.float64), mode) for mode in range(3)]
    factors = [np.ascontiguousarray(factor.T[:, :, None]) for factor in (algorithm.U, algorithm.V, algorithm.W)]
    # A weak pull to where it stands, instead of to zero, keeps the refit from running off along the manifold.
    anchors = Anchors.sparse(REFIT_SWEEPS, 1e-3, 1e-12, 1e-12)
    anchored_sweeps(factors, plans, np.full(REFIT_SWEEPS, 1e-12), anchors)
    missing = float(missing_products(factors, target)[0])
    if not missing < NEAR:
        raise InputError(f"{algorithm.name} still misses {missing:.3g} products after refitting: there is no exact algorithm near it")
    lanes = [np.repeat(factor, LANES, axis=2) for factor in factors]
    if target.shape is not None:
        turned = random_bases(lanes, target, np.random.default_rng(seed))
        lanes = [np.concatenate([factor, part[:, :, 1:]], axis=2) for factor, part in zip(factors, turned, strict=True)]
    return [lane.astype(np.float32) for lane in lanes]


def _exact(rounded: Lanes, lane: int, denominator: int, target: Target, ring: str, provenance: dict) -> BilinearAlgorithm | None:
    """The lane's algorithm over `ring` if its rounded factors, or two of them and a completed third, are one."""
    parts = [part[:, :, lane].T for part in rounded]
    if missing_products([part[:, :, lane : lane + 1] / denominator for part in rounded], target)[0] == 0:
        return _checked(target, [ExactMatrix.make(part.astype(np.int64), denominator) for part in parts], ring, provenance)
    if ring == "Z" or not all(part.any(axis=1).all() for part in parts):
        return None
    for mode in range(3):
        others = [parts[k] / denominator for k in range(3) if k != mode]
        solution = complete(others, np.moveaxis(target.tensor, mode, 2))
        rows = None if solution is None else fractions(solution)
        if rows is not None:
            exact = [ExactMatrix.make(part.astype(np.int64), denominator) for part in parts]
            exact[mode] = ExactMatrix.from_fractions(rows)
            return _checked(target, exact, ring, provenance)
    return None


def _round_complex(algorithm: BilinearAlgorithm, provenance: dict) -> BilinearAlgorithm | None:
    """Terms scaled so that the largest coefficient of u and of v is 1, rounded to halves of Gaussian integers, w completed."""
    U, V, W = algorithm.U.copy(), algorithm.V.copy(), algorithm.W.copy()
    for factor in (U, V):
        lead = np.take_along_axis(factor, np.abs(factor).argmax(axis=1)[:, None], axis=1)
        factor /= lead
        W *= lead
    halves = [(np.rint(2 * factor.real), np.rint(2 * factor.imag)) for factor in (U, V)]
    if any(np.abs((real + 1j * imaginary) / 2 - factor).max() > 0.1 for (real, imaginary), factor in zip(halves, (U, V), strict=True)):
        return None
    solution = complete([(real + 1j * imaginary) / 2 for real, imaginary in halves], algorithm.target.tensor)
    if solution is None or (real_rows := fractions(solution.real)) is None or (imaginary_rows := fractions(solution.imag)) is None:
        return None
    exact = [ExactMatrix.make(real.astype(np.int64), 2, imaginary.astype(np.int64)) for real, imaginary in halves]
    real_part, imaginary_part = ExactMatrix.from_fractions(real_rows), ExactMatrix.from_fractions(imaginary_rows)
    common = int(np.lcm(real_part.denominator, imaginary_part.denominator))
    scaled = [part.real * (common // part.denominator) for part in (real_part, imaginary_part)]
    return _checked(algorithm.target, [*exact, ExactMatrix.make(scaled[0], common, scaled[1])], "Q(i)", provenance)


def _checked(target: Target, exact: Sequence[ExactMatrix], ring: str, provenance: dict) -> BilinearAlgorithm | None:
    """The algorithm when it is exact and lies in `ring`."""
    try:
        found = BilinearAlgorithm.from_exact(target, *exact, provenance={**provenance, "ring": ring})
    except InputError:
        return None
    return found if EXACT_RINGS.index(found.ring) <= EXACT_RINGS.index(ring) else None

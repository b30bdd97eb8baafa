"""One numeric algorithm made exact: the steps of `stlsearch.search.rounding` from where it stands, in many bases at once.

The algorithm is refitted until it is a solution to single precision, copied to every lane, and every copy but the first turned
by random orthogonal changes of basis (de Groote 1978), which leave e and g as they are. Sparsifying then descends from as many
sides. What rounds in two factors and not in the third is completed: with U and V fixed the Brent equations are linear in W,
so W is their least-squares solution, put over small denominators, and checked exactly like everything else.

Complex algorithms, and real ones of which nothing was found so, are written in bases made of their own terms instead and pinned
to round values: see `stlsearch.search.gaussian_rounding`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix, without_null_terms
from stlsearch.search.gaussian_rounding import PLAIN, RINGS, height, lies_in, plain_algorithm, real_form
from stlsearch.search.pinning import POLISHED, SOLVED
from stlsearch.search.rounding import GRIDS, Discovery, Effort, Lanes, Stats, missing_products, round_once, take
from stlsearch.solvers.anchored import Anchors, anchored_sweeps
from stlsearch.solvers.complex_lm import newton
from stlsearch.solvers.plan import Plan
from stlsearch.targets import Target

LANES = 64
REFIT_SWEEPS = 1000
FIRST_STEPS, REFIT_STEPS = 10, 100
NEAR = 1e-4  # missing products beyond which an algorithm is no approximation of an exact one nearby
WHOLE = ("Z", "Z[i]")  # rings without fractions
LARGEST_DENOMINATOR = 48  # of completed factors
OFF = 1e-5  # how far a completed coefficient may lie from its fraction


def round_algorithm(
    algorithm: BilinearAlgorithm,
    ring: str = "Z",
    *,
    seed: int = 0,
    rounds: int = 8,
    callback: Callable[[Stats], bool | None] | None = None,
) -> Discovery:
    """An exact algorithm over `ring` on the solution manifold of a numeric one; none is found when the budget ends.

    Real algorithms are pulled to a grid, finer beyond the integers; what the grid does not find, and complex algorithms, are pinned
    (see `stlsearch.search.gaussian_rounding`). A complex algorithm may go to a real ring too: many are equivalent to a
    real one, or lie on a manifold of solutions with one.

    Args:
        ring: Z, Z[1/2], Q, Z[i] (Gaussian integers) or Q(i).
        seed: of the changes of basis, and of the order in which coefficients are pinned.
        rounds: of sparsifying, normalising and pulling to the grid, and then of sequences of pinning.
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
    found: list[BilinearAlgorithm] = []

    def goes_on(new: BilinearAlgorithm | None, rounds: int) -> bool:
        """Counts a round; False ends the search."""
        if new is not None and (not found or height(new) < height(found[0])):
            found[:] = [new]
        stats.rounds, stats.exact, stats.core_seconds = stats.rounds + rounds, len(found), time.process_time() - began
        return not (callback is not None and callback(stats))

    solution = _refitted(algorithm)
    stats.converged = 1
    generator = np.random.default_rng(seed)
    if (real := real_form(solution, target, generator)) is not None:
        for new, lanes in _on_grids(real, target, ring, seed, rounds, provenance):
            if not goes_on(new, lanes) or found:
                return Discovery(found, stats, "reached" if found else "stopped")
    for _ in range(rounds):
        new, turns = plain_algorithm(solution, target, ring, generator, {**provenance, "ring": ring})
        if not goes_on(new, turns):
            return Discovery(found, stats, "reached" if found else "stopped")
        if found and height(found[0]) <= PLAIN:
            break
    return Discovery(found, stats, "reached" if found else "budget")


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


def _refitted(algorithm: BilinearAlgorithm) -> list[np.ndarray]:
    """U, V, W of a solution to double precision near the algorithm."""
    target = algorithm.target
    factors = [algorithm.U, algorithm.V, algorithm.W]
    if algorithm.is_real:
        lanes = [np.ascontiguousarray(factor.T[:, :, None]) for factor in factors]
        plans = [Plan.of(target.tensor.astype(np.float64), mode) for mode in range(3)]
        # A weak pull to where it stands, instead of to zero, keeps the refit from running off along the manifold.
        anchors = Anchors.sparse(REFIT_SWEEPS, 1e-3, 1e-12, 1e-12)
        anchored_sweeps(lanes, plans, np.full(REFIT_SWEEPS, 1e-12), anchors)
        factors = [lane[:, :, 0].T for lane in lanes]
    tensor = target.tensor.astype(np.float64)
    for steps, most in ((FIRST_STEPS, NEAR), (REFIT_STEPS, SOLVED)):  # what is far from every solution is told so early
        factors, missing = newton(factors, tensor, iterations=steps, tolerance=POLISHED)
        if not missing < most:
            raise InputError(f"{algorithm.name} still misses {missing:.3g} products after refitting: there is no exact algorithm near it")
    return factors


def _on_grids(
    factors: list[np.ndarray], target: Target, ring: str, seed: int, rounds: int, provenance: dict
) -> Iterator[tuple[BilinearAlgorithm | None, int]]:
    """Rounds of many copies of a real algorithm in different bases: what each finds, and its lanes."""
    denominator, bound = GRIDS["Z" if ring in WHOLE else "Z[1/2]"]
    lanes = [np.repeat(factor.T[:, :, None], LANES, axis=2) for factor in factors]
    if target.shape is not None:
        turned = random_bases(lanes, target, np.random.default_rng(seed))
        lanes = [np.concatenate([lane[:, :, :1], part[:, :, 1:]], axis=2) for lane, part in zip(lanes, turned, strict=True)]
    lanes = [lane.astype(np.float32) for lane in lanes]
    plans = [Plan.of(target.tensor.astype(np.float32), mode) for mode in range(3)]
    effort = Effort.of(len(factors[0]))
    for _ in range(rounds):
        rounded, lanes = round_once(lanes, target, plans, effort, denominator, bound)
        missing = missing_products([part / denominator for part in rounded], target)
        exact = (_exact(rounded, lane, denominator, target, ring, provenance) for lane in np.argsort(missing))
        yield next((algorithm for algorithm in exact if algorithm), None), lanes[0].shape[2]
        near = missing_products(lanes, target) < 2
        if not near.any():
            break
        lanes = take(lanes, near)


def _exact(rounded: Lanes, lane: int, denominator: int, target: Target, ring: str, provenance: dict) -> BilinearAlgorithm | None:
    """The lane's algorithm over `ring` if its rounded factors, or two of them and a completed third, are one."""
    parts = [part[:, :, lane].T for part in rounded]
    if missing_products([part[:, :, lane : lane + 1] / denominator for part in rounded], target)[0] == 0:
        return _checked(target, [ExactMatrix.make(part.astype(np.int64), denominator) for part in parts], ring, provenance)
    if ring in WHOLE or not all(part.any(axis=1).all() for part in parts):
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


def _checked(target: Target, exact: Sequence[ExactMatrix], ring: str, provenance: dict) -> BilinearAlgorithm | None:
    """The algorithm when it is exact and lies in `ring`."""
    try:
        found = BilinearAlgorithm.from_exact(target, *without_null_terms(exact), provenance={**provenance, "ring": ring})
    except InputError:
        return None
    return found if lies_in(found, ring) else None

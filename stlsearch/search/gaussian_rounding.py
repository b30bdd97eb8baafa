"""Exact algorithms over Z[i] and Q(i), and over Z, Z[1/2] and Q, from numeric ones, complex or real.

An algorithm is written in a basis of its own terms' points (`stlsearch.search.frames`), where most of what can be 0 or 1 is, and the
coefficients that are left free are pinned to round values (`stlsearch.search.pinning`): real ones first, as a complex solution
often lies on a manifold that has real points. Where a way ends short of fractions it has become a more special solution all the same,
with more zeros and more points to make a basis of, and the next way begins there. What comes out is verified in exact arithmetic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import EXACT_RINGS, without_null_terms
from stlsearch.search.complex_fits import complex_solutions
from stlsearch.search.frames import framed
from stlsearch.search.gaussian import gaussian_factors
from stlsearch.search.pinning import ROUND, Values, pinned
from stlsearch.search.rounding import Discovery, Stats
from stlsearch.targets import Target

RINGS = ("Z", "Z[1/2]", "Q", "Z[i]", "Q(i)")
_REAL_PART = {"Z[i]": "Z", "Q(i)": "Q"}

FRAMES = 40  # bases drawn before a way begins
WAYS = 10  # one after the other, before they begin again where the first began
MORE_WAYS = 3  # after an exact algorithm was found, for a plainer one
PLAIN = 4  # no numerator or denominator above it: plain enough to stop

SEQUENCES = 2  # of ways, for a solution from a random start


def lies_in(algorithm: BilinearAlgorithm, ring: str) -> bool:
    """Whether an exact algorithm of characteristic 0 has its coefficients in `ring`, one of `RINGS`."""
    if ring == "Z[i]":
        return algorithm.exact is not None and all(factor.denominator == 1 for factor in algorithm.exact)
    return EXACT_RINGS.index(algorithm.ring) <= EXACT_RINGS.index(ring)


def plain_algorithm(
    factors: Sequence[np.ndarray], target: Target, ring: str, generator: np.random.Generator, provenance: dict
) -> tuple[BilinearAlgorithm | None, int]:
    """The plainest exact algorithm over `ring` that one sequence of ways from a numeric solution meets, and the number of ways.

    Args:
        factors: U, V, W of shapes (r, a), (r, b), (r, c), a solution to double precision, float64 or complex128.
        ring: one of `RINGS`.
    """
    tensor = target.tensor.astype(np.float64)
    kinds = [Values.of(name) for name in dict.fromkeys((_REAL_PART.get(ring, ring), ring))]
    best: BilinearAlgorithm | None = None
    turns, last = 0, WAYS
    while turns < last and not (best is not None and height(best) <= PLAIN):
        values = kinds[turns % len(kinds)]
        form = framed(factors, target, generator, FRAMES)
        factors = pinned(_with_dtype(form, values), tensor, values, generator)
        turns += 1
        found = _exact(factors, target, ring, provenance)
        if found is None:
            continue
        if best is None:
            last = min(turns + MORE_WAYS, WAYS)
        if best is None or (height(found), sum(found.nonzeros)) < (height(best), sum(best.nonzeros)):
            best = found
    return best, turns


def real_form(factors: Sequence[np.ndarray], target: Target, generator: np.random.Generator) -> list[np.ndarray] | None:
    """An equivalent real solution, itself if it is real: the one in a basis of its points, when that is real; None otherwise."""
    if not any(np.iscomplexobj(factor) for factor in factors):
        return list(factors)
    form = framed(factors, target, generator, FRAMES)
    return [factor.real.copy() for factor in form] if _is_nearly_real(form) else None


def height(algorithm: BilinearAlgorithm) -> int:
    """The largest numerator or denominator of an exact algorithm."""
    assert algorithm.exact is not None
    parts = [part for factor in algorithm.exact for part in (factor.real, factor.imaginary) if part is not None]
    return max(*(int(np.abs(part).max()) for part in parts), *(factor.denominator for factor in algorithm.exact))


def discover_gaussian(
    target: Target,
    rank: int,
    *,
    ring: str = "Q(i)",
    seed: int = 0,
    count: int = 1,
    max_starts: int = 100_000,
    callback: Callable[[Stats], bool | None] | None = None,
) -> Discovery:
    """Search exact algorithms of one rank from complex random starts, until `count` are found or `max_starts` starts are used up.

    Args:
        ring: one of `RINGS`: where an algorithm must lie to count; its coefficients may all be real.
        callback: told the figures after every batch and every solution; returning True ends the search.

    Raises:
        InputError: a rank that makes no sense, another ring, a target without exact entries, or budgets below 1.
    """
    target.check_rank(rank)
    if ring not in RINGS:
        raise InputError(f"rounding knows the rings {', '.join(RINGS)}, not {ring!r:.20}")
    if target.rational is None:
        raise InputError(f"the entries of {target.slug} are no fractions of small denominators: nothing is exact for it")
    if min(count, max_starts) < 1:
        raise InputError("count and max_starts must be at least 1")
    stats, began = Stats(), time.process_time()
    found: list[BilinearAlgorithm] = []
    for solved in complex_solutions(target, rank, seed=seed, max_starts=max_starts, stats=stats):
        if solved is not None:
            start, solution = solved
            provenance = {"solver": "pinning", "ring": ring, "seed": seed, "start": start}
            generator = np.random.default_rng([seed, start, 1])
            for _ in range(SEQUENCES):
                algorithm, turns = plain_algorithm(solution, target, ring, generator, provenance)
                stats.rounds += turns
                if algorithm is not None:
                    found.append(algorithm)
                    break
        stats.exact, stats.core_seconds = len(found), time.process_time() - began
        stopped = callback is not None and callback(replace(stats))
        if len(found) == count:
            return Discovery(found, stats, "reached")
        if stopped:
            return Discovery(found, stats, "stopped")
    return Discovery(found, stats, "budget")


def _exact(factors: Sequence[np.ndarray], target: Target, ring: str, provenance: dict) -> BilinearAlgorithm | None:
    """The algorithm of these numbers, when they are an exact one over `ring` but for rounding."""
    if (exact := gaussian_factors(factors)) is None:
        return None
    try:
        found = BilinearAlgorithm.from_exact(target, *without_null_terms(exact), provenance=provenance)
    except InputError:  # a number that looks like a fraction and is none
        return None
    return found if lies_in(found, ring) else None


def _with_dtype(factors: Sequence[np.ndarray], values: Values) -> list[np.ndarray]:
    """Real factors where imaginary parts are neither there nor asked for, complex ones otherwise."""
    if not values.is_real:
        return [factor.astype(np.complex128) for factor in factors]
    return [factor.real.copy() for factor in factors] if _is_nearly_real(factors) else list(factors)


def _is_nearly_real(factors: Sequence[np.ndarray]) -> bool:
    return all(bool(np.abs(factor.imag).max() < ROUND) for factor in factors)

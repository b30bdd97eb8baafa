"""Algorithms as the masks of flip walks, and back.

A factor is two masks of up to 64 bits, of its coefficients 1 and -1, in the order of the factors' columns (W for C).
"""

from __future__ import annotations

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import modulus_of
from stlsearch.search.flip_state import MAX_TERMS, RINGS
from stlsearch.targets import Target

MAX_ENTRIES = 64  # of a factor: bits of a mask


def masks_of(start: BilinearAlgorithm, ring: str) -> tuple[np.ndarray, np.ndarray]:
    """Masks (r, 3, 2) and signs (r,), 1 for -1, of an algorithm that is exact over the ring.

    Raises:
        InputError: another ring, an algorithm that is not exact over it or not ternary over Z, too many terms or entries.
    """
    if ring not in RINGS:
        raise InputError(f"a flip walk cannot be over {ring!r:.20}; valid: {', '.join(RINGS)}")
    if ring not in start.valid_rings() or start.exact is None:
        raise InputError(f"{start.name} is not exact over {ring}: valid over {', '.join(start.valid_rings()) or 'no exact ring'}")
    if max(start.target.dims) > MAX_ENTRIES or start.rank > MAX_TERMS:
        raise InputError(
            f"flip walks hold up to {MAX_ENTRIES} entries of a factor and {MAX_TERMS} terms; "
            f"{start.name} has {max(start.target.dims)} and {start.rank}"
        )
    prime = modulus_of(ring)
    factors = []
    for factor in start.exact:
        values = factor.real
        if prime is not None:
            values = values * pow(factor.denominator, -1, prime) % prime
            values = np.where(values == 2, -1, values)
        factors.append(values)
    if prime is None and not start.is_ternary:
        raise InputError(f"a flip walk over Z needs coefficients -1, 0, 1; {start.name} has others")
    if not all(factor.any(axis=1).all() for factor in factors):
        raise InputError(f"{start.name} has a term that is zero over {ring}")
    powers = np.uint64(1) << np.arange(MAX_ENTRIES, dtype=np.uint64)
    masks = [[(factor == sign) @ powers[: factor.shape[1]] for sign in (1, -1)] for factor in factors]
    return np.array(masks, dtype=np.uint64).transpose(2, 0, 1).copy(), np.zeros(start.rank, dtype=np.uint64)


def algorithm_of(target: Target, ring: str, terms: np.ndarray, signs: np.ndarray, **provenance: object) -> BilinearAlgorithm:
    """Masks and signs as an algorithm, verified over the ring.

    Raises:
        InputError: it is not exact.
    """
    factors = [_unpacked(terms[:, mode], size) for mode, size in enumerate(target.dims)]
    factors[2] = factors[2] * (1 - 2 * signs.astype(np.int64))[:, None]
    if (prime := modulus_of(ring)) is not None:
        factors = [factor % prime for factor in factors]
    return BilinearAlgorithm.from_exact(target, *factors, ring=ring, provenance=provenance)


def _unpacked(masks: np.ndarray, size: int) -> np.ndarray:
    """Masks (r, 2) as coefficients (r, size)."""
    bits = (masks[:, :, None] >> np.arange(size, dtype=np.uint64)) & np.uint64(1)
    return bits[:, 0].astype(np.int64) - bits[:, 1].astype(np.int64)

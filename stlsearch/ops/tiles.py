"""Which algorithms can multiply real matrices tile by tile."""

from __future__ import annotations

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError


def tile_of(algorithm: BilinearAlgorithm) -> tuple[int, int, int]:
    """(n, m, p), the tile on which a real operator applies the algorithm.

    Raises:
        InputError: the target is not a matrix product, or the coefficients have no meaning on real
            matrices (Z2, Zp, complex).
    """
    if algorithm.target.shape is None:
        raise InputError(f"{algorithm.name} computes {algorithm.target.slug}, not a matrix product")
    if not algorithm.is_real:
        raise InputError(f"{algorithm.name} lies over {algorithm.ring}: only algorithms over the reals multiply real matrices")
    return algorithm.target.shape

"""Which algorithms can multiply real matrices tile by tile."""

from __future__ import annotations

from functools import lru_cache

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.transforms import compose
from stlsearch.errors import InputError

MAX_RANK = 4096
"""Of a power: Strassen's algorithm four levels deep, Laderman's two."""


def tile_of(algorithm: BilinearAlgorithm) -> tuple[int, int, int]:
    """(n, m, p), the tile on which a real operator applies the algorithm.

    Raises:
        InputError: what is no algorithm, a target that is not a matrix product, or the coefficients have no meaning on real
            matrices (Z2, Zp, complex).
    """
    if not isinstance(algorithm, BilinearAlgorithm):
        raise InputError(f"a BilinearAlgorithm is needed, not {type(algorithm).__name__}")
    if algorithm.target.shape is None:
        raise InputError(f"{algorithm.name} computes {algorithm.target.slug}, not a matrix product")
    if not algorithm.is_real:
        raise InputError(f"{algorithm.name} lies over {algorithm.ring}: only algorithms over the reals multiply real matrices")
    return algorithm.target.shape


@lru_cache(maxsize=64)
def power(algorithm: BilinearAlgorithm, levels: int) -> BilinearAlgorithm:
    """The Kronecker power of an exact algorithm: `levels` recursive levels of it as one. Any algorithm is its own first power.

    Raises:
        InputError: a higher power than the first of an algorithm that is not exact, or one of rank over `MAX_RANK`.
    """
    if levels == 1:
        return algorithm
    if not algorithm.is_exact:
        raise InputError(f"{algorithm.name} is not exact, and its powers are worse: {levels} levels of it are of no use")
    if algorithm.rank**levels > MAX_RANK:
        raise InputError(f"{levels} levels of {algorithm.name} are {algorithm.rank**levels} products; at most {MAX_RANK}")
    return compose(algorithm, power(algorithm, levels - 1))

"""Exact algorithms as a drop-in fast product of ordinary matrices.

One level of an <n,m,p;r> algorithm replaces nmp products of blocks by r, so that L levels leave (r/(nmp))^L of the multiplications. They
are paid for by passes over the matrices, and by rounding: the error grows by about the growth factor on every level (Ballard, Benson,
Druinsky, Lipshitz, Schwartz, arXiv 1507.00687), where that of the ordinary product does not.

L levels are one level of the algorithm's L-th Kronecker power, which reads each matrix once instead of once per level.
"""

from __future__ import annotations

from torch import Tensor

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.ops.bases import DTYPES, bases_of
from stlsearch.ops.encoded import check_tensor
from stlsearch.ops.library import encode
from stlsearch.ops.product import product

# Neighbouring rows, so that a few rows of tiles can be held at a time; columns from contiguous blocks, which are read faster.
BLOCKS = (False, True, True)


def fast_matmul(a: Tensor, b: Tensor, algorithm: BilinearAlgorithm, levels: int = 1) -> Tensor:
    """a @ b in floating point by `levels` recursive levels of an exact algorithm.

    Sizes that n^levels, m^levels or p^levels do not divide are padded with zeros. Extra memory: b encoded, (r/(mp))^levels times its size,
    and on a CPU a part of a and of the products as for `stlsearch.ops.stl_matmul`; elsewhere all of them.

    Args:
        a: (..., M, K); leading dimensions are joined with M.
        b: (K, N).
        algorithm: exact over the reals, of any shape.
        levels: 0 is `torch.matmul`.

    Returns:
        (..., M, N). Differentiable in a and b.

    Raises:
        InputError: an algorithm that is not exact or not of real matrices, sizes that do not fit, another dtype than float64, 32, 16
            or bfloat16, or levels that are negative or make more than `stlsearch.ops.tiles.MAX_RANK` products.
    """
    check_tensor("a", a)
    check_tensor("b", b)
    if not isinstance(algorithm, BilinearAlgorithm):
        raise InputError(f"a BilinearAlgorithm is needed, not {type(algorithm).__name__}")
    if not isinstance(levels, int) or isinstance(levels, bool) or levels < 0:
        raise InputError(f"levels must be an integer of at least 0, not {levels!r}")
    if a.ndim == 0 or b.ndim != 2 or a.shape[-1] != b.shape[0]:
        raise InputError(f"cannot multiply a of shape {tuple(a.shape)} by b of shape {tuple(b.shape)}; b is a matrix (K, N)")
    if (a.dtype, a.device) != (b.dtype, b.device):
        raise InputError(f"a is {a.dtype} on {a.device}, b {b.dtype} on {b.device}")
    if algorithm.exact is None:
        raise InputError(f"{algorithm.name} is not exact, so its product is not a fast product; use stl_matmul")
    if a.dtype not in DTYPES.values():
        raise InputError(f"the operator does not compute in {a.dtype}; valid: {', '.join(DTYPES)}")
    if not levels:
        return a @ b
    bases = bases_of(algorithm, a.dtype, a.device, levels=levels)
    _, m, p = bases.shape
    _, columns = b.shape
    encoded = encode(b[None], bases.V, m, p, *BLOCKS[1:])
    result = product(a.reshape(1, -1, a.shape[-1]), bases.U, encoded, bases.W, bases.shape, columns, BLOCKS)
    return result.reshape(*a.shape[:-1], columns)

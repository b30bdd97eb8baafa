"""The Strassen-Tile (STL) product of arXiv 2503.12211, and its stages one by one.

With an <n,m,p;r> algorithm (U, V, W), x of shape (M, K) cut into n x m tiles and weight of shape (K, N) into m x p tiles,

    encode    X'[s] = sum_ab U[s, ab] X[:, a, :, b]        r planes (M/n, K/m)
    encode    B'[s] = sum_bc V[s, bc] B[:, b, :, c]        r planes (K/m, N/p), once per weight
    multiply  P[s]  = X'[s] B'[s]                          r matrix products (M/n, N/p)
    decode    Y[:, a, :, c] = sum_s W[s, ac] P[s]          (M, N)

Sums over the inner tiles happen inside the matrix products, so encoding and decoding are linear in the sizes of x and of the result
while the multiplications shrink from nmp to r per tile triple.

Unless the algorithm is exact, a row of the result depends on all n rows of its tile: see `stlsearch.ops.layout.Layout`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.ops import fp8, library
from stlsearch.ops.bases import Bases, bases_of
from stlsearch.ops.encoded import FP8, EncodedWeight, channel_order, check_encoded, check_not_quantised, check_tensor
from stlsearch.ops.layout import Layout, check_layout
from stlsearch.ops.parameter import EncodedParameter
from stlsearch.ops.product import product


def stl_matmul(
    x: Tensor, encoded: EncodedWeight | EncodedParameter, algorithm: BilinearAlgorithm | Bases, *, chunk: int | None = None
) -> Tensor:
    """x @ weight by the algorithm: (..., M, K) and an encoded (K, N) give (..., M, N), exact only if it is.

    Sizes that are no multiple of the tile are padded with zeros, which changes no result. Values are stored in x's dtype between
    the four steps; bfloat16 and float16 are summed in float32. Differentiable in x, in the encoded weight and in `Bases`; under
    autocast x, the encoded weight and the bases are cast to its dtype in every call, unless x is float64.

    Args:
        algorithm: the one that encoded the weight. `Bases` may be learned; their dtype and device have to be x's.
        chunk: rows of tiles held at once, but never less than a sample whose rows come from blocks. Beside the result that takes
            chunk (K/m + N/p) r values, and as much for each gradient; that of the encoded weight is summed over the chunks in its
            own dtype. The weight is read once per chunk. None leaves it to the device: all rows on a GPU, 128 MiB of them on a CPU.

    Raises:
        InputError: x is not (..., M, K), dtypes or devices differ, the weight was encoded by another algorithm, a chunk below 1, or
            an argument of another type; gradients are wanted of a product with a quantised weight (`stlsearch.ops.quantise`).
    """
    encoded = encoded.value if isinstance(encoded, EncodedParameter) else encoded
    check_tensor("x", x)
    check_encoded(encoded)
    if x.ndim == 0 or x.shape[-1] != encoded.shape[0]:
        raise InputError(f"cannot multiply x of shape {tuple(x.shape)} by an encoded weight of shape {tuple(encoded.shape)}")
    if chunk is not None and (not isinstance(chunk, int | torch.SymInt) or chunk < 1):
        raise InputError(f"a chunk is at least 1 row of tiles, not {chunk!r}")
    castable = x.is_floating_point() and x.dtype != torch.float64 and torch.amp.is_autocast_available(x.device.type)
    if castable and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, encoded = x.to(dtype), encoded if encoded.scales is not None else encoded.to(dtype)
        algorithm = algorithm.to(dtype) if isinstance(algorithm, Bases) else algorithm
    bases = bases_of(algorithm, x.dtype, x.device)
    if encoded.algorithm_id != bases.algorithm_id:
        raise InputError(f"the weight was encoded by algorithm {encoded.algorithm_id[:8]}, not by {bases.algorithm_id[:8]}")
    dtype = x.dtype if encoded.scales is None else FP8
    if (encoded.tensor.dtype, encoded.tensor.device) != (dtype, x.device):
        raise InputError(f"x is {x.dtype} on {x.device}, the encoded weight {encoded.tensor.dtype} on {encoded.tensor.device}")
    (inner, columns), (_, m, p) = encoded.shape, bases.shape
    planes = (bases.rank, -(-inner // m), -(-columns // p))
    if tuple((encoded.tensor if encoded.scales is None else encoded.tensor.mT).shape) != planes:
        raise InputError(f"a weight of shape {inner, columns} is encoded as {planes}, not as {tuple(encoded.tensor.shape)}")
    layout = encoded.layout
    matrix = layout.samples(x if encoded.channels is None else x.index_select(-1, encoded.channels))
    blocks = (layout.rows == "blocks", layout.channels == "blocked", layout.outputs == "blocked")
    geometry = (bases.W, bases.shape, encoded.shape[1], blocks, chunk or 0)
    if encoded.scales is None:
        result = product(matrix, bases.U, encoded.tensor, *geometry)
    else:
        result = fp8.product(matrix, bases.U, encoded.tensor, encoded.scales, *geometry)
    return layout.restore(result, x)


def encode_activations(x: Tensor, algorithm: BilinearAlgorithm | Bases, *, layout: Layout | None = None) -> Tensor:
    """Encoded activations of x (M, K): r planes, shape (r, ceil(M/n), ceil(K/m)).

    Args:
        layout: as for `encode_weights`.

    Raises:
        InputError: x is not a matrix, lies in another dtype or on another device than the bases, or the algorithm was fitted to
            another number of channels.
    """
    check_tensor("x", x)
    if x.ndim != 2:
        raise InputError(f"a matrix is needed, not a tensor of shape {tuple(x.shape)}")
    bases = bases_of(algorithm, x.dtype, x.device)
    if (channels := channel_order(bases, x.shape[1], layout)) is not None:
        x = x.index_select(1, channels)
    layout = layout or Layout()
    n, m, _ = bases.shape
    return library.encode(x[None], bases.U, n, m, layout.rows == "blocks", layout.channels == "blocked")


def multiply(activations: Tensor, encoded: EncodedWeight | EncodedParameter) -> Tensor:
    """The r matrix products of encoded activations and weight: (r, ceil(M/n), ceil(N/p)).

    Raises:
        InputError: activations of another rank, inner size, dtype or device than the weight, or a quantised weight.
    """
    check_tensor("activations", activations)
    encoded = encoded.value if isinstance(encoded, EncodedParameter) else encoded
    check_encoded(encoded)
    check_not_quantised(encoded)
    planes = encoded.tensor
    if activations.ndim != 3 or (activations.shape[0], activations.shape[2]) != tuple(planes.shape[:2]):
        raise InputError(f"activations of shape {tuple(activations.shape)} do not fit an encoded weight of shape {tuple(planes.shape)}")
    if (activations.dtype, activations.device) != (planes.dtype, planes.device):
        raise InputError(f"activations are {activations.dtype} on {activations.device}, the weight {planes.dtype} on {planes.device}")
    return library.multiply(activations, encoded.tensor)


def decode(products: Tensor, algorithm: BilinearAlgorithm | Bases, rows: int, columns: int, *, layout: Layout | None = None) -> Tensor:
    """The result (rows, columns) of products (r, ceil(rows/n), ceil(columns/p)): padding is cut off.

    Raises:
        InputError: products of another shape, dtype or device than the bases', negative sizes, or what is no layout.
    """
    check_tensor("products", products)
    bases = bases_of(algorithm, products.dtype, products.device)
    check_layout(layout)
    layout = layout or Layout()
    n, _, p = bases.shape
    if rows < 0 or columns < 0 or tuple(products.shape) != (bases.rank, -(-rows // n), -(-columns // p)):
        raise InputError(f"products of shape {tuple(products.shape)} do not decode to {rows} x {columns} with rank {bases.rank}")
    return library.decode(products, bases.W, n, p, 1, rows, columns, layout.rows == "blocks", layout.outputs == "blocked")[0]

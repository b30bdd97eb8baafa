"""The STL product as one batched matrix product, in plain PyTorch (CPU and CUDA, differentiable).

Strassen-tile (STL) product, arXiv 2503.12211: with an <n,m,p;r> algorithm (U, V, W), x of shape
(M, K) cut into n x m tiles and weight of shape (K, N) into m x p tiles,

    encode    X'[s] = sum_ab U[s, ab] X[:, a, :, b]        r planes (M/n, K/m)
    encode    B'[s] = sum_bc V[s, bc] B[:, b, :, c]        r planes (K/m, N/p), once per weight
    multiply  P[s]  = X'[s] B'[s]                          r matrix products (M/n, N/p)
    decode    Y[:, a, :, c] = sum_s W[s, ac] P[s]          (M, N)

Sums over the inner tiles happen inside the matrix products, so encoding and decoding are linear in
the sizes of x and of the result while the multiplications shrink from nmp to r per tile triple.
Tiles are interleaved, as in the paper: neighbouring rows and columns share a tile.

Unless the algorithm is exact, a row of the result depends on all n rows of its tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.ops.tiles import tile_of

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The dtypes the operator computes in, by name."""


@dataclass(frozen=True, eq=False)
class Bases:
    """An algorithm's factors as tensors of one dtype on one device. Make it once with `prepare`.

    Attributes:
        U, V, W: (r, nm), (r, mp), (r, np).
        shape: (n, m, p), the tile.
        algorithm_id: `BilinearAlgorithm.id` of where they come from.
    """

    U: Tensor
    V: Tensor
    W: Tensor
    shape: tuple[int, int, int]
    algorithm_id: str

    @staticmethod
    def prepare(algorithm: BilinearAlgorithm, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Bases:
        """Round the factors to `dtype` and move them to `device`.

        Raises:
            InputError: an algorithm that is not a matrix product, has no meaning on real matrices
                (Z2, Zp, complex), or a dtype the operator does not compute in.
        """
        tile = tile_of(algorithm)
        if dtype not in DTYPES.values():
            raise InputError(f"the operator does not compute in {dtype}; valid: {', '.join(DTYPES)}")
        U, V, W = (torch.tensor(factor, dtype=dtype, device=device) for factor in (algorithm.U, algorithm.V, algorithm.W))
        return Bases(U, V, W, tile, algorithm.id)

    @property
    def rank(self) -> int:
        """r, the number of planes."""
        return len(self.U)


@dataclass(frozen=True, eq=False)
class EncodedWeight:
    """A weight encoded for one algorithm.

    Attributes:
        tensor: (r, ceil(K/m), ceil(N/p)), contiguous planes.
        shape: (K, N) of the weight before padding.
        algorithm_id: the algorithm it was encoded with; no other can decode it.
    """

    tensor: Tensor
    shape: tuple[int, int]
    algorithm_id: str


def encode_activations(x: Tensor, algorithm: BilinearAlgorithm | Bases) -> Tensor:
    """Encoded activations of x (M, K): r planes, shape (r, ceil(M/n), ceil(K/m)).

    Raises:
        InputError: x is not a matrix, or lies in another dtype or on another device than the bases.
    """
    bases = _bases_for(x, algorithm)
    n, m, _ = bases.shape
    return _encode(x, bases.U, n, m)


def encode_weights(weight: Tensor, algorithm: BilinearAlgorithm | Bases) -> EncodedWeight:
    """The encoded weight of weight (K, N), to be made once and used for every x.

    Raises:
        InputError: as for `encode_activations`.
    """
    bases = _bases_for(weight, algorithm)
    _, m, p = bases.shape
    return EncodedWeight(_encode(weight, bases.V, m, p), (weight.shape[0], weight.shape[1]), bases.algorithm_id)


def multiply(activations: Tensor, encoded: EncodedWeight) -> Tensor:
    """The r matrix products of encoded activations and weight: (r, ceil(M/n), ceil(N/p))."""
    return torch.bmm(activations, encoded.tensor)


def decode(products: Tensor, algorithm: BilinearAlgorithm | Bases, rows: int, columns: int) -> Tensor:
    """The result (rows, columns) of products (r, ceil(rows/n), ceil(columns/p)): padding is cut off."""
    bases = algorithm if isinstance(algorithm, Bases) else Bases.prepare(algorithm, dtype=products.dtype, device=products.device)
    n, _, p = bases.shape
    rank, down, across = products.shape
    if (rank, down, across) != (bases.rank, -(-rows // n), -(-columns // p)):
        raise InputError(f"products of shape {tuple(products.shape)} do not decode to {rows} x {columns} with rank {bases.rank}")
    planes = bases.W.T @ products.reshape(rank, down * across)
    tiles = planes.view(n, p, down, across).permute(2, 0, 3, 1)
    return tiles.reshape(down * n, across * p)[:rows, :columns]


def stl_matmul(x: Tensor, encoded: EncodedWeight, algorithm: BilinearAlgorithm | Bases) -> Tensor:
    """x @ weight by the algorithm: (M, K) and an encoded (K, N) give (M, N), exact only if it is.

    Sizes that are no multiple of the tile are padded with zeros, which changes no result. Values are
    stored in x's dtype between the four steps and accumulated by PyTorch's matrix products (float32
    inside for bfloat16 and float16). Pass `Bases` rather than the algorithm to convert its factors
    once and not on every call.

    Raises:
        InputError: x is not (M, K), dtypes or devices differ, or the weight was encoded by another
            algorithm.
    """
    bases = _bases_for(x, algorithm)
    if encoded.algorithm_id != bases.algorithm_id:
        raise InputError(f"the weight was encoded by algorithm {encoded.algorithm_id[:8]}, not by {bases.algorithm_id[:8]}")
    inner, columns = encoded.shape
    if x.shape[1] != inner:
        raise InputError(f"cannot multiply x of shape {tuple(x.shape)} by an encoded weight of shape {encoded.shape}")
    if (encoded.tensor.dtype, encoded.tensor.device) != (x.dtype, x.device):
        raise InputError(f"x is {x.dtype} on {x.device}, the encoded weight {encoded.tensor.dtype} on {encoded.tensor.device}")
    return decode(multiply(encode_activations(x, bases), encoded), bases, x.shape[0], columns)


def _bases_for(matrix: Tensor, algorithm: BilinearAlgorithm | Bases) -> Bases:
    if matrix.ndim != 2:
        raise InputError(f"a matrix is needed, not a tensor of shape {tuple(matrix.shape)}")
    if isinstance(algorithm, BilinearAlgorithm):
        return Bases.prepare(algorithm, dtype=matrix.dtype, device=matrix.device)
    if (matrix.dtype, matrix.device) != (algorithm.U.dtype, algorithm.U.device):
        raise InputError(f"the matrix is {matrix.dtype} on {matrix.device}, the bases {algorithm.U.dtype} on {algorithm.U.device}")
    return algorithm


def _encode(matrix: Tensor, basis: Tensor, height: int, width: int) -> Tensor:
    down, across = -(-matrix.shape[0] // height), -(-matrix.shape[1] // width)
    extra = (0, across * width - matrix.shape[1], 0, down * height - matrix.shape[0])
    padded = pad(matrix, extra) if any(extra) else matrix
    # One permuting copy to height*width planes, so that the encoder is one wide matrix product that
    # writes contiguous planes, the layout the batched product reads fastest.
    planes = padded.reshape(down, height, across, width).permute(1, 3, 0, 2).reshape(height * width, down * across)
    return (basis @ planes).view(len(basis), down, across)

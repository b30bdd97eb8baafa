"""What a product costs with a bilinear algorithm: exact counts, nothing measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.ops.tiles import tile_of

ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one stored value by dtype."""

PASSES = ("forward", "backward")
"""What is counted and timed: the product alone, or the product followed by the gradients of x and of the encoded weight."""


class Work(NamedTuple):
    """What one stage does: multiply-accumulates, and values read plus written. One MAC is 2 FLOPs."""

    macs: int
    values: int


@dataclass(frozen=True)
class Stages:
    """One count for each stage of the operator (see `stlsearch.ops`)."""

    encode_activations: int
    encode_weights: int
    multiply: int
    decode: int

    @property
    def total(self) -> int:
        """All four stages: weights encoded on the fly."""
        return self.pre_encoded + self.encode_weights

    @property
    def pre_encoded(self) -> int:
        """Without the weight's encoding, which is done once and for all."""
        return self.encode_activations + self.multiply + self.decode

    def to_dict(self) -> dict[str, int]:
        """The four counts, `total` and `pre_encoded`."""
        return {
            "encode_activations": self.encode_activations,
            "encode_weights": self.encode_weights,
            "multiply": self.multiply,
            "decode": self.decode,
            "total": self.total,
            "pre_encoded": self.pre_encoded,
        }


@dataclass(frozen=True)
class BackwardStages:
    """One count for each stage of the gradients of Y = decode(X' B') for a gradient G (M, N) of Y.

    Attributes:
        encode_gradient: G'[s] = sum_ac W[s, ac] G[:, a, :, c], the adjoint of decoding.
        multiply_activations: G'[s] B'[s]^T, the gradient of the encoded activations.
        multiply_weights: X'[s]^T G'[s], the gradient of the encoded weight, which is what a layer trains.
        decode_gradient: the gradient of x from those planes by U, the adjoint of encoding x.
    """

    encode_gradient: int
    multiply_activations: int
    multiply_weights: int
    decode_gradient: int

    @property
    def total(self) -> int:
        """All four stages."""
        return self.encode_gradient + self.multiply_activations + self.multiply_weights + self.decode_gradient

    def to_dict(self) -> dict[str, int]:
        """The four counts and `total`."""
        return {
            "encode_gradient": self.encode_gradient,
            "multiply_activations": self.multiply_activations,
            "multiply_weights": self.multiply_weights,
            "decode_gradient": self.decode_gradient,
            "total": self.total,
        }


@dataclass(frozen=True)
class Cost:
    """Counts for (M, K) times (K, N) by an <n,m,p;r> algorithm, with I = ceil(M/n), J = ceil(K/m), L = ceil(N/p).

    Padding is counted: the sizes that enter are nI, mJ, pL. One MAC (multiply-accumulate) is 2 FLOPs.
    For sizes that the tile divides, total/dense MACs = r/(nmp) + r/N + r/M + r/K: multiplications, then
    encoding x, encoding the weight, decoding.

    Attributes:
        size: (M, K, N).
        tile: (n, m, p).
        rank: r.
        macs: stages with the bases as dense matrices: r nm IJ, r mp JL, r IJL, r np IL.
        sparse_macs: the same with one MAC per non-zero coefficient: nnz(U) IJ, nnz(V) JL, r IJL, nnz(W) IL.
        values_moved: values read plus written when each stage reads its inputs and writes its result
            once: MK + r IJ, KN + r JL, r (IJ + JL + IL), r IL + MN. The bases are not counted.
        backward_macs: r np IL, r IJL, r IJL, r nm IJ, of the gradients of x and of the encoded weight.
        backward_values_moved: MN + r IL, r (IL + JL + IJ) twice, r IJ + MK.
        dense_macs: MKN of the ordinary product.
        dense_values_moved: MK + KN + MN of the ordinary product.
        weight_parameters: r JL, values in the encoded weight.
        dense_weight_parameters: KN.
        basis_parameters: r (nm + mp + np), shared by every weight.
    """

    size: tuple[int, int, int]
    tile: tuple[int, int, int]
    rank: int
    macs: Stages
    sparse_macs: Stages
    values_moved: Stages
    backward_macs: BackwardStages
    backward_values_moved: BackwardStages
    dense_macs: int
    dense_values_moved: int
    weight_parameters: int
    dense_weight_parameters: int
    basis_parameters: int

    @property
    def multiplication_ratio(self) -> float:
        """r/(nmp): multiplications left per multiplication of the ordinary product, overheads and padding aside."""
        n, m, p = self.tile
        return self.rank / (n * m * p)

    @property
    def speedup(self) -> float:
        """Dense MACs over MACs with pre-encoded weights: the arithmetic's own limit on the speed-up."""
        return self.dense_macs / self.macs.pre_encoded

    @property
    def speedup_on_the_fly(self) -> float:
        """Dense MACs over MACs with the weight encoded in every product."""
        return self.dense_macs / self.macs.total

    def work(self, direction: str) -> dict[str, Work]:
        """The stages of a pass (see `PASSES`) in the order they run, weights encoded beforehand."""
        macs, values = self.macs, self.values_moved
        stages = {
            "encode_activations": Work(macs.encode_activations, values.encode_activations),
            "multiply": Work(macs.multiply, values.multiply),
            "decode": Work(macs.decode, values.decode),
        }
        if direction == "backward":
            moved = self.backward_values_moved.to_dict()
            stages |= {stage: Work(count, moved[stage]) for stage, count in self.backward_macs.to_dict().items() if stage != "total"}
        return stages

    def dense_work(self, direction: str) -> dict[str, Work]:
        """The ordinary matrix products of a pass: x B, and backward G B^T and x^T G, which cost the same each."""
        names = ("product", "gradient_of_x", "gradient_of_weight") if direction == "backward" else ("product",)
        return dict.fromkeys(names, Work(self.dense_macs, self.dense_values_moved))

    def new_values(self, direction: str) -> int:
        """Values of every tensor that the stages of a pass must make, each once: r IJ + r IL + MN forward.

        Backward, the encoded activations and the result stay, the products make room for the gradient's planes, and the
        gradients of the encoded activations, of the encoded weight and of x come to them: r (2 IJ + IL + JL) + MN + MK.
        """
        rows, inner, columns = self.size
        x = self.values_moved.encode_activations - rows * inner  # r IJ
        products = self.values_moved.decode - rows * columns  # r IL
        forward = x + products + rows * columns
        return forward if direction == "forward" else forward + x + self.weight_parameters + rows * inner

    def bytes_moved(self, dtype: str) -> dict[str, int]:
        """Bytes read plus written by stage, in total, and by the ordinary product as "dense"; all values stored as `dtype`."""
        values = {**self.values_moved.to_dict(), "dense": self.dense_values_moved}
        return {stage: ITEM_BYTES[dtype] * count for stage, count in values.items()}

    def to_dict(self) -> dict[str, object]:
        """Every count as JSON values; FLOPs are 2 per MAC, bytes per dtype."""
        return {
            "size": list(self.size),
            "tile": list(self.tile),
            "rank": self.rank,
            "multiplication_ratio": self.multiplication_ratio,
            "speedup": self.speedup,
            "speedup_on_the_fly": self.speedup_on_the_fly,
            "macs": self.macs.to_dict(),
            "sparse_macs": self.sparse_macs.to_dict(),
            "flops": {stage: 2 * count for stage, count in self.macs.to_dict().items()},
            "dense_macs": self.dense_macs,
            "dense_flops": 2 * self.dense_macs,
            "backward_macs": self.backward_macs.to_dict(),
            "dense_backward_macs": 2 * self.dense_macs,
            "weight_parameters": self.weight_parameters,
            "dense_weight_parameters": self.dense_weight_parameters,
            "basis_parameters": self.basis_parameters,
            "bytes_moved": {dtype: self.bytes_moved(dtype) for dtype in ITEM_BYTES},
        }


def count_cost(algorithm: BilinearAlgorithm, rows: int, inner: int, columns: int) -> Cost:
    """The cost of (rows, inner) times (inner, columns).

    Raises:
        InputError: a size below 1, or an algorithm that is not a real matrix product.
    """
    n, m, p = tile_of(algorithm)
    if min(rows, inner, columns) < 1:
        raise InputError(f"sizes must be at least 1, not {rows} x {inner} x {columns}")
    rank = algorithm.rank
    down, along, across = -(-rows // n), -(-inner // m), -(-columns // p)
    x, weight, product = down * along, along * across, down * across  # values in one plane
    nonzero_u, nonzero_v, nonzero_w = algorithm.nonzeros
    return Cost(
        size=(rows, inner, columns),
        tile=(n, m, p),
        rank=rank,
        macs=Stages(rank * n * m * x, rank * m * p * weight, rank * down * along * across, rank * n * p * product),
        sparse_macs=Stages(nonzero_u * x, nonzero_v * weight, rank * down * along * across, nonzero_w * product),
        values_moved=Stages(
            rows * inner + rank * x,
            inner * columns + rank * weight,
            rank * (x + weight + product),
            rank * product + rows * columns,
        ),
        backward_macs=BackwardStages(rank * n * p * product, rank * down * along * across, rank * down * along * across, rank * n * m * x),
        backward_values_moved=BackwardStages(
            rows * columns + rank * product,
            rank * (x + weight + product),
            rank * (x + weight + product),
            rank * x + rows * inner,
        ),
        dense_macs=rows * inner * columns,
        dense_values_moved=rows * inner + inner * columns + rows * columns,
        weight_parameters=rank * weight,
        dense_weight_parameters=inner * columns,
        basis_parameters=rank * (n * m + m * p + n * p),
    )

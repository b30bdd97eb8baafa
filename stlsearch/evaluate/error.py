"""How wrong a product is, per dtype: predicted from e and g, and measured on Gaussian matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.ops import DTYPES, Bases, Layout, encode_weights, stl_matmul


@dataclass(frozen=True)
class DtypeError:
    """Relative squared errors of one product in one dtype; their roots are relative Frobenius errors.

    Attributes:
        dtype: the name in `stlsearch.ops.DTYPES`.
        predicted: e + g u^2, u the dtype's unit roundoff. It counts the rounding of stored values, not that
            inside the matrix products, which adds to it where they accumulate in the dtype itself
            (float64, float32) and not where they accumulate in float32 (bfloat16, float16).
        measured: ||Y - XB||^2/||XB||^2 of the operator; infinite or NaN when the dtype overflowed.
        dense: the same of the ordinary product in that dtype, the yardstick (0 in float64, the reference itself).
        oracle: ||Y - Y64||^2/||Y64||^2, Y64 the result of the same operator in float64: rounding alone.
    """

    dtype: str
    predicted: float
    measured: float
    dense: float
    oracle: float

    def to_dict(self) -> dict[str, object]:
        """JSON values; an overflowed error is null."""

        def finite(value: float) -> float | None:
            return value if math.isfinite(value) else None

        return {
            "dtype": self.dtype,
            "predicted_rel_sq_error": self.predicted,
            "rel_sq_error": finite(self.measured),
            "rel_error": finite(math.sqrt(self.measured)),
            "dense_rel_sq_error": finite(self.dense),
            "dense_rel_error": finite(math.sqrt(self.dense)),
            "oracle_rel_error": finite(math.sqrt(self.oracle)),
        }


def gaussian_pair(size: tuple[int, int, int], *, seed: int) -> tuple[Tensor, Tensor]:
    """x (M, K) and weight (K, N), independent N(0, 1) entries in float64 on the CPU, the same on every machine."""
    generator = torch.Generator().manual_seed(seed)
    rows, inner, columns = size
    x = torch.randn(rows, inner, generator=generator, dtype=torch.float64)
    return x, torch.randn(inner, columns, generator=generator, dtype=torch.float64)


def rel_sq_error(result: Tensor, exact: Tensor) -> float:
    """||result - exact||^2/||exact||^2, computed in float64."""
    return float((result.double() - exact).square().sum() / exact.square().sum())


def measure_error(
    algorithm: BilinearAlgorithm, x: Tensor, weight: Tensor, exact: Tensor, dtype: str, *, device: torch.device | str = "cpu"
) -> DtypeError:
    """Multiply x by weight in `dtype` with the algorithm and ordinarily, against the product `exact`.

    x, weight and `exact` = x @ weight are float64. The matrices are rounded to `dtype` before the
    products but not in `exact`: rounding the inputs is part of computing in that dtype, for the
    ordinary product as well. The weight is encoded in `dtype` too.
    """

    def multiply(kind: torch.dtype) -> Tensor:
        bases = Bases.prepare(algorithm, dtype=kind, device=device)
        encoded = encode_weights(weight.to(device, kind), bases, layout=Layout())
        return stl_matmul(x.to(device, kind), encoded, bases)

    kind = DTYPES[dtype]
    product = multiply(kind)
    return DtypeError(
        dtype=dtype,
        predicted=algorithm.total_error(dtype),
        measured=rel_sq_error(product, exact),
        dense=rel_sq_error(x.to(device, kind) @ weight.to(device, kind), exact),
        oracle=rel_sq_error(product, multiply(torch.float64)),
    )

"""What an algorithm is worth as an operator: error, cost and wall clock beside the ordinary product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.devices import describe_device
from stlsearch.evaluate.cost import ITEM_BYTES, Cost, count_cost
from stlsearch.evaluate.error import DtypeError, gaussian_pair, measure_error
from stlsearch.evaluate.limits import check_dtypes, check_memory, check_side
from stlsearch.evaluate.measurement import Measurement, measure
from stlsearch.evaluate.timing import Timing, compare_times
from stlsearch.ops import DTYPES

__all__ = ["Cost", "DtypeError", "Evaluation", "Measurement", "Timing", "compare_times", "count_cost", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Everything `evaluate` found.

    Attributes:
        name, id: the algorithm's.
        rel_sq_error: e, analytic, for white inputs in exact arithmetic.
        amplification: g.
        cost: exact counts.
        errors: per dtype, predicted and measured.
        measurements: of the product alone, run as it is, by dtype; empty when not asked for. Their errors are those in `errors`.
        device: what it ran on, see `stlsearch.devices.describe_device`.
        seed: of the Gaussian matrices.
    """

    name: str
    id: str
    rel_sq_error: float
    amplification: float
    cost: Cost
    errors: tuple[DtypeError, ...]
    measurements: dict[str, Measurement]
    device: dict[str, object]
    seed: int

    @property
    def timings(self) -> dict[str, Timing]:
        """By dtype: the candidate is `stl_matmul` with pre-encoded weights, the baseline torch.matmul."""
        return {dtype: measurement.timing for dtype, measurement in self.measurements.items()}

    def to_dict(self) -> dict[str, object]:
        """JSON values."""
        return {
            "name": self.name,
            "id": self.id,
            "rel_sq_error": self.rel_sq_error,
            "amplification": self.amplification,
            "seed": self.seed,
            "device": self.device,
            "cost": self.cost.to_dict(),
            "errors": [error.to_dict() for error in self.errors],
            "timings": {dtype: _timing(measurement) for dtype, measurement in self.measurements.items()},
        }


def evaluate(
    algorithm: BilinearAlgorithm,
    *,
    size: int | tuple[int, int, int] = 1024,
    dtypes: Sequence[str] = ("float32", "bfloat16", "float16"),
    device: torch.device | str = "cpu",
    repeats: int = 15,
    seed: int = 0,
    timing: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Error, cost and speed of (M, K) times (K, N) with the algorithm.

    Args:
        size: M = K = N, or (M, K, N).
        dtypes: names in `stlsearch.ops.DTYPES`.
        device: where the products run; the reference product is float64 on the same device.
        repeats: timed pairs per dtype, fewer once `compare_times` reaches its time limit.
        seed: of the Gaussian matrices.
        timing: measure wall clock too.
        progress: called with one line before each step.

    Raises:
        InputError: unknown dtypes, sizes out of range or too large for the device's free memory, or
            an algorithm that is not a real matrix product.
    """
    device = torch.device(device)
    shape = (size, size, size) if isinstance(size, int) else size
    check_dtypes(dtypes)
    cost = count_cost(algorithm, *shape)
    _check_size(cost, dtypes, device)
    say = progress or (lambda line: None)

    say("float64 reference")
    x, weight = (matrix.to(device) for matrix in gaussian_pair(shape, seed=seed))
    exact = x @ weight
    errors = []
    for dtype in dtypes:
        say(f"{dtype}: error")
        errors.append(measure_error(algorithm, x, weight, exact, dtype, device=device))
    measurements = {}
    for dtype in dtypes if timing else ():
        say(f"{dtype}: {repeats} timed pairs")
        measurements[dtype] = measure(algorithm, x.to(DTYPES[dtype]), weight.to(DTYPES[dtype]), repeats=repeats, stages=False)
    return Evaluation(
        name=algorithm.name,
        id=algorithm.id,
        rel_sq_error=algorithm.error,
        amplification=algorithm.amplification,
        cost=cost,
        errors=tuple(errors),
        measurements=measurements,
        device=describe_device(device),
        seed=seed,
    )


def _check_size(cost: Cost, dtypes: Sequence[str], device: torch.device) -> None:
    check_side(cost.size)
    # At the peak: x, weight and the product in float64, a float64 copy and difference while comparing,
    # and one dtype's inputs, planes, permuted copies and results.
    rows, _, columns = cost.size
    widest = max(ITEM_BYTES[dtype] for dtype in dtypes)
    needed = 8 * (cost.dense_values_moved + 2 * rows * columns) + widest * (cost.values_moved.total + cost.dense_values_moved)
    check_memory(cost.size, needed, device)


def _timing(measurement: Measurement) -> dict[str, object]:
    """A measurement without what the evaluation says already."""
    return {
        **measurement.timing.to_dict(),
        "ideal_speedup": measurement.ideal.speedup,
        "of_ideal": measurement.of_ideal,
        "same_kernel_speedup": measurement.same_kernel,
        "machine": measurement.machine.to_dict(),
        "extra_bytes": measurement.extra_bytes,
        "dense_extra_bytes": measurement.dense_extra_bytes,
        "bound_bytes": measurement.bound_bytes,
    }

"""What an algorithm is worth as an operator: error, cost and wall clock beside the ordinary product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.devices import available_memory, describe_device
from stlsearch.errors import InputError
from stlsearch.evaluate.cost import ITEM_BYTES, Cost, count_cost
from stlsearch.evaluate.error import DtypeError, gaussian_pair, measure_error
from stlsearch.evaluate.timing import Timing, compare_times
from stlsearch.ops.batched import DTYPES, Bases, encode_weights, stl_matmul

__all__ = ["Cost", "DtypeError", "Evaluation", "Timing", "compare_times", "count_cost", "evaluate"]

MAX_SIZE = 2**17  # of one side; beyond it the float64 inputs alone exceed any one machine


@dataclass(frozen=True)
class Evaluation:
    """Everything `evaluate` found.

    Attributes:
        name, id: the algorithm's.
        rel_sq_error: e, analytic, for white inputs in exact arithmetic.
        amplification: g.
        cost: exact counts.
        errors: per dtype, predicted and measured.
        timings: by dtype, empty when not asked for; the candidate is `stl_matmul` with pre-encoded
            weights, the baseline torch.matmul.
        device: what it ran on, see `stlsearch.devices.describe_device`.
        seed: of the Gaussian matrices.
    """

    name: str
    id: str
    rel_sq_error: float
    amplification: float
    cost: Cost
    errors: tuple[DtypeError, ...]
    timings: dict[str, Timing]
    device: dict[str, object]
    seed: int

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
            "timings": {dtype: timing.to_dict() for dtype, timing in self.timings.items()},
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
    _check_memory(cost, dtypes, device)
    say = progress or (lambda line: None)

    say("float64 reference")
    x, weight = (matrix.to(device) for matrix in gaussian_pair(shape, seed=seed))
    exact = x @ weight
    errors = []
    for dtype in dtypes:
        say(f"{dtype}: error")
        errors.append(measure_error(algorithm, x, weight, exact, dtype, device=device))
    timings = {}
    for dtype in dtypes if timing else ():
        say(f"{dtype}: {repeats} timed pairs")
        timings[dtype] = _time(algorithm, x.to(DTYPES[dtype]), weight.to(DTYPES[dtype]), repeats)
    return Evaluation(
        name=algorithm.name,
        id=algorithm.id,
        rel_sq_error=algorithm.error,
        amplification=algorithm.amplification,
        cost=cost,
        errors=tuple(errors),
        timings=timings,
        device=describe_device(device),
        seed=seed,
    )


def check_dtypes(dtypes: Sequence[str]) -> None:
    """Raise `InputError` unless there is at least one dtype and every one is known."""
    if not dtypes:
        raise InputError(f"no dtype given; valid: {', '.join(DTYPES)}")
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise InputError(f"unknown dtype {dtype!r}; valid: {', '.join(DTYPES)}")


def _time(algorithm: BilinearAlgorithm, x: torch.Tensor, weight: torch.Tensor, repeats: int) -> Timing:
    bases = Bases.prepare(algorithm, dtype=x.dtype, device=x.device)
    encoded = encode_weights(weight, bases)
    with torch.inference_mode():
        return compare_times(lambda: stl_matmul(x, encoded, bases), lambda: x @ weight, device=x.device, repeats=repeats)


def _check_memory(cost: Cost, dtypes: Sequence[str], device: torch.device) -> None:
    if max(cost.size) > MAX_SIZE:
        raise InputError(f"size {max(cost.size)} is too large; at most {MAX_SIZE}")
    # At the peak: x, weight and the product in float64, a float64 copy and difference while comparing,
    # and one dtype's inputs, planes, permuted copies and results.
    rows, _, columns = cost.size
    widest = max(ITEM_BYTES[dtype] for dtype in dtypes)
    needed = 8 * (cost.dense_values_moved + 2 * rows * columns) + widest * (cost.values_moved.total + cost.dense_values_moved)
    free = available_memory(device)
    if free is not None and needed > 0.9 * free:
        raise InputError(
            f"size {'x'.join(map(str, cost.size))} needs about {needed / 2**30:.1f} GiB on {device.type}, "
            f"{free / 2**30:.1f} GiB are free; choose a smaller size"
        )

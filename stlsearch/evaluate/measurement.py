"""One measurement: the operator beside torch.matmul at one size, in one dtype, mode and pass, with what the roofline allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.evaluate.cost import ITEM_BYTES, PASSES, Cost, count_cost
from stlsearch.evaluate.limits import check_names
from stlsearch.evaluate.memory import peak_extra_bytes
from stlsearch.evaluate.roofline import Ideal, Machine, ideal, measure_machine
from stlsearch.evaluate.stages import time_stages
from stlsearch.evaluate.timing import Timing, compare_times, time_alone
from stlsearch.ops import DTYPES, Bases, Layout, backend, blocked, encode_weights, stl_matmul
from stlsearch.ops.product import is_small

MODES = ("eager", "plain", "compiled", "triton")
"""How the operator runs: as it is called, but on CUDA in plain PyTorch; in plain PyTorch anywhere; through
torch.compile(fullgraph=True); or, on CUDA, as it is called, with the Triton kernels."""


@dataclass(frozen=True)
class Measurement:
    """The operator with a weight encoded beforehand against torch.matmul, measured and ideal.

    Attributes:
        name, id: the algorithm's.
        cost: exact counts; it holds size, tile and rank.
        dtype: a name in `stlsearch.ops.DTYPES`.
        mode: one of `MODES`.
        direction: one of `stlsearch.evaluate.cost.PASSES`. "backward" is the product followed by the gradients of x and of
            the encoded weight, against the ordinary product followed by those of x and of the weight.
        timing: the candidate is the operator, the baseline torch.matmul, in alternation.
        own_kernel: whether the products are those of `stlsearch.ops.blocked`.
        machine: what the device reached in that dtype and size.
        ideal: the roofline times on it.
        stages: seconds of each stage alone, empty where they cannot be told apart (not in eager mode) or were not asked for.
            Like the next two, and unlike the medians in `timing`, those of the fastest call.
        alone, dense_alone: seconds of the operator and of the ordinary product, None without stages.
        extra_bytes: peak memory of one call beyond inputs, encoded weight and bases; None where it cannot be seen
            (compiled on the CPU). See `stlsearch.evaluate.memory`.
        dense_extra_bytes: the same of the ordinary product.
        rel_error: ||Y - XB||/||XB|| of the operator against float64 (not squared), None when not measured; NaN or infinite
            when the dtype overflowed.
    """

    name: str
    id: str
    cost: Cost
    dtype: str
    mode: str
    direction: str
    timing: Timing
    own_kernel: bool
    machine: Machine
    ideal: Ideal
    stages: dict[str, float]
    alone: float | None
    dense_alone: float | None
    extra_bytes: int | None
    dense_extra_bytes: int
    rel_error: float | None

    @property
    def of_ideal(self) -> float:
        """Measured speed-up over that of the roofline: 1 when it reaches it."""
        return self.timing.speedup / self.ideal.speedup

    @property
    def same_kernel(self) -> float:
        """The speed-up over an ordinary product by the kernel that the operator multiplies with: what the algorithm gains.

        That over torch.matmul, divided by `Machine.kernel_ratio` where the operator's own kernel multiplies.
        """
        return self.timing.speedup / (self.machine.kernel_ratio if self.own_kernel else 1)

    @property
    def bound_bytes(self) -> int:
        """Bytes of the tensors that the stages make, each once: forward, encoded activations, products and result."""
        return ITEM_BYTES[self.dtype] * self.cost.new_values(self.direction)

    @property
    def excess(self) -> dict[str, float]:
        """Seconds above the roofline by stage, and "rest", what the whole takes beyond its stages; empty without stages.

        Together they are what the operator alone takes beyond the roofline. The rest is caches that are cold again from one stage
        to the next, and what the operator does more: encoding x again for its gradients instead of keeping it encoded.
        """
        if self.alone is None:
            return {}
        by_stage = {stage: seconds - self.ideal.stages[stage] for stage, seconds in self.stages.items()}
        return {**by_stage, "rest": self.alone - sum(self.stages.values())}

    def to_dict(self) -> dict[str, object]:
        """JSON values, times in seconds; an overflowed error is null."""
        return {
            "name": self.name,
            "id": self.id,
            "size": list(self.cost.size),
            "tile": list(self.cost.tile),
            "rank": self.cost.rank,
            "dtype": self.dtype,
            "mode": self.mode,
            "pass": self.direction,
            **self.timing.to_dict(),
            "ideal": self.ideal.to_dict(),
            "of_ideal": self.of_ideal,
            "same_kernel_speedup": self.same_kernel,
            "machine": self.machine.to_dict(),
            "stages_s": self.stages or None,
            "alone_s": self.alone,
            "baseline_alone_s": self.dense_alone,
            "excess_s": self.excess or None,
            "extra_bytes": self.extra_bytes,
            "dense_extra_bytes": self.dense_extra_bytes,
            "bound_bytes": self.bound_bytes,
            "rel_error": self.rel_error if self.rel_error is not None and math.isfinite(self.rel_error) else None,
        }


def check_modes(modes: Sequence[str], device: torch.device) -> None:
    """Raise `InputError` for no mode, an unknown one, or Triton where there is none."""
    check_names("mode", modes, MODES)
    if "triton" in modes and not has_triton(device):
        reason = "Triton is not installed" if device.type == "cuda" else f"Triton runs on CUDA devices, not on {device.type}"
        raise InputError(f"mode 'triton' is not available: {reason}; valid here: eager, plain, compiled")


def has_triton(device: torch.device) -> bool:
    """Whether the mode "triton" exists on a device."""
    return device.type == "cuda" and find_spec("triton") is not None


def measure(
    algorithm: BilinearAlgorithm,
    x: Tensor,
    weight: Tensor,
    *,
    mode: str = "eager",
    direction: str = "forward",
    repeats: int = 15,
    time_limit: float = 10.0,
    machine: Machine | None = None,
    rel_error: float | None = None,
    stages: bool = True,
) -> Measurement:
    """Time x (M, K) times weight (K, N) by the algorithm against torch.matmul, and count the memory of each.

    The weight is encoded beforehand. Compiling, with the mode "compiled", is not timed.

    Args:
        mode, direction: see `Measurement`.
        repeats: timed pairs at most.
        time_limit: seconds after which no further pair begins.
        machine: from `measure_machine` on these matrices; measured now when None.
        rel_error: to be kept beside the times.
        stages: time the stages alone too, in eager mode.

    Raises:
        InputError: an unknown mode or pass or one that does not work here, repeats below 1, or an algorithm or matrices that
            the operator refuses.
    """
    check_modes((mode,), x.device)
    check_names("pass", (direction,), PASSES)
    bases = Bases.prepare(algorithm, dtype=x.dtype, device=x.device)
    dtype = next(name for name, kind in DTYPES.items() if kind == x.dtype)
    cost = count_cost(algorithm, x.shape[0], x.shape[1], weight.shape[1])
    machine = machine or measure_machine(x, weight)
    x, weight = x.detach(), weight.detach()  # a flag set below is not the caller's
    with torch.no_grad():
        encoded = encode_weights(weight, bases, layout=Layout())
    gradient = None
    if direction == "backward":
        x.requires_grad_()
        weight.requires_grad_()
        encoded = replace(encoded, tensor=encoded.tensor.detach().requires_grad_())
        gradient = torch.ones(x.shape[0], weight.shape[1], dtype=x.dtype, device=x.device)
    with _run_with(mode, x.device) as run, torch.inference_mode() if gradient is None else torch.enable_grad():
        candidate = _pass(run(lambda: stl_matmul(x, encoded, bases)), (x, encoded.tensor), gradient)
        baseline = _pass(lambda: x @ weight, (x, weight), gradient)
        _first_call(candidate, mode)
        timing = compare_times(candidate, baseline, device=x.device, repeats=repeats, time_limit=time_limit)
        seen = mode != "compiled" or x.device.type == "cuda"
        extra = peak_extra_bytes(candidate, device=x.device) if seen else None
        dense_extra = peak_extra_bytes(baseline, device=x.device)
        parts, alone, dense_alone = {}, None, None
        if stages and mode == "eager":
            parts = time_stages(x, encoded, bases, direction)
            alone, dense_alone = (time_alone(function, device=x.device) for function in (candidate, baseline))
    return Measurement(
        name=algorithm.name,
        id=algorithm.id,
        cost=cost,
        dtype=dtype,
        mode=mode,
        direction=direction,
        timing=timing,
        own_kernel=_own_kernel(cost, x, mode),
        machine=machine,
        ideal=ideal(cost, machine, dtype, direction),
        stages=parts,
        alone=alone,
        dense_alone=dense_alone,
        extra_bytes=extra,
        dense_extra_bytes=dense_extra,
        rel_error=rel_error,
    )


def _own_kernel(cost: Cost, x: Tensor, mode: str) -> bool:
    """Whether the operator multiplies planes of that many tiles by `stlsearch.ops.blocked`."""
    rows, inner, columns = (-(-size // width) for size, width in zip(cost.size, cost.tile, strict=True))
    by_pytorch = mode == "plain" or (mode == "eager" and is_small(cost.rank, rows, inner, columns))
    return x.device.type == "cpu" and not by_pytorch and blocked.pays(cost.rank, rows, inner, columns, x.dtype)


Product = Callable[[], Tensor]


def _pass(product: Product, inputs: tuple[Tensor, Tensor], gradient: Tensor | None) -> Callable[[], object]:
    """The product alone, or with its gradients by the inputs for a gradient of the result."""
    return product if gradient is None else lambda: torch.autograd.grad(product(), inputs, gradient)


@contextmanager
def _run_with(mode: str, device: torch.device) -> Iterator[Callable[[Product], Product]]:
    """What makes a product run in a mode, while the block lasts."""
    with backend("plain" if mode == "plain" or (mode == "eager" and device.type == "cuda") else "auto"):
        if mode == "compiled":
            # PyTorch compiles one function only so many times before it gives up: every measurement is its first.
            torch.compiler.reset()
            yield partial(torch.compile, fullgraph=True, dynamic=False)
        else:
            yield lambda product: product


def _first_call(candidate: Callable[[], object], mode: str) -> None:
    try:
        candidate()
    except RuntimeError as error:
        if mode != "compiled" or "out of memory" in str(error):
            raise
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])  # which backend, and what it says
        raise InputError(f"mode 'compiled' does not work here: {reason:.200}; leave it out") from error

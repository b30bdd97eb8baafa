"""The roofline: how long the operator's stages would take if nothing but arithmetic and memory bandwidth limited them.

A stage that does `macs` multiply-accumulates and reads plus writes `values` numbers of b bytes takes at least

    max(2 macs / F, b values / B)  seconds

on a machine of F FLOP/s and B bytes/s. The unfused operator with a weight encoded beforehand is the sum over its stages; the
ordinary product is one stage forward and three with its gradients. Both F and B are measured, on the device and in the dtype
in question, in the run whose times they are held against: F is what the ordinary product reaches at that very size, by torch.matmul or
by the operator's own kernel (`stlsearch.ops.blocked`), whichever is faster, and B what a large copy reaches. So the ideal is an
implementation whose every stage runs as well as the ordinary product can, or as well as a copy. What it is compared with is
torch.matmul: where the operator's own kernel is faster, that is part of the speed-up, and `Machine.kernel_ratio` says how much of it.

It is no strict bound. Tensors that stay in a cache from one stage to the next move faster than B, stages that are fused do not
move them at all, and the batched products, of smaller matrices, may run at another rate than F. That is what a measured speed-up
above the ideal means.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stlsearch.devices import available_memory
from stlsearch.evaluate.cost import ITEM_BYTES, Cost, Work
from stlsearch.evaluate.timing import compare_times, time_alone
from stlsearch.ops import blocked
from stlsearch.ops.library import multiply as multiply_planes

COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Size of the tensor copied to measure the bandwidth: several times the last cache, and long beside a kernel's launch."""


@dataclass(frozen=True)
class Machine:
    """What a device reaches in one dtype.

    Both are those of the fastest of some calls.

    Attributes:
        flops: F, floating-point operations per second (2 per multiply-accumulate).
        bandwidth: B, bytes read plus written per second.
        dense_flops: those of torch.matmul, None where they are F.
    """

    flops: float
    bandwidth: float
    dense_flops: float | None = None

    @property
    def kernel_ratio(self) -> float:
        """How many times as fast as torch.matmul the operator's own kernel multiplies the same matrices; 1 where it has none."""
        return 1.0 if self.dense_flops is None else self.flops / self.dense_flops

    def seconds(self, work: Work, dtype: str) -> float:
        """max(2 macs / F, bytes / B)."""
        return max(2 * work.macs / self.flops, ITEM_BYTES[dtype] * work.values / self.bandwidth)

    def bound(self, work: Work, dtype: str) -> str:
        """Which of the two it is: "arithmetic" or "bandwidth"."""
        return "arithmetic" if 2 * work.macs / self.flops >= ITEM_BYTES[dtype] * work.values / self.bandwidth else "bandwidth"

    def to_dict(self) -> dict[str, float]:
        """JSON values."""
        return {"flops_per_s": self.flops, "dense_flops_per_s": self.flops / self.kernel_ratio, "bytes_per_s": self.bandwidth}


@dataclass(frozen=True)
class Ideal:
    """Roofline times of one pass.

    Attributes:
        stages: seconds of each stage, by name as in `Cost.work`.
        bounds: "arithmetic" or "bandwidth", what limits each stage.
        dense: seconds of torch.matmul, with its gradients in a backward pass.
    """

    stages: dict[str, float]
    bounds: dict[str, str]
    dense: float

    @property
    def seconds(self) -> float:
        """All stages, one after the other."""
        return sum(self.stages.values())

    @property
    def speedup(self) -> float:
        """Dense seconds over the operator's: what the roofline allows."""
        return self.dense / self.seconds

    def to_dict(self) -> dict[str, object]:
        """JSON values, times in seconds."""
        return {
            "speedup": self.speedup,
            "candidate_s": self.seconds,
            "baseline_s": self.dense,
            "stages_s": self.stages,
            "bound_by": self.bounds,
        }


def ideal(cost: Cost, machine: Machine, dtype: str, direction: str = "forward") -> Ideal:
    """The roofline times of a pass (see `stlsearch.evaluate.cost.PASSES`) with the weight encoded beforehand."""
    work = cost.work(direction)
    as_torch = replace(machine, flops=machine.flops / machine.kernel_ratio)
    return Ideal(
        stages={stage: machine.seconds(each, dtype) for stage, each in work.items()},
        bounds={stage: machine.bound(each, dtype) for stage, each in work.items()},
        dense=sum(as_torch.seconds(each, dtype) for each in cost.dense_work(direction).values()),
    )


def measure_machine(x: Tensor, weight: Tensor, *, time_limit: float = 2.0) -> Machine:
    """What the device of x (M, K) and weight (K, N) reaches in their dtype at best: F by their product, B by `measure_bandwidth`.

    Where the operator's own kernel may be faster, it and torch.matmul are timed in alternation.
    """
    operations = 2 * x.shape[0] * x.shape[1] * weight.shape[1]
    planes = x[None], weight[None]
    with torch.inference_mode():
        dense = operations / time_alone(lambda: x @ weight, device=x.device, time_limit=time_limit)
        ratio = 1.0
        if blocked.faster(*planes):
            multiply_planes(*planes)  # the first call may compile, which would use the time up
            timing = compare_times(lambda: multiply_planes(*planes), lambda: x @ weight, device=x.device, time_limit=2 * time_limit)
            ratio = max(1.0, timing.speedup)
    return Machine(ratio * dense, measure_bandwidth(x.device, x.dtype), dense if ratio > 1 else None)


def measure_bandwidth(device: torch.device, dtype: torch.dtype) -> float:
    """Bytes read plus written per second by a copy of `COPY_BYTES` (less where memory is short)."""
    size = COPY_BYTES[device.type]
    free = available_memory(device)
    if free is not None:
        size = max(2**20, min(size, free // 8))
    with torch.inference_mode():
        source = torch.ones(size // dtype.itemsize, dtype=dtype, device=device)
        target = torch.empty_like(source)
        seconds = time_alone(lambda: target.copy_(source), device=device, time_limit=1.0)
    return 2 * source.nbytes / seconds

"""Restarts per second of ALS: compiled on the CPU, as batched tensor operations there, and as the same operations on a CUDA device.

    python benchmarks/restarts.py [--batches 64,512,4096,16384] [--threads N] [--json benchmarks/results/restarts.json]
    python benchmarks/restarts.py --threads 1     where others use the machine: threads of tensor operations wait for the slowest

A restart is 200 sweeps from N(0, 1) factors at the penalty 1e-3, for <3,3,3;23>, <4,4,4;24> and <4,4,4;32> in float64 and float32:

    compiled     `als.settle` on the CPU: what a fit does there, on all threads
    operations   `als.sweep` on the CPU, as many sweeps as --seconds allow and at least two, counted as the part of a restart that they are
    cuda         `als.settle` on the CUDA device, copying the starts there included: what a fit does with --device cuda

Times are wall-clock times, medians of whole runs after a warm-up; ratios are to `compiled` in the same run. By default batches are 64
and 512 without a CUDA device (a minute; --quick: 64 only, ten seconds), and 4096 and 16384 as well with one.

After the same sweeps from the same starts the errors e of `operations` and `cuda` have to be those of `compiled`, within 1e-9 in
float64 and 1e-3 in float32, in 98 of 100 restarts (a few pass so close to a singular system that rounding decides where they go).
Exit code 0: they are; 1: they are not, and the rows are marked WRONG.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import stlsearch
from stlsearch.devices import describe_device, set_threads
from stlsearch.errors import InputError
from stlsearch.fit import check_memory
from stlsearch.registry.atomic import write_atomic
from stlsearch.solvers import als
from stlsearch.solvers.problem import Factors, Problem
from stlsearch.targets import Target

SIZES = (((3, 3, 3), 23), ((4, 4, 4), 24), ((4, 4, 4), 32))
SWEEPS, PENALTY = 200, 1e-3
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
AGREEING = 0.98
CHUNK = 256  # restarts whose residuals are held at once
HEADER = "<n,m,p;r>   dtype     batch |  compiled | operations  ratio  agree |      cuda   ratio  agree"


def starts(problem: Problem, rank: int, count: int) -> Factors:
    """N(0, 1) factors on the problem's device, the same on every device."""
    generator = torch.Generator().manual_seed(0)
    U, V, W = (
        torch.randn(count, rank, extent, generator=generator, dtype=torch.float64).to(problem.tensor) for extent in problem.tensor.shape
    )
    return U, V, W


def errors(target: Target, factors: Factors) -> Tensor:
    """e of every restart in float64, shape (B,)."""
    problem = Problem.of(target)
    chunks = zip(*(factor.double().cpu().split(CHUNK) for factor in factors), strict=True)
    return torch.cat([problem.error((U, V, W)) for U, V, W in chunks])


def agreement(found: Tensor, wanted: Tensor, tolerance: float) -> float:
    """The share of restarts whose errors are the same."""
    return float(((found - wanted).abs() <= tolerance).double().mean())


def timed(work: Callable[[], Factors], seconds: float) -> tuple[float, Factors]:
    """The median of the seconds that `work` takes, of as many calls as begin within `seconds` and at least one, and what it came to."""
    times: list[float] = []
    while not times or sum(times) < seconds:
        began = time.perf_counter()
        result = work()
        if result[0].is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times), result


def operations(problem: Problem, factors: Factors, count: int) -> Factors:
    """`count` sweeps as tensor operations."""
    for _ in range(count):
        factors = als.sweep(problem, factors, PENALTY)
    return factors


def cuda(problem: Problem, factors: Factors, count: int) -> Factors:
    """`count` sweeps of factors that are still on the CPU, on the problem's device."""
    U, V, W = (factor.to(problem.tensor) for factor in factors)
    return als.settle(problem, (U, V, W), PENALTY, count)


def measure(shape: tuple[int, int, int], rank: int, dtype: torch.dtype, batch: int, seconds: float) -> dict[str, object]:
    """One row; None where a device has not the memory or is not there."""
    target = Target.matmul(*shape)
    problem = Problem.of(target, dtype=dtype)
    start, tolerance = starts(problem, rank, batch), TOLERANCE[dtype]
    row: dict[str, object] = {"shape": list(shape), "rank": rank, "dtype": str(dtype).removeprefix("torch."), "batch": batch}
    als.settle(problem, start, PENALTY, 2)
    spent, swept = timed(lambda: als.settle(problem, start, PENALTY, SWEEPS), seconds)
    row["compiled"] = batch / spent
    row |= dict.fromkeys(("operations", "operations_sweeps", "operations_agree", "cuda", "cuda_agree", "cuda_bytes"))
    if fits(problem, rank, batch):
        one, _ = timed(lambda: operations(problem, start, 1), 0.0)
        count = int(min(max(seconds / one, 2), SWEEPS))
        spent, found = timed(lambda: operations(problem, start, count), 0.0)
        same = als.settle(problem, start, PENALTY, count)
        row |= {"operations": batch * count / SWEEPS / spent, "operations_sweeps": count}
        row["operations_agree"] = agreement(errors(target, found), errors(target, same), tolerance)
    if torch.cuda.is_available():
        there = Problem.of(target, "cuda", dtype)
        if fits(there, rank, batch):
            cuda(there, start, 5)
            torch.cuda.reset_peak_memory_stats()
            spent, found = timed(lambda: cuda(there, start, SWEEPS), seconds)
            row |= {"cuda": batch / spent, "cuda_bytes": torch.cuda.max_memory_allocated()}
            row["cuda_agree"] = agreement(errors(target, found), errors(target, swept), tolerance)
    return row


def fits(problem: Problem, rank: int, batch: int) -> bool:
    """Whether the device has the memory for tensor operations on the batch."""
    try:
        check_memory(problem, rank, batch)
    except InputError:
        return False
    return True


def wrong(row: dict) -> bool:
    """Whether a path came to other errors than the compiled sweeps."""
    return any(row[name] is not None and row[name] < AGREEING for name in ("operations_agree", "cuda_agree"))


def line(row: dict) -> str:
    """A row under `HEADER`."""

    def path(name: str, width: int) -> str:
        if row[name] is None:
            return f"{'-':>{width}s} {'-':>7s} {'-':>6s}"
        return f"{row[name]:{width}.1f} {row[name] / row['compiled']:7.3f} {row[f'{name}_agree']:6.3f}"

    name = f"<{','.join(map(str, row['shape']))};{row['rank']}>"
    begin = f"{name:11s} {row['dtype']:8s} {row['batch']:6d} | {row['compiled']:9.1f}"
    return f"{begin} | {path('operations', 10)} | {path('cuda', 9)}{'  WRONG' if wrong(row) else ''}"


def integers(text: str) -> list[int]:
    """Positive integers separated by commas."""
    found = [int(part) for part in text.split(",")]
    if min(found) < 1:
        raise ValueError
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=integers, help="restarts at once (default: 64,512, and 4096,16384 with a CUDA device)")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure, at least one run (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of the CPU (default: PyTorch's choice)")
    parser.add_argument("--quick", action="store_true", help="batches of 64 for half a second each")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    try:
        set_threads(options.threads)
    except InputError as error:
        parser.error(str(error))
    if options.quick:
        options.batches, options.seconds = options.batches or [64], min(options.seconds, 0.5)
    described = {name: describe_device(torch.device(name)) for name in ("cpu", "cuda") if name == "cpu" or torch.cuda.is_available()}
    batches = options.batches or ([64, 512, 4096, 16384] if "cuda" in described else [64, 512])
    names = ", ".join(str(device["name"]) for device in described.values())
    print(f"{names}; {torch.get_num_threads()} threads, PyTorch {torch.__version__}")
    if "cuda" not in described:
        print("no CUDA device: the CPU alone")
    print(f"restarts of {SWEEPS} sweeps per second\n\n{HEADER}")
    rows = []
    for shape, rank in SIZES:
        for dtype in TOLERANCE:
            for batch in batches:
                rows.append(measure(shape, rank, dtype, batch, options.seconds))
                print(line(rows[-1]), flush=True)
    if options.json:
        document = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": "python benchmarks/restarts.py " + " ".join(sys.argv[1:]),
            "versions": {
                "stlsearch": stlsearch.__version__,
                "torch": torch.__version__,
                "cuda": torch.version.cuda,
                "numpy": np.__version__,
            },
            "devices": described,
            "sweeps": SWEEPS,
            "penalty": PENALTY,
            "restarts_per_second": rows,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(options.json, (json.dumps(document, indent=1) + "\n").encode())
    if any(map(wrong, rows)):
        print("restarts.py: a path comes to other errors than the compiled sweeps", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

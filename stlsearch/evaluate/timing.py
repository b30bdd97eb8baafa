"""Wall clock: of two functions interleaved on one device, so that noise and heat hit both alike, or of one alone."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from stlsearch.errors import InputError

LEAST_SECONDS = 0.1


@dataclass(frozen=True)
class Timing:
    """Times of a candidate and a baseline measured in alternation.

    Attributes:
        candidate, baseline: median seconds of one call.
        speedup: median over pairs of baseline/candidate; above 1 the candidate is faster.
        low, high: quartiles of that ratio (its only value for one repeat).
        repeats: pairs measured, fewer than asked for when the time limit cut them short.
    """

    candidate: float
    baseline: float
    speedup: float
    low: float
    high: float
    repeats: int

    def to_dict(self) -> dict[str, object]:
        """JSON values, times in seconds."""
        return {
            "candidate_s": self.candidate,
            "baseline_s": self.baseline,
            "speedup": self.speedup,
            "speedup_quartiles": [self.low, self.high],
            "repeats": self.repeats,
        }


def compare_times(
    candidate: Callable[[], object],
    baseline: Callable[[], object],
    *,
    device: torch.device | str = "cpu",
    repeats: int = 15,
    warmup: int = 2,
    time_limit: float = 10.0,
) -> Timing:
    """Time `candidate` and `baseline` in pairs, which goes first changing from pair to pair.

    CUDA events on a CUDA device, `time.perf_counter` elsewhere; the garbage collector is off meanwhile.

    Args:
        device: where both functions run.
        repeats: pairs to measure at most.
        warmup: calls of each before measuring (allocation, kernel selection, clocks).
        time_limit: seconds after which no further warm-up or pair begins; one pair is always measured.

    Raises:
        InputError: `repeats` below 1.
    """
    if repeats < 1:
        raise InputError(f"repeats must be at least 1, not {repeats}")
    measure = _clock(device)
    with _no_collector():
        deadline = time.monotonic() + time_limit
        for _ in range(warmup):
            candidate()
            baseline()
            if time.monotonic() > deadline:
                break
        candidates, baselines = [], []
        for index in range(repeats):
            if index and time.monotonic() > deadline:
                break
            if index % 2:
                baselines.append(measure(baseline))
                candidates.append(measure(candidate))
            else:
                candidates.append(measure(candidate))
                baselines.append(measure(baseline))
    ratios = [slow / fast for slow, fast in zip(baselines, candidates, strict=True)]
    low, speedup, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Timing(statistics.median(candidates), statistics.median(baselines), speedup, low, high, len(ratios))


def time_alone(function: Callable[[], object], *, device: torch.device | str = "cpu", repeats: int = 5, time_limit: float = 2.0) -> float:
    """Seconds of the fastest call after one warm-up: what the device can do when nothing interrupts it.

    Args:
        repeats: calls to measure, more until `LEAST_SECONDS` have passed (another program may hold a core for 0.02 s at a time),
            fewer once `time_limit` seconds have; one is always measured.
    """
    measure = _clock(device)
    with _no_collector():
        start = time.monotonic()
        function()
        seconds = [measure(function)]
        while (passed := time.monotonic() - start) < time_limit and (len(seconds) < repeats or passed < LEAST_SECONDS):
            seconds.append(measure(function))
    return min(seconds)


@contextmanager
def _no_collector() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _clock(device: torch.device | str) -> Callable[[Callable[[], object]], float]:
    return _cuda_seconds if torch.device(device).type == "cuda" else _cpu_seconds


def _cpu_seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _cuda_seconds(function: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()  # nothing queued earlier may run inside the interval
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3

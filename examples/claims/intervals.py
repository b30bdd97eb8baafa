"""Means with intervals: Student's t, 95 %, over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and half the width of its interval: half = t_{0.975, n-1} s/sqrt(n), s the standard deviation with n - 1."""

    mean: float
    half: float
    count: int

    @property
    def sign(self) -> int:
        """Of the mean where the interval leaves out 0, else 0."""
        return 0 if not abs(self.mean) > self.half else 1 if self.mean > 0 else -1

    def show(self, digits: int = 2, *, signed: bool = False) -> str:
        """``57.1 ± 2.3``."""
        if math.isnan(self.mean):
            return "-"
        half = "?" if math.isinf(self.half) else f"{self.half:.{digits}f}"
        return f"{self.mean:{'+' if signed else ''}.{digits}f} ± {half}"


def interval(values: Sequence[float | None]) -> Interval:
    """Of the mean of independent values; infinitely wide for one value, NaN if there is none or one that is missing (it diverged)."""
    if len(values) == 0 or any(value is None for value in values):
        return Interval(math.nan, math.nan, len(values))
    sample = np.asarray(values, dtype=float)
    if len(sample) == 1:
        return Interval(float(sample[0]), math.inf, 1)
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, len(sample) - 1) * sample.std(ddof=1) / math.sqrt(len(sample))
    return Interval(float(sample.mean()), float(half), len(sample))


def paired(values: Sequence[float | None], others: Sequence[float | None]) -> Interval:
    """Of the mean difference of values - others, seed by seed."""
    if any(value is None for value in (*values, *others)):
        return interval([None])
    return interval([value - other for value, other in zip(values, others, strict=True)])


def difference(row: dict, name: str) -> str:
    """The paired difference of a row's scores to those of a rival; a star where its interval leaves out 0."""
    if name not in row["rivals"]:
        return ""
    found = paired(row["scores"], row["rivals"][name])
    return found.show(signed=True) + (" *" if found.sign else "")

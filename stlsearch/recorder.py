"""What a fit remembers while it runs: the best basis so far, the history, and when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from stlsearch.solvers.polish import Goal
from stlsearch.solvers.problem import Factors, Monitor, Report


@dataclass(frozen=True)
class Progress:
    """The state of a running fit: the stage, restarts in it, best error and its amplification, seconds elapsed."""

    stage: str
    iteration: int
    restarts: int
    error: float
    amplification: float
    seconds: float


@dataclass(frozen=True)
class Sample:
    """One point of the history: the stage, the iteration within it, best and median e of its restarts."""

    stage: str
    iteration: int
    best: float
    median: float


@dataclass(frozen=True)
class Best:
    """The best factors seen, shapes (r, a), (r, b), (r, c), with their measures and the strategy they came from."""

    factors: Factors
    score: float
    error: float
    amplification: float
    strategy: str


class TimeUp(Exception):
    """The time limit has passed."""


@dataclass
class Recorder(Monitor):
    """Watches all stages of a fit.

    Attributes:
        goal: what "best" means.
        progress: told of every report.
        time_limit: seconds from `began` after which `tick` and `report` raise `TimeUp`.
        strategy: whose starts are being worked on.
        stage: what is being done, for people.
        keeping: off while a strategy builds its starts: what it reports then has another rank or tile.
    """

    goal: Goal
    progress: Callable[[Progress], None] | None = None
    time_limit: float | None = None
    began: float = field(default_factory=time.monotonic)
    strategy: str = ""
    stage: str = ""
    keeping: bool = False
    best: Best | None = None
    history: list[Sample] = field(default_factory=list)

    def tick(self) -> None:
        if self.time_limit is not None and time.monotonic() - self.began > self.time_limit:
            raise TimeUp

    def report(self, report: Report) -> None:
        if self.keeping:
            self._keep(report)
            self.history.append(Sample(self.stage, report.iteration, float(report.error.min()), float(report.error.median())))
        if self.progress is not None:
            measures = (float("inf"), float("inf")) if self.best is None else (self.best.error, self.best.amplification)
            self.progress(Progress(self.stage, report.iteration, len(report.error), *measures, time.monotonic() - self.began))
        self.tick()

    def _keep(self, report: Report) -> None:
        for index, (error, amplification) in enumerate(zip(report.error.tolist(), report.amplification.tolist(), strict=True)):
            score = self.goal.score(error, amplification)
            if score < (float("inf") if self.best is None else self.best.score):  # False for NaN
                U, V, W = (factor[index].detach().clone() for factor in report.factors)
                # One assignment: an interrupt leaves the old best or the new one, never half of each.
                self.best = Best((U, V, W), score, error, amplification, self.strategy)

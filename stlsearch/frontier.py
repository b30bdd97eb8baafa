"""Improve the whole front of one tile: the best basis at every rank, a fit at a time.

Each step picks a rank and a strategy, runs one fit, and registers the basis when it beats the best registered at
its rank. Neighbouring ranks feed each other: the best bases of the next higher ranks are starts to deflate, those
of the next lower ones to extend. Strategies are drawn in proportion to how often they have improved anything
(with one success and one failure to begin with), so the budget goes where improvements come from.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.fit import fit
from stlsearch.inits.request import NotApplicable
from stlsearch.recorder import Progress
from stlsearch.registry.atomic import write_atomic
from stlsearch.registry.store import Registry
from stlsearch.registry.text import parse, read_bytes
from stlsearch.solvers.polish import Goal
from stlsearch.targets import Target

STRATEGIES = ("kron", "strassen", "polynomial", "random", "deflate", "extend")
PENALTY_FACTORS = (0.5, 1.0, 2.0, 5.0)  # of the goal's own search penalty, in turn
DEFLATE_FROM = 3  # the next higher ranks whose best bases are deflated
RESTARTS = 24
ITERATIONS = 500
LEAST_GAIN = 1e-4  # relative: below it a basis is the same one polished again


@dataclass(frozen=True)
class Step:
    """One fit of the search.

    Attributes:
        rank, strategy, seed: what was run.
        algorithm: what it found.
        previous: the score of the best registered basis before, None when there was none.
        improved: it was registered.
    """

    rank: int
    strategy: str
    seed: int
    algorithm: BilinearAlgorithm
    previous: float | None
    improved: bool


@dataclass
class SearchState:
    """How often each strategy was tried and improved something, kept in a file so that a search can be resumed.

    Losing the file loses no result: the bases are in the registry, and the search starts again from them. Two
    searches may share a registry; give them different seeds, or they do the same fits.
    """

    path: Path
    steps: int = 0
    tries: dict[str, int] = field(default_factory=dict)
    gains: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def load(folder: Path, target: Target, seed: int) -> SearchState:
        """The state of an earlier search of this target and seed, or a new one when there is none that can be read."""
        state = SearchState(folder / f".frontier-{target.slug}-{seed}.state")
        try:
            document = parse(read_bytes(state.path))
            state.steps = int(document["steps"])  # type: ignore[index]
            state.tries = {name: int(document["tries"].get(name, 0)) for name in STRATEGIES}  # type: ignore[index]
            state.gains = {name: int(document["gains"].get(name, 0)) for name in STRATEGIES}  # type: ignore[index]
        except (OSError, InputError, KeyError, TypeError, ValueError, AttributeError):
            state.steps, state.tries, state.gains = 0, {}, {}
        return state

    def record(self, strategy: str, improved: bool) -> None:
        """Count one step and write the file."""
        self.steps += 1
        self.tries[strategy] = self.tries.get(strategy, 0) + 1
        self.gains[strategy] = self.gains.get(strategy, 0) + improved
        write_atomic(self.path, json.dumps({"steps": self.steps, "tries": self.tries, "gains": self.gains}).encode())

    def promise(self, strategy: str) -> float:
        """The estimated chance that a try improves something."""
        return (self.gains.get(strategy, 0) + 1) / (self.tries.get(strategy, 0) + 2)


def improve_front(
    target: Target,
    ranks: Sequence[int],
    registry: Registry,
    *,
    goal: Goal | None = None,
    seed: int = 0,
    steps: int | None = None,
    time_limit: float | None = None,
    device: str = "cpu",
    progress: Callable[[Progress], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> list[Step]:
    """Search for better bases at `ranks` until the budget ends; improvements are registered as they are found.

    Ranks without any basis come first; then every rank in turn, with every other step for one whose error lies above
    the chord of its neighbours, where there is most to gain. A search with the same seed goes on where the last one
    ended (see `SearchState`). KeyboardInterrupt passes through between and inside fits: what was registered stays,
    and a fit cut short is thrown away.

    Args:
        steps: fits to run, or None for no bound.
        time_limit: seconds, or None for no bound; the fit under way when they end is thrown away.

    Raises:
        InputError: ranks outside 1..nmp, a registry without a folder, or neither bound given.
    """
    goal = goal or Goal()
    for rank in ranks:
        target.check_rank(rank)
    if registry.folder is None or (steps is None and time_limit is None) or not ranks:
        raise InputError("a search for a front needs ranks, a registry folder to write to, and a number of steps or a time limit")
    began = time.monotonic()
    state = SearchState.load(registry.folder, target, seed)
    taken: list[Step] = []
    while steps is None or len(taken) < steps:
        left = None if time_limit is None else time_limit - (time.monotonic() - began)
        if left is not None and left <= 0:
            break
        number = state.steps
        draw = random.Random(seed * 1_000_003 + number)
        best = _best_by_rank(target, registry, goal)
        rank = _next_rank(ranks, best, goal, number, draw)
        strategy, init = _choose(rank, best, state, draw)
        penalty = min(0.5, goal.working_penalty * draw.choice(PENALTY_FACTORS))
        try:
            result = fit(
                target,
                rank,
                init=init,
                restarts=RESTARTS,
                iterations=ITERATIONS,
                seed=seed + number,
                device=device,
                goal=Goal(goal.max_amplification, goal.optimize_for, penalty),
                time_limit=left,
                lookup=lambda name: registry.get(name).algorithm,
                progress=progress,
            )
        except NotApplicable:
            state.record(strategy, improved=False)
            continue
        if result.status == "interrupted":
            raise KeyboardInterrupt
        if not result.reproducible:
            break
        previous = _best_by_rank(target, registry, goal).get(rank)  # another search may have found one meanwhile
        before = None if previous is None else goal.score(previous.error, previous.amplification)
        score = goal.score(result.error, result.amplification)
        improved = before is None or score < before * (1 - LEAST_GAIN)
        if improved:
            command = _command(target, rank, init, penalty, seed + number, goal, device)
            registry.add(result.algorithm.with_provenance(command=command))
        state.record(strategy, improved)
        taken.append(Step(rank, strategy, seed + number, result.algorithm, before, improved))
        if on_step is not None:
            on_step(taken[-1])
    return taken


def _best_by_rank(target: Target, registry: Registry, goal: Goal) -> dict[int, BilinearAlgorithm]:
    """The registered real algorithm of least score at every rank."""
    best: dict[int, BilinearAlgorithm] = {}
    for entry in registry.find(target)[0]:
        algorithm = entry.algorithm
        if not algorithm.is_real or algorithm.metric is not None:
            continue
        held = best.get(algorithm.rank)
        if held is None or goal.score(algorithm.error, algorithm.amplification) < goal.score(held.error, held.amplification):
            best[algorithm.rank] = algorithm
    return best


def _next_rank(ranks: Sequence[int], best: dict[int, BilinearAlgorithm], goal: Goal, number: int, draw: random.Random) -> int:
    """Ranks without a basis first, from the top; then in turn, every other time one that lies above its neighbours' chord."""
    ranks = [rank for rank in ranks if rank not in best or best[rank].error > 0]  # exact ones cannot be improved
    missing = [rank for rank in ranks if rank not in best]
    if not ranks:
        raise InputError("every rank asked for has an exact algorithm already: there is nothing to improve")
    if missing:
        return max(missing)
    if number % 2:
        scores = {rank: goal.score(algorithm.error, algorithm.amplification) for rank, algorithm in best.items()}
        inner = [rank for rank in ranks if rank - 1 in scores and rank + 1 in scores]
        excess = [max(0.0, scores[rank] - (scores[rank - 1] + scores[rank + 1]) / 2) for rank in inner]
        if any(excess):
            return draw.choices(inner, excess)[0]
    return ranks[number // 2 % len(ranks)]


def _choose(rank: int, best: dict[int, BilinearAlgorithm], state: SearchState, draw: random.Random) -> tuple[str, str]:
    """A strategy drawn by promise, and the init it stands for at this rank."""
    above = [best[rank + k] for k in range(1, DEFLATE_FROM + 1) if rank + k in best]
    below = [best[rank - k] for k in range(1, 2) if rank - k in best]
    open_to = [name for name in STRATEGIES if (above or name != "deflate") and (below or name != "extend")]
    strategy = draw.choices(open_to, [state.promise(name) for name in open_to])[0]
    if strategy in ("deflate", "extend"):
        return strategy, f"known:{draw.choice(above if strategy == 'deflate' else below).name}"
    return strategy, strategy


def _command(target: Target, rank: int, init: str, penalty: float, seed: int, goal: Goal, device: str) -> str:
    aim = f"--optimize-for {goal.optimize_for}" if goal.optimize_for else f"--max-amplification {goal.max_amplification}"
    return (
        f"stlsearch fit --tile {target.slug} --rank {rank} --init {init} --restarts {RESTARTS} --iterations {ITERATIONS} "
        f"--seed {seed} --device {device} --threads {torch.get_num_threads()} --penalty {penalty} {aim}"
    )

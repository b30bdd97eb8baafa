"""Improve the whole front of one tile: the best basis at every rank, a fit at a time.

Each step picks a rank and a strategy, runs one fit, and registers the basis when it beats the best registered at
its rank. Ranks feed each other: bases of higher ranks are starts to deflate, those of the next lower ones to extend,
the best of the same rank is hopped from. Strategies are drawn in proportion to how often they have improved anything
(with one success and one failure to begin with), so the budget goes where improvements come from, and what falls
behind the registered basis before the costly polish is given up. With a pool (`stlsearch.parents`) bases that are nearly as
good and different are registered too, and are parents as the best are.
"""

from __future__ import annotations

import json
import random
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.fit import fit, objective_to_beat
from stlsearch.inits.request import NotApplicable
from stlsearch.lineage import lineage
from stlsearch.parents import LEAST_GAIN, WITHIN, Parents, best_by_rank, is_root, usable_algorithms
from stlsearch.recorder import Progress
from stlsearch.registry.atomic import write_atomic
from stlsearch.registry.store import Registry
from stlsearch.registry.text import parse, read_bytes
from stlsearch.solvers.polish import Goal
from stlsearch.targets import Target

STRATEGIES = ("hop", "deflate", "extend", "pool", "cyclic", "kron", "strassen", "polynomial", "random")
PENALTY_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the goal's own search penalty, drawn for every step
DEFLATE_FROM = 16  # the next higher ranks whose bases are deflated, nearer ones more often
EXTEND_FROM = 2  # the next lower ranks whose bases are extended
RESTARTS = 32
ITERATIONS = 400
POLISHED = 1
REPOLISH = 0.5  # the chance that a step polishes a basis made for another goal before anything new is tried
UNUSABLE = 1.0  # a score above it is no better than computing nothing, or beyond the bound on g


@dataclass(frozen=True)
class Step:
    """One fit of the search.

    Attributes:
        rank, strategy, seed: what was run.
        algorithm: what it found.
        previous: the score of the best registered basis before, None when there was none.
        improved: it is the best at its rank now, and was registered.
        pooled: it is not, but good enough and different enough for the pool, and was registered.
    """

    rank: int
    strategy: str
    seed: int
    algorithm: BilinearAlgorithm
    previous: float | None
    improved: bool
    pooled: bool = False


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
    def load(folder: Path, target: Target, seed: int, goal: Goal) -> SearchState:
        """The state of an earlier search of this target, seed and goal, or a new one when there is none that can be read."""
        aim = "-".join(str(value) for value in goal.describe().values())
        state = SearchState(folder / f".frontier-{target.slug}-{aim}-{seed}.state")
        try:
            document = parse(read_bytes(state.path))
            state.steps = int(document["steps"])  # type: ignore[index]
            state.tries = {name: max(0, int(document["tries"].get(name, 0))) for name in STRATEGIES}  # type: ignore[index]
            state.gains = {name: max(0, int(document["gains"].get(name, 0))) for name in STRATEGIES}  # type: ignore[index]
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
    pool: int = 1,
    within: float = WITHIN,
    device: str = "cpu",
    written: str | None = None,
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
        pool, within: at every rank up to `pool` different bases are kept as parents whose scores lie within the share `within`
            of the best; with 1 the best alone.
        written: how recorded commands name the target, where its slug would not do (a tensor in a file).

    Raises:
        InputError: ranks outside 1..nmp, a registry without a folder, neither bound given, or a pool that holds nothing.
    """
    goal = goal or Goal()
    parents = Parents(goal, pool, within)
    for rank in ranks:
        target.check_rank(rank)
    if registry.folder is None or (steps is None and time_limit is None) or not ranks:
        raise InputError("a search for a front needs ranks, a registry folder to write to, and a number of steps or a time limit")
    began = time.monotonic()
    state = SearchState.load(registry.folder, target, seed, goal)
    objectives: dict[tuple[str, float], float] = {}

    def lookup(name: str) -> BilinearAlgorithm:
        return registry.get(name).algorithm

    def objective(held: BilinearAlgorithm, goal: Goal) -> float:
        key = held.id, goal.working_penalty
        if key not in objectives:
            objectives[key] = objective_to_beat(held, goal, device)
        return objectives[key]

    def to_beat(rank: int, parent: BilinearAlgorithm | None, goal: Goal) -> float | None:
        held = parents.pool(target, rank)
        if not held:
            return None
        bound = objective(held[-1], goal) if len(held) == pool else objective(held[0], goal) * (1 + within)
        # A population that hops from a member of the pool begins with it: to be worth a polish it has to lead away from there.
        return min(bound, objective(parent, goal)) if parent in held else bound

    taken: list[Step] = []
    while steps is None or len(taken) < steps:
        left = None if time_limit is None else time_limit - (time.monotonic() - began)
        if left is not None and left <= 0:
            break
        number = state.steps
        draw = random.Random(seed * 1_000_003 + number)
        usable = usable_algorithms(target, registry)
        parents.update(usable)
        best = best_by_rank(usable, goal)
        rank = _next_rank(ranks, best, goal, number, draw)
        # What was polished to another goal is polished to this one first, but not for ever: it may be the best for both.
        repolish = rank in best and not _made_for(best[rank], goal) and draw.random() < REPOLISH
        strategy, parent = _choose(rank, parents.all(), ("hop",) if repolish else STRATEGIES, state, draw)
        init = strategy if parent is None else f"{'known' if strategy == 'deflate' else 'hop'}:{parent.name}"
        penalty = min(0.5, float(f"{goal.working_penalty * draw.choice(PENALTY_FACTORS):.3g}"))
        searching = Goal(goal.max_amplification, goal.optimize_for, penalty)
        try:
            result = fit(
                target,
                rank,
                init=init,
                restarts=RESTARTS,
                iterations=ITERATIONS,
                seed=seed + number,
                device=device,
                goal=searching,
                polished=POLISHED,
                to_beat=None if repolish else to_beat(rank, parent, searching),
                time_limit=left,
                lookup=lookup,
                progress=progress,
            )
        except NotApplicable:
            state.record(strategy, improved=False)
            continue
        if result.status == "interrupted":
            raise KeyboardInterrupt
        if not result.reproducible:
            break
        parents.update(usable_algorithms(target, registry))  # another search may have found something meanwhile
        previous = next(iter(parents.pool(target, rank)), None)
        before = None if previous is None else goal.score(previous.error, previous.amplification)
        score = goal.score(result.error, result.amplification)
        improved = score < (UNUSABLE if before is None else before * (1 - LEAST_GAIN))
        pooled = not improved and before is not None and pool > 1 and result.polished and parents.admit(result.algorithm)
        if improved or pooled:
            command = _command(target, written, rank, init, penalty, seed + number, goal, device)
            registry.add(result.algorithm.with_provenance(command=command, lineage=lineage(result.algorithm.provenance, lookup)))
        state.record(strategy, improved)
        taken.append(Step(rank, strategy, seed + number, result.algorithm, before, improved, pooled))
        if on_step is not None:
            on_step(taken[-1])
    return taken


def _next_rank(ranks: Sequence[int], best: dict[int, BilinearAlgorithm], goal: Goal, number: int, draw: random.Random) -> int:
    """Ranks without a basis first, from the top; then in turn, every other time one that lies above its neighbours' chord."""
    # Exact ones cannot be improved, but their rounding may.
    ranks = [rank for rank in ranks if rank not in best or best[rank].error > 0 or goal.optimize_for]
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


def _choose(
    rank: int, parents: list[BilinearAlgorithm], strategies: Sequence[str], state: SearchState, draw: random.Random
) -> tuple[str, BilinearAlgorithm | None]:
    """A strategy drawn by promise, and the parent it takes at this rank, if it takes one: those near in rank more often."""
    sources = {
        "hop": [parent for parent in parents if parent.rank == rank],
        "deflate": [parent for parent in parents if parent.rank > rank and (parent.rank <= rank + DEFLATE_FROM or is_root(parent))],
        "extend": [parent for parent in parents if rank - EXTEND_FROM <= parent.rank < rank],
    }
    open_to = [name for name in strategies if sources.get(name, [None])]
    strategy = draw.choices(open_to, [state.promise(name) for name in open_to])[0]
    if strategy not in sources:
        return strategy, None
    nearness = [1 / max(1, abs(parent.rank - rank)) for parent in sources[strategy]]
    return strategy, draw.choices(sources[strategy], nearness)[0]


def _made_for(algorithm: BilinearAlgorithm, goal: Goal) -> bool:
    """It was polished to this goal."""
    return algorithm.provenance.get("goal") == goal.describe()


def _command(target: Target, written: str | None, rank: int, init: str, penalty: float, seed: int, goal: Goal, device: str) -> str:
    aim = f"--optimize-for {goal.optimize_for}" if goal.optimize_for else f"--max-amplification {goal.max_amplification}"
    what = f"{'--tile' if target.shape else '--target'} {target.slug if target.shape else shlex.quote(written or target.slug)}"
    return (
        f"stlsearch fit {what} --rank {rank} --init {init} "
        f"--restarts {RESTARTS} --iterations {ITERATIONS} --polish {POLISHED} "
        f"--seed {seed} --device {device} --threads {torch.get_num_threads()} --penalty {penalty} {aim}"
    )

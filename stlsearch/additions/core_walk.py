"""Schemes with sparser cores: a walk over the flip graph at one rank.

Changes of basis leave the core of `stlsearch.additions.alternative_basis` as it is, so a sparser one takes another, inequivalent
algorithm. Flips and plus transitions followed by reductions (`stlsearch.search.flips`) lead from one to the next; each is weighed by
the size of its sparsest core and kept by Metropolis's rule. The algorithms whose core is among the sparsest have their common sums
shared, and the one that takes the fewest operations then is the result.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp

import numpy as np

from stlsearch.additions.alternative_basis import AlternativeBasis, core_size, sparsify
from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.search.flips import FlipWalk

TEMPERATURE = 1.5  # operations
BUDGET = 100_000  # nodes for each factor: random pivots do the rest, and find the same sparsest bases nearly always
DETOURS = 0.25  # of the steps go through rank + 1
STRIDES = (1, 3, 10, 30, 100)  # flips of the other steps
RETURN_TRIES, RETURN_FLIPS = 100, 3_000  # to come back from a detour
MARGIN = 2  # what the core may be larger by than the sparsest so far to have its sums shared
RESTARTS = 25  # of the sharing during the walk

Progress = Callable[[int, AlternativeBasis], bool | None]


def sparser_core(algorithm: BilinearAlgorithm, steps: int, *, seed: int = 0, progress: Progress | None = None) -> BilinearAlgorithm:
    """The algorithm of the same target and rank with the fewest operations in its core among those a walk meets.

    Args:
        algorithm: exact over Z with coefficients -1, 0, 1.
        steps: algorithms to weigh.
        seed: of the walk; the same arguments give the same result.
        progress: called after every step with its number and the best form so far; True ends the walk.

    Returns:
        `algorithm` itself when nothing better is met.

    Raises:
        InputError: another ring, other coefficients, too many terms, or fewer than 1 step.
    """
    if steps < 1:
        raise InputError(f"a walk takes at least 1 step, not {steps}")
    random = np.random.default_rng(seed)
    walk = FlipWalk(algorithm, seed)
    rank = walk.rank
    best_key, best = _weighed(algorithm)
    size = smallest = core_size(algorithm, budget=BUDGET)
    weighed = {algorithm.id}
    for step in range(1, steps + 1):
        state, lowest, counts = walk.states()
        kept = state.copy(), lowest.copy()
        _move(walk, rank, random)
        accepted = False
        if walk.rank == rank:
            candidate = walk.algorithm()
            reached = core_size(candidate, budget=BUDGET)
            accepted = reached <= size or random.random() < exp((size - reached) / TEMPERATURE)
            if accepted:
                size = reached
                smallest = min(smallest, reached)
                if reached <= smallest + MARGIN and candidate.id not in weighed:
                    weighed.add(candidate.id)
                    key, form = _weighed(candidate)
                    if key < best_key:
                        best_key, best = key, form
        if not accepted:
            walk.restore(kept[0], kept[1], counts)
        if progress is not None and progress(step, best):
            break
    if best.algorithm is algorithm:
        return algorithm
    parents = [{"id": algorithm.id, "name": algorithm.name}]
    return best.algorithm.with_provenance(operation="sparser core", seed=seed, steps=step, parents=parents)


def _weighed(algorithm: BilinearAlgorithm) -> tuple[tuple[int, int], AlternativeBasis]:
    form = sparsify(algorithm, budget=BUDGET, restarts=RESTARTS)
    return (sum(form.additions) + sum(form.scalings), sum(form.naive_additions)), form


def _move(walk: FlipWalk, rank: int, random: np.random.Generator) -> None:
    """A few flips, or a plus transition and the way back to the rank."""
    before = walk.flips
    if random.random() >= DETOURS:
        walk.run(int(random.choice(STRIDES)))
    if walk.flips > before:
        return
    walk.plus()
    walk.run(int(random.choice(STRIDES)))
    for _ in range(RETURN_TRIES):
        if walk.rank <= rank:
            break
        walk.run(RETURN_FLIPS, rank)
        walk.reduce()

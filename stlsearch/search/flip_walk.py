"""A walk with all its moves: flips, hidden reductions, plus transitions, and the way back to the best state. Compiled."""

from __future__ import annotations

from typing import Any

from stlsearch.search.flip_kernel import plus, walk
from stlsearch.search.flip_reduce import reduce
from stlsearch.search.flip_state import COUNT, FLIPS, RANDOM, RANK, ZERO, copy, words
from stlsearch.solvers.kernels import compiled

PIECE = 10_000  # tries between two looks at the rank


@compiled()
def search(array: Any, kept: Any, tries: Any, plateau: Any, margin: Any, stop: Any, since: Any) -> Any:
    """Walk, with plus transitions on plateaus; `kept` is the last state of lowest rank.

    After `plateau` tries without a lower rank the walk looks for a hidden reduction, then splits a pair of terms, up to `margin`
    above the lowest rank; from there it returns to `kept`. Ends after `tries`, or once the rank is at most `stop`.

    Args:
        array, kept: two states; at first `kept` is a copy of the other.
        since: what the last call returned, 0 at first.

    Returns:
        (tries made, tries since the rank last fell).
    """
    state, best = words(array), words(kept)
    done = 0
    while done < tries and best[RANK] > stop:
        before = state[RANK]
        made = walk(state, min(PIECE, plateau, tries - done), stop)
        stuck = state[COUNT] == ZERO
        done += max(made, 1)
        since += made
        if state[RANK] < before:
            since = 0
        if state[RANK] <= best[RANK]:  # of equal rank too: it lies further from the start
            copy(state, best)
        if since >= plateau or stuck:
            since = 0
            if reduce(state):
                continue
            if state[RANK] >= best[RANK] + margin:
                random, flips = state[RANDOM], state[FLIPS]
                copy(best, state)
                state[RANDOM], state[FLIPS] = random, flips
            else:
                plus(state)
    return done, since


# Single moves on an array.


@compiled()
def flip(array: Any, tries: Any, stop: Any) -> Any:
    """`flip_kernel.walk`."""
    return walk(words(array), tries, stop)


@compiled()
def split(array: Any) -> Any:
    """`flip_kernel.plus`."""
    return plus(words(array))


@compiled()
def reduce_once(array: Any) -> Any:
    """`flip_reduce.reduce`."""
    return reduce(words(array))

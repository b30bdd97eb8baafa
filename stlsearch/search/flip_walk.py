"""A walk with all its moves: flips, hidden reductions, plus transitions, and the way back to the best state. Compiled."""

from __future__ import annotations

from typing import Any

from stlsearch.search.flip_kernel import plus, walk
from stlsearch.search.flip_reduce import reduce
from stlsearch.search.flip_state import (
    COUNT,
    FIXED,
    FIXED_MASKS,
    FLIPS,
    INTEGERS,
    MAX_FIXED,
    MODES,
    MODULO_2,
    ONE,
    PLUS,
    RANDOM,
    RANK,
    RING,
    THREE,
    TWO,
    ZERO,
    U,
    copy,
    equal,
    kernel,
    record,
    remove,
    slot_of,
    words,
)

PIECE = 10_000  # tries between two looks at the rank


@kernel
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
    while done < tries and rank_of(best) > stop:
        before = rank_of(state)
        made = walk(state, min(PIECE, plateau, tries - done), terms_at(state, stop))
        condense(state)
        rank = rank_of(state)
        done += max(made, 1)
        since += made
        if rank < before:
            since = 0
        if rank <= rank_of(best):  # of equal rank too: it lies further from the start
            copy(state, best)
        if since >= plateau or state[COUNT] == ZERO:
            since = 0
            if state[MODES] != ZERO and reduce(state):
                continue
            if rank >= rank_of(best) + margin:
                random, flips = state[RANDOM], state[FLIPS]
                copy(best, state)
                state[RANDOM], state[FLIPS] = random, flips
            else:
                plus(state)
    return done, since


@kernel
def rank_of(state: Any) -> Any:
    """The rank: of a cyclic state three for every term, and the fixed ones."""
    return state[RANK] if state[MODES] != ZERO else THREE * state[RANK] + state[FIXED]


@kernel
def terms_at(state: Any, rank: Any) -> Any:
    """The number of terms at which a state has at most that rank."""
    if state[MODES] != ZERO:
        return rank
    return (rank - state[FIXED]) // THREE if rank > state[FIXED] else ZERO


@kernel
def condense(state: Any) -> None:
    """Rotations of a (x) a (x) a in a cyclic state are three times the same: nothing modulo 3, one fixed term modulo 2."""
    if state[MODES] != ZERO or state[RING] == INTEGERS:
        return
    term = state[RANK]
    while term > ZERO:
        term -= ONE
        slot = slot_of(term, ZERO)
        if not (equal(state, slot, slot + ONE) and equal(state, slot, slot + TWO)):
            continue
        if state[RING] == MODULO_2:
            if state[FIXED] == U(MAX_FIXED):
                return
            _toggle(state, state[record(slot) + PLUS])
        remove(state, term)


@kernel
def _toggle(state: Any, mask: Any) -> None:
    """Add a fixed term modulo 2: it goes where it already is."""
    count = state[FIXED]
    for k in range(count):
        if state[FIXED_MASKS + (U(k) << ONE)] == mask:
            state[FIXED] = count - ONE
            state[FIXED_MASKS + (U(k) << ONE)] = state[FIXED_MASKS + ((count - ONE) << ONE)]
            return
    state[FIXED_MASKS + (count << ONE)] = mask
    state[FIXED_MASKS + (count << ONE) + ONE] = ZERO
    state[FIXED] = count + ONE


# Single moves on an array.


@kernel
def flip(array: Any, tries: Any, stop: Any) -> Any:
    """`flip_kernel.walk`."""
    return walk(words(array), tries, stop)


@kernel
def split(array: Any) -> Any:
    """`flip_kernel.plus`."""
    return plus(words(array))


@kernel
def reduce_once(array: Any) -> Any:
    """`flip_reduce.reduce`."""
    return reduce(words(array))

"""Annealing over algorithms of one rank, with their additions as the energy. Compiled.

Moves are flips (`stlsearch.search.flip_kernel`) and elementary changes of basis: one row or column of all matrices plus or minus another,
as far as the coefficients stay -1, 0 and 1. The energy is what U, V and W take as encoders after one elimination, shortened with
cancellation; decoding by the transpose of W takes r - c additions more than encoding by W, the same for all algorithms of one rank. A flip
leaves one of the three factors as it was, and states recur, so most energies are known already.

A flip graph has many components, between which a walk cannot go. `detour` splits a pair of terms into three and walks on until the rank is
back: somewhere else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from stlsearch.additions.closure_kernel import MOST, TABLE, contains, partial_sums, prune
from stlsearch.additions.pair_kernel import complete, count_all, ones
from stlsearch.search.flip_kernel import combine, plus, walk
from stlsearch.search.flip_state import (
    FLIPS,
    INTEGERS,
    MINUS,
    ONE,
    PLUS,
    RANDOM,
    RANK,
    TWO,
    ZERO,
    U,
    copy,
    draw,
    kernel,
    put,
    record,
    slot_of,
    words,
)

FLIPS_TRIED = 64  # for one to be made: over the integers many would leave {-1, 0, 1}
SEED = U(88172645463325252)  # of ties: the same for every state, so that its energy is always the same
WANDER = 2000  # flips tried after a split of terms before the way back
KNOWN_BITS = 16  # energies that are remembered
KNOWN_SHIFT = U(64 - KNOWN_BITS)
NEVER = 2**40
HALF, SHIFT_48, SHIFT_11, UNIT = U(32), U(48), U(11), 1.0 / 2**53
SIX, SIX_BITS = U(6), U(63)
MIX_A, MIX_B, SHIFT_29 = U(0x9E3779B97F4A7C15), U(0xBF58476D1CE4E5B9), U(29)


class Work(NamedTuple):
    """Room for one elimination."""

    plus: Any
    minus: Any
    counts: Any
    pairs: Any
    random: Any
    sums: Any
    vectors: Any
    table: Any
    order: Any
    first: Any
    second: Any


@kernel
def workspace(width: Any, count: Any) -> Any:
    """Room for eliminations of up to 64 `count` sums of `width` variables."""
    limit = 128 + 64 * count
    room = width + limit
    return Work(
        np.zeros((room, count), dtype=np.uint64),
        np.zeros((room, count), dtype=np.uint64),
        np.zeros(room * (room - 1), dtype=np.uint16),
        np.zeros((limit, 3), dtype=np.int64),
        np.zeros(1, dtype=np.uint64),
        np.zeros((MOST, 2), dtype=np.uint64),
        np.zeros((room, 2), dtype=np.uint64),
        np.zeros(TABLE, dtype=np.int64),
        np.zeros(MOST, dtype=np.int64),
        np.zeros(MOST, dtype=np.int64),
        np.zeros(MOST, dtype=np.int64),
    )


@kernel
def _below(state: Any, limit: Any) -> Any:
    """A random number in 0 ... limit - 1."""
    return ((draw(state) >> HALF) * U(limit)) >> HALF


@kernel
def _uniform(state: Any) -> Any:
    """A random number in [0, 1)."""
    return (draw(state) >> SHIFT_11) * UNIT


@kernel
def fingerprint(state: Any, mode: Any) -> Any:
    """A number that hardly any two sets of factors share."""
    total = U(mode)
    for term in range(state[RANK]):
        at = record(slot_of(U(term), mode))
        x = (state[at + PLUS] + MIX_A) * MIX_B
        x ^= x >> SHIFT_29
        x = (x + state[at + MINUS]) * MIX_A
        total += x ^ (x >> SHIFT_29)
    return total * MIX_B


@kernel
def energy(state: Any, mode: Any, width: Any, work: Any) -> Any:
    """Additions of the factors of a mode as an encoder, equal ones computed once."""
    columns_plus, columns_minus, sums = work.plus, work.minus, work.sums
    count = columns_plus.shape[1]
    columns_plus[:width] = ZERO
    columns_minus[:width] = ZERO
    for v in range(width):
        sums[v, 0], sums[v, 1] = ONE << U(v), ZERO
    size = width
    for term in range(state[RANK]):
        at = record(slot_of(U(term), mode))
        more, less = state[at + PLUS], state[at + MINUS]
        if ones(more) + ones(less) < TWO or contains(sums, width, size, more, less):
            continue
        sums[size, 0], sums[size, 1] = more, less
        row = U(size - width)
        word, bit = row >> SIX, ONE << (row & SIX_BITS)
        for v in range(width):
            if (more >> U(v)) & ONE:
                columns_plus[v, word] |= bit
            elif (less >> U(v)) & ONE:
                columns_minus[v, word] |= bit
        size += 1
    count_all(columns_plus, columns_minus, work.counts, count, width)
    work.random[0] = SEED
    made, _ = complete(columns_plus, columns_minus, work.counts, count, width, work.pairs, 0, work.random, 0)
    wanted = size - width
    size = partial_sums(columns_plus, columns_minus, width, work.pairs, made, wanted, sums, size, work.vectors)
    return prune(sums, width, wanted, size, work.table, work.order, work.first, work.second) - width


@kernel
def _line(mask: Any, rows: Any, columns: Any, by_row: Any, source: Any, goal: Any) -> Any:
    """Row (or column) `source` of a mask, moved to where row `goal` is."""
    if by_row:
        return ((mask >> (source * columns)) & ((ONE << columns) - ONE)) << (goal * columns)
    line = ZERO
    for row in range(rows):
        line |= ((mask >> (U(row) * columns + source)) & ONE) << (U(row) * columns + goal)
    return line


@kernel
def _shear_mode(state: Any, mode: Any, rows: Any, columns: Any, by_row: Any, source: Any, goal: Any, negative: Any) -> Any:
    """Add row (or column) `source` of every factor of a mode to row `goal`, or subtract it; whether all coefficients fit."""
    for term in range(state[RANK]):
        slot = slot_of(U(term), mode)
        at = record(slot)
        more = _line(state[at + PLUS], rows, columns, by_row, source, goal)
        less = _line(state[at + MINUS], rows, columns, by_row, source, goal)
        if negative:
            more, less = less, more
        if more | less != ZERO:
            added, subtracted, fits = combine(INTEGERS, state[at + PLUS], state[at + MINUS], more, less)
            if not fits:
                return False
            put(state, slot, added, subtracted)
    return True


@kernel
def shear(state: Any, n: Any, m: Any, p: Any) -> Any:
    """A random elementary change of basis of an <n,m,p>; whether all coefficients fit. The state is torn if not."""
    side = _below(state, 3)
    size = n if side == ZERO else m if side == ONE else p
    if size < TWO:
        return False
    source, goal = _below(state, size), _below(state, size - ONE)
    if goal >= source:
        goal += ONE
    negative = _below(state, 2) == ONE
    if side == ZERO:  # rows of A and of C
        fits = _shear_mode(state, ZERO, n, m, True, source, goal, negative)
        return fits and _shear_mode(state, TWO, n, p, True, goal, source, not negative)
    if side == ONE:  # columns of A and rows of B
        fits = _shear_mode(state, ZERO, n, m, False, source, goal, negative)
        return fits and _shear_mode(state, ONE, m, p, True, goal, source, not negative)
    fits = _shear_mode(state, ONE, m, p, False, source, goal, negative)  # columns of B and of C
    return fits and _shear_mode(state, TWO, n, p, False, goal, source, not negative)


@kernel
def _flip(state: Any) -> None:
    before, tries = state[FLIPS], 0
    while state[FLIPS] == before and tries < FLIPS_TRIED:
        walk(state, 1, ZERO)
        tries += 1


@kernel
def _restore(other: Any, state: Any) -> None:
    """Go back to another state, but not to its random numbers."""
    random, flips = state[RANDOM], state[FLIPS]
    copy(other, state)
    state[RANDOM], state[FLIPS] = random, flips


@kernel
def anneal(array: Any, spare: Any, kept: Any, sizes: Any, moves: Any, hot: Any, cold: Any, shears: Any, known: Any, lowest: Any) -> Any:
    """Walk; a state whose energy is higher by d is accepted with probability exp(-d/t), t falling geometrically from `hot` to `cold`.

    Args:
        array, spare, kept: states; `kept` is written, the last state of lowest rank and energy.
        sizes: n, m, p (zeros where there are no changes of basis), then the entries of the three factors.
        shears: of 2^16 moves, how many are changes of basis.
        known: (2^16, 2) words, energies met before.
        lowest: energy of what is kept; `NEVER` for nothing.

    Returns:
        The lowest energy.
    """
    state, other, best = words(array), words(spare), words(kept)
    n, m, p, widths = U(sizes[0]), U(sizes[1]), U(sizes[2]), sizes[3:]
    work = workspace(max(widths), (np.int64(state[RANK]) + 63) >> 6)
    now, prints = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.uint64)
    new, new_prints = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.uint64)
    rank, current = state[RANK], NEVER
    temperature, factor = hot, (cold / hot) ** (1.0 / max(1, moves))
    for move in range(-1, moves):  # first the energy of the start
        temperature *= factor
        fits = True
        if move >= 0:
            copy(state, other)
            if np.int64(draw(state) >> SHIFT_48) < shears:
                fits = shear(state, n, m, p)
            else:
                _flip(state)
        total = 0
        if fits:
            for k in range(3):
                key = fingerprint(state, U(k))
                new_prints[k], new[k] = key, now[k]
                if move < 0 or key != prints[k]:
                    at = np.int64(key >> KNOWN_SHIFT)
                    if known[at, 0] != key:
                        known[at, 0], known[at, 1] = key, U(energy(state, U(k), widths[k], work))
                    new[k] = np.int64(known[at, 1])
                total += int(new[k])
            if state[RANK] < rank:
                rank, lowest, current = state[RANK], NEVER, NEVER
        if fits and (total <= current or _uniform(state) < np.exp((current - total) / temperature)):
            current = total
            now[:], prints[:] = new, new_prints
            if total < lowest:
                lowest = total
                copy(state, best)
        else:
            _restore(other, state)
    return lowest


@kernel
def detour(array: Any, spare: Any, splits: Any, tries: Any) -> Any:
    """Split random pairs of terms, `splits` times, and walk until the rank is what it was, or lower; whether it came to that.

    Args:
        tries: flips tried on the way back, at most.
    """
    state, other = words(array), words(spare)
    copy(state, other)
    rank = state[RANK]
    for _ in range(splits):
        plus(state)
        walk(state, WANDER, ZERO)
    walk(state, tries, rank)
    if state[RANK] <= rank:
        return True
    _restore(other, state)
    return False

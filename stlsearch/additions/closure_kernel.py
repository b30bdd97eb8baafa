"""Straight-line programs with cancellation: few intermediate sums from which every wanted one is a single addition away. Compiled.

Each sum that is wanted and no input costs an addition at least, so a program with w wanted sums and k further ones has w + k additions when
everything can be reached: starting from the inputs, whatever is +-x +-y of two sums already there. Whether it can is decided by closing the
set under that rule, with a hash table of what is there; the search then looks for as few further sums as possible, replacing them at random
while the number of wanted sums out of reach does not grow too much. Related to the distances of Boyar, Matthews and Peralta (J. Cryptology
2013), which look further than one addition ahead.

A sum is two 64-bit masks, of the inputs it adds and of those it subtracts, normalised so that the first is the greater number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stlsearch.additions.pair_kernel import U, draw, kernel

ZERO, ONE = U(0), U(1)
MIX_PLUS, MIX_MINUS = U(0x9E3779B97F4A7C15), U(0xC2B2AE3D27D4EB4F)
TABLE_BITS = 10
SHIFT = U(64 - TABLE_BITS)
TABLE = 1 << TABLE_BITS
MOST = TABLE // 2  # sums that the table can hold
HEAT = 0.5  # temperature of the search, in wanted sums out of reach


@kernel
def spot(table: Any, sums: Any, plus: Any, minus: Any) -> Any:
    """Where in the table a sum is, or is to be put."""
    at = np.int64((plus * MIX_PLUS + minus * MIX_MINUS) >> SHIFT)
    while table[at] >= 0 and (sums[table[at], 0] != plus or sums[table[at], 1] != minus):
        at = (at + 1) & (TABLE - 1)
    return at


@kernel
def added(sums: Any, a: Any, b: Any, negative: Any) -> Any:
    """(plus, minus, fits) of sum a plus sum b, or minus it."""
    plus, minus, more, less = sums[a, 0], sums[a, 1], sums[b, 0], sums[b, 1]
    if negative:
        more, less = less, more
    if (plus & more) | (minus & less):
        return ZERO, ZERO, False
    plus, minus = (plus & ~less) | (more & ~minus), (minus & ~more) | (less & ~plus)
    if minus > plus:
        plus, minus = minus, plus
    return plus, minus, True


@kernel
def close(sums: Any, inputs: Any, size: Any, table: Any, order: Any, first: Any, second: Any) -> Any:
    """Reach as many sums as possible from the first `inputs` ones; how many are reached.

    Args:
        order: written: the sums reached, in order.
        first, second: written: of which two each is the sum, -1 for those out of reach.
    """
    table[:] = -1
    for v in range(inputs):
        table[spot(table, sums, sums[v, 0], sums[v, 1])] = v
        order[v] = v
    for v in range(inputs, size):
        first[v] = -1
    reached, done = inputs, 0
    while done < reached:
        a = order[done]
        done += 1
        for v in range(inputs, size):
            if first[v] >= 0:
                continue
            for negative in range(2):
                plus, minus, fits = added(sums, v, a, negative)
                if not fits:
                    continue
                b = table[spot(table, sums, plus, minus)]
                if b >= 0:
                    first[v], second[v] = a, b
                    table[spot(table, sums, sums[v, 0], sums[v, 1])] = v
                    order[reached] = v
                    reached += 1
                    break
    return reached


@kernel
def missing(first: Any, inputs: Any, wanted: Any) -> Any:
    """How many wanted sums are out of reach."""
    count = 0
    for v in range(inputs, inputs + wanted):
        if first[v] < 0:
            count += 1
    return count


@kernel
def partial_sums(plus: Any, minus: Any, inputs: Any, pairs: Any, made: Any, rows: Any, sums: Any, size: Any, vectors: Any) -> Any:
    """Append what an elimination computes on its way: its pairs, then each row added up from what is left of it; the new size.

    Args:
        plus, minus: masks of rows after the elimination.
        rows: how many.
        sums: those that are there already are not appended, nor once it is full.
        vectors: room for a sum of each variable.
    """
    for v in range(inputs):
        vectors[v, 0], vectors[v, 1] = ONE << U(v), ZERO
    for k in range(made):
        i, j = pairs[k, 0], pairs[k, 1]
        more, less = vectors[j, 0], vectors[j, 1]
        if pairs[k, 2]:
            more, less = less, more
        vectors[inputs + k, 0], vectors[inputs + k, 1] = vectors[i, 0] | more, vectors[i, 1] | less
        size = _append(sums, size, vectors[inputs + k, 0], vectors[inputs + k, 1])
    for row in range(rows):
        word, bit = row >> 6, ONE << (U(row) & U(63))
        more, less = ZERO, ZERO
        for v in range(inputs + made):
            if plus[v, word] & bit:
                more, less = more | vectors[v, 0], less | vectors[v, 1]
            elif minus[v, word] & bit:
                more, less = more | vectors[v, 1], less | vectors[v, 0]
            else:
                continue
            size = _append(sums, size, more, less)
    return size


@kernel
def contains(sums: Any, begin: Any, end: Any, plus: Any, minus: Any) -> Any:
    """Whether a sum, normalised, is among sums[begin:end]."""
    found = False
    for v in range(begin, end):
        found |= sums[v, 0] == plus and sums[v, 1] == minus
    return found


@kernel
def _append(sums: Any, size: Any, plus: Any, minus: Any) -> Any:
    if minus > plus:
        plus, minus = minus, plus
    if size == len(sums) or contains(sums, 0, size, plus, minus):
        return size
    sums[size, 0], sums[size, 1] = plus, minus
    return size + 1


@kernel
def prune(sums: Any, inputs: Any, wanted: Any, size: Any, table: Any, order: Any, first: Any, second: Any) -> Any:
    """Drop further sums one by one as long as all wanted ones stay in reach; the new size."""
    fixed = inputs + wanted
    at = size - 1
    while at >= fixed:
        plus, minus = sums[at, 0], sums[at, 1]
        size -= 1
        sums[at, 0], sums[at, 1] = sums[size, 0], sums[size, 1]
        close(sums, inputs, size, table, order, first, second)
        if missing(first, inputs, wanted) > 0:
            sums[size, 0], sums[size, 1] = sums[at, 0], sums[at, 1]
            sums[at, 0], sums[at, 1] = plus, minus
            size += 1
        at -= 1
    return size


@kernel
def propose(sums: Any, inputs: Any, wanted: Any, size: Any, first: Any, random: Any) -> Any:
    """A further sum, from which one out of reach may be an addition away; (plus, minus, fits)."""
    t = inputs + draw(random, wanted)
    if draw(random, 4) > 0:
        for _ in range(8):
            if first[t] < 0:
                break
            t = inputs + draw(random, wanted)
    elif draw(random, 2) == 0:
        t = draw(random, size)
    plus, minus, fits = added(sums, t, draw(random, size), draw(random, 2))
    if not fits or plus | minus == ZERO:
        return plus, minus, False
    return plus, minus, not contains(sums, 0, size, plus, minus)


@kernel
def fewest(sums: Any, inputs: Any, wanted: Any, size: Any, tries: Any, random: Any, order: Any, first: Any, second: Any) -> Any:
    """Make do with as few further sums as `tries` random replacements find.

    Args:
        sums: (room, 2) inputs, then wanted, then further sums, `size` in all, from which all that is wanted can be reached; written.

    Returns:
        (number of sums, of sums reached); `order`, `first` and `second` are those of `close` for them.
    """
    table = np.empty(TABLE, dtype=np.int64)
    fixed = inputs + wanted
    best = prune(sums, inputs, wanted, size, table, order, first, second)
    now, count, energy, tried = sums.copy(), best, 0, 0
    while tried < tries and count > fixed:
        if energy == 0:
            gone = fixed + draw(random, count - fixed)
            count -= 1
            now[gone, 0], now[gone, 1] = now[count, 0], now[count, 1]
            close(now, inputs, count, table, order, first, second)
            energy = missing(first, inputs, wanted)
            if count == fixed:
                break
        tried += 1
        at = fixed + draw(random, count - fixed)
        plus, minus, fits = propose(now, inputs, wanted, count, first, random)
        if not fits:
            continue
        old_plus, old_minus = now[at, 0], now[at, 1]
        now[at, 0], now[at, 1] = plus, minus
        close(now, inputs, count, table, order, first, second)
        other = missing(first, inputs, wanted)
        if other <= energy or draw(random, 65536) < 65536.0 * np.exp((energy - other) / HEAT):
            energy = other
        else:
            now[at, 0], now[at, 1] = old_plus, old_minus
            close(now, inputs, count, table, order, first, second)
        if energy == 0:
            count = prune(now, inputs, wanted, count, table, order, first, second)
            sums[fixed:count] = now[fixed:count]
            best = count
    if energy == 0 and count < best:
        best = count
        sums[fixed:count] = now[fixed:count]
    return best, close(sums, inputs, best, table, order, first, second)

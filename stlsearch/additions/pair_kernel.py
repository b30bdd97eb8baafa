"""Elimination of common pairs from sums with coefficients -1, 0 and 1, compiled.

Sums over variables are held column-wise: for every variable the set of sums (rows) that add it and the set of those that subtract it, as
bit masks. The pair x_i + x_j occurs in the sums that hold both with equal signs, x_i - x_j in those that hold both with opposite signs, so
its occurrences are counted by a few logical operations. A pair that occurs c times is computed once, as a new variable, and saves c - 1
additions (Paar 1997). Which of the most frequent pairs comes first matters and is drawn by lot; `improve` drops some of the pairs of the
best program at random, keeps the others, and completes it again, over and over. Nothing is subtracted again that was added before: that is
for `closure_kernel`.

Masks have `words` words of 64 sums each. `counts` holds the occurrences of all pairs i > j at 2 (i (i - 1)/2 + j), those of x_i - x_j
behind those of x_i + x_j, so that the pairs of a new variable come at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from stlsearch.solvers.machine_code import compiled

kernel: Any = compiled()

U = np.uint64
ZERO, ONE = U(0), U(1)
SHIFT_A, SHIFT_B, SHIFT_C, STAR = U(12), U(25), U(27), U(2685821657736338717)
HALF = U(32)


@intrinsic
def _ones(typing_context: Any, value: Any) -> Any:
    """The number of bits set in a 64-bit word."""

    def count(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), count


ones: Any = _ones


@kernel
def draw(random: Any, below: Any) -> Any:
    """A number in 0 ... below - 1 (below < 2^32), by xorshift64*; `random` is one word, not 0."""
    x = random[0]
    x ^= x >> SHIFT_A
    x ^= x << SHIFT_B
    x ^= x >> SHIFT_C
    random[0] = x
    return np.int64((((x * STAR) >> HALF) * U(below)) >> HALF)


@kernel
def place(i: Any, j: Any) -> Any:
    """Where the counts of the pair i > j begin."""
    return i * (i - 1) + 2 * j


@kernel
def count_pair(plus: Any, minus: Any, counts: Any, words: Any, i: Any, j: Any) -> None:
    """Count the occurrences of x_i + x_j and x_i - x_j, i > j."""
    same, opposite = ZERO, ZERO
    for w in range(words):
        same += ones((plus[i, w] & plus[j, w]) | (minus[i, w] & minus[j, w]))
        opposite += ones((plus[i, w] & minus[j, w]) | (minus[i, w] & plus[j, w]))
    at = place(i, j)
    counts[at] = same
    counts[at + 1] = opposite


@kernel
def count_pairs_of(plus: Any, minus: Any, counts: Any, words: Any, variables: Any, i: Any) -> None:
    """Count all pairs that hold a variable."""
    for j in range(i):
        count_pair(plus, minus, counts, words, i, j)
    for k in range(i + 1, variables):
        count_pair(plus, minus, counts, words, k, i)


@kernel
def count_all(plus: Any, minus: Any, counts: Any, words: Any, variables: Any) -> None:
    """Count all pairs."""
    for i in range(1, variables):
        for j in range(i):
            count_pair(plus, minus, counts, words, i, j)


@kernel
def substitute(plus: Any, minus: Any, counts: Any, words: Any, variables: Any, i: Any, j: Any, opposite: Any) -> None:
    """Make x_i + x_j (or x_i - x_j, if opposite) the new variable numbered `variables`, wherever it occurs."""
    for w in range(words):
        if opposite:
            more, less = plus[i, w] & minus[j, w], minus[i, w] & plus[j, w]
        else:
            more, less = plus[i, w] & plus[j, w], minus[i, w] & minus[j, w]
        left = ~(more | less)
        plus[variables, w] = more
        minus[variables, w] = less
        plus[i, w] &= left
        minus[i, w] &= left
        plus[j, w] &= left
        minus[j, w] &= left
    count_pairs_of(plus, minus, counts, words, variables + 1, i)
    count_pairs_of(plus, minus, counts, words, variables + 1, j)
    count_pairs_of(plus, minus, counts, words, variables + 1, variables)


@kernel
def select(counts: Any, size: Any, random: Any, slack: Any) -> Any:
    """Where a pair is that occurs most often, or `slack` times less, but at least twice; -1 if none does. Ties by lot."""
    most = counts[0]
    for k in range(size):
        most = max(most, counts[k])
    if most < 2:
        return -1
    least = max(2, np.int64(most) - slack)
    begin = draw(random, size)
    for k in range(begin, size):
        if counts[k] >= least:
            return k
    for k in range(begin):
        if counts[k] >= least:
            return k
    return -1


@kernel
def complete(plus: Any, minus: Any, counts: Any, words: Any, inputs: Any, pairs: Any, made: Any, random: Any, looseness: Any) -> Any:
    """Eliminate pairs until none occurs twice; (pairs, additions saved by the new ones) then.

    Args:
        pairs: rows (i, j, opposite), of which `made` are done; the others are written.
        looseness: of 2^16: how often a pair is taken that occurs once less than the most frequent one.
    """
    saved = 0
    while made < len(pairs):
        variables = inputs + made
        slack = 1 if looseness > 0 and draw(random, 65536) < looseness else 0
        at = select(counts, variables * (variables - 1), random, slack)
        if at < 0:
            break
        i = np.int64((1.0 + np.sqrt(1.0 + 4.0 * at)) / 2.0)
        while i * (i - 1) > at:
            i -= 1
        while (i + 1) * i <= at:
            i += 1
        rest = at - i * (i - 1)
        j, opposite = rest >> 1, rest & 1
        saved += int(counts[at]) - 1
        pairs[made, 0], pairs[made, 1], pairs[made, 2] = i, j, opposite
        substitute(plus, minus, counts, words, variables, i, j, opposite)
        made += 1
    return made, saved


@kernel
def replay(
    plus: Any, minus: Any, counts: Any, words: Any, inputs: Any, old: Any, size: Any, pairs: Any, random: Any, drop: Any, names: Any
) -> Any:
    """Substitute the pairs of a program again, each left out with probability drop/2^16, with all that need it; (pairs, additions saved).

    Args:
        old: its pairs, of which there are `size`.
        names: room for one number a variable.
    """
    made, saved = 0, 0
    for v in range(inputs):
        names[v] = v
    for k in range(size):
        names[inputs + k] = -1
        i, j, opposite = names[old[k, 0]], names[old[k, 1]], old[k, 2]
        if i < 0 or j < 0 or draw(random, 65536) < drop:
            continue
        count = int(counts[place(i, j) + opposite])
        if count < 2:
            continue
        pairs[made, 0], pairs[made, 1], pairs[made, 2] = i, j, opposite
        substitute(plus, minus, counts, words, inputs + made, i, j, opposite)
        names[inputs + k] = inputs + made
        made += 1
        saved += count - 1
    return made, saved


@kernel
def improve(plus: Any, minus: Any, words: Any, inputs: Any, rounds: Any, random: Any, best: Any) -> Any:
    """The best of many eliminations, each a random part of the last one as good, completed again.

    Args:
        plus, minus: masks (inputs, words).
        rounds: eliminations.
        best: written: the pairs, (limit, 3), limit at least the additions there are at first.

    Returns:
        (number of pairs, additions that they save).
    """
    limit = len(best)
    room = inputs + limit
    now_plus, now_minus = np.zeros((room, words), dtype=np.uint64), np.zeros((room, words), dtype=np.uint64)
    first = np.zeros(max(2, inputs * (inputs - 1)), dtype=np.uint16)
    counts = np.zeros(max(2, room * (room - 1)), dtype=np.uint16)
    pairs, current, names = np.zeros((limit, 3), dtype=np.int64), np.zeros((limit, 3), dtype=np.int64), np.zeros(room, dtype=np.int64)
    count_all(plus, minus, first, words, inputs)
    size, most, best_size, best_most = 0, -1, 0, -1
    for number in range(rounds):
        now_plus[:inputs] = plus
        now_minus[:inputs] = minus
        counts[: inputs * (inputs - 1)] = first[: inputs * (inputs - 1)]
        made, saved = 0, 0
        if number > 0 and draw(random, 256) > 0:
            drop = 2048 << draw(random, 5)
            made, saved = replay(now_plus, now_minus, counts, words, inputs, current, size, pairs, random, drop, names)
        looseness = 8192 * draw(random, 3) if number > 0 else 0
        made, more = complete(now_plus, now_minus, counts, words, inputs, pairs, made, random, looseness)
        saved += more
        if saved >= most or (saved == most - 1 and draw(random, 32) == 0):
            size, most = made, saved
            current[:made] = pairs[:made]
        if saved > best_most:
            best_size, best_most = made, saved
            best[:made] = pairs[:made]
    return best_size, best_most

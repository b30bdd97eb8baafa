"""Reductions that no single flip shows: terms of one factor whose other factors are linearly dependent.

Let terms k share x. If sum_k a_k y_k = 0 with a_t = 1, then y_t = -sum_(k != t) a_k y_k, and the term t can be given to the others:

    x (x) y_t (x) z_t = sum_(k != t) x (x) y_k (x) (-a_k z_t),   so   z_k becomes z_k - a_k z_t   (signs of terms aside)

and the rank falls by one (Kauers and Moosbauer, arXiv 2212.01175, reductions). Dependences are found by elimination modulo 2, or
modulo 3, where coefficients -1, 0, 1 are all there are; over the integers those that do not hold there are passed over.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stlsearch.search.flip_kernel import combine, merge, sign_of, sum_of
from stlsearch.search.flip_state import (
    COUNT,
    INTEGERS,
    LISTED,
    MINUS,
    MODULO_2,
    NEXT,
    NONE,
    ONE,
    PLUS,
    RANK,
    RING,
    THREE,
    TWO,
    ZERO,
    U,
    equal,
    head_of,
    kernel,
    put,
    record,
    remove,
    slot_of,
)

LARGEST = 62  # terms of one factor that are looked at: their combination is a mask
MODULO_3 = U(2)


@kernel
def reduce(state: Any) -> Any:
    """Give one dependent term to the others of its factor; whether there was one."""
    for place in range(state[COUNT]):
        slot = state[LISTED + U(place)]
        other = state[head_of(state, slot)]
        while not equal(state, other, slot):
            other = state[record(other) + NEXT]
        if other != slot:
            continue  # every factor once: by the first slot of its chain that holds it
        for step in (ONE, TWO):
            if _reduce_bucket(state, slot, ((slot & THREE) + step) % THREE):
                return True
    return False


@kernel
def _reduce_bucket(state: Any, slot: Any, mode: Any) -> Any:
    """Look for a dependence of the factors of `mode` among all terms that share the factor of `slot`."""
    field = MODULO_2 if state[RING] == MODULO_2 else MODULO_3
    vectors = np.zeros((LARGEST, 2), dtype=np.uint64)  # in echelon form
    makers = np.zeros((LARGEST, 2), dtype=np.uint64)  # the combination of members that each of them is
    pivots = np.zeros(LARGEST, dtype=np.uint64)
    members = np.zeros(LARGEST, dtype=np.uint64)
    count, rank, other = 0, 0, slot
    while other != NONE and count < LARGEST:
        if equal(state, other, slot):
            term = other >> TWO
            members[count] = term
            at = record(slot_of(term, mode))
            plus, minus = state[at + PLUS], state[at + MINUS]
            maker, unmaker = ONE << U(count), ZERO
            count += 1
            for row in range(rank):
                if (plus | minus) & pivots[row] == ZERO:
                    continue
                p, m, a, b = vectors[row, 0], vectors[row, 1], makers[row, 0], makers[row, 1]
                if (plus & pivots[row] != ZERO) == (p & pivots[row] != ZERO) and field != MODULO_2:
                    p, m, a, b = m, p, b, a
                plus, minus, _ = combine(field, plus, minus, p, m)
                maker, unmaker, _ = combine(field, maker, unmaker, a, b)
            if plus | minus == ZERO:
                if _give_away(state, members, maker, unmaker, mode, THREE - mode - (slot & THREE)):
                    return True
            else:
                vectors[rank, 0], vectors[rank, 1] = plus, minus
                makers[rank, 0], makers[rank, 1] = maker, unmaker
                pivots[rank] = (plus | minus) & (~(plus | minus) + ONE)  # its lowest bit
                rank += 1
        other = state[record(other) + NEXT]
    return False


@kernel
def _give_away(state: Any, members: Any, maker: Any, unmaker: Any, mode: Any, free: Any) -> Any:
    """Apply a dependence of `members` by the masks of its coefficients 1 and -1; whether that is possible in the ring."""
    if state[RING] == INTEGERS and not _holds(state, members, maker, unmaker, mode):
        return False
    last = LARGEST - 1
    while maker >> U(last) & ONE == ZERO:  # the member at which the dependence was found: its coefficient is 1
        last -= 1
    given = members[last]
    for commit in (False, True):
        for k in range(last):
            if (maker | unmaker) >> U(k) & ONE == ZERO:
                continue
            term = members[k]
            negative = ONE ^ (unmaker >> U(k) & ONE) ^ sign_of(state, term) ^ sign_of(state, given)
            plus, minus, fits = sum_of(state, slot_of(term, free), slot_of(given, free), negative)
            if not fits:
                return False
            if commit:
                put(state, slot_of(term, free), plus, minus)
    remove(state, given)
    _settle(state, free)
    return True


@kernel
def _settle(state: Any, mode: Any) -> None:
    """Drop terms whose factor of a mode became zero, and merge terms that came to share two."""
    term = state[RANK]
    while term > ZERO:
        term -= ONE
        at = record(slot_of(term, mode))
        if state[at + PLUS] | state[at + MINUS] == ZERO:
            remove(state, term)  # the last term, which has been looked at, takes its place
    while term < state[RANK]:
        term = ZERO if merge(state, term) else term + ONE


@kernel
def _holds(state: Any, members: Any, maker: Any, unmaker: Any, mode: Any) -> Any:
    """Whether a dependence modulo 3 holds over the integers: every bit's sum."""
    for bit in range(64):
        total = 0
        for k in range(LARGEST):
            if (maker | unmaker) >> U(k) & ONE == ZERO:
                continue
            at = record(slot_of(members[k], mode))
            value = int(state[at + PLUS] >> U(bit) & ONE) - int(state[at + MINUS] >> U(bit) & ONE)
            total += -value if unmaker >> U(k) & ONE != ZERO else value
        if total != 0:
            return False
    return True

"""Flips, reductions and plus transitions on a `flip_state`, compiled.

Two terms that share a factor (up to sign) can trade: with e = +-1,

    x (x) y1 (x) z1 + x (x) y2 (x) z2  =  x (x) (y1 + e y2) (x) z1 + x (x) y2 (x) (z2 - e z1),

and likewise for every choice of the three modes. Over the integers a flip that would leave {-1, 0, 1} is not made; modulo 2 and
modulo 3 every one is possible. A factor that becomes zero drops its term, terms that share two factors merge, and terms that
share one factor while those of another mode are linearly dependent are one too many (Kauers and Moosbauer, arXiv 2212.01175). A
plus transition splits two terms into three (Arai, Ichikawa and Hukushima, arXiv 2312.16960).

In a cyclic state each term stands for its three rotations, and factors are shared across modes: a flip of two terms, one of them
rotated so that the shared factors meet, is done to all rotations at once (Moosbauer and Poole, arXiv 2502.04514). Two rotations of one
term cannot trade.
"""

from __future__ import annotations

from typing import Any

from stlsearch.search.flip_state import (
    COUNT,
    FLIPS,
    HALF,
    INTEGERS,
    LISTED,
    LOW_HALF,
    MAX_TERMS,
    MINUS,
    MODES,
    MODULO_2,
    NEXT,
    NONE,
    ONE,
    PLUS,
    RANK,
    RING,
    SIGN,
    THREE,
    TWO,
    ZERO,
    U,
    append,
    draw,
    equal,
    head_of,
    kernel,
    put,
    record,
    remove,
    slot_of,
    write,
)

THIRTY_ONE, LOW_BITS = U(31), U(2**31 - 1)
ATTEMPTS = 200  # at a plus transition: with dense terms most pairs would leave {-1, 0, 1}


@kernel
def combine(ring: Any, plus: Any, minus: Any, more: Any, less: Any) -> Any:
    """(plus, minus) + (more, less) in a ring, and whether it is possible."""
    if ring == MODULO_2:
        return plus ^ more, ZERO, True
    if ring == INTEGERS:
        fits = (plus & more) | (minus & less) == ZERO
        return (plus & ~less) | (more & ~minus), (minus & ~more) | (less & ~plus), fits
    here, there = plus | minus, more | less
    ones = (plus & ~there) | (more & ~here) | (minus & less)
    return ones, (minus & ~there) | (less & ~here) | (plus & more), True


@kernel
def sum_of(state: Any, first: Any, second: Any, negative: Any) -> Any:
    """The factor of one slot plus that of another, or minus it, and whether that is possible."""
    a, b = record(first), record(second)
    more, less = state[b + PLUS], state[b + MINUS]
    if negative != ZERO and state[RING] != MODULO_2:
        more, less = less, more
    return combine(state[RING], state[a + PLUS], state[a + MINUS], more, less)


@kernel
def sign_of(state: Any, term: Any) -> Any:
    """0 for a term that is added, 1 for one that is subtracted."""
    return state[record(slot_of(term, ZERO)) + SIGN]


@kernel
def partner(state: Any, slot: Any, bits: Any) -> Any:
    """A slot drawn from the others of the same factor, by 31 random bits."""
    head = state[head_of(state, slot)]
    count, found, other = ZERO, NONE, head
    while other != NONE:
        if other != slot and equal(state, other, slot):
            count += ONE
            found = other
        other = state[record(other) + NEXT]
    if count > ONE:
        wanted, other = (bits * count) >> THIRTY_ONE, head
        while True:
            if other != slot and equal(state, other, slot):
                if wanted == ZERO:
                    return other
                wanted -= ONE
            other = state[record(other) + NEXT]
    return found


@kernel
def turned(mode: Any, by: Any) -> Any:
    """A mode and a number of modes further, both below 3."""
    mode += by
    return mode - THREE if mode >= THREE else mode


@kernel
def merge(state: Any, term: Any) -> Any:
    """Add a term into another that shares two factors with it; whether the rank fell."""
    for mode in (ZERO, ONE, TWO):
        slot = slot_of(term, mode)
        other = state[head_of(state, slot)]
        while other != NONE:
            twin, place = other >> TWO, other & THREE
            second = slot_of(twin, turned(place, ONE))
            if twin != term and equal(state, other, slot) and equal(state, second, slot_of(term, turned(mode, ONE))):
                free = slot_of(twin, turned(place, TWO))
                plus, minus, fits = sum_of(state, free, slot_of(term, turned(mode, TWO)), sign_of(state, twin) ^ sign_of(state, term))
                if fits:
                    if plus | minus == ZERO:
                        remove(state, max(twin, term))
                        remove(state, min(twin, term))
                    else:
                        put(state, free, plus, minus)
                        remove(state, term)
                    return True
            other = state[record(other) + NEXT]
    return False


@kernel
def walk(state: Any, tries: Any, stop: Any) -> Any:
    """Try that many random flips, or until the rank is at most `stop` or nothing can be flipped; how many were tried."""
    for done in range(tries):
        count = state[COUNT]
        if count == ZERO or state[RANK] <= stop:
            return done
        bits = draw(state)
        slot = state[LISTED + (((bits >> HALF) * count) >> HALF)]
        low = bits & LOW_HALF
        shared = partner(state, slot, low >> ONE)
        mode, term, place, other = slot & THREE, slot >> TWO, shared & THREE, shared >> TWO
        if other == term:
            continue
        step = ONE + (low & ONE)
        negative = (bits >> HALF) & ONE
        first, second = slot_of(term, turned(mode, step)), slot_of(other, turned(place, THREE - step))
        y, y_minus, fits = sum_of(state, first, slot_of(other, turned(place, step)), negative)
        if not fits:
            continue
        opposite = ONE ^ negative ^ sign_of(state, term) ^ sign_of(state, other)
        z, z_minus, fits = sum_of(state, second, slot_of(term, turned(mode, THREE - step)), opposite)
        if not fits:
            continue
        state[FLIPS] += ONE
        y_twin = put(state, first, y, y_minus)
        z_twin = put(state, second, z, z_minus)
        no_y, no_z = y | y_minus == ZERO, z | z_minus == ZERO
        if no_y and no_z:
            remove(state, max(term, other))
            remove(state, min(term, other))
        elif no_y:
            remove(state, term)
        elif no_z:
            remove(state, other)
        elif not (y_twin != NONE and merge(state, term)) and z_twin != NONE:
            merge(state, other)
    return tries


@kernel
def plus(state: Any) -> Any:
    """Split a random pair of terms into three, raising the rank by one; whether a pair was found.

    x1 y1 z1 + x2 y2 z2 = x1 (y1 + y2) z1 + x1 y2 (z2 - z1) + (x2 - x1) y2 z2, modes in random order.
    """
    rank = state[RANK]
    if rank >= U(MAX_TERMS):
        return False
    for _ in range(ATTEMPTS):
        bits = draw(state)
        one, two = ((bits >> HALF) * rank) >> HALF, ((bits & LOW_HALF) * rank) >> HALF
        bits = draw(state)
        a = ((bits >> HALF) * THREE) >> HALF
        step = ONE + (bits & ONE)
        b, c = turned(a, step), turned(a, THREE - step)
        other_a = a if state[MODES] != ZERO else (((bits >> ONE) & LOW_BITS) * THREE) >> THIRTY_ONE  # any rotation of the second
        other_b, other_c = turned(other_a, step), turned(other_a, THREE - step)
        signs = sign_of(state, one) ^ sign_of(state, two)
        y, y_minus, y_fits = sum_of(state, slot_of(one, b), slot_of(two, other_b), ZERO)
        z, z_minus, z_fits = sum_of(state, slot_of(two, other_c), slot_of(one, c), ONE ^ signs)
        x, x_minus, x_fits = sum_of(state, slot_of(two, other_a), slot_of(one, a), ONE)
        if one == two or not (x_fits and y_fits and z_fits):
            continue
        if x | x_minus == ZERO or y | y_minus == ZERO or z | z_minus == ZERO:
            continue
        first, second = record(slot_of(one, a)), record(slot_of(two, other_b))
        x1, x1_minus = state[first + PLUS], state[first + MINUS]
        y2, y2_minus = state[second + PLUS], state[second + MINUS]
        term = append(state, sign_of(state, two))
        write(state, slot_of(term, a), x1, x1_minus)
        write(state, slot_of(term, b), y2, y2_minus)
        write(state, slot_of(term, c), z, z_minus)
        put(state, slot_of(one, b), y, y_minus)
        put(state, slot_of(two, other_a), x, x_minus)
        if not merge(state, term) and not merge(state, one):
            merge(state, two)
        return True
    return False

"""Flips, reductions and plus transitions of whole orbits of terms under a group G, compiled; `orbit_state` has the state.

If t = x (x) y1 (x) z1 and o = x (x) y2 (x) z2 are of different orbits, the flips of all pairs (h t, h o), h in G, can be done at
once: with e = +-1,

    y1 -> y1 + e (sum of k y2 over the terms k o that the k in the stabiliser of t make of o),
    z2 -> z2 - e (sum of k z1 likewise), and their images,

since no flip of another pair changes y2 or z1. Terms whose stabiliser rotates or transposes modes share x in several modes: they are
not flipped, only merged. The method is that of Moosbauer and Poole (arXiv 2502.04514), extended from rotations to every group of
`groups`, and to terms with stabilisers.
"""

from __future__ import annotations

from typing import Any

from stlsearch.search.flip_kernel import combine, turned
from stlsearch.search.flip_state import MODULO_2, ONE, THREE, TWO, ZERO, U, kernel
from stlsearch.search.orbit_reduce import can_shrink, shared, shrink
from stlsearch.search.orbit_state import (
    FAILS,
    FITS,
    FLIPS,
    HEAD,
    LENGTH,
    MINUS,
    ORBITS,
    RING,
    SIGN,
    VANISHES,
    copy_orbit,
    draw,
    moved,
    rank_of,
    same_term,
    settle,
)

ATTEMPTS = 100  # at a plus transition


@kernel
def keeps_modes(f: Any, modes: Any, product: Any, orbit: Any, g: Any) -> Any:
    """Whether everything that fixes an image of an orbit's term leaves the modes where they are."""
    order = U(len(modes))
    at = orbit * order
    keeps = True
    for h in range(order):
        moves = modes[h, 0] != ZERO or modes[h, 1] != ONE
        keeps = keeps and not (moves and same_term(f, at + g, at + product[h, g]))
    return keeps


@kernel
def repeated(f: Any, product: Any, orbit: Any, g: Any, h: Any, by_orbit: Any, by: Any) -> Any:
    """Whether an earlier element than h, of those that fix image `by` of `by_orbit`, makes the same of image g of the orbit."""
    order = U(len(product))
    at, fixed = orbit * order, by_orbit * order
    found = False
    for k in range(h):
        found = found or (same_term(f, fixed + by, fixed + product[k, by]) and same_term(f, at + product[h, g], at + product[k, g]))
    return found


@kernel
def turned_sign(f: Any, tables: Any, column: Any, h: Any, mode: Any) -> Any:
    """1 when h, which fixes the term of a column and its modes, turns the sign of its factor of a mode."""
    return ONE if moved(tables, h, mode, f[mode, column]) != f[mode, column] else ZERO


@kernel
def agree(f: Any, tables: Any, product: Any, one: Any, orbit: Any, g: Any, mode: Any) -> Any:
    """Whether whatever fixes the term of column `one`, of image e, and image g of an orbit gives one sign to their factors of a mode.

    Otherwise x (y1 + e y2) would become x (y1 - e y2), and the sum would be of another symmetry.
    """
    order = U(len(product))
    start = orbit * order
    for h in range(ONE, order):
        fixes_both = same_term(f, one, one + h) and same_term(f, start + g, start + product[h, g])
        if fixes_both and turned_sign(f, tables, one, h, mode) != turned_sign(f, tables, start + g, h, mode):
            return False
    return True


@kernel
def gathered(f: Any, tables: Any, product: Any, to: Any, at: Any, orbit: Any, g: Any, mode: Any, negative: Any) -> Any:
    """The factor of image `at` of orbit `to`, plus or minus those of image g of another that its stabiliser makes of it.

    Each comes with the sign that its element gives to the factor it is added to. Returns (plus, minus, whether it is possible).
    """
    order = U(len(product))
    column, source = to * order + at, orbit * order + g
    plus, minus, ring = f[mode, column], f[mode + MINUS, column], f[HEAD, RING]
    if f[LENGTH, to * order] == order:
        more, less = f[mode, source], f[mode + MINUS, source]
        if negative != ZERO and ring != MODULO_2:
            more, less = less, more
        return combine(ring, plus, minus, more, less)
    fits = True
    for h in range(order):
        if not same_term(f, column, to * order + product[h, at]) or repeated(f, product, orbit, g, h, to, at):
            continue
        more, less = moved(tables, h, mode, f[mode, source]), moved(tables, h, mode, f[mode + MINUS, source])
        if (negative ^ turned_sign(f, tables, column, h, mode)) != ZERO and ring != MODULO_2:
            more, less = less, more
        plus, minus, possible = combine(ring, plus, minus, more, less)
        fits = fits and possible
    return plus, minus, fits


@kernel
def trade(f: Any, modes: Any, tables: Any, product: Any, a: Any, b: Any, g: Any, p: Any, q: Any, negative: Any) -> Any:
    """Flip the term of orbit a with image g of that of b, which becomes the term of b: factors p and q change; whether it was possible."""
    order = U(len(modes))
    one, other = a * order, b * order + g
    if f[LENGTH, one] != order or f[LENGTH, b * order] != order:
        if not (keeps_modes(f, modes, product, a, ZERO) and keeps_modes(f, modes, product, b, g)):
            return False
        if not agree(f, tables, product, one, b, g, p):
            return False
    y, y_minus, fits = gathered(f, tables, product, a, ZERO, b, g, p, negative)
    if not fits:
        return False
    opposite = ONE ^ negative ^ f[SIGN, one] ^ f[SIGN, other]
    z, z_minus, fits = gathered(f, tables, product, b, g, a, ZERO, q, opposite)
    if not fits:
        return False
    last = f[HEAD, ORBITS]  # two free places, for what has to be undone
    copy_orbit(f, order, a, last)
    copy_orbit(f, order, b, last + ONE)
    for row in range(LENGTH):
        f[row, b * order] = f[row, other]
    f[p, one] = y
    f[p + MINUS, one] = y_minus
    f[q, b * order] = z
    f[q + MINUS, b * order] = z_minus
    first, second = VANISHES, VANISHES
    if y | y_minus != ZERO:
        first = settle(f, modes, tables, a, f[LENGTH, one])
    if z | z_minus != ZERO:
        second = settle(f, modes, tables, b, f[LENGTH, b * order])
    if first == FAILS or second == FAILS:
        copy_orbit(f, order, last, a)
        copy_orbit(f, order, last + ONE, b)
        return False
    f[HEAD, FLIPS] += ONE
    if first == VANISHES:
        f[ZERO, one] = f[MINUS, one] = ZERO
    if second == VANISHES:
        f[ZERO, b * order] = f[MINUS, b * order] = ZERO
    return True


@kernel
def step(f: Any, modes: Any, tables: Any, product: Any) -> Any:
    """Try a random flip; whether the number of terms may have changed."""
    order = U(len(modes))
    orbits = f[HEAD, ORBITS]
    a, mode, bits = draw(f, orbits), draw(f, THREE), draw(f, U(4))
    low, high = a * order, a * order + order
    plus, minus, count = f[mode, low], f[mode + MINUS, low], ZERO
    for column in range(orbits * order):
        count += U(f[mode, column] == plus and f[mode + MINUS, column] == minus)
    for column in range(low, high):
        count -= U(f[mode, column] == plus and f[mode + MINUS, column] == minus)
    if count == ZERO:
        return False
    wanted = draw(f, count)
    other = ZERO
    while True:
        if other == low:
            other = high
        if f[mode, other] == plus and f[mode + MINUS, other] == minus:
            if wanted == ZERO:
                break
            wanted -= ONE
        other += ONE
    b, g = other // order, other % order
    way = ONE + (bits & ONE)
    p, q = turned(mode, way), turned(mode, THREE - way)
    if not trade(f, modes, tables, product, a, b, g, p, q, bits >> ONE):
        return False
    return can_shrink(f, order, a, p) or can_shrink(f, order, b, q)


@kernel
def plus(f: Any, modes: Any, tables: Any, product: Any) -> Any:
    """Split a random pair of orbits into three, the second of which is as long as the new one; whether a pair was found.

    x1 y1 z1 + orbit of x2 y2 z2 = x1 y1 (z1 - sum of k z2) + orbit of x1 (y1 + y2) z2 + orbit of (x2 - x1) y2 z2, k in the stabiliser
    of the first modulo that of the second.
    """
    order = U(len(modes))
    for _ in range(ATTEMPTS):
        orbits = f[HEAD, ORBITS]
        if (orbits + THREE) * order >= U(f.shape[1]):
            return False
        a, b, g, mode, bits = draw(f, orbits), draw(f, orbits), draw(f, order), draw(f, THREE), draw(f, TWO)
        one, other = a * order, b * order + g
        count, _ = shared(f, one, other)
        if a == b or count > ZERO:
            continue
        if not (keeps_modes(f, modes, product, a, ZERO) and keeps_modes(f, modes, product, b, g)):
            continue
        inside = True
        for h in range(order):
            if same_term(f, other, b * order + product[h, g]) and not same_term(f, one, one + h):
                inside = False
        if not inside:
            continue
        way = ONE + bits
        p, q = turned(mode, way), turned(mode, THREE - way)
        if not (agree(f, tables, product, one, b, g, mode) and agree(f, tables, product, one, b, g, p)):
            continue
        ring, signs = f[HEAD, RING], f[SIGN, one] ^ f[SIGN, other]
        z, z_minus, z_fits = gathered(f, tables, product, a, ZERO, b, g, q, ONE ^ signs)
        y, y_minus, y_fits = combine(ring, f[p, one], f[p + MINUS, one], f[p, other], f[p + MINUS, other])
        more, less = f[mode, one], f[mode + MINUS, one]
        if ring != MODULO_2:
            more, less = less, more
        x, x_minus, x_fits = combine(ring, f[mode, other], f[mode + MINUS, other], more, less)
        if not (x_fits and y_fits and z_fits) or x | x_minus == ZERO or y | y_minus == ZERO or z | z_minus == ZERO:
            continue
        copy_orbit(f, order, a, orbits + ONE)
        copy_orbit(f, order, b, orbits + TWO)
        fresh, moving = orbits * order, b * order
        for row in range(LENGTH):
            f[row, moving] = f[row, other]
            f[row, fresh] = f[row, other]
        length = f[LENGTH, moving]
        f[mode, fresh] = f[mode, one]
        f[mode + MINUS, fresh] = f[mode + MINUS, one]
        f[p, fresh] = y
        f[p + MINUS, fresh] = y_minus
        f[q, one] = z
        f[q + MINUS, one] = z_minus
        f[mode, moving] = x
        f[mode + MINUS, moving] = x_minus
        if (
            settle(f, modes, tables, a, f[LENGTH, one]) == FITS
            and settle(f, modes, tables, b, length) == FITS
            and settle(f, modes, tables, orbits, length) == FITS
        ):
            f[HEAD, ORBITS] = orbits + ONE
            shrink(f, modes, tables, product)
            return True
        copy_orbit(f, order, orbits + ONE, a)
        copy_orbit(f, order, orbits + TWO, b)
    return False


@kernel
def keep(f: Any, other: Any, order: Any) -> None:
    """Make one state what another is, but for random numbers and counts."""
    for row in range(HEAD):
        for column in range(f[HEAD, ORBITS] * order):
            other[row, column] = f[row, column]
    other[HEAD, ORBITS] = f[HEAD, ORBITS]


@kernel
def wander(f: Any, modes: Any, tables: Any, product: Any, tries: Any) -> None:
    """Try so many random flips, and merge what can be merged."""
    for _ in range(tries):
        if step(f, modes, tables, product):
            shrink(f, modes, tables, product)


@kernel
def search(f: Any, best: Any, modes: Any, tables: Any, product: Any, tries: Any, plateau: Any, margin: Any, stop: Any, since: Any) -> Any:
    """Walk with plus transitions, as `flip_walk.search` does.

    Returns:
        (tries made, tries since the rank last fell).
    """
    order = U(len(modes))
    rank, lowest = rank_of(f, order), rank_of(best, order)
    done = 0
    while done < tries and lowest > stop:
        done += 1
        since += 1
        if step(f, modes, tables, product):
            before = rank
            shrink(f, modes, tables, product)
            rank = rank_of(f, order)
            if rank < before:
                since = 0
            if rank < lowest:
                lowest = rank
                keep(f, best, order)
        if since >= plateau:
            since = 0
            if rank <= lowest:  # of equal rank too: it lies further from the start
                lowest = rank
                keep(f, best, order)
            if rank >= lowest + margin:
                keep(best, f, order)
            else:
                plus(f, modes, tables, product)
            rank = rank_of(f, order)
    return done, since

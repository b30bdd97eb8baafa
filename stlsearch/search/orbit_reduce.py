"""Reductions of an `orbit_state`: terms that share two factors are merged, with all their images. Compiled."""

from __future__ import annotations

from typing import Any

from stlsearch.search.flip_kernel import combine
from stlsearch.search.flip_state import MODULO_2, ONE, THREE, TWO, ZERO, U, kernel
from stlsearch.search.orbit_state import FAILS, HEAD, LENGTH, MINUS, ORBITS, RING, SIGN, VANISHES, copy_orbit, drop, same_term, settle


@kernel
def shared(f: Any, one: Any, other: Any) -> Any:
    """The number of factors that two columns share, and a mode in which they do not (3 when there is none)."""
    count, free = ZERO, THREE
    for mode in (ZERO, ONE, TWO):
        if f[mode, one] == f[mode, other] and f[mode + MINUS, one] == f[mode + MINUS, other]:
            count += ONE
        else:
            free = mode
    return count, free


@kernel
def can_shrink(f: Any, order: Any, orbit: Any, mode: Any) -> Any:
    """Whether an orbit's term is zero, or shares its factor of a mode and one more with another term."""
    at = orbit * order
    if f[ZERO, at] | f[MINUS, at] == ZERO:
        return True
    plus, minus = f[mode, at], f[mode + MINUS, at]
    for column in range(f[HEAD, ORBITS] * order):
        if f[mode, column] == plus and f[mode + MINUS, column] == minus and column != at:
            count, _ = shared(f, at, column)
            if count == TWO or (count == THREE and column // order != orbit):
                return True
    return False


@kernel
def fold(f: Any, modes: Any, tables: Any, orbit: Any, mode: Any) -> Any:
    """Add up the images of an orbit's term that differ in one mode only; whether there were any and it was possible."""
    order = U(len(modes))
    at = orbit * order
    plus, minus = f[mode, at], f[mode + MINUS, at]
    terms = ONE
    for h in range(ONE, order):
        count, free = shared(f, at, at + h)
        if count != TWO or free != mode:
            continue
        if modes[h, mode] != mode:
            return False  # the images that differ in this mode need not be those by a subgroup
        fresh = True
        for k in range(ONE, h):
            fresh = fresh and not same_term(f, at + h, at + k)
        if not fresh:
            continue
        more, less = f[mode, at + h], f[mode + MINUS, at + h]
        if f[SIGN, at] != f[SIGN, at + h] and f[HEAD, RING] != MODULO_2:
            more, less = less, more
        plus, minus, fits = combine(f[HEAD, RING], plus, minus, more, less)
        if not fits:
            return False
        terms += ONE
    if terms == ONE:
        return False
    length, last = f[LENGTH, at] // terms, f[HEAD, ORBITS]
    if plus | minus == ZERO:
        drop(f, order, orbit)
        return True
    copy_orbit(f, order, orbit, last)
    f[mode, at] = plus
    f[mode + MINUS, at] = minus
    result = settle(f, modes, tables, orbit, length)
    if result == FAILS:
        copy_orbit(f, order, last, orbit)
        return False
    if result == VANISHES:
        drop(f, order, orbit)
    return True


@kernel
def join(f: Any, modes: Any, tables: Any, product: Any, a: Any, b: Any, g: Any) -> Any:
    """Merge orbit b into a if the term of a and image g of that of b share two factors; whether they did and it was possible."""
    order = U(len(modes))
    one, other = a * order, b * order + g
    count, mode = shared(f, one, other)
    if count < TWO or f[LENGTH, one] != f[LENGTH, b * order]:
        return False
    mode = mode if count == TWO else ZERO
    for h in range(order):
        if same_term(f, one, one + h) != same_term(f, other, b * order + product[h, g]):
            return False
    more, less = f[mode, other], f[mode + MINUS, other]
    if f[SIGN, one] != f[SIGN, other] and f[HEAD, RING] != MODULO_2:
        more, less = less, more
    plus, minus, fits = combine(f[HEAD, RING], f[mode, one], f[mode + MINUS, one], more, less)
    if not fits:
        return False
    result = VANISHES
    if plus | minus != ZERO:
        last = f[HEAD, ORBITS]
        copy_orbit(f, order, a, last)
        f[mode, one] = plus
        f[mode + MINUS, one] = minus
        result = settle(f, modes, tables, a, f[LENGTH, one])
        if result == FAILS:
            copy_orbit(f, order, last, a)
            return False
    drop(f, order, max(a, b) if result == VANISHES else b)
    if result == VANISHES:
        drop(f, order, min(a, b))
    return True


@kernel
def shrink(f: Any, modes: Any, tables: Any, product: Any) -> None:
    """Drop what is zero and merge what can be merged, until nothing can."""
    order = U(len(modes))
    again = True
    while again:
        again = False
        orbit = f[HEAD, ORBITS]
        while orbit > ZERO:
            orbit -= ONE
            if f[ZERO, orbit * order] | f[MINUS, orbit * order] == ZERO:
                drop(f, order, orbit)
        a = ZERO
        while a < f[HEAD, ORBITS] and not again:
            for mode in (ZERO, ONE, TWO):
                again = again or fold(f, modes, tables, a, mode)
            b = a + ONE
            while b < f[HEAD, ORBITS] and not again:
                for g in range(order):
                    again = again or join(f, modes, tables, product, a, b, g)
                b += ONE
            a += ONE

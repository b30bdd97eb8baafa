"""The state of a walk that keeps a group of symmetries G: every image of one term of each orbit, compiled.

An array (9, K) of 64-bit words. Column a |G| + h belongs to the image by element h of G of the term of orbit a: the masks of its
coefficients 1 in the three modes, those of its coefficients -1, its sign (1 for -1), and the length of the orbit; the last row is the
head. Factors are normalised as in `flip_state`. Images of a term with a stabiliser are held more than once.
"""

from __future__ import annotations

from typing import Any

from stlsearch.search.flip_state import HALF, INTEGERS, MODULO_2, ONE, STAR, THREE, TWELVE, TWENTY_FIVE, TWENTY_SEVEN, TWO, ZERO, U, kernel

MINUS, SIGN, LENGTH, HEAD = U(3), U(6), U(7), U(8)  # rows; row m is of mode m
ORBITS, RANDOM, FLIPS, RING = (U(k) for k in range(4))  # columns of the head
ROWS = 9
BYTE, EIGHT = U(255), U(8)
FITS, VANISHES, FAILS = U(0), U(1), U(2)


@kernel
def draw(f: Any, bound: Any) -> Any:
    """A number below `bound`, from xorshift64*."""
    x = f[HEAD, RANDOM]
    x ^= x >> TWELVE
    x ^= x << TWENTY_FIVE
    x ^= x >> TWENTY_SEVEN
    f[HEAD, RANDOM] = x
    return (((x * STAR) >> HALF) * U(bound)) >> HALF


@kernel
def moved(tables: Any, h: Any, mode: Any, mask: Any) -> Any:
    """The image of a mask by h."""
    image, byte = ZERO, ZERO
    while mask != ZERO:
        image |= tables[h, mode, byte, mask & BYTE]
        mask >>= EIGHT
        byte += ONE
    return image


@kernel
def same_term(f: Any, one: Any, other: Any) -> Any:
    """Whether two columns hold the same factors, signs of the terms apart."""
    same = True
    for row in range(SIGN):
        same = same and f[row, one] == f[row, other]
    return same


@kernel
def spread(f: Any, modes: Any, tables: Any, orbit: Any) -> None:
    """Normalise the term of an orbit and write its images."""
    order = U(len(modes))
    at = orbit * order
    for mode in (ZERO, ONE, TWO):
        if f[mode + MINUS, at] > f[mode, at]:
            f[mode, at], f[mode + MINUS, at] = f[mode + MINUS, at], f[mode, at]
            f[SIGN, at] ^= ONE
    for h in range(ONE, order):
        sign = f[SIGN, at]
        for mode in (ZERO, ONE, TWO):
            target = modes[h, mode]
            plus, minus = moved(tables, h, mode, f[mode, at]), moved(tables, h, mode, f[mode + MINUS, at])
            if minus > plus:
                plus, minus = minus, plus
                sign ^= ONE
            f[target, at + h] = plus
            f[target + MINUS, at + h] = minus
        f[SIGN, at + h] = sign


@kernel
def settle(f: Any, modes: Any, tables: Any, orbit: Any, length: Any) -> Any:
    """Write the images of a new term of an orbit; `length` counts them, however many are equal.

    Returns:
        FITS, with the length and the sign made right; VANISHES when the images cancel; FAILS when equal ones add up to a
        coefficient outside the ring.
    """
    order = U(len(modes))
    at = orbit * order
    spread(f, modes, tables, orbit)
    same = ZERO
    for h in range(order):
        if same_term(f, at, at + h):
            if f[SIGN, at + h] != f[SIGN, at]:
                return VANISHES
            same += ONE
    actual = order // same
    times = length // actual
    f[LENGTH, at] = actual
    if times == ONE:
        return FITS
    if f[HEAD, RING] == INTEGERS:
        return FAILS
    if f[HEAD, RING] == MODULO_2:
        return VANISHES if times & ONE == ZERO else FITS
    if times % THREE == TWO:
        for h in range(order):
            f[SIGN, at + h] ^= ONE
    return VANISHES if times % THREE == ZERO else FITS


@kernel
def copy_orbit(f: Any, order: Any, source: Any, target: Any) -> None:
    """Write an orbit over another."""
    for row in range(HEAD):
        for h in range(order):
            f[row, target * order + h] = f[row, source * order + h]


@kernel
def drop(f: Any, order: Any, orbit: Any) -> None:
    """Remove an orbit; the last one takes its place."""
    f[HEAD, ORBITS] -= ONE
    if orbit != f[HEAD, ORBITS]:
        copy_orbit(f, order, f[HEAD, ORBITS], orbit)


@kernel
def rank_of(f: Any, order: Any) -> Any:
    """The number of terms."""
    rank = ZERO
    for orbit in range(f[HEAD, ORBITS]):
        rank += f[LENGTH, orbit * order]
    return rank

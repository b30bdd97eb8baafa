"""The state of a flip walk in one array of 64-bit words, and the index of equal factors that every step keeps up to date.

Terms are sign * u (x) v (x) w. A factor is two bit masks, of its coefficients +1 and -1 (over Z2 the second is 0), normalised so
that the first exceeds the second as a number; signs go to the term. The factor of mode k (0, 1, 2) of term t is *slot* 4 t + k, a
record of eight words, one line of the cache. Slots of equal factors and of equal hash are chained; those whose factor occurs twice
are listed, since they can be flipped.

Compiled code gets the bare address of the words: Numba counts the references of arrays atomically, even within its own calls, which
would be a good part of a flip. Indices without a sign need no check for negative ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

# Not kept on the disk: what is compiled in comes from files that `stlsearch.solvers.machine_code` does not look at.
kernel: Any = njit(nogil=True)

U = np.uint64
MAX_TERMS = 1000
HASH_BITS = 11  # of the largest table; small walks use less of it, see `load`
RINGS = {"Z2": 0, "Z": 1, "Z3": 2}
"""Coefficients a walk can keep: modulo 2, the integers -1, 0 and 1, modulo 3."""

# The head of the array: numbers, masks of fixed terms, then the table of hashes, the list of slots that can be flipped, and the records.
RANK, COUNT, RANDOM, FLIPS, RING, BITS, SHIFT, MODES, FIXED = (U(k) for k in range(9))
MAX_FIXED = 64  # terms a (x) a (x) a of a cyclic state, which never move: their masks follow, and `FIXED` counts them
FIXED_MASKS = U(9)
HEADS = FIXED_MASKS + U(2 * MAX_FIXED)
LISTED = HEADS + U(3 << HASH_BITS)
RECORDS = LISTED + U(4 * MAX_TERMS)
WORDS = int(RECORDS) + 8 * 4 * MAX_TERMS
# The words of a record.
PLUS, MINUS, NEXT, PREVIOUS, PLACE, SIGN = (U(k) for k in range(6))

NONE = U(2**32)  # no slot, no place
ZERO, ONE, TWO, THREE = U(0), U(1), U(2), U(3)
MIX = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: seeds far apart, and bits well mixed
SPREAD, SPREAD_MINUS = U(MIX), U(0xC2B2AE3D27D4EB4F)  # odd, bits well mixed
STAR, TWELVE, TWENTY_FIVE, TWENTY_SEVEN, HALF = U(2685821657736338717), U(12), U(25), U(27), U(32)
LOW_HALF = U(2**32 - 1)
MODULO_2, INTEGERS = U(RINGS["Z2"]), U(RINGS["Z"])


def random_word(seed: int) -> int:
    """The first of a walk's random numbers; not 0, where xorshift stays."""
    return (seed * MIX + 0x632BE59BD9B4E019) % 2**64 or 1


@intrinsic
def _address(typing_context: Any, array: Any) -> Any:
    """The address of an array's values, typed; the array has to outlive it."""

    def address(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return make_array(signature.args[0])(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), address


words: Any = _address


@kernel
def record(slot: Any) -> Any:
    """Where the record of a slot begins."""
    return RECORDS + (slot << THREE)


@kernel
def slot_of(term: Any, mode: Any) -> Any:
    """The slot of a term's factor."""
    return (term << TWO) + mode


@kernel
def head_of(state: Any, slot: Any) -> Any:
    """Where the chain of a slot's factor begins."""
    at = record(slot)
    mixed = state[at + PLUS] * SPREAD + state[at + MINUS] * SPREAD_MINUS
    return HEADS + ((slot & state[MODES]) << state[BITS]) + (mixed >> state[SHIFT])


@kernel
def equal(state: Any, first: Any, second: Any) -> Any:
    """Whether two slots hold the same factor, signs apart."""
    a, b = record(first), record(second)
    return state[a + PLUS] == state[b + PLUS] and state[a + MINUS] == state[b + MINUS]


@kernel
def draw(state: Any) -> Any:
    """64 random bits: Marsaglia's xorshift with a multiplication (xorshift64*)."""
    x = state[RANDOM]
    x ^= x >> TWELVE
    x ^= x << TWENTY_FIVE
    x ^= x >> TWENTY_SEVEN
    state[RANDOM] = x
    return x * STAR


@kernel
def _list(state: Any, slot: Any) -> None:
    place = state[COUNT]
    state[record(slot) + PLACE] = place
    state[LISTED + place] = slot
    state[COUNT] = place + ONE


@kernel
def _unlist(state: Any, slot: Any) -> None:
    count = state[COUNT] - ONE
    last, place = state[LISTED + count], state[record(slot) + PLACE]
    state[LISTED + place] = last
    state[record(last) + PLACE] = place
    state[record(slot) + PLACE] = NONE
    state[COUNT] = count


@kernel
def link(state: Any, slot: Any) -> Any:
    """Enter a slot into the chain of its factor; another slot that holds the same factor, or `NONE`."""
    head = head_of(state, slot)
    first = state[head]
    other = first
    while other != NONE and not equal(state, other, slot):
        other = state[record(other) + NEXT]
    at = record(slot)
    state[at + NEXT] = first
    state[at + PREVIOUS] = NONE
    if first != NONE:
        state[record(first) + PREVIOUS] = slot
    state[head] = slot
    if other != NONE:
        if state[record(other) + PLACE] == NONE:
            _list(state, other)
        _list(state, slot)
    return other


@kernel
def unlink(state: Any, slot: Any) -> None:
    """Take a slot out of the chain of its factor."""
    at = record(slot)
    previous, following = state[at + PREVIOUS], state[at + NEXT]
    head = head_of(state, slot)
    if previous != NONE:
        state[record(previous) + NEXT] = following
    else:
        state[head] = following
    if following != NONE:
        state[record(following) + PREVIOUS] = previous
    if state[at + PLACE] == NONE:
        return
    _unlist(state, slot)
    left, other = NONE, state[head]
    while other != NONE:
        if equal(state, other, slot):
            if left != NONE:
                return
            left = other
        other = state[record(other) + NEXT]
    _unlist(state, left)  # alone now


@kernel
def put(state: Any, slot: Any, plus: Any, minus: Any) -> Any:
    """Replace a slot's factor, its sign moved to the term; another slot that holds the same factor, or `NONE`."""
    unlink(state, slot)
    return write(state, slot, plus, minus)


@kernel
def write(state: Any, slot: Any, plus: Any, minus: Any) -> Any:
    """`put` into a slot that is in no chain."""
    at = record(slot)
    if minus > plus:
        plus, minus = minus, plus
        state[record(slot & ~THREE) + SIGN] ^= ONE
    state[at + PLUS] = plus
    state[at + MINUS] = minus
    state[at + PLACE] = NONE
    return link(state, slot)


@kernel
def remove(state: Any, term: Any) -> None:
    """Drop a term; the last one takes its place."""
    last = state[RANK] - ONE
    for mode in (ZERO, ONE, TWO):
        unlink(state, slot_of(term, mode))
    if term != last:
        for mode in (ZERO, ONE, TWO):
            slot, moved = record(slot_of(term, mode)), record(slot_of(last, mode))
            unlink(state, slot_of(last, mode))
            state[slot + PLUS] = state[moved + PLUS]
            state[slot + MINUS] = state[moved + MINUS]
            state[slot + PLACE] = NONE
            link(state, slot_of(term, mode))
        state[record(slot_of(term, ZERO)) + SIGN] = state[record(slot_of(last, ZERO)) + SIGN]
    state[RANK] = last


@kernel
def append(state: Any, sign: Any) -> Any:
    """Room for one more term, whose three slots have to be written; its number."""
    term = state[RANK]
    state[record(slot_of(term, ZERO)) + SIGN] = sign
    state[RANK] = term + ONE
    return term


@kernel
def copy(state: Any, other: Any) -> None:
    """Make one state what another is."""
    for word in range(HEADS + (THREE << state[BITS])):
        other[word] = state[word]
    for word in range(LISTED, LISTED + state[COUNT]):
        other[word] = state[word]
    for word in range(RECORDS, record(state[RANK] << TWO)):
        other[word] = state[word]


@kernel
def load(array: Any, terms: Any, signs: Any, ring: Any, cyclic: Any, bits: Any) -> None:
    """Fill a state with terms (r, 3, 2) of masks and their signs (r,), 1 for -1; random numbers and counts stay.

    Args:
        cyclic: whether each term stands for its three rotations u (x) v (x) w, v (x) w (x) u, w (x) u (x) v: then equal factors are
            chained across modes.
        bits: of the hash table in use, at most `HASH_BITS`: a small one stays in the first-level cache.
    """
    array[HEADS:LISTED] = NONE
    array[RANK] = ZERO
    array[COUNT] = ZERO
    array[RING] = ring
    array[BITS] = bits
    array[SHIFT] = U(64) - bits
    array[MODES] = ZERO if cyclic else THREE
    state = words(array)
    for row in range(len(terms)):
        term = append(state, signs[row])
        for mode in range(3):
            write(state, slot_of(term, U(mode)), terms[row, mode, 0], terms[row, mode, 1])


def terms_of(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The terms (r, 3, 2) and signs (r,) of a state, as `load` takes them."""
    rank = int(array[int(RANK)])
    records = array[int(RECORDS) :].reshape(MAX_TERMS, 4, 8)[:rank]
    return records[:, :3, :2].copy(), records[:, 0, int(SIGN)].copy()

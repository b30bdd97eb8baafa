"""Finite groups of changes of basis made of signed permutations, drawn at random.

A change of basis of an <n,m,p> product is a triple (P, Q, R) that acts by (de Groote 1978)

    u -> P u Q^-1,   v -> Q v R^-1,   w -> P w R^-1        u (n, m), v (m, p), w (n, p), the last one of C's entries.

Here P, Q and R are signed permutations, up to their signs: they are orthogonal, and they permute the coefficients up to signs, which
makes symmetric equations sparse. That is a restriction: a group whose order is a power of 2 is monomial in some basis, but with
roots of unity for entries. Algorithms that a group leaves as they are have its orbits for terms
(`stlsearch.search.orbit_equations`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import numpy as np

from stlsearch.errors import InputError

LARGEST_SIZE = 5  # of a matrix: 1920 signed permutations up to sign
LARGEST_ORDER = 64
DRAWS = 60  # images of the first space's generators tried before others are drawn
IMAGES = 200  # of one generator
ATTEMPTS = 1000  # groups drawn without a new one before there are taken to be no more


@dataclass(frozen=True, eq=False)
class SignGroup:
    """A group of triples of signed permutations.

    Attributes:
        shape: n, m, p.
        elements: for each of the three spaces (order, size): entry i is +-(j + 1) where (P x)_i = +-x_j. The identity comes first.
        indices: (order, 3), places in `signed_permutations` of the sizes.
    """

    shape: tuple[int, int, int]
    elements: tuple[np.ndarray, np.ndarray, np.ndarray]
    indices: np.ndarray

    @staticmethod
    def of(shape: tuple[int, int, int], indices: Iterable[tuple[int, ...]]) -> SignGroup:
        """The group of these triples of places, which are closed under products."""
        places = np.array(sorted(indices), dtype=np.int64)
        first, second, third = (signed_permutations(size).elements[places[:, space]] for space, size in enumerate(shape))
        return SignGroup(shape, (first, second, third), places)

    @property
    def order(self) -> int:
        return len(self.indices)

    def tables(self) -> list[np.ndarray]:
        """Products of places, for each of the three spaces."""
        return [signed_permutations(size).products for size in self.shape]

    def signature(self) -> tuple:
        """How many elements have which orders, |traces| and traces of the square in the three spaces: groups of one class agree in it."""
        tables = [signed_permutations(size) for size in self.shape]
        kinds = Counter(tuple(tuple(map(int, t.kinds[i])) for t, i in zip(tables, element, strict=True)) for element in self.indices)
        return tuple(sorted(kinds.items()))

    def subgroups(self) -> list[np.ndarray]:
        """The subgroups that at most two elements generate, as sorted places in `elements`, the trivial one first."""
        places = {tuple(int(i) for i in element): number for number, element in enumerate(self.indices)}
        triples = list(places)
        found: set[tuple[int, ...]] = {(0,)}
        for number, one in enumerate(triples):
            for other in triples[number:]:
                closed = _closure(self.shape, [one, other], self.order)
                assert closed is not None
                found.add(tuple(sorted(places[triple] for triple in closed)))
        return [np.array(each) for each in sorted(found, key=lambda each: (len(each), each))]

    def describe(self) -> str:
        """Generators, one signed permutation for each space: "[2 1 -4 -3|1 2 4 3|2 1 4 3] [...]"."""
        chosen: list[tuple[int, ...]] = []
        reached = 1
        for element in self.indices:
            closed = _closure(self.shape, [*chosen, tuple(int(i) for i in element)], self.order)
            if closed is not None and len(closed) > reached:
                chosen, reached = [*chosen, tuple(int(i) for i in element)], len(closed)
        rows = [
            "|".join(" ".join(map(str, signed_permutations(size).elements[i])) for size, i in zip(self.shape, each, strict=True))
            for each in chosen
        ]
        return " ".join(f"[{row}]" for row in rows)


@dataclass(frozen=True, eq=False)
class SignedPermutations:
    """All signed permutations of n things up to sign: their products and orders. The identity is number 0.

    Attributes:
        kinds: order, |trace| and trace of the square, which is the same for P and -P.
    """

    elements: np.ndarray
    products: np.ndarray
    orders: np.ndarray
    kinds: np.ndarray


@cache
def signed_permutations(size: int) -> SignedPermutations:
    """The n! 2^(n-1) signed permutations of `size` things up to sign, the first sign being +.

    Raises:
        InputError: more than `LARGEST_SIZE` things.
    """
    if not 1 <= size <= LARGEST_SIZE:
        raise InputError(f"groups of signed permutations are drawn for sizes up to {LARGEST_SIZE}, not {size}")
    signs = [(1, *rest) for rest in product((1, -1), repeat=size - 1)]
    rows = [[sign * place for sign, place in zip(each, order, strict=True)] for order in permutations(range(1, size + 1)) for each in signs]
    elements = np.array(rows, dtype=np.int8)
    powers = (2 * size + 1) ** np.arange(size)
    codes = (elements + size) @ powers
    sorter = np.argsort(codes)
    products = np.empty((len(elements), len(elements)), dtype=np.int16)
    for number, one in enumerate(elements):
        rows_of = np.sign(one) * elements[:, np.abs(one) - 1]
        rows_of = rows_of * np.sign(rows_of[:, :1])
        products[number] = sorter[np.searchsorted(codes, (rows_of + size) @ powers, sorter=sorter)]
    orders, powers_of = np.ones(len(elements), np.int64), np.arange(len(elements))
    while (unfinished := powers_of != 0).any():
        powers_of = np.where(unfinished, products[powers_of, np.arange(len(elements))], 0)
        orders += unfinished
    places, signed = np.abs(elements) - 1, np.sign(elements)
    traces = np.abs(np.where(places == np.arange(size), signed, 0).sum(axis=1))
    back = np.take_along_axis(places, places, axis=1) == np.arange(size)
    squares = np.where(back, signed * np.take_along_axis(signed, places, axis=1), 0).sum(axis=1)
    return SignedPermutations(elements, products, orders, np.stack([orders, traces, squares], axis=1))


def random_groups(shape: tuple[int, int, int], order: int, generator: np.random.Generator, repeats: int = 2) -> Iterator[SignGroup | None]:
    """Groups of an order, at most `repeats` of every `signature`, until no new one turns up in `ATTEMPTS` draws; None for a draw in vain.

    At most four elements generate each, and they are faithful in all three spaces if the order divides the numbers of signed permutations.
    If the order is a power of a prime, P, Q and R are drawn from a Sylow subgroup, which loses nothing: every group of signed permutations
    of that order lies in one up to a change of basis.

    Raises:
        InputError: an order below 2 or beyond `LARGEST_ORDER`, or a size beyond `LARGEST_SIZE`.
    """
    if not 2 <= order <= LARGEST_ORDER:
        raise InputError(f"the order of a symmetry group must be 2 to {LARGEST_ORDER}, not {order}")
    pools = [_pool(size, order) for size in shape]
    orders = {int(signed_permutations(size).orders[each]) for size, pool in zip(shape, pools, strict=True) for each in pool}
    if any(all(each % prime for each in orders) for prime in _primes(order)):
        raise InputError(f"signed permutations of sizes {'x'.join(map(str, shape))} have no group of order {order}")
    faithful = all(len(signed_permutations(size).orders) % order == 0 for size in shape)
    seen: Counter[tuple] = Counter()
    idle = 0
    while idle < ATTEMPTS:
        triples = _drawn(shape, order, pools, faithful, generator)
        idle += 1
        group = None if triples is None else SignGroup.of(shape, triples)
        if group is None or seen[group.signature()] == repeats:
            yield None
            continue
        seen[group.signature()] += 1
        idle = 0
        yield group


@cache
def _pool(size: int, order: int) -> tuple[int, ...]:
    """What the elements of a group of that order are drawn from, in one space."""
    table = signed_permutations(size)
    primes = _primes(order)
    candidates = [number for number in range(len(table.orders)) if order % int(table.orders[number]) == 0]
    if len(primes) > 1:
        return tuple(candidates)
    largest = 1
    while len(table.orders) % (largest * primes[0]) == 0:
        largest *= primes[0]
    # A subgroup of prime power order that no element enlarges to another one is a Sylow subgroup.
    generators: list[tuple[int, ...]] = []
    sylow: set[tuple[int, ...]] = {(0,)}
    for number in range(len(table.orders)):
        if largest % int(table.orders[number]) == 0 and (number,) not in sylow:
            closed = _closure((size,), [*generators, (number,)], largest)
            if closed is not None and largest % len(closed) == 0:
                generators, sylow = [*generators, (number,)], closed
    return tuple(sorted(number for (number,) in sylow if order % int(table.orders[number]) == 0))


def _primes(order: int) -> list[int]:
    return [prime for prime in range(2, order + 1) if order % prime == 0 and all(prime % other for other in range(2, prime))]


def _drawn(
    shape: tuple[int, int, int], order: int, pools: Sequence[tuple[int, ...]], faithful: bool, generator: np.random.Generator
) -> set[tuple[int, ...]] | None:
    """A group of the order: generators in the first space, then their images in the second and in the third."""
    count = int(generator.integers(1, 5))
    first: list[tuple[int, ...]] = [(pools[0][int(i)],) for i in generator.integers(0, len(pools[0]), count)]
    closed = _closure(shape[:1], first, order)
    if closed is None or (len(closed) != order if faithful else order % len(closed)):
        return None
    for _ in range(DRAWS):
        joint = first
        for space in (1, 2):
            extended = _images(shape[: space + 1], joint, order, pools[space], faithful, generator)
            if extended is None:
                break
            joint = extended
        else:
            closed = _closure(shape, joint, order)
            if closed is not None and len(closed) == order:
                return closed
    return None


def _images(
    shape: tuple[int, ...], joint: list[tuple[int, ...]], order: int, pool: tuple[int, ...], faithful: bool, generator: np.random.Generator
) -> list[tuple[int, ...]] | None:
    """The generators with images in one more space, such that the group stays within the order."""
    images: list[tuple[int, ...]] = []
    for number in range(len(joint)):
        before = _closure(shape[:-1], joint[: number + 1], order)
        assert before is not None
        for _ in range(IMAGES):
            candidate = [*images, (*joint[number], pool[int(generator.integers(len(pool)))])]
            closed = _closure(shape, candidate, len(before) if faithful else order)
            if closed is None or order % len(closed):
                continue
            if faithful and (len(closed) != len(before) or sum(triple[-1] == 0 for triple in closed) != 1):
                continue
            images = candidate
            break
        else:
            return None
    return images


def _closure(shape: tuple[int, ...], generators: Sequence[tuple[int, ...]], limit: int) -> set[tuple[int, ...]] | None:
    """All products of the generators; None if there are more than `limit`."""
    tables = [signed_permutations(size).products for size in shape]
    one = (0,) * len(shape)
    found, waiting = {one}, [one]
    while waiting:
        element = waiting.pop()
        for each in generators:
            further = tuple(int(table[a, b]) for table, a, b in zip(tables, each, element, strict=True))
            if further not in found:
                found.add(further)
                waiting.append(further)
                if len(found) > limit:
                    return None
    return found

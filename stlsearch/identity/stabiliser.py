"""The symmetries of an exact algorithm: the changes of basis, cyclic shifts and transpositions that only rename its terms.

They act on the terms as permutations. Those of one shape and order (pure changes of basis) are found along a chain of
stabilisers (Sims, "Computational methods in the study of permutation groups", 1970): with b_1, b_2, ... the terms that
`stlsearch.identity.matching` singles out, the symmetries that fix b_1 .. b_(i-1) move b_i over an orbit, and the order of the group is
the product of the orbits' lengths. Cyclic shifts and transpositions that are symmetries each add one coset.

An algorithm may have a continuous group too, which fixes every term up to scaling: its dimension is that of the (x, y, z)
with x u = u y + a u, y v = v z + b v, z w = w x - (a + b) w for all terms, less 3 for multiples of the identities.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.exact import modulus_of
from stlsearch.identity.bases import Pair, equations, intertwiners
from stlsearch.identity.certificate import Certificate
from stlsearch.identity.colours import Invariants
from stlsearch.identity.matching import NODES, Budget, Search, Told
from stlsearch.identity.modular import solutions
from stlsearch.identity.same import Order, orders_between
from stlsearch.identity.scalings import ALWAYS_FREE, solve
from stlsearch.identity.terms import ORDERS, Terms

MOST_LISTED = 20_000  # elements of a group that are written down to find their orders
Permutation = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Symmetries:
    """The group of symmetries of an algorithm, as far as it was found.

    Attributes:
        order: of the group that acts on the terms, with shifts and transpositions.
        sandwiching: the order of the part that is changes of basis alone.
        orders: the permutations of (n, m, p) that occur, (1, 2, 3) first.
        generators: one certificate each; any of them can be checked by `verify_certificate`.
        orbits: the terms that go to each other, every orbit sorted.
        element_orders: how many elements have each order; None beyond `MOST_LISTED` of them.
        exhaustive: nothing was left out: the group is no larger.
        continuous: dimension of the group that fixes every term up to scaling; 0 for a finite group. None over Zp.
        faithful: the identity alone fixes every term; None where that was not settled.
        nodes: branches that were searched.
    """

    order: int
    sandwiching: int
    orders: tuple[Order, ...]
    generators: tuple[Certificate, ...]
    orbits: tuple[tuple[int, ...], ...]
    element_orders: dict[int, int] | None
    exhaustive: bool
    continuous: int | None
    faithful: bool | None
    nodes: int

    @property
    def structure(self) -> str | None:
        """A group with as many elements of each order, where we know one by name."""
        if self.element_orders is None or self.order != sum(self.element_orders.values()):
            return None
        if self.order in self.element_orders:
            return "trivial" if self.order == 1 else f"Z{self.order}"
        return _KNOWN.get(tuple(sorted(self.element_orders.items())))


def symmetries(algorithm: BilinearAlgorithm, nodes: int = NODES, told: Told | None = None) -> Symmetries:
    """All symmetries of an exact algorithm for a matrix product, over Q (Q(i), or its own Zp).

    Args:
        nodes: the most branches of the search; where they do not suffice, `exhaustive` is False.
        told: called with the number of branches so far.

    Raises:
        InputError: an inexact algorithm, no matrix product, a rank above 250.
    """
    modulus = modulus_of(algorithm.ring)
    terms = Terms.of(algorithm)
    own = Invariants(terms)
    budget = Budget(nodes, told)
    search = Search(Pair(algorithm, algorithm, ORDERS[0], modulus), own, own, budget)
    generators, sandwiching = _chain(search)
    exhaustive = search.conclusive
    orders = [ORDERS[0]]
    for order in orders_between(algorithm, algorithm)[1:]:
        if order in orders:
            continue
        turned = Search(Pair(algorithm, algorithm, order, modulus), own.form(order), own, budget)
        found = turned.run()
        if found is not None:
            generators.append(found)
            orders = _products([*orders, order])
        else:
            exhaustive = exhaustive and turned.conclusive
    permutations = [certificate.permutation for certificate in generators]
    elements = _closure(permutations, algorithm.rank)
    continuous = None if modulus else _continuous(terms)
    return Symmetries(
        sandwiching * len(orders),
        sandwiching,
        tuple(orders),
        tuple(generators),
        _orbits(permutations, algorithm.rank),
        None if elements is None else dict(sorted(Counter(map(_order, elements)).items())),
        exhaustive,
        continuous,
        False if continuous else _faithful(terms),
        budget.spent,
    )


def _products(orders: list[Order]) -> list[Order]:
    """All products of permutations of (n, m, p), in the order of `ORDERS`."""
    found = set(orders)
    while True:
        more = {(first[a - 1], first[b - 1], first[c - 1]) for first in found for a, b, c in found} - found
        if not more:
            return [order for order in ORDERS if order in found]
        found |= more


def _chain(search: Search) -> tuple[list[Certificate], int]:
    """Generators and order of the symmetries that leave the shape as it is."""
    rank = len(search.path[0].pairs)
    generators: list[Certificate] = []
    order = 1
    for depth in reversed(range(len(search.base))):
        fixed, moved = search.base[:depth], search.base[depth]
        reached = _orbit(moved, generators, rank)
        barred: set[int] = set()
        for term in search.candidates(depth, search.path[depth]):
            if term in reached or term in barred:
                continue
            found = search.run([*fixed, term])
            if found is None:
                barred |= _orbit(term, generators, rank)
            else:
                generators.append(found)
                reached = _orbit(moved, generators, rank)
        order *= len(reached)
    return generators, order


def _orbit(start: int, generators: list[Certificate], rank: int) -> set[int]:
    orbits = _orbits([certificate.permutation for certificate in generators], rank)
    return set(next(orbit for orbit in orbits if start in orbit))


def _orbits(permutations: list[Permutation], rank: int) -> tuple[tuple[int, ...], ...]:
    waiting, found = set(range(rank)), []
    while waiting:
        orbit = {min(waiting)}
        fresh = list(orbit)
        while fresh:
            images = {permutation[term] for permutation in permutations for term in fresh} - orbit
            orbit |= images
            fresh = list(images)
        waiting -= orbit
        found.append(tuple(sorted(orbit)))
    return tuple(found)


def _closure(permutations: list[Permutation], rank: int) -> set[Permutation] | None:
    """All products of the permutations; None beyond `MOST_LISTED`."""
    found = {tuple(range(rank))}
    fresh = list(found)
    while fresh:
        images = {tuple(permutation[term] for term in element) for permutation in permutations for element in fresh} - found
        found |= images
        fresh = list(images)
        if len(found) > MOST_LISTED:
            return None
    return found


def _order(permutation: Permutation) -> int:
    """The least common multiple of the lengths of its cycles."""
    seen, lengths = set(), {1}
    for start in range(len(permutation)):
        term, length = start, 0
        while term not in seen:
            seen.add(term)
            term, length = permutation[term], length + 1
        lengths.add(max(length, 1))
    return int(np.lcm.reduce(list(lengths)))


def _continuous(terms: Terms) -> int:
    """Dimension of the continuous symmetries, modulo the prime: never too low, and too high with negligible probability."""
    factors, rank = (terms.u, terms.v, terms.w), terms.rank
    every = np.arange(rank)
    rows = []
    for grid, factor, signs in zip(equations(terms, factors, 2 * rank), factors, ((-1, 0), (0, -1), (1, 1)), strict=True):
        for unknown, sign in enumerate(signs):  # a of u, b of v, -a - b of w
            grid[every, :, :, grid.shape[3] - (2 - unknown) * rank + every] = sign * factor
        rows.append(grid.reshape(-1, grid.shape[3]))
    return len(solutions(np.concatenate(rows) % terms.prime, terms.prime)) - 3


def _faithful(terms: Terms) -> bool | None:
    """True where the scalings are 1 but for those of X, Y, Z, and the multiples of the identities alone have them; else unknown."""
    scalings = solve(terms.traces, terms.traces, terms.prime)
    if not scalings.complete or scalings.free > ALWAYS_FREE or len(scalings.solutions) != 1:
        return None
    return len(intertwiners(terms, terms, scalings.solutions[0])) == 1 or None


_KNOWN: dict[tuple[tuple[int, int], ...], str] = {
    ((1, 1), (2, 3)): "Z2 x Z2",
    ((1, 1), (2, 3), (3, 2)): "S3",
    ((1, 1), (2, 5), (4, 2)): "D4",
    ((1, 1), (2, 7)): "Z2 x Z2 x Z2",
    ((1, 1), (3, 8)): "Z3 x Z3",
    ((1, 1), (2, 3), (3, 8)): "A4",
    ((1, 1), (2, 7), (3, 2), (6, 2)): "S3 x Z2",
    ((1, 1), (2, 3), (3, 8), (6, 6)): "S3 x Z3",
    ((1, 1), (2, 9), (3, 8), (4, 6)): "S4",
    ((1, 1), (2, 15), (3, 2), (6, 6)): "S3 x Z2 x Z2",
    ((1, 1), (2, 15), (3, 8), (6, 12)): "S3 x S3",
    ((1, 1), (2, 19), (3, 8), (4, 12), (6, 8)): "S4 x Z2",
}

"""Which terms correspond: individualisation and refinement, as graph isomorphism programs search.

Where refinement leaves several terms of one colour, one of them is given a colour of its own in the first algorithm and
each of its colour in turn in the second; the colours are refined again, and a branch ends where the two no longer have
equally many of each (McKay, "Practical graph isomorphism", Congressus Numerantium 30, 1981). At the leaves every term has
its own colour, and the one matching that they leave is put to the linear system of `stlsearch.identity.bases`.

A search that ends without a certificate proves that there is none, if every matching was refuted, no branch was left out,
and the invariants modulo the prime are faithful.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stlsearch.identity.bases import Outcome, Pair
from stlsearch.identity.certificate import Certificate
from stlsearch.identity.colours import Colours, Invariants

Told = Callable[[int], object]
NODES = 20_000  # refinements of a branch: the default budget


@dataclass
class Budget:
    """Nodes left to search; shared between searches.

    Attributes:
        left: nodes.
        told: called with the nodes spent, at every one.
        spent: nodes so far.
    """

    left: int
    told: Told | None = None
    spent: int = 0

    def take(self) -> bool:
        """One more node, unless none is left."""
        if self.left <= 0:
            return False
        self.left -= 1
        self.spent += 1
        if self.told is not None:
            self.told(self.spent)
        return True


class Search:
    """All matchings of the terms of a pair of algorithms that their invariants allow.

    Attributes:
        leaves: matchings tried.
        unsettled: those of them that were neither certified nor refuted.
        cut: the budget ended before the search.
    """

    def __init__(self, pair: Pair, first: Invariants, second: Invariants, budget: Budget) -> None:
        self.pair, self.first, self.second, self.budget = pair, first, second, budget
        self.leaves = self.unsettled = 0
        self.cut = False
        self.path: list[Colours] = [first.stable]
        self.base: list[int] = []
        while not self.path[-1].discrete:
            chosen = smallest_cell(self.path[-1])
            self.base.append(chosen)
            self.path.append(self.path[-1].individualised(chosen, len(self.base)).refined())

    @property
    def alike(self) -> bool:
        """Equally many pairs of each colour, before any term is singled out."""
        return np.array_equal(self.path[0].histogram, self.second.stable.histogram)

    @property
    def conclusive(self) -> bool:
        """Whether finding nothing means that there is nothing."""
        return not self.cut and self.unsettled == 0 and self.first.terms.faithful and self.second.terms.faithful

    def run(self, prefix: Sequence[int] = ()) -> Certificate | None:
        """The first certificate in which the base's first terms go to those of `prefix`."""
        return self._descend(0, self.second.stable, prefix) if self.alike else None

    def candidates(self, depth: int, colours: Colours) -> list[int]:
        """Terms of the second algorithm that the base's term at this depth may go to."""
        return [int(term) for term in np.flatnonzero(colours.terms == self.path[depth].terms[self.base[depth]])]

    def _descend(self, depth: int, colours: Colours, prefix: Sequence[int]) -> Certificate | None:
        if depth == len(self.base):
            return self._leaf(colours)
        for term in self.candidates(depth, colours) if depth >= len(prefix) else [prefix[depth]]:
            if not self.budget.take():
                self.cut = True
                return None
            refined = colours.individualised(term, depth + 1).refined(self.path[depth + 1].rounds)
            if np.array_equal(refined.histogram, self.path[depth + 1].histogram):
                found = self._descend(depth + 1, refined, prefix)
                if found is not None or self.cut:
                    return found
        return None

    def _leaf(self, colours: Colours) -> Certificate | None:
        own, images = np.argsort(self.path[-1].terms), np.argsort(colours.terms)
        permutation = np.empty(len(own), dtype=np.int64)
        permutation[own] = images
        self.leaves += 1
        if not np.array_equal(self.path[-1].pairs, colours.pairs[np.ix_(permutation, permutation)]):
            return None
        found = self.pair.certificate(permutation)
        if isinstance(found, Certificate):
            return found
        self.unsettled += found is Outcome.UNKNOWN
        return None


def smallest_cell(colours: Colours) -> int:
    """A term of the smallest colour that several have, of the colour that comes first among those."""
    _, inverse, counts = np.unique(colours.terms, return_inverse=True, return_counts=True)
    cell = np.where(counts > 1, counts, len(inverse) + 1).argmin()
    return int((inverse == cell).argmax())

"""The best exact algorithm that formulas and given algorithms yield for a target.

For matrix products: dynamic programming over all shapes up to the one asked for, each the best of the
standard algorithm, a given one, two summed along a dimension, and two composed; every shape stands for
its six permutations. Rank and amplification of sums and compositions are known without building them
(g nmp adds, g multiplies), so that only the winner is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import gauss, gram, laderman, standard, standard_terms, strassen, toom
from stlsearch.constructions.convolution import convolution
from stlsearch.constructions.transforms import compose, direct_sum, permute_to
from stlsearch.errors import InputError
from stlsearch.targets import Target

Shape = tuple[int, int, int]


def best_exact(target: Target, pool: Iterable[BilinearAlgorithm] = ()) -> BilinearAlgorithm:
    """The exact real algorithm of lowest rank, then lowest amplification, that can be put together for a target.

    Args:
        pool: further algorithms to build from, e.g. the registry's; those over Zp, inexact or complex are passed over.

    Returns:
        At worst the standard algorithm. Matrix products: 7 for <2,2,2>, 23 for <3,3,3>, 49 for <4,4,4> by
        formula alone. Polynomials: Toom-Cook; cyclic convolution: Winograd; both the standard algorithm
        where their coefficients grow too large. Complex product: Gauss. A A^T: squares. A target whose entries
        are no fractions has no exact algorithm: its definition is over R.
    """
    usable = [algorithm for algorithm in pool if algorithm.is_exact and algorithm.is_real]
    if target.shape is not None:
        matrices = [algorithm for algorithm in (strassen(), laderman(), *usable) if algorithm.target.shape is not None]
        plans = _Plans(target.shape, matrices)
        winner = plans.build(target.shape)
        if not plans.used or any(winner.id == algorithm.id for algorithm in plans.used.values()):
            return winner
        parents = [{"id": parent.id, "name": parent.name} for parent in plans.used.values()]
        return winner.with_provenance(construction="best of sums and compositions", parents=parents)
    candidates = [algorithm for algorithm in usable if algorithm.target == target]
    candidates += [standard_terms(target), *_by_formula(target)]
    return min(candidates, key=lambda algorithm: (algorithm.rank, algorithm.amplification))


def _by_formula(target: Target) -> list[BilinearAlgorithm]:
    params = {name: int(value) for name, value in target.params if isinstance(value, int)}
    try:
        if target.kind == "complex":
            return [gauss()]
        if target.kind == "polymul":
            return [toom(params["m"], params["n"])]
        if target.kind == "cyclic":
            return [convolution(params["n"])]
        if target.kind == "aat":
            return [gram(params["n"], params["m"])]
    except InputError:  # coefficients beyond 2^53
        pass
    return []


@dataclass(frozen=True)
class _Plan:
    """How to make the best algorithm of a shape: `given`, or `first` and `second` by sum or composition."""

    rank: int
    weight: float  # g nmp
    given: BilinearAlgorithm | None = None
    dimension: str = ""  # of a sum; empty for a composition
    parts: tuple[Shape, Shape] | None = None

    @property
    def key(self) -> tuple[int, float]:
        return self.rank, round(self.weight, 6)


class _Plans:
    """The best plan of every shape n <= m <= p that fits into a permutation of the one asked for."""

    def __init__(self, shape: Shape, given: Iterable[BilinearAlgorithm]) -> None:
        self._given: dict[Shape, _Plan] = {}
        for algorithm in given:
            assert algorithm.target.shape is not None
            place = _sorted(algorithm.target.shape)
            plan = _Plan(algorithm.rank, algorithm.amplification * algorithm.target.norm_sq, given=algorithm)
            if place not in self._given or plan.key < self._given[place].key:
                self._given[place] = plan
        self._best: dict[Shape, _Plan] = {}
        self._built: dict[Shape, BilinearAlgorithm] = {}
        self.used: dict[str, BilinearAlgorithm] = {}  # given algorithms that went into what was built
        largest = _sorted(shape)
        for n, m, p in product(*(range(1, size + 1) for size in largest)):  # every part comes before its whole
            if n <= m <= p:
                self._best[n, m, p] = min(self._candidates((n, m, p)), key=lambda plan: plan.key)

    def build(self, shape: Shape) -> BilinearAlgorithm:
        """The algorithm of a shape, made from its plan."""
        place = _sorted(shape)
        if place not in self._built:
            plan = self._best[place]
            if plan.given is not None:
                self.used[plan.given.id] = plan.given
                self._built[place] = permute_to(plan.given, place)
            elif plan.parts is None:
                self._built[place] = standard(*place)
            else:
                first, second = (self.build(part) for part in plan.parts)
                self._built[place] = direct_sum(first, second, plan.dimension) if plan.dimension else compose(first, second)
        return permute_to(self._built[place], shape)

    def _candidates(self, shape: Shape) -> Iterator[_Plan]:
        size = shape[0] * shape[1] * shape[2]
        yield _Plan(size, size)
        if shape in self._given:
            yield self._given[shape]
        if shape[0] == 1:  # a matrix times a vector: the standard algorithm is optimal
            return
        for along, name in enumerate("nmp"):
            for cut in range(1, shape[along] // 2 + 1):
                parts = _with(shape, along, cut), _with(shape, along, shape[along] - cut)
                first, second = (self._best[_sorted(part)] for part in parts)
                yield _Plan(first.rank + second.rank, first.weight + second.weight, dimension=name, parts=parts)
        for a, b, c in product(*([d for d in range(1, extent + 1) if extent % d == 0] for extent in shape)):
            if 1 < a * b * c < size:
                outer, inner = (shape[0] // a, shape[1] // b, shape[2] // c), (a, b, c)
                first, second = self._best[_sorted(outer)], self._best[_sorted(inner)]
                yield _Plan(first.rank * second.rank, first.weight * second.weight, parts=(outer, inner))


def _sorted(shape: Shape) -> Shape:
    n, m, p = sorted(shape)
    return n, m, p


def _with(shape: Shape, along: int, extent: int) -> Shape:
    n, m, p = (extent if d == along else size for d, size in enumerate(shape))
    return n, m, p

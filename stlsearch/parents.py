"""Which registered bases a search for a front starts from: the best at every rank, and a pool of others that differ."""

from __future__ import annotations

from collections.abc import Iterable

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.equivalence import DistinctPool, Signature
from stlsearch.errors import InputError
from stlsearch.registry.store import Registry
from stlsearch.solvers.polish import Goal
from stlsearch.targets import Target

OTHER_BOUNDS = (1000.0, 30.0)  # on g, of the fronts that every search takes parents from
WITHIN = 0.02  # how far above the best score of its rank a member of the pool may lie, relatively
LEAST_GAIN = 1e-4  # relative: below it a basis is the same one polished again
SAME_BASIN = 1e-2  # of `Signature.distance`: bases polished in one basin lie within 5e-3 of each other, others 3e-2 and more apart


def usable_algorithms(target: Target, registry: Registry) -> list[BilinearAlgorithm]:
    """The registered algorithms that a white real search can use."""
    found = (entry.algorithm for entry in registry.find(target)[0])
    return [algorithm for algorithm in found if algorithm.is_real and algorithm.metric is None]


def best_by_rank(algorithms: list[BilinearAlgorithm], goal: Goal) -> dict[int, BilinearAlgorithm]:
    """The algorithm of least score at every rank that has one within the goal's bound on g."""
    best: dict[int, BilinearAlgorithm] = {}
    for algorithm in sorted(algorithms, key=lambda algorithm: algorithm.rank):
        if not _within_bound(algorithm, goal):
            continue
        held = best.get(algorithm.rank)
        if held is None or goal.score(algorithm.error, algorithm.amplification) < goal.score(held.error, held.amplification):
            best[algorithm.rank] = algorithm
    return best


def _within_bound(algorithm: BilinearAlgorithm, goal: Goal) -> bool:
    return goal.optimize_for is not None or algorithm.amplification <= goal.max_amplification


class Parents:
    """The bases of one target that a search for one goal starts from, kept up to date with the registry.

    At every rank they are

    - the pool: up to `size` bases within the share `within` of the best score, no two the same up to scaling, order of terms,
      orthogonal changes of basis and the symmetries of the target (`stlsearch.equivalence`). With one it is the best alone;
    - the best under other bounds on g: a basis that is best there lies in a basin that may be best here too;
    - what no fit made. Constructed and imported algorithms and members of border-rank families stay parents however good
      the bases at their ranks have become: what can be reached from them need not lie near the best basis of that rank.

    The pool is nothing but a choice among the registered bases: what a search adds to it is registered, so that it is found again
    by any search of that registry, and seen by `stlsearch list`.

    Raises:
        InputError: a size below 1, or a share that is not positive.
    """

    def __init__(self, goal: Goal, size: int = 1, within: float = WITHIN) -> None:
        if size < 1 or not within > 0:
            raise InputError(f"a pool needs a size of at least 1 and a positive distance from the best, not {size} and {within:g}")
        self.goal, self.size, self.within = goal, size, within
        self._signatures: dict[str, Signature] = {}
        self.update(())

    def update(self, usable: Iterable[BilinearAlgorithm]) -> None:
        """Choose anew among what is registered now."""
        self._usable = list(usable)
        self._pool = DistinctPool(self.size, self._score, SAME_BASIN, self.within, LEAST_GAIN)
        for algorithm in sorted(self._usable, key=self._score):
            self.admit(algorithm)

    def admit(self, algorithm: BilinearAlgorithm) -> bool:
        """Take a basis into the pool if it is good enough and unlike those held, or a better version of one; say whether it was."""
        return _within_bound(algorithm, self.goal) and self._pool.add(algorithm, self._signature)

    def pool(self, target: Target, rank: int) -> list[BilinearAlgorithm]:
        """The members of the pool at a rank, best first."""
        return self._pool.best(target.slug, rank)

    def all(self) -> list[BilinearAlgorithm]:
        """Everything that a search may start from, each once."""
        found = list(self._pool)
        for bound in OTHER_BOUNDS:
            found += best_by_rank(self._usable, Goal(bound)).values()
        found += [held for held in self._usable if is_root(held)]
        return list({held.id: held for held in found}.values())

    def _score(self, algorithm: BilinearAlgorithm) -> float:
        return self.goal.score(algorithm.error, algorithm.amplification)

    def _signature(self, algorithm: BilinearAlgorithm) -> Signature:
        if algorithm.id not in self._signatures:
            self._signatures[algorithm.id] = Signature.of(algorithm)
        return self._signatures[algorithm.id]


def is_root(algorithm: BilinearAlgorithm) -> bool:
    """It was constructed or imported, not fitted."""
    return algorithm.provenance.get("method") != "fit"

"""Whether a registry holds an algorithm already, in whatever basis, and storing one only where that adds something.

An algorithm that a change of basis makes of a registered one, over its ring or a smaller one, can do no more than that one
can. It adds something only if it is written better: with fewer additions, or a lower amplification g (which means
nothing over Zp). An equivalent that is better in one of them and worse in the other has its own use, and is stored too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import modulus_of
from stlsearch.identity.class_id import class_id
from stlsearch.identity.same import EQUIVALENT, same
from stlsearch.identity.terms import is_supported, rank_distribution
from stlsearch.records import implied_by
from stlsearch.registry.store import Entry, Registry

NODES = 500  # branches of a search before something is stored: what they leave undecided counts as new
ROUNDING = 1e-9  # relative, of two amplifications that count as equal


@dataclass(frozen=True, eq=False)
class Equivalent:
    """An algorithm at hand that a change of basis makes of a new one.

    Attributes:
        algorithm: the one at hand.
        gains: what the new one is better at, in words; empty where it adds nothing.
    """

    algorithm: BilinearAlgorithm
    gains: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Stored:
    """What became of an algorithm that was to be stored.

    Attributes:
        entry: the registered algorithm: the new one, or the one to which it adds nothing.
        equivalent: the registered one that a change of basis makes of it, None where none is known.
    """

    entry: Entry
    equivalent: Equivalent | None = None

    @property
    def is_kept(self) -> bool:
        """The registry holds the algorithm itself."""
        return self.equivalent is None or self.entry.algorithm is not self.equivalent.algorithm

    @property
    def remark(self) -> str | None:
        """A line about its equivalent, None where there is none to name."""
        if self.equivalent is None:
            return None
        name = self.equivalent.algorithm.name
        if not self.is_kept:
            return f"not stored: {name}, which is registered, is the same in another basis, and no worse"
        better = f", with {' and '.join(self.equivalent.gains)}" if self.equivalent.gains else ""
        return f"{self.entry.algorithm.name} is {name} in another basis{better}"


def add_unless_equivalent(algorithm: BilinearAlgorithm, registry: Registry, keep: bool = False) -> Stored:
    """Store an algorithm, unless a registered one is equivalent and no worse: see `known_equivalent`.

    Args:
        keep: store it all the same.

    Raises:
        InputError, RegistryError: as `Registry.add`.
    """
    equivalent = None
    if is_supported(algorithm):
        entries = registry.find(algorithm.target, algorithm.rank, exact=True)[0]
        equivalent = known_equivalent(algorithm, [entry.algorithm for entry in entries])
        if equivalent is not None and not equivalent.gains and not keep:
            return Stored(next(entry for entry in entries if entry.algorithm is equivalent.algorithm), equivalent)
    registry.add(algorithm)
    return Stored(registry.get(algorithm.name), equivalent)


def known_equivalent(algorithm: BilinearAlgorithm, held: Iterable[BilinearAlgorithm], nodes: int = NODES) -> Equivalent | None:
    """The first of `held` that a change of basis, proved by a certificate, makes of an exact algorithm; None when there is none.

    Of the same target, rank and characteristic, over the same ring or a smaller one. Those to which the algorithm adds
    nothing come first. None too where the algorithm itself is held, and where nothing can be said: inexact algorithms, other
    targets than matrix products, ranks above 250, pairs that stay undecided within `nodes`.
    """
    if not is_supported(algorithm):
        return None
    alike = [other for other in held if other.target == algorithm.target and other.rank == algorithm.rank and is_supported(other)]
    if any(other.id == algorithm.id for other in alike):
        return None
    candidates = [Equivalent(other, _gains(algorithm, other)) for other in alike if _is_within(other.ring, algorithm.ring)]
    for candidate in sorted(candidates, key=lambda each: bool(each.gains)):
        if _are_equivalent(algorithm, candidate.algorithm, nodes):
            return candidate
    return None


def _are_equivalent(one: BilinearAlgorithm, other: BilinearAlgorithm, nodes: int) -> bool:
    """What is cheap and tells most apart comes first."""
    try:
        return _ranks(one) == _ranks(other) and class_id(one) == class_id(other) and same(one, other, nodes).answer == EQUIVALENT
    except InputError:  # a denominator that a prime of the invariants divides
        return False


@lru_cache(maxsize=4096)
def _ranks(algorithm: BilinearAlgorithm) -> Counter[tuple[int, ...]]:
    """How many terms have matrices of which ranks, in whatever order of the three."""
    counts: Counter[tuple[int, ...]] = Counter()
    for ranks, count in rank_distribution(algorithm).items():
        counts[tuple(sorted(ranks))] += count
    return counts


def _gains(new: BilinearAlgorithm, old: BilinearAlgorithm) -> tuple[str, ...]:
    gains = []
    if new.additions < old.additions:
        gains.append(f"{new.additions} additions instead of {old.additions}")
    if modulus_of(new.ring) is None and new.amplification < old.amplification * (1 - ROUNDING):
        gains.append(f"amplification {new.amplification:.6g} instead of {old.amplification:.6g}")
    return tuple(gains)


def _is_within(ring: str, other: str) -> bool:
    return ring in implied_by(other) and modulus_of(ring) == modulus_of(other)

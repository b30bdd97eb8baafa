"""Whether a registry holds an algorithm already, in whatever basis."""

from __future__ import annotations

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.exact import modulus_of
from stlsearch.identity.class_id import class_id
from stlsearch.identity.matching import NODES
from stlsearch.identity.same import EQUIVALENT, same
from stlsearch.identity.terms import is_supported
from stlsearch.registry.store import Entry, Registry


def duplicate_of(algorithm: BilinearAlgorithm, registry: Registry, nodes: int = NODES) -> Entry | None:
    """A registered algorithm that a change of basis, proved by a certificate, makes of an exact one; None when there is none.

    Of the same target, rank and characteristic, by name; the algorithm itself comes first where it is registered. None too
    where nothing can be said: inexact algorithms, other targets than matrix products, ranks above 250, pairs that stay
    undecided within `nodes`. Strassen's algorithm and Winograd's are duplicates in this sense: a basis with fewer additions
    can be worth keeping, and whether it is kept is for the caller to say.
    """
    if not is_supported(algorithm):
        return None
    entries = [
        entry
        for entry in registry.find(algorithm.target, algorithm.rank, exact=True)[0]
        if modulus_of(entry.algorithm.ring) == modulus_of(algorithm.ring)
    ]
    for entry in entries:
        if entry.algorithm.id == algorithm.id:
            return entry
    for entry in entries:
        if class_id(entry.algorithm) == class_id(algorithm) and same(algorithm, entry.algorithm, nodes).answer == EQUIVALENT:
            return entry
    return None

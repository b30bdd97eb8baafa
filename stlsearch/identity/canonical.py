"""The canonical form of an algorithm over Z2: one representative for each class.

Over Z2 no term can be scaled, and an ordered list of terms fixes a basis up to one vector: from x in Z2^n the w_r x span
Z2^p, the v_r of those Z2^m, and the u_r of those Z2^n again (an exact algorithm's u, v, w span all matrices), so that the first
independent ones, in the order of the terms, are bases of all three (the standard basis of Parker's MeatAxe, "The computer
calculation of modular characters", 1984). The order of the terms comes from individualisation and refinement, as in
`stlsearch.identity.matching`, keeping at every depth only the branches whose colours come first. Of all forms, branches and
x the smallest sorted list of terms is the canonical form: two algorithms have the same exactly if they are equivalent.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.identity.colours import Colours, Invariants
from stlsearch.identity.matching import NODES, Budget, smallest_cell
from stlsearch.identity.modular import inverse, ranks
from stlsearch.identity.same import orders_between
from stlsearch.identity.terms import Terms


def canonical_form(algorithm: BilinearAlgorithm, nodes: int = NODES) -> BilinearAlgorithm:
    """The representative of its class, an algorithm over Z2 for the same target, its terms sorted.

    Args:
        nodes: the most branches of the search for orders of the terms.

    Raises:
        InputError: not over Z2, no matrix product, a rank above 250, or a group of symmetries too large for the budget.
    """
    if algorithm.ring != "Z2":
        raise InputError(f"a canonical form is worked out over Z2, not over {algorithm.ring}: use class_id and same there")
    invariants = Invariants(Terms.of(algorithm))
    budget = Budget(nodes)
    best: tuple[bytes, np.ndarray] | None = None
    forms = [invariants.form(order) for order in orders_between(algorithm, algorithm)]
    first = min(form.stable.histogram.tobytes() for form in forms)
    for form in forms:
        if form.stable.histogram.tobytes() != first:
            continue
        for order in _orders(form, budget):
            for found in _representatives(form.terms, order):
                key = found.tobytes()
                if best is None or key < best[0]:
                    best = key, found
    assert best is not None
    n, m, p = invariants.terms.shape
    U, V, W = np.split(best[1].astype(np.int64), [n * m, n * m + m * p], axis=1)
    W = W.reshape(-1, p, n).transpose(0, 2, 1).reshape(-1, n * p)
    parents = [{"id": algorithm.id, "name": algorithm.name}]
    return BilinearAlgorithm.from_exact(
        algorithm.target, U, V, W, ring="Z2", provenance={"operation": "canonical_form", "parents": parents}
    )


def _orders(invariants: Invariants, budget: Budget) -> Iterator[np.ndarray]:
    """Orders of the terms: the algorithms of one class get the same ones, up to what takes one to the other."""
    level = [invariants.stable]
    depth = 0
    while not level[0].discrete:
        depth += 1
        branches: list[tuple[bytes, Colours]] = []
        for colours in level:
            cell = colours.terms[smallest_cell(colours)]
            for term in np.flatnonzero(colours.terms == cell):
                if not budget.take():
                    raise InputError(f"the terms are too much alike for a canonical form within {budget.spent} nodes")
                refined = colours.individualised(int(term), depth).refined()
                branches.append((refined.rounds.to_bytes(4) + refined.histogram.astype(">u8").tobytes(), refined))
        first = min(key for key, _ in branches)
        level = [colours for key, colours in branches if key == first]
    for colours in level:
        yield np.argsort(colours.terms)


def _representatives(terms: Terms, order: np.ndarray) -> Iterator[np.ndarray]:
    """The terms in the basis that each x gives, sorted, uint8 of shape (r, nm + mp + pn)."""
    n, m, p = terms.shape
    u, v, w = terms.u[order], terms.v[order], terms.w[order]
    for entries in product((0, 1), repeat=n):
        x = np.array(entries, dtype=np.int64)
        if not x.any():
            continue
        third = _first_independent(w @ x % 2, p)
        second = _first_independent(np.einsum("rij,jk->kri", v, third).reshape(-1, m) % 2, m)
        first = _first_independent(np.concatenate([x[None], np.einsum("rij,jk->kri", u, second).reshape(-1, n) % 2]), n)
        back = [inverse(basis, 2) for basis in (first, second, third)]
        moved = (back[0] @ u @ second % 2, back[1] @ v @ third % 2, back[2] @ w @ first % 2)
        flat = np.concatenate([factor.reshape(len(u), -1) for factor in moved], axis=1).astype(np.uint8)
        yield flat[np.lexsort(flat.T[::-1])]


def _first_independent(vectors: np.ndarray, size: int) -> np.ndarray:
    """The first vectors that span, as the columns of a matrix modulo 2."""
    chosen = np.zeros((0, size), dtype=np.int64)
    for vector in vectors:
        more = np.concatenate([chosen, vector[None]])
        if int(ranks(more[None], 2)[0]) == len(more):
            chosen = more
            if len(chosen) == size:
                break
    return chosen.T

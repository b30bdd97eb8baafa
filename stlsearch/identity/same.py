"""Are two exact algorithms for a matrix product one, up to a change of basis, scaling, order of terms, and shape?

The group is that of de Groote ("On varieties of optimal algorithms for the computation of bilinear mappings", Theoret.
Comput. Sci. 7, 1978): X, Y, Z over the field of fractions (Q, Q(i), or Zp), cyclic shifts and transposition where they
lead from one <n,m,p> to the other. Either answer is proved: an equivalence by a certificate that is checked in exact
arithmetic, a difference by an invariant with two values, or by a search that has ruled out every matching of terms.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.transforms import permute
from stlsearch.equivalence import TOLERANCE, Signature
from stlsearch.errors import InputError
from stlsearch.exact import modulus_of
from stlsearch.identity.bases import Pair
from stlsearch.identity.certificate import Certificate
from stlsearch.identity.colours import Invariants, combine
from stlsearch.identity.matching import NODES, Budget, Search, Told
from stlsearch.identity.terms import ORDERS, Terms

EQUIVALENT, DIFFERENT, UNDECIDED = "equivalent", "not equivalent", "undecided"
Order = tuple[int, int, int]


@dataclass(frozen=True)
class Verdict:
    """The answer about two algorithms.

    Attributes:
        answer: `EQUIVALENT`, `DIFFERENT` or `UNDECIDED`.
        reason: one sentence.
        field: over which X, Y, Z are sought: Q, Q(i), Z2, ...; R for inexact algorithms.
        certificate: of an equivalence.
        invariant: of a difference: its name, and what the two algorithms have.
        nodes: branches that were searched.
    """

    answer: str
    reason: str
    field: str
    certificate: Certificate | None = None
    invariant: dict[str, str] | None = None
    nodes: int = 0


def same(one: BilinearAlgorithm, other: BilinearAlgorithm, nodes: int = NODES, told: Told | None = None) -> Verdict:
    """Whether a change of basis makes one exact algorithm of the other.

    An algorithm over Zp and one of characteristic 0 are compared modulo p.

    Args:
        nodes: the most branches of the search; beyond it the answer is `UNDECIDED`.
        told: called with the number of branches so far.

    Raises:
        InputError: an inexact algorithm, no matrix products, two different primes, a rank above 250.
    """
    modulus = common_modulus(one, other)
    seen = f"Z{modulus}" if modulus else "Q(i)" if any(is_complex(algorithm) for algorithm in (one, other)) else "Q"
    orders = orders_between(one, other)
    if not orders:
        return _shape_verdict(one, other, seen)
    if one.rank != other.rank:
        return Verdict(DIFFERENT, f"ranks {one.rank} and {other.rank}", seen, invariant=_named("rank", str(one.rank), str(other.rank)))
    first, second = Invariants(Terms.of(one, modulus)), Invariants(Terms.of(other, modulus))
    forms = {order: first.form(order) for order in orders}
    budget = Budget(nodes, told)
    open_reasons = []
    matchings = 0
    alike = False
    for order in orders:
        search = Search(Pair(one, other, order, modulus), forms[order], second, budget)
        if not search.alike:
            continue
        alike = True
        found = search.run()
        if found is not None:
            return Verdict(EQUIVALENT, "a change of basis takes one to the other", seen, found, nodes=budget.spent)
        matchings += search.leaves
        if search.cut:
            open_reasons.append(f"the budget of {nodes} nodes ended before the search")
        elif search.unsettled:
            open_reasons.append("terms that correspond by every invariant were neither taken to each other nor proved different")
    proved = first.terms.faithful and second.terms.faithful
    if not alike:
        difference = _difference(list(forms.values()), second, proved)
        if difference is not None:
            reason = f"{difference['name']} differ: {difference['one']} against {difference['other']}"
            return Verdict(DIFFERENT, reason, seen, invariant=difference)
    if open_reasons:
        return Verdict(UNDECIDED, open_reasons[0], seen, nodes=budget.spent)
    if not proved:
        return Verdict(
            UNDECIDED, "coefficients too large for the primes used: they differ almost certainly, unproved", seen, nodes=budget.spent
        )
    tried = f"the {matchings} that the invariants leave were ruled out" if matchings else "the search ended without one"
    return Verdict(
        DIFFERENT, f"no matching of the terms respects the invariants and comes from a change of basis: {tried}", seen, nodes=budget.spent
    )


def same_inexact(one: BilinearAlgorithm, other: BilinearAlgorithm) -> Verdict:
    """What signatures say of two algorithms of which one at least is inexact.

    Only orthogonal changes of basis leave an inexact algorithm's error as it is, so these alone count. Signatures that
    differ by more than the tolerance prove a difference, others prove nothing: the answer is `UNDECIDED`, or `EQUIVALENT`
    where the stored factors are the same.

    Raises:
        InputError: an algorithm over Zp, which has no meaning over the real numbers, or no matrix products.
    """
    for algorithm in (one, other):
        if modulus_of(algorithm.ring):
            raise InputError(f"an algorithm over {algorithm.ring} cannot be compared with an inexact one")
    orders = orders_between(one, other)
    if not orders:
        return _shape_verdict(one, other, "R")
    if one.id == other.id:
        return Verdict(EQUIVALENT, "the stored factors are the same", "R")
    if one.rank != other.rank:
        return Verdict(DIFFERENT, f"ranks {one.rank} and {other.rank}", "R", invariant=_named("rank", str(one.rank), str(other.rank)))
    distance = Signature.of(permute(one, orders[0])).distance(Signature.of(other))  # symmetries of one shape make no difference to it
    if distance > TOLERANCE:
        reason = f"no orthogonal change of basis makes one of the other: their signatures differ by {distance:.2g}, more than {TOLERANCE:g}"
        return Verdict(DIFFERENT, reason, "R", invariant=_named("signature", "0", f"{distance:.2g}"))
    return Verdict(
        UNDECIDED, f"inexact, and their signatures agree within {distance:.2g}: probably the same in another orthogonal basis", "R"
    )


def common_modulus(one: BilinearAlgorithm, other: BilinearAlgorithm) -> int | None:
    """The p over which two algorithms can be compared, None for characteristic 0.

    Raises:
        InputError: two different primes.
    """
    moduli = {modulus for modulus in (modulus_of(one.ring), modulus_of(other.ring)) if modulus}
    if len(moduli) > 1:
        raise InputError(f"algorithms over {one.ring} and {other.ring} have no common field")
    return moduli.pop() if moduli else None


def is_complex(algorithm: BilinearAlgorithm) -> bool:
    """Whether an exact coefficient is not real."""
    return any(factor.imaginary is not None for factor in algorithm.exact or ())


def orders_between(one: BilinearAlgorithm, other: BilinearAlgorithm) -> list[Order]:
    """The permutations of n, m, p that lead from one shape to the other, as `permute` takes them."""
    own, wanted = one.target.shape, other.target.shape
    if own is None or wanted is None:
        raise InputError(f"changes of basis are known for matrix products, not for {(one if own is None else other).target.slug}")
    return [order for order in ORDERS if tuple(own[place - 1] for place in order) == wanted]


def _shape_verdict(one: BilinearAlgorithm, other: BilinearAlgorithm, seen: str) -> Verdict:
    names = one.target.slug, other.target.slug
    return Verdict(DIFFERENT, f"they compute {names[0]} and {names[1]}", seen, invariant=_named("target", *names))


def _named(name: str, one: str, other: str) -> dict[str, str]:
    return {"name": name, "one": one, "other": other}


def _difference(forms: list[Invariants], second: Invariants, proved: bool) -> dict[str, str] | None:
    """The simplest invariant that differs in every form, in words; None when those that prove something all agree.

    Numbers made of traces are right modulo every prime; ranks, and which traces vanish, only where the image is faithful.
    """
    for name, of in _NAMED.items():
        if name not in _TRACES and not proved:
            continue
        own = [np.sort(of(form), axis=None) for form in forms]
        others = np.sort(of(second), axis=None)
        if all(not np.array_equal(values, others) for values in own):
            shown = _shown_ranks if name == "ranks of the terms' matrices" else _shown
            return _named(name, *shown(own[0], others, second.terms.prime))
    return None


def _shown_ranks(own: np.ndarray, others: np.ndarray, prime: int) -> tuple[str, str]:
    def words(values: np.ndarray) -> str:
        counts = sorted(Counter(values.tolist()).items())
        return ", ".join(f"{count} of ({value // 10000},{value // 100 % 100},{value % 100})" for value, count in counts)

    return words(own), words(others)


def _shown(own: np.ndarray, others: np.ndarray, prime: int) -> tuple[str, str]:
    """The first value that occurs more often in one than in the other, and how often."""
    counts = [dict(zip(*(array.tolist() for array in np.unique(values, return_counts=True)), strict=True)) for values in (own, others)]
    differing = [value for value in counts[0].keys() | counts[1].keys() if counts[0].get(value, 0) != counts[1].get(value, 0)]
    signed = {value: value if value <= prime // 2 or value >= prime else value - prime for value in differing}
    value = min(differing, key=lambda item: (abs(signed[item]), item))
    label = f"{signed[value]}" if value < prime else f"{value:016x}"
    one, other = (f"{label} {count.get(value, 0)} times of {len(values)}" for count, values in zip(counts, (own, others), strict=True))
    return one, other


_NAMED = {
    "ranks of the terms' matrices": lambda invariants: invariants.of_terms["ranks"],
    "traces tr(u_r v_r w_r)": lambda invariants: invariants.of_terms["trace"],
    "trace products of three terms": lambda invariants: invariants.triple_products,
    "trace products of two terms": lambda invariants: combine(list(invariants.pair_traces.values())),
    "ranks of pairs of terms": lambda invariants: combine(list(invariants.pair_ranks.values())),
    "colours of terms and pairs after refinement": lambda invariants: invariants.plain.pairs,
    "sums of quotients of traces of two terms": lambda invariants: np.concatenate(invariants.quotients),
    "colours after refinement with quotients of traces": lambda invariants: invariants.stable.pairs,
}
_TRACES = ("traces tr(u_r v_r w_r)", "trace products of three terms", "trace products of two terms")

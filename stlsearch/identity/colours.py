"""Invariants of terms, pairs and triples of terms, and their refinement to colours.

Under a change of basis, u -> X u Y^-1, v -> Y v Z^-1, w -> Z w X^-1, and under scaling a term by factors a_r b_r c_r = 1,
T_rst = tr(u_r v_s w_t) is multiplied by a_r b_s c_t. Left alone are

- of a term: T_rrr, and the ranks of u, v, w;
- of two: T_rrs T_ssr, T_rsr T_srs, T_srr T_rss, T_rrs T_rsr T_srr, the ranks of u_r v_s, v_r w_s, w_r u_s, of u_r and u_s
  side by side and one below the other (v and w alike), and whether they are proportional;
- and of two again, T_rst/T_r'st for all s, t, up to one common factor;
- of three: q_rst = T_rst T_str T_trs, which of their six traces vanish, and over small fields, where little else is
  left, the rank of u_r v_s w_t.

Colours start there and are refined as by Weisfeiler and Leman in dimension two: a pair (r, s) takes up the multiset, over
all t, of the colours of the triple (r, s, t) and of the pairs (r, t) and (t, s), until that splits no colour any more.
A colour is a 64-bit hash of what it stands for, made of nothing but invariants: schemes whose colours differ are different,
and a collision can only hide a difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stlsearch.identity.modular import ranks, sparse_product
from stlsearch.identity.terms import Terms, form_names

SMALL_FIELD = 1000  # below this prime the ranks of triple products are taken too
SLICE = 2**22  # triples hashed at a time
_ODD = [np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93)]
_NEXT = {"u": "v", "v": "w", "w": "u"}
_SHIFTS = [np.uint64(value) for value in (30, 27, 31)]


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): uint64 -> uint64, one to one, every bit depending on every bit."""
    values = values + _ODD[0]
    values = (values ^ (values >> _SHIFTS[0])) * _ODD[1]
    values = (values ^ (values >> _SHIFTS[1])) * _ODD[2]
    return values ^ (values >> _SHIFTS[2])


def combine(parts: list[np.ndarray]) -> np.ndarray:
    """One hash of arrays of equal shape, entry by entry; their order counts."""
    total = np.zeros(parts[0].shape, dtype=np.uint64)
    for part in parts:
        total = mix(total * _ODD[3] + part.astype(np.uint64))
    return total


@dataclass(frozen=True, eq=False)
class Invariants:
    """The invariants of one algorithm, by name, as int64 arrays over terms, pairs or triples.

    Attributes:
        terms: of the algorithm.
        known: ranks of pairs that are known already; see `form`.
    """

    terms: Terms
    known: dict[str, np.ndarray] | None = None

    def form(self, order: tuple[int, int, int]) -> Invariants:
        """Those of `permute(algorithm, order)`: the ranks, which take longest, only change their names."""
        names, transposed = form_names(order)
        known = {}
        for name, old in names.items():
            # (u_r v_s)^T = v_s^T u_r^T: transposition turns products round, and matrices side by side come to lie above each other.
            following, old_following = names[_NEXT[name]], _NEXT[old]
            pair = f"rank {following}{_NEXT[following]}" if transposed else f"rank {old}{old_following}"
            known[f"rank {name}{_NEXT[name]}"] = self.pair_ranks[pair].T if transposed else self.pair_ranks[pair]
            for way, turned in (("beside", "above"), ("above", "beside")):
                known[f"rank {name} {way} {name}"] = self.pair_ranks[f"rank {old} {turned if transposed else way} {old}"]
            known[f"proportional {name}"] = self.pair_ranks[f"proportional {old}"]
        return Invariants(self.terms.form(order), known)

    @cached_property
    def of_terms(self) -> dict[str, np.ndarray]:
        """Shape (r,): ranks of u, v, w as the decimal digits of one number (below 100 each), and T_rrr."""
        u, v, w = (ranks(factor, self.terms.prime) for factor in (self.terms.u, self.terms.v, self.terms.w))
        return {"ranks": (u * 100 + v) * 100 + w, "trace": np.einsum("rrr->r", self.terms.traces)}

    @cached_property
    def pair_traces(self) -> dict[str, np.ndarray]:
        """Products of traces of two terms, shape (r, r) each: see the module."""
        prime, traces = self.terms.prime, self.terms.traces
        first, second, third = (np.einsum(index, traces) for index in ("srr->rs", "rsr->rs", "rrs->rs"))
        return {
            "traces u": first * first.T % prime,
            "traces v": second * second.T % prime,
            "traces w": third * third.T % prime,
            "traces uvw": first * second % prime * third % prime,
        }

    @cached_property
    def pair_ranks(self) -> dict[str, np.ndarray]:
        """Ranks made of two terms, shape (r, r) each: see the module."""
        if self.known is not None:
            return self.known
        rank, prime = self.terms.rank, self.terms.prime
        found = {}
        factors = {"u": self.terms.u, "v": self.terms.v, "w": self.terms.w}
        for name, factor in factors.items():
            products = self.terms.pair_products(factor, factors[_NEXT[name]])
            found[f"rank {name}{_NEXT[name]}"] = ranks(products.reshape(rank * rank, *products.shape[2:]), prime).reshape(rank, rank)
            for way, beside in (("beside", _stacked(factor)), ("above", _stacked(factor.transpose(0, 2, 1)))):
                found[f"rank {name} {way} {name}"] = ranks(beside, prime).reshape(rank, rank)
            found[f"proportional {name}"] = ranks(_stacked(factor.reshape(rank, -1, 1)), prime).reshape(rank, rank)
        return found

    @cached_property
    def triple_products(self) -> np.ndarray:
        """q_rst modulo p, shape (r, r, r)."""
        traces = self.terms.traces
        return traces * np.einsum("str->rst", traces) % self.terms.prime * np.einsum("trs->rst", traces) % self.terms.prime

    @cached_property
    def triples(self) -> np.ndarray:
        """One hash for every three terms in their order, uint64 of shape (r, r, r).

        Over small fields the ranks of u_r v_s w_t are in it where the colours without them leave two terms alike.
        """
        colours = self._triples((self.terms.traces != 0).astype(np.uint8))
        if self.terms.prime >= SMALL_FIELD or Colours(self.pairs, colours).refined().discrete:
            return colours
        return self._triples((self.terms.traces != 0) + 2 * self._triple_ranks().astype(np.uint8))

    @cached_property
    def pairs(self) -> np.ndarray:
        """One hash for every two terms in their order, uint64 of shape (r, r), terms on the diagonal: the colours to refine."""
        known = {**self.pair_traces, **self.pair_ranks}
        parts = [known[name] for name in sorted(known)]
        colours = combine([*parts, *(part.T for part in parts)])
        np.fill_diagonal(colours, mix(~combine([colours.diagonal(), *self.of_terms.values()])))
        return colours

    @cached_property
    def plain(self) -> Colours:
        """The colours that refinement of `pairs` ends with."""
        return Colours(self.pairs, self.triples).refined()

    @cached_property
    def stable(self) -> Colours:
        """The colours that refinement ends with once it has taken in the quotients of traces."""
        parts = self.quotients
        return Colours(combine([self.plain.pairs, *parts, *(part.T for part in parts)]), self.triples).refined()

    @cached_property
    def quotients(self) -> tuple[np.ndarray, ...]:
        """(sum h_st T_rst/T_r'st) (sum h_st T_r'st/T_rst) over the s, t where neither vanishes, and its two siblings, (r, r) each.

        h_st is a number that the colour of (s, t) stands for. The quotients of two terms r and r' change by one common factor
        under scaling: these numbers tell apart algorithms whose traces differ by signs only.
        """
        prime, rank, traces = self.terms.prime, self.terms.rank, self.terms.traces
        values, places = np.unique(traces, return_inverse=True)
        inverses = np.array([pow(value, -1, prime) if value else 0 for value in values.tolist()], dtype=np.int64)
        below = inverses[places].reshape(traces.shape)
        weights = (self.plain.pairs % np.uint64(prime - 1)).astype(np.int64) + 1
        found = []
        # The weight of a pair is read in the cyclic order of the modes, whichever of them r stands in.
        for turn, weight in ((0, 1, 2), weights), ((1, 0, 2), weights.T), ((2, 0, 1), weights):
            above = traces.transpose(turn) * weight[None] % prime
            sums = sparse_product(above.reshape(rank, -1), below.transpose(turn).reshape(rank, -1).T, prime)
            found.append(sums * sums.T % prime)
        return tuple(found)

    def _triples(self, kinds: np.ndarray) -> np.ndarray:
        pattern = np.zeros(kinds.shape, dtype=np.uint64)
        for turn in ("rst->rst", "str->rst", "trs->rst", "rts->rst", "tsr->rst", "srt->rst"):
            pattern = pattern * np.uint64(131) + np.einsum(turn, kinds).astype(np.uint64)
        products = self.triple_products
        return combine([pattern, products, np.einsum("rts->rst", products)])

    def _triple_ranks(self) -> np.ndarray:
        terms, rank = self.terms, self.terms.rank
        products = terms.pair_products(terms.u, terms.v)
        found = np.zeros((rank,) * 3, dtype=np.int64)
        for r in range(rank):
            triple = np.zeros((rank, rank, terms.shape[0], terms.shape[0]), dtype=np.int64)
            for inner in range(terms.shape[2]):
                triple = (triple + products[r][:, None, :, inner, None] * terms.w[None, :, None, inner, :]) % terms.prime
            found[r] = ranks(triple.reshape(rank * rank, *triple.shape[2:]), terms.prime).reshape(rank, rank)
        return found


@dataclass(frozen=True, eq=False)
class Colours:
    """Colours of pairs, terms on the diagonal.

    Attributes:
        pairs: uint64, shape (r, r).
        triples: uint64, shape (r, r, r): what refinement takes up beside the colours.
        rounds: refinements made since the colours were last changed from outside.
    """

    pairs: np.ndarray
    triples: np.ndarray
    rounds: int = 0

    @property
    def terms(self) -> np.ndarray:
        """The colours of the terms, shape (r,)."""
        return self.pairs.diagonal()

    @cached_property
    def histogram(self) -> np.ndarray:
        """The colours of all pairs, sorted."""
        return np.sort(self.pairs, axis=None)

    @cached_property
    def discrete(self) -> bool:
        """No two terms of one colour."""
        return len(np.unique(self.terms)) == len(self.pairs)

    def refined(self, rounds: int | None = None) -> Colours:
        """Refined until no colour splits any more, or so many times: schemes to be compared must be refined alike."""
        pairs, classes, done = self.pairs, len(np.unique(self.pairs)), 0
        while rounds is None or done < rounds:
            pairs = self._step(pairs)
            done += 1
            now = len(np.unique(pairs))
            if rounds is None and now <= classes:
                break
            classes = now
        return Colours(pairs, self.triples, done)

    def individualised(self, term: int, mark: int) -> Colours:
        """One term given a colour of its own."""
        pairs = self.pairs.copy()
        pairs[term, term] = mix(mix(pairs[term : term + 1, term]) + np.uint64(mark))[0]
        return Colours(pairs, self.triples)

    def _step(self, pairs: np.ndarray) -> np.ndarray:
        triples, rank = self.triples, len(pairs)
        scaled, turned = pairs * _ODD[1], np.ascontiguousarray(pairs.T) * _ODD[2]
        sums = np.empty_like(pairs)
        step = max(1, SLICE // max(rank * rank, 1))
        for low in range(0, rank, step):
            high = low + step
            sums[low:high] = mix(triples[low:high] + scaled[low:high, None, :] + turned[None]).sum(axis=2, dtype=np.uint64)
        return mix(pairs * _ODD[3] + sums)


def _stacked(factor: np.ndarray) -> np.ndarray:
    """Every two matrices side by side: (r, a, b) -> (r^2, a, 2b)."""
    rank, rows, columns = factor.shape
    shape = (rank, rank, rows, columns)
    both = np.concatenate([np.broadcast_to(factor[:, None], shape), np.broadcast_to(factor[None], shape)], axis=3)
    return both.reshape(rank * rank, rows, 2 * columns)

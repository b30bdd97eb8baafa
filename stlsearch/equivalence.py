"""When are two algorithms for a matrix product the same? What changes of basis cannot change.

In the C^T form (u, v, w are n x m, m x p and p x n matrices) a change of basis takes a term to (X u Y^-1, Y v Z^-1,
Z w X^-1), and scaling a term moves factors of product 1 between its matrices; neither changes the exactness of an exact
algorithm (de Groote, "On varieties of optimal algorithms for the computation of bilinear mappings", Theoret. Comput. Sci.
7, 1978). Unchanged are

- the ranks of u, v and w of every term;
- for every three terms, q_rst = tr(u_r v_s w_t) tr(u_s v_t w_r) tr(u_t v_r w_s), in which every matrix of the three
  terms occurs once. Moving the modes round or transposing the product only renames terms: the numbers stay.

An approximate algorithm keeps its e and g only under *orthogonal* changes of basis, which leave more unchanged:
|u||v||w| and the singular values of u, v, w of every term, and the inner products of terms up to sign. Where two extents
are equal the product has symmetries besides, which turn u, v and w into one another: signatures are compared in all of them.

Every one is a multiset over the terms, compared sorted. They are necessary for two algorithms to be the same, not
sufficient: equal signatures are no proof, different ones are. Exact algorithms are compared by `stlsearch.identity`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.transforms import cyclic_form
from stlsearch.errors import InputError

TOLERANCE = 1e-3  # relative: optima found by different paths agree to about 1e-5, different ones differ by far more


def triple_products(algorithm: BilinearAlgorithm) -> np.ndarray:
    """q_rst for every r, s, t, sorted, shape (r^3,): unchanged by scaling, order and every change of basis.

    Raises:
        InputError: not a matrix product.
    """
    U, V, W = _matrices(algorithm)
    traces = np.einsum("rij,sjk,tki->rst", U, V, W, optimize=True)
    return np.sort((traces * traces.transpose(2, 0, 1) * traces.transpose(1, 2, 0)).real, axis=None)


@dataclass(frozen=True, eq=False)
class Signature:
    """What orthogonal changes of basis, scaling and reordering leave of an algorithm, exact or not.

    Attributes:
        target: the slug of its target.
        rank: r.
        error, amplification: e and g.
        parts: sorted vectors by name, each compared for itself.
        matrices: of a matrix product, the singular values of u, v and w, for which symmetries may stand in for one another.
        shape: (n, m, p) of a matrix product.
    """

    target: str
    rank: int
    error: float
    amplification: float
    parts: dict[str, np.ndarray]
    matrices: tuple[np.ndarray, ...] = ()
    shape: tuple[int, int, int] | None = None

    @staticmethod
    def of(algorithm: BilinearAlgorithm) -> Signature:
        """For a target other than a matrix product: sizes and inner products of terms only."""
        terms = _term_gram(algorithm)
        sizes = np.sqrt(np.diag(terms).clip(0))
        parts = {"sizes": np.sort(sizes), "spectrum": np.linalg.eigvalsh(terms), "inner": np.sort(np.abs(terms), axis=None)}
        if algorithm.target.shape is None:
            return Signature(algorithm.target.slug, algorithm.rank, algorithm.error, algorithm.amplification, parts)
        matrices = []
        for values in _singular_values(_matrices(algorithm)):
            # Of a term of size |u||v||w|, so that a vanishing term does not count as much as a large one.
            share = values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-300)
            matrices.append(np.sort(share * sizes[:, None], axis=0).ravel())
        parts["triple products"] = np.cbrt(triple_products(algorithm))
        return Signature(
            algorithm.target.slug,
            algorithm.rank,
            algorithm.error,
            algorithm.amplification,
            parts,
            tuple(matrices),
            algorithm.target.shape,
        )

    def distance(self, other: Signature) -> float:
        """The largest relative difference of a part (and of e and g); infinite for another target or rank."""
        if (self.target, self.rank) != (other.target, other.rank):
            return math.inf
        differences = [abs(self.error - other.error), _relative(self.amplification, other.amplification)]
        differences += [_apart(mine, other.parts[name]) for name, mine in self.parts.items()]
        if self.shape is not None:
            differences.append(
                min(max(_apart(self.matrices[k], other.matrices[renamed[k]]) for k in range(3)) for renamed in _symmetries(self.shape))
            )
        return max(differences)


def same_orbit(one: BilinearAlgorithm, other: BilinearAlgorithm, tolerance: float = TOLERANCE) -> bool:
    """Whether two algorithms look the same under orthogonal changes of basis, scaling and reordering of terms.

    No is certain (up to the tolerance), yes is not, see above. About exact algorithms and general changes of basis
    `stlsearch.identity` decides.
    """
    return Signature.of(one).distance(Signature.of(other)) <= tolerance


def _by_error(algorithm: BilinearAlgorithm) -> float:
    return algorithm.error


@dataclass
class DistinctPool:
    """Up to `limit` best algorithms of each target and rank, no two of them the same by their signatures.

    Attributes:
        limit: k.
        score: lower is better; by default e.
        tolerance: of `Signature.distance`.
        within: how far, relatively, a score may lie above the best one's of the same target and rank.
        gain: by how much, relatively, a better version of one that is held has to be better.
    """

    limit: int
    score: Callable[[BilinearAlgorithm], float] = _by_error
    tolerance: float = TOLERANCE
    within: float = math.inf
    gain: float = 0.0
    _held: dict[tuple[str, int], list[tuple[float, Signature, BilinearAlgorithm]]] = field(default_factory=dict, repr=False)

    def add(self, algorithm: BilinearAlgorithm, signature: Callable[[BilinearAlgorithm], Signature] = Signature.of) -> bool:
        """Take it in when it is new and good enough, or a better version of one that is held; say whether it was.

        `signature` is asked for its signature only when the score leaves that open.
        """
        score = self.score(algorithm)
        held = self._held.setdefault((algorithm.target.slug, algorithm.rank), [])
        if (
            not math.isfinite(score)
            or (held and score > self._worst_allowed(held[0][0]))
            or (len(held) >= self.limit and score >= held[-1][0])
        ):
            return False
        own = signature(algorithm)
        twins = [entry for entry in held if entry[1].distance(own) <= self.tolerance]
        if any(score >= entry[0] * (1 - self.gain) for entry in twins):
            return False
        kept = [entry for entry in held if all(entry is not twin for twin in twins)]
        kept.append((score, own, algorithm))
        kept.sort(key=lambda entry: entry[0])
        held[:] = [entry for entry in kept if entry[0] <= self._worst_allowed(kept[0][0])][: self.limit]
        return True

    def _worst_allowed(self, best: float) -> float:
        return math.inf if math.isinf(self.within) else best * (1 + self.within)

    def best(self, slug: str, rank: int) -> list[BilinearAlgorithm]:
        """Those held for a target (its slug) and rank, best first."""
        return [algorithm for _, _, algorithm in self._held.get((slug, rank), [])]

    def __iter__(self) -> Iterator[BilinearAlgorithm]:
        return (algorithm for held in self._held.values() for _, _, algorithm in held)

    def __len__(self) -> int:
        return sum(len(held) for held in self._held.values())


def _shape(algorithm: BilinearAlgorithm) -> tuple[int, int, int]:
    if algorithm.target.shape is None:
        raise InputError(f"changes of basis are known for matrix products, not for {algorithm.target.slug}")
    return algorithm.target.shape


def _matrices(algorithm: BilinearAlgorithm) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """u, v and w of every term in the C^T form, shapes (r, n, m), (r, m, p), (r, p, n)."""
    n, m, p = _shape(algorithm)
    U, V, W = cyclic_form(algorithm)
    return U.reshape(-1, n, m), V.reshape(-1, m, p), W.reshape(-1, p, n)


def _singular_values(factors: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    return [np.linalg.svd(factor, compute_uv=False) for factor in factors]


def _term_gram(algorithm: BilinearAlgorithm) -> np.ndarray:
    """Inner products of the terms, <u_r, u_s> <v_r, v_s> <w_r, w_s>."""
    U, V, W = algorithm.U, algorithm.V, algorithm.W
    return ((U @ U.conj().T) * (V @ V.conj().T) * (W @ W.conj().T)).real


def _symmetries(shape: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """What the symmetries of <n,m,p> make of u, v and w: u belongs to the extents n and m, v to m and p, w to p and n."""
    edges = [{0, 1}, {1, 2}, {2, 0}]
    allowed = [order for order in permutations(range(3)) if all(shape[order[k]] == shape[k] for k in range(3))]
    found = [[edges.index({order[end] for end in edge}) for edge in edges] for order in allowed]
    return [(u, v, w) for u, v, w in found]


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    scale = max(float(np.linalg.norm(one)), float(np.linalg.norm(other)), 1e-300)
    return float(np.linalg.norm(one - other)) / scale


def _relative(one: float, other: float) -> float:
    return abs(one - other) / max(abs(one), abs(other), 1e-300)

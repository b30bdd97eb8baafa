"""The Brent equations of algorithms that a group of signed permutations leaves as they are.

The terms of such an algorithm are orbits g (u, v, w), g in G. An orbit is as large as the group, or, if a subgroup S fixes the term up to
signs whose product is 1, |G| / |S|; u, v and w then lie in joint eigenspaces of S. The residual is as symmetric as the
algorithm is, so one equation for every orbit of entries (a, b, c) is enough. A group of order 16 leaves 144 of the 2304 unknowns of
<4,4,4;48> and about 256 of its 4096 equations. Symmetric parametrisations: Ballard, Ikenmeyer, Landsberg, Ryder, arXiv 1801.00843.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import block_diag, csr_array

from stlsearch.search.sign_groups import SignGroup
from stlsearch.solvers.dense import LANES
from stlsearch.targets import Target

EIGEN = 1e-9
DRAWS = 200  # subgroups and signs tried for one orbit


@dataclass(frozen=True, eq=False)
class OrbitEquations:
    """What `stlsearch.solvers.orbit_lm` solves: unknowns (orbits, 3, width), padded by zeros to the widest factor.

    Attributes:
        dims: sizes of u, v and w.
        source, sign: (order, 3, width): g takes u to sign[g, 0] * u[source[g, 0]], and so on.
        rows: (equations, 3), an entry (a, b, c) of each orbit of entries; values: T there.
        weights: square roots of the sizes of these orbits, so that the sum of squares is ||T - [[U,V,W]]||^2.
        members: the elements g whose images are an orbit's terms, orbit after orbit; ends: (orbits + 1) where each begins and ends.
        embedding: (orbits * 3 * width, parameters), a diagonal block of orthonormal columns for each factor of each orbit's term, and
            columns of zeros up to whole vectors (`stlsearch.solvers.dense`).
    """

    dims: tuple[int, int, int]
    source: np.ndarray
    sign: np.ndarray
    rows: np.ndarray
    values: np.ndarray
    weights: np.ndarray
    members: np.ndarray
    ends: np.ndarray
    embedding: csr_array

    @property
    def rank(self) -> int:
        return len(self.members)

    @property
    def orbits(self) -> int:
        return len(self.ends) - 1

    def sizes(self) -> list[int]:
        """Terms in each orbit."""
        return [int(size) for size in np.diff(self.ends)]

    def expand(self, x: np.ndarray) -> list[np.ndarray]:
        """U, V, W of shapes (r, nm), (r, mp), (r, np) of unknowns (orbits, 3, width)."""
        owner = np.repeat(np.arange(self.orbits), np.diff(self.ends))
        factors = []
        for mode, extent in enumerate(self.dims):
            moved = self.source[self.members, mode]
            factors.append((self.sign[self.members, mode] * np.take_along_axis(x[owner, mode], moved, axis=1))[:, :extent])
        return factors


def orbit_equations(target: Target, rank: int, group: SignGroup, generator: np.random.Generator) -> OrbitEquations | None:
    """Equations for as many free orbits as the rank holds and a random choice of smaller ones for the rest; None if none fits.

    Args:
        target: a matrix product of the group's shape.
    """
    source, sign = _action(group)
    chosen = _orbits(group, rank, source, sign, generator)
    if chosen is None:
        return None
    subgroups, signs = chosen
    tensor = target.tensor.astype(np.float64)
    rows, weights = _entry_orbits(tensor.shape, source, sign)
    members = [_representatives(group, subgroup) for subgroup in subgroups]
    ends = np.cumsum([0, *map(len, members)])
    embedding = _embedding(tensor.shape, source, sign, subgroups, signs)
    return OrbitEquations(
        tensor.shape, source, sign, rows, tensor[tuple(rows.T)], weights, np.concatenate(members), ends, embedding
    )  # fmt: skip


def _action(group: SignGroup) -> tuple[np.ndarray, np.ndarray]:
    """The signed permutations of the entries of u, v and w that the elements make."""
    pairs = ((0, 1), (1, 2), (0, 2))
    width = max(group.shape[one] * group.shape[other] for one, other in pairs)
    source = np.tile(np.arange(width), (group.order, 3, 1))
    sign = np.zeros((group.order, 3, width))
    for mode, (one, other) in enumerate(pairs):
        left, right = group.elements[one].astype(np.int64), group.elements[other].astype(np.int64)
        extent = group.shape[one] * group.shape[other]
        place = (np.abs(left) - 1)[:, :, None] * group.shape[other] + (np.abs(right) - 1)[:, None, :]
        source[:, mode, :extent] = place.reshape(group.order, extent)
        sign[:, mode, :extent] = (np.sign(left)[:, :, None] * np.sign(right)[:, None, :]).reshape(group.order, extent)
    return source, sign


def _entry_orbits(dims: tuple[int, ...], source: np.ndarray, sign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One entry (a, b, c) of every orbit and the square root of its size, but for those that symmetry makes zero."""
    a, b, c = (axis.ravel() for axis in np.indices(dims))
    own = np.ravel_multi_index((a, b, c), dims)
    least, fixed, null = own.copy(), np.zeros(len(own), np.int64), np.zeros(len(own), bool)
    for g in range(len(source)):
        image = np.ravel_multi_index((source[g, 0, a], source[g, 1, b], source[g, 2, c]), dims)
        same = image == own
        least = np.minimum(least, image)
        fixed += same
        null |= same & (sign[g, 0, a] * sign[g, 1, b] * sign[g, 2, c] < 0)
    first = (least == own) & ~null
    entries = np.stack([a, b, c], axis=1)
    return np.ascontiguousarray(entries[first]), np.sqrt(len(source) / fixed[first])


def _orbits(
    group: SignGroup, rank: int, source: np.ndarray, sign: np.ndarray, generator: np.random.Generator
) -> tuple[list[np.ndarray], list[list[np.ndarray]]] | None:
    """For every orbit the subgroup that fixes its term, and the subgroup's signs on u, v and w."""
    free, rest = divmod(rank, group.order)
    trivial = np.zeros(1, np.int64)
    subgroups, signs = [trivial] * free, [[np.ones(1)] * 3] * free
    if not rest:
        return subgroups, signs
    smaller = [each for each in group.subgroups() if len(each) > 1]
    for _ in range(DRAWS):
        fitting = [each for each in smaller if group.order // len(each) <= rest]
        if not fitting:
            return None
        subgroup = fitting[int(generator.integers(len(fitting)))]
        chosen = _signs(group, subgroup, source, sign, generator)
        if chosen is not None:
            subgroups, signs = [*subgroups, subgroup], [*signs, chosen]
            rest -= group.order // len(subgroup)
            if not rest:
                return subgroups, signs
    return None


def _signs(
    group: SignGroup, subgroup: np.ndarray, source: np.ndarray, sign: np.ndarray, generator: np.random.Generator
) -> list[np.ndarray] | None:
    """Signs of the subgroup's elements on u, v and w, their product 1, for which all three have eigenvectors."""
    found = []
    for mode in (0, 1):
        matrices = [_matrix(source[g, mode], sign[g, mode]) for g in subgroup]
        options = _characters(matrices, generator)
        if options is None:
            return None
        found.append(options)
    third = found[0] * found[1]
    matrices = [_matrix(source[g, 2], sign[g, 2]) for g in subgroup]
    return [*found, third] if _eigenvectors(matrices, third).shape[1] else None


def _characters(matrices: list[np.ndarray], generator: np.random.Generator) -> np.ndarray | None:
    """The signs by which the matrices, a group up to signs, act on a random common eigenvector; None if there is none."""
    size = len(matrices[0])
    basis, signs = np.eye(size), np.ones(len(matrices))
    for place in generator.permutation(len(matrices)):
        matrix = basis.T @ matrices[place] @ basis
        both = [_null_space(matrix - value * np.eye(len(matrix))) for value in (1.0, -1.0)]
        first = int(generator.integers(2))
        value, space = next(((1.0 - 2 * k, both[k]) for k in (first, 1 - first) if both[k].shape[1]), (0.0, None))
        if space is None:
            return None
        signs[place], basis = value, basis @ space
    return signs if basis.shape[1] and _eigenvectors(matrices, signs).shape[1] else None


def _eigenvectors(matrices: list[np.ndarray], signs: np.ndarray) -> np.ndarray:
    """An orthonormal basis, as columns, of x with M x = sign x for all of the matrices."""
    size = len(matrices[0])
    return _null_space(np.concatenate([matrix - value * np.eye(size) for matrix, value in zip(matrices, signs, strict=True)]))


def _null_space(matrix: np.ndarray) -> np.ndarray:
    _, values, rows = np.linalg.svd(matrix)
    return rows[int((values > EIGEN).sum()) :].T


def _matrix(source: np.ndarray, sign: np.ndarray) -> np.ndarray:
    matrix = np.zeros((len(source), len(source)))
    matrix[np.arange(len(source)), source] = sign
    return matrix


def _representatives(group: SignGroup, subgroup: np.ndarray) -> np.ndarray:
    """One element of every coset g S."""
    places = {tuple(element): number for number, element in enumerate(group.indices)}
    tables = group.tables()
    left, chosen = set(range(group.order)), []
    while left:
        g = min(left)
        chosen.append(g)
        for s in subgroup:
            left.discard(places[tuple(int(t[a, b]) for t, a, b in zip(tables, group.indices[g], group.indices[s], strict=True))])
    return np.array(chosen)


def _embedding(
    dims: tuple[int, ...], source: np.ndarray, sign: np.ndarray, subgroups: Sequence[np.ndarray], signs: Sequence[Sequence[np.ndarray]]
) -> csr_array:
    """Where the factors of every orbit's term may lie: a block for each."""
    width = source.shape[2]
    blocks = []
    for subgroup, chosen in zip(subgroups, signs, strict=True):
        for mode, extent in enumerate(dims):
            if len(subgroup) == 1:
                blocks.append(csr_array(np.eye(width)[:, :extent]))
            else:
                matrices = [_matrix(source[g, mode], sign[g, mode])[:extent, :extent] for g in subgroup]
                blocks.append(csr_array(np.pad(_eigenvectors(matrices, chosen[mode]), ((0, width - extent), (0, 0)))))
    embedding = block_diag(blocks, format="csr")
    embedding.resize(embedding.shape[0], LANES * -(-embedding.shape[1] // LANES))
    return embedding

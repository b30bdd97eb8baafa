"""The alternative-basis form: a sparse bilinear core between changes of basis.

Each factor is split, U = U' F, V = V' G, W = W' H with F, G, H square and invertible, so that

    C = H^T c',    c' = W'^T ((U' a') * (V' b')),    a' = F vec A,    b' = G vec B.

The recursion runs on the core (U', V', W') alone: F and G are applied to the inputs once, block by block through all levels, and H^T
to the result, in O(N^2 log N), so that only the additions of the core count in the leading term (Karstadt and Schwartz, "Matrix
multiplication, a little faster", SPAA 2017). Any basis of the column space of U may be the columns of U'; the sparsest one takes the
fewest additions when each sum is done by itself, r fewer than it has non-zeros for an encoder and c fewer for the decoder; common sums
are then shared (`stlsearch.additions.eliminate`). See `stlsearch.additions.sparse_columns` for how it is found, and Beniamini, Cheng,
Holtz, Karstadt and Schwartz (arXiv 2008.03759) for other ways.

A change of basis of the matrices, X A Y^-1 and so on, multiplies U by an invertible matrix from the right: the column space stays. So
the core is the same for all algorithms equivalent under it, and for all rescalings of terms.

With q_U, q_V and q_W operations of the core, r > nm, mp, np, and L levels on (n^L, m^L) times (m^L, p^L), the arithmetic is

    r^L (1 + q_U/(r - nm) + q_V/(r - mp) + q_W/(r - np)) - lower terms,

for square matrices the familiar 1 + q/(r - n^2): 7 for Strassen's 18 additions, 6 for Winograd's 15, 5 for the 12 of a core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt
from typing import TypeVar

import numpy as np

from stlsearch.additions.eliminate import RESTARTS, straight_line
from stlsearch.additions.program import Program
from stlsearch.additions.sparse_columns import PRIME, SparseVectors, independent, scalings, sparse_vectors, to_unit
from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.rational import inverse
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix, Factors, smallest_ring

BUDGET = 20_000_000
ATTEMPTS = 8  # orders of equally sparse vectors that are tried, for bases of small integers
Counts = tuple[int, int, int]
T = TypeVar("T")
Programs = tuple[Program, Program, Program]


@dataclass(frozen=True)
class AlternativeBasis:
    """An exact algorithm as a sparse core between changes of basis; made and checked by `sparsify`.

    Attributes:
        algorithm: the original.
        core: U' (r, a), V' (r, b), W' (r, c).
        bases: F (a, a), G (b, b), H (c, c), with U = U' F, V = V' G and W = W' H exactly.
        original_programs: straight-line programs of U, V and W^T.
        core_programs: of U', V' and W'^T.
        basis_programs: of F, G and H^T.
        least_nonzeros: of U', V' and W', no bases give fewer: equal to `nonzeros` where all sparser vectors were enumerated.
    """

    algorithm: BilinearAlgorithm
    core: Factors
    bases: Factors
    original_programs: Programs
    core_programs: Programs
    basis_programs: Programs
    least_nonzeros: Counts

    @property
    def nonzeros(self) -> Counts:
        """Non-zero entries of U', V' and W'."""
        return _each(self.core, lambda factor: int(np.count_nonzero(factor.real)))

    @property
    def naive_additions(self) -> Counts:
        """Additions of the core's three maps, each sum done by itself."""
        return naive_additions(self.core)

    @property
    def additions(self) -> Counts:
        """Additions of the core's three maps: those of one level of the recursion."""
        return _additions(self.core_programs)

    @property
    def scalings(self) -> Counts:
        """Multiplications by coefficients other than +-1 in the core."""
        return _program_scalings(self.core_programs)

    @property
    def basis_additions(self) -> Counts:
        """Additions of vec A -> F vec A, vec B -> G vec B and c' -> H^T c' at one level."""
        return _additions(self.basis_programs)

    @property
    def ring(self) -> str:
        """The smallest ring that holds the core and the bases."""
        return smallest_ring((*self.core, *self.bases))  # type: ignore[arg-type]

    @property
    def inverse_ring(self) -> str:
        """The smallest ring that holds F^-1, G^-1 and H^-1: needed to stay in the bases through several products."""
        return smallest_ring(tuple(_inverse(basis) for basis in self.bases))  # type: ignore[arg-type]

    @property
    def leading_coefficient(self) -> float | None:
        """Arithmetic over r^L for many levels L, the bases being of lower order; None where the sums are of the leading order."""
        return _coefficient(self.algorithm, self.core_programs)

    def to_dict(self) -> dict[str, object]:
        """JSON values: exact matrices as integers over one denominator."""
        names = (("U", "V", "W"), ("F", "G", "H"))
        core, bases = (
            {name: {"denominator": factor.denominator, "rows": factor.real.tolist()} for name, factor in zip(group, factors, strict=True)}
            for group, factors in zip(names, (self.core, self.bases), strict=True)
        )
        return {
            "name": self.algorithm.name,
            "id": self.algorithm.id,
            "target": self.algorithm.target.describe(),
            "rank": self.algorithm.rank,
            "form": "U = core.U bases.F, V = core.V bases.G, W = core.W bases.H; C = W^T ((U vec A) * (V vec B)), vec row-major",
            "additions": {
                "original": list(_additions(self.original_programs)),
                "core": list(self.additions),
                "bases": list(self.basis_additions),
            },
            "naive_additions": {
                "original": list(naive_additions(_real_exact(self.algorithm))),
                "core": list(self.naive_additions),
                "bases": list(naive_additions(self.bases)),
            },
            "scalings": {
                "original": list(_program_scalings(self.original_programs)),
                "core": list(self.scalings),
                "bases": list(_program_scalings(self.basis_programs)),
            },
            "nonzeros": list(self.nonzeros),
            "least_nonzeros": list(self.least_nonzeros),
            "leading_coefficient": {"original": _coefficient(self.algorithm, self.original_programs), "core": self.leading_coefficient},
            "ring": self.ring,
            "inverse_ring": self.inverse_ring,
            "core": core,
            "bases": bases,
        }


def sparsify(
    algorithm: BilinearAlgorithm,
    *,
    budget: int = BUDGET,
    restarts: int = RESTARTS,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> AlternativeBasis:
    """The alternative-basis form with the sparsest core found, verified exactly.

    Among equally sparse bases of a column space, those whose matrix F is integral come first, then those whose inverse is, then
    those of few additions.

    Args:
        budget: nodes of the enumeration of sparse vectors, for each factor; where it is spent before they span, the core may not
            be the sparsest, and `least_nonzeros` says so.
        restarts: of the elimination of common sums, see `stlsearch.additions.eliminate`.
        seed: of random choices.
        progress: called with one line now and then.

    Raises:
        InputError: an algorithm that is not exact over the rationals, or one that ignores some entry.
    """
    core, bases, least = [], [], []
    for name, factor in zip("UVW", _real_exact(algorithm), strict=True):
        say = None if progress is None else (lambda line, name=name, report=progress: report(f"{name}: {line}"))
        sparse = sparse_vectors(factor.real, budget=budget, seed=seed, progress=say)
        part, basis, bound = _split(factor, sparse, seed, transposed=name == "W")
        core.append(part)
        bases.append(basis)
        least.append(bound)
    parts: list[Factors] = [_real_exact(algorithm), _three(core), _three(bases)]
    original, of_core, of_bases = (_three([straight_line(rows, restarts, seed) for rows in _maps(part)]) for part in parts)
    return AlternativeBasis(algorithm, parts[1], parts[2], original, of_core, of_bases, _three(least))


def core_size(algorithm: BilinearAlgorithm, *, budget: int = BUDGET) -> int:
    """Non-zeros of the sparsest core plus its coefficients other than +-1: what `sparsify` would find, without the bases.

    Raises:
        InputError: as for `sparsify`.
    """
    total = 0
    for factor in _real_exact(algorithm):
        vectors = sparse_vectors(factor.real, budget=budget).vectors
        weights, marks = np.count_nonzero(vectors, axis=1), scalings(vectors)
        order = np.lexsort((marks, weights))
        chosen = order[independent(vectors[order].T)]
        total += int(weights[chosen].sum() + marks[chosen].sum())
    return total


def multiply(form: AlternativeBasis, A: np.ndarray, B: np.ndarray, levels: int) -> np.ndarray:
    """A B by `levels` of recursion on the core, the bases being changed once before and once after.

    Runs on integers, Fractions (dtype object) or floats alike, by the programs whose additions are counted.

    Args:
        A, B: shapes (n^L x, m^L y) and (m^L y, p^L z) for a matrix product <n,m,p>.

    Raises:
        InputError: not a matrix product, fewer than 0 levels, or sizes that do not divide.
    """
    if form.algorithm.target.shape is None:
        raise InputError(f"only matrix products recurse, not {form.algorithm.target.slug}")
    n, m, p = form.algorithm.target.shape
    if levels < 0:
        raise InputError(f"levels must be at least 0, not {levels}")
    if A.shape[1] != B.shape[0] or any(size % base**levels for size, base in zip((*A.shape, B.shape[1]), (n, m, p), strict=True)):
        raise InputError(f"{A.shape} times {B.shape} is not divisible by <{n},{m},{p}> at {levels} levels")
    F, G, H = form.basis_programs
    changed = _change(F, A, (n, m), levels), _change(G, B, (m, p), levels)
    return _change(H, _recurse(form, *changed, levels), (n, p), levels)


def naive_additions(factors: Factors) -> Counts:
    """Additions of the two encoders and the decoder, each sum done by itself."""
    return _sums(factors[0]), _sums(factors[1]), _sums(_transposed(factors[2]))


def leading_coefficient(algorithm: BilinearAlgorithm, operations: Sequence[int]) -> float | None:
    """1 + q_U/(r - nm) + q_V/(r - mp) + q_W/(r - np) for q operations of each map at one level; None for r <= one of these."""
    if algorithm.target.shape is None or any(algorithm.rank <= extent for extent in algorithm.target.dims):
        return None
    return 1.0 + sum(count / (algorithm.rank - extent) for count, extent in zip(operations, algorithm.target.dims, strict=True))


def _coefficient(algorithm: BilinearAlgorithm, programs: Programs) -> float | None:
    counts = zip(_additions(programs), _program_scalings(programs), strict=True)
    return leading_coefficient(algorithm, [additions + scalings for additions, scalings in counts])


def _split(factor: ExactMatrix, sparse: SparseVectors, seed: int, transposed: bool) -> tuple[ExactMatrix, ExactMatrix, int]:
    """factor = core basis with the sparsest columns known in the core; and the least non-zeros that any core has."""
    vectors, weights = sparse.vectors, np.count_nonzero(sparse.vectors, axis=1)
    marks = scalings(vectors)
    dimension = factor.shape[1]
    random = np.random.default_rng(seed)
    best: tuple[tuple, ExactMatrix, ExactMatrix] | None = None
    nonzeros = least = 0
    for attempt in range(ATTEMPTS):
        tie = random.permutation(len(vectors)) if attempt else np.arange(len(vectors))
        order = np.lexsort((tie, marks, weights))
        chosen = order[independent(vectors[order].T)]
        light = int(np.count_nonzero(weights[chosen] <= sparse.complete)) if sparse.safe else 0
        floor = sparse.complete + 1 if sparse.safe else 1
        nonzeros = int(weights[chosen].sum())
        least = int(np.sort(weights[chosen])[:light].sum()) + (dimension - light) * floor
        columns = [_rational(to_unit(vectors[place])) for place in chosen]
        core = ExactMatrix.from_fractions([list(row) for row in zip(*columns, strict=True)])
        basis = _solve(core, factor)
        if basis is None:
            continue
        back = _inverse(basis)
        sums = _sums(_transposed(basis)) if transposed else _sums(basis)
        key = (basis.denominator, back.denominator, sums + _scalings(basis), int(np.abs(basis.real).max()))
        if best is None or key < best[0]:
            best = key, core, basis
    if best is None:
        raise InputError("the coefficients are too large for a sparse basis of the column space to be found")
    return best[1], best[2], min(least, nonzeros)


def _solve(core: ExactMatrix, factor: ExactMatrix) -> ExactMatrix | None:
    """The basis with core basis = factor; None when there is none."""
    rows = independent((core.real % PRIME).T)
    if len(rows) < core.shape[1]:
        return None
    basis = _inverse(core.take(rows)) @ factor.take(rows)
    product = core @ basis
    same = product.denominator == factor.denominator and bool((product.real == factor.real).all())
    return basis if same else None


def _rational(vector: np.ndarray) -> list[Fraction]:
    """Fractions of small numerator and denominator with the given residues (Wang's reconstruction)."""
    limit = isqrt(PRIME // 2)
    found = []
    for residue in vector.tolist():
        high, low, a, b = PRIME, residue, 0, 1
        while low > limit:
            quotient = high // low
            high, low, a, b = low, high - quotient * low, b, a - quotient * b
        found.append(Fraction(low, b))
    return found


def _recurse(form: AlternativeBasis, A: np.ndarray, B: np.ndarray, levels: int) -> np.ndarray:
    if levels == 0:
        return A @ B
    n, m, p = form.algorithm.target.shape or (1, 1, 1)
    U, V, W = form.core_programs
    lefts, rights = _combinations(U, _blocks(A, n, m)), _combinations(V, _blocks(B, m, p))
    products = [_recurse(form, left, right, levels - 1) for left, right in zip(lefts, rights, strict=True)]
    return _joined(_combinations(W, products), n, p)


def _change(basis: Program, matrix: np.ndarray, shape: tuple[int, int], levels: int) -> np.ndarray:
    """The basis applied to the blocks of a matrix, and to the blocks of each, through all levels."""
    if levels == 0:
        return matrix
    changed = [_change(basis, block, shape, levels - 1) for block in _combinations(basis, _blocks(matrix, *shape))]
    return _joined(changed, *shape)


def _combinations(program: Program, blocks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs for blocks; floats times Fractions would be objects."""
    return [np.asarray(output, dtype=blocks[0].dtype) for output in program.evaluate(blocks)]


def _blocks(matrix: np.ndarray, rows: int, columns: int) -> list[np.ndarray]:
    return [block for band in np.split(matrix, rows) for block in np.split(band, columns, axis=1)]


def _joined(blocks: Sequence[np.ndarray], rows: int, columns: int) -> np.ndarray:
    return np.block([list(blocks[row * columns : (row + 1) * columns]) for row in range(rows)])


def _real_exact(algorithm: BilinearAlgorithm) -> Factors:
    if algorithm.exact is None or not algorithm.is_real:
        raise InputError(f"only algorithms exact over Z, Z[1/2] or Q have an alternative basis here, not one over {algorithm.ring}")
    return algorithm.exact


def _three(values: Sequence[T]) -> tuple[T, T, T]:
    u, v, w = values
    return u, v, w


def _each(factors: Factors, count: Callable[[ExactMatrix], int]) -> Counts:
    u, v, w = factors
    return count(u), count(v), count(w)


def _additions(programs: Programs) -> Counts:
    u, v, w = programs
    return u.additions, v.additions, w.additions


def _program_scalings(programs: Programs) -> Counts:
    u, v, w = programs
    return u.scalings, v.scalings, w.scalings


def _maps(factors: Sequence[ExactMatrix]) -> list[list[list[Fraction]]]:
    """The rows of the two encoders and of the decoder, which is the transposed third factor."""
    u, v, w = factors
    return [[[Fraction(value, each.denominator) for value in row] for row in each.real.tolist()] for each in (u, v, _transposed(w))]


def _sums(matrix: ExactMatrix) -> int:
    return int((np.count_nonzero(matrix.real, axis=1) - 1).clip(0).sum())


def _scalings(matrix: ExactMatrix) -> int:
    return int(np.count_nonzero((matrix.real != 0) & (np.abs(matrix.real) != matrix.denominator)))


def _transposed(matrix: ExactMatrix) -> ExactMatrix:
    return ExactMatrix.make(matrix.real.T, matrix.denominator)


def _inverse(matrix: ExactMatrix) -> ExactMatrix:
    return ExactMatrix.from_fractions(inverse(_maps((matrix,) * 3)[0]))

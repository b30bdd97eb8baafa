"""Hensel lifting: from an algorithm modulo a prime p to one over the integers or fractions with the same terms modulo p.

Factors x = (U, V, W) that meet the Brent equations F(x) = 0 modulo p^k meet them modulo p^(k+1) as x + p^k d exactly when

    J d = -F(x)/p^k  (mod p),

J being the derivative of F modulo p (`stlsearch.search.brent`), the same matrix at every step, so it is eliminated once. For k = 1
no choice has been made yet: no solution means that *no* factors modulo p^2 reduce to the given ones, hence none over Z, nor
over fractions with denominators prime to p. A sum of equations whose derivative vanishes and that is not 0 modulo p^2 proves it
(`Obstruction`). Later steps may fail for the choice of earlier d alone: the last one is then changed by a solution of J c = 0 that
leaves the next step soluble (`_Search.bend`), and other choices are tried; failure proves nothing.

From p^k every coefficient is read as the one fraction with numerator and denominator up to sqrt(p^k/2) (Wang, Guy and
Davenport, ACM SIGSAM Bulletin 16, 1982), and the result is verified in exact arithmetic. Kauers and Moosbauer (arXiv 2212.01175)
lift in this way what they find modulo 2. A solution of the equations is far from unique: unknowns whose column of J depends on
columns before it keep their residue (modulo 2: 0 or 1, else of least size), and the others follow. Coefficients that are not 0
come first, so that those that are 0 stay so wherever that is possible. Another order of columns gives another lift; the attempts
after the first take random orders, what was no -1, 0 or 1 going last, where it may keep its residue, and the simplest lift is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import gcd, lcm

import numpy as np
from scipy.sparse import csr_array

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import EXACT_RINGS, modulus_of, reconstructed
from stlsearch.search.brent import annihilates, jacobian, joined, residual, separated
from stlsearch.search.modular import MAX_PRIME, Elimination

LIFTED, NO_LIFT, UNDECIDED = ("lifted", "no lift", "undecided")
ATTEMPTS = 20
ENOUGH = 2**24  # p^k by default: fractions of numbers up to 2896
MAX_STEPS = 100
BENDS = 3  # times that a step without solution is given another start
COMPARED = 64  # equations without solution of which the one with the shortest proof is taken
Callback = Callable[[int, int, BilinearAlgorithm | None], bool | None]


@dataclass(frozen=True)
class Obstruction:
    """Proof that no factors modulo p^2 reduce to an algorithm's modulo p.

    The sum of coefficient times F[i, j, k] over `equations` has derivative 0 modulo p, so it is the same modulo p^2 for all
    factors with the given residues: p times `value`, which is not 0.

    Attributes:
        prime: p.
        equations: (i, j, k, coefficient), coefficients in 1 .. p - 1.
        value: in 1 .. p - 1.
    """

    prime: int
    equations: tuple[tuple[int, int, int, int], ...]
    value: int

    def verify(self, algorithm: BilinearAlgorithm) -> bool:
        """Whether it proves that about `algorithm`, computed from its factors alone."""
        if modulus_of(algorithm.ring) != self.prime or algorithm.exact is None or algorithm.target.rational is None:
            return False
        factors = [factor.real for factor in algorithm.exact]
        wanted = algorithm.target.rational[0]
        weights = np.zeros(wanted.shape, dtype=np.int64)
        for i, j, k, coefficient in self.equations:
            weights[i, j, k] += coefficient
        missed = residual(factors, wanted, self.prime**2)
        total = sum(int(weight) * int(value) for weight, value in zip(weights.ravel(), missed.ravel(), strict=True))
        if (missed % self.prime).any() or not annihilates(weights, factors, self.prime):
            return False
        return total % self.prime**2 == self.value * self.prime != 0


@dataclass(frozen=True, eq=False)
class Lifting:
    """What became of lifting an algorithm.

    Attributes:
        status: "lifted"; "no lift", which is proved; or "undecided".
        prime, exponent: solutions were found up to modulo prime^exponent.
        attempts: how many were made.
        stopped: the callback ended it.
        algorithm: over Z, Z[1/2] or Q when lifted, else None. Every term is congruent to the given one modulo p.
        obstruction: the proof when there is no lift, else None.
        ternary_excluded: no lift has coefficients -1, 0, 1 alone. Modulo 3 their residues would decide them, so that the given
            ones would do as they stand; modulo 2 those that are 0 would stay 0 and solve the first step, which they do not.
    """

    status: str
    prime: int
    exponent: int
    attempts: int
    stopped: bool = False
    algorithm: BilinearAlgorithm | None = None
    obstruction: Obstruction | None = None
    ternary_excluded: bool = False

    @property
    def message(self) -> str:
        """The outcome and what it rests on, in one line."""
        p = self.prime
        if self.algorithm is not None:
            return f"lifted from Z{p} to {self.algorithm.ring}, verified in exact arithmetic"
        if self.obstruction is not None:
            return (
                f"does not lift: nothing over Z/{p * p} reduces to it modulo {p}, hence nothing over Z or over fractions with "
                f"denominators prime to {p}; {len(self.obstruction.equations)} Brent equations prove it"
            )
        tried = f"{self.attempts} attempt{'' if self.attempts == 1 else 's'}{', then stopped' if self.stopped else ''}"
        return f"undecided: no lift was found in {tried}, solutions up to modulo {p}^{self.exponent}; that proves nothing about others"


def lift(
    algorithm: BilinearAlgorithm,
    *,
    steps: int | None = None,
    seed: int = 0,
    attempts: int = ATTEMPTS,
    callback: Callback | None = None,
) -> Lifting:
    """Lift an algorithm over Zp to Z, or to fractions, term by term.

    Args:
        algorithm: exact over Zp, p < 2^15.
        steps: the largest k of p^k; by default the least with p^k >= 2^24, so that fractions of numbers up to 2896 are found.
        seed: of the orders of columns after the first attempt.
        attempts: at most so many; fewer when all coefficients became -1, 0, 1, or there is no lift.
        callback: called as callback(attempts begun, k, best lift so far) after every step; returning True ends it.

    Raises:
        InputError: not an exact algorithm over Zp, p too large, or steps or attempts out of range.
    """
    prime = modulus_of(algorithm.ring)
    if prime is None or algorithm.exact is None or algorithm.target.rational is None:
        raise InputError(f"only algorithms over Z2, Z3, ... Zp are lifted; {algorithm.name} is over {algorithm.ring}")
    if prime >= MAX_PRIME:
        raise InputError(f"lifting knows primes below {MAX_PRIME}, not {prime}")
    if (wrong := algorithm.mismatch()).count:
        raise InputError(f"{algorithm.name} is not exact over {algorithm.ring}: {wrong.count} wrong coefficients")
    steps = next(k for k in range(2, 25) if prime**k >= ENOUGH) if steps is None else steps
    if not 2 <= steps <= MAX_STEPS:
        raise InputError(f"steps must be from 2 to {MAX_STEPS}, not {steps}")
    if attempts < 1:
        raise InputError("attempts must be at least 1")
    provenance = {"operation": "lift", "method": "Hensel lifting", "steps": steps, "seed": seed, "attempts": attempts}
    search = _Search(algorithm, {**provenance, "parents": [{"id": algorithm.id, "name": algorithm.name}]})
    if search.keep([Fraction(value) for value in search.start.tolist()]):  # valid over Z as it is
        return Lifting(LIFTED, prime, 1, 0, algorithm=search.best)
    random = np.random.default_rng(seed)
    zero, excluded = search.start == 0, prime == 3
    reached, attempt, stopped, odd = 1, 0, False, np.zeros(len(zero), dtype=bool)
    while attempt < attempts and not stopped and search.cost != (0, 0):
        order = np.lexsort((random.random(len(odd)) if attempt else np.arange(len(odd)), odd, zero))
        attempt += 1
        elimination = search.eliminate(order)
        vector: np.ndarray | None = search.start
        odd = np.zeros_like(odd)
        for k in range(1, steps):
            if callback is not None and callback(attempt, k, search.best):
                stopped = True
                break
            assert vector is not None
            before = vector
            vector, missed = search.step(before, k, elimination, order)
            for _ in range(BENDS if k > 1 else 0):
                if vector is not None or (bent := search.bend(before, k, elimination, order)) is None:
                    break
                before = bent
                vector, _ = search.step(before, k, elimination, order)
            if vector is None:
                if k == 1:
                    proof = search.obstruction(missed, elimination, order)
                    return Lifting(NO_LIFT, prime, 1, attempt, obstruction=proof, ternary_excluded=True)
                break
            if k == 1 and prime == 2:  # columns of zeros come last: they change only where the others cannot do it alone
                excluded = bool(vector[zero].any())
            reached = max(reached, k + 1)
            # Small coefficients show early; doubling k wastes at most as many steps as were needed.
            if ((k + 1) & k == 0 or k + 1 == steps) and (values := fractions(vector, prime ** (k + 1))) and search.keep(values):
                odd = np.array([abs(value.numerator) > 1 or value.denominator > 1 for value in values])
                break
    status = UNDECIDED if search.best is None else LIFTED
    return Lifting(status, prime, reached, attempt, stopped, search.best, ternary_excluded=excluded)


def fractions(vector: np.ndarray, modulus: int) -> list[Fraction] | None:
    """`reconstructed` for every entry, None when one has none."""
    known: dict[int, Fraction] = {}
    result = []
    for value in vector.tolist():
        residue = value % modulus
        if residue not in known:
            if (found := reconstructed(residue, modulus)) is None:
                return None
            known[residue] = found
        result.append(known[residue])
    return result


class _Search:
    """The equations of one algorithm, and the simplest lift found so far with its cost."""

    def __init__(self, algorithm: BilinearAlgorithm, provenance: dict[str, object]) -> None:
        assert algorithm.exact is not None and algorithm.target.rational is not None
        self.target, self.provenance = algorithm.target, provenance
        self.prime = modulus_of(algorithm.ring) or 0
        self.wanted = algorithm.target.rational[0]
        residues = [factor.real % self.prime for factor in algorithm.exact]
        self.equations = jacobian(residues, self.prime)
        self.rows = np.arange(self.wanted.size)  # those that the others depend on, once they are known
        start = joined(residues)
        self.start = np.where(start > max(1, self.prime // 2), start - self.prime, start)
        self.best: BilinearAlgorithm | None = None
        self.cost: tuple[int, int] | None = None

    def eliminate(self, order: np.ndarray) -> Elimination:
        """J with its columns in that order; only its independent rows from the second time on."""
        rows, unknowns, values = self.equations
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        row_place = np.full(self.wanted.size, -1)
        row_place[self.rows] = np.arange(len(self.rows))
        used = row_place[rows] >= 0
        entries = row_place[rows[used]], place[unknowns[used]], values[used]
        found = Elimination.of(*entries, (len(self.rows), len(order)), self.prime)
        self.rows = self.rows[found.pivot_rows]
        return replace(found, pivot_rows=self.rows)

    def step(self, vector: np.ndarray, k: int, elimination: Elimination, order: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        """From modulo p^k to p^(k+1): the new vector, or None and F/p^k modulo p, shape (abc,), when there is none."""
        modulus = self.prime**k
        next_modulus = modulus * self.prime
        missed = self._residual(vector, next_modulus) // modulus
        change = np.zeros(len(order), dtype=np.int64)
        change[order] = elimination.solve(-missed)
        dtype = np.int64 if next_modulus < 2**62 else object
        lifted = vector.astype(dtype) + change.astype(dtype) * modulus
        return (None if self._residual(lifted, next_modulus).any() else lifted), missed

    def bend(self, vector: np.ndarray, k: int, elimination: Elimination, order: np.ndarray) -> np.ndarray | None:
        """Another solution modulo p^k, the same modulo p^(k-1), from which the next step should have one; None when there is none.

        With J c = 0 modulo p, F(x + p^(k-1) c)/p^k is F(x)/p^k + J(x) c/p modulo p, J(x) being the derivative modulo p^2: linear in
        c, and c is chosen so that this lies in the image of J. For k = 2 a quadratic term is left out, so that it may take several.
        """
        p = self.prime
        rows, unknowns, values = self.equations
        shape = self.wanted.size, len(order)
        first = csr_array((values, (rows, unknowns)), shape=shape)
        rows, unknowns, values = jacobian(separated((vector % p**2).astype(np.int64), self.target.dims), p**2)
        second = csr_array((values, (rows, unknowns)), shape=shape)
        free = np.setdiff1d(order, order[elimination.pivot_columns])
        kernel = np.zeros((len(order), len(free)), dtype=np.int64)
        kernel[order] = elimination.solve(-first[:, free].toarray())
        kernel[free, np.arange(len(free))] = 1
        missed = self._residual(vector, p ** (k + 1)) // p**k
        sides = np.column_stack([second @ kernel % p**2 // p, missed.astype(np.int64)])
        change = np.zeros((len(order), sides.shape[1]), dtype=np.int64)
        change[order] = elimination.solve(-sides)
        left = (sides + first @ change) % p  # outside the image of J
        moves, stuck = left[:, :-1], left[:, -1]
        sites, which = np.nonzero(moves)
        choice = Elimination.of(sites, which, moves[sites, which], (self.wanted.size, len(free)), p).solve(-stuck)
        if ((moves @ choice + stuck) % p).any():
            return None
        move = kernel @ choice % p
        return vector + np.where(move > p // 2, move - p, move).astype(vector.dtype) * p ** (k - 1)

    def obstruction(self, missed: np.ndarray, elimination: Elimination, order: np.ndarray) -> Obstruction:
        """The proof that the first step has no solution, from F/p modulo p: an equation less those it is the sum of."""
        rows, unknowns, values = self.equations
        change = np.zeros(len(order), dtype=np.int64)
        change[order] = elimination.solve(-missed)
        left = missed.copy()
        np.add.at(left, rows, values * change[unknowns])
        shortest: tuple[np.ndarray, np.ndarray] | None = None
        for failed in np.flatnonzero(left % self.prime)[:COMPARED]:
            row = np.zeros(len(order), dtype=np.int64)
            row[unknowns[rows == failed]] = values[rows == failed]
            parts = -elimination.combination(row[order]) % self.prime
            where = np.append(elimination.pivot_rows[parts != 0], failed)
            if shortest is None or len(where) < len(shortest[0]):
                shortest = where, np.append(parts[parts != 0], 1)
        assert shortest is not None
        where, weights = shortest
        sites = zip(*(index.tolist() for index in np.unravel_index(where, self.wanted.shape)), weights.tolist(), strict=True)
        return Obstruction(self.prime, tuple(sorted(sites)), int(weights @ missed[where] % self.prime))

    def keep(self, values: list[Fraction]) -> bool:
        """Whether these coefficients are an algorithm over Q; it is kept when it is simpler than the best so far."""
        array = np.empty(len(values), dtype=object)
        array[:] = values
        factors = _scaled(separated(array, self.target.dims))
        try:
            found = BilinearAlgorithm.from_exact(self.target, *factors, provenance=self.provenance)
        except InputError:  # not exact, or beyond 2^53
            return False
        size = sum(abs(value.numerator) + 2 * value.denominator - 3 for value in joined(factors) if value)
        cost = EXACT_RINGS.index(found.ring), size
        if self.cost is None or cost < self.cost:
            self.best, self.cost = found, cost
        return True

    def _residual(self, vector: np.ndarray, modulus: int) -> np.ndarray:
        return residual(separated(vector, self.target.dims), self.wanted, modulus).ravel()


def _scaled(factors: list[np.ndarray]) -> list[np.ndarray]:
    """The same terms with u, v and w of coprime integers, what is left over multiplied into the one of smallest coefficients."""
    factors = [factor.copy() for factor in factors]
    for term in zip(*factors, strict=True):
        if not all(row.any() for row in term):
            continue
        left = Fraction(1)
        for row in term:
            content = Fraction(gcd(*(value.numerator for value in row)), lcm(*(value.denominator for value in row)))
            row /= content
            left *= content
        smallest = min(term, key=lambda row: max(abs(row)))
        smallest *= left
    return factors

"""The sparsest basis of a matrix's column space.

Independent vectors form a matroid, so taking the sparsest vectors first and skipping what depends on those taken gives a basis with
the fewest non-zeros of all, provided no sparse vector is missed (Gottlieb and Neylon, "Matrix sparsification and the sparse null
space problem", 2010). Only vectors of minimal support matter, and each is fixed up to scale by d - 1 independent rows on which it
vanishes. They are enumerated by weight: row by row a vector either vanishes, which takes one dimension off what is left, or has
one of its w non-zeros there. With at most w of these the tree has no more than (d + w choose w) leaves, since after d - 1 rows that
vanish one vector is left: 735,000 for d = 16 and w = 8. A row that was to be non-zero and vanishes later is a vector met elsewhere.

When the tree outgrows its budget, random pivot steps fill the basis up: columns of a systematic form vanish on d - 1 rows, and
exchanging a row of that form for another gives d more such vectors (information-set decoding; Lee and Brickell 1988).

Everything runs modulo the prime 2^31 - 1. Whether a vector vanishes somewhere is whether a minor of the integer matrix is 0, and by
Hadamard's bound no minor is 0 by accident where the lengths of the d longest rows multiply to less than the prime. Whether vectors
depend on each other is decided modulo the prime alone, where an accident has a chance of 10^-9. The basis itself the caller checks in
exact arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from stlsearch.errors import InputError
from stlsearch.solvers.machine_code import compiled

PRIME = 2**31 - 1
CHUNK = 200_000  # nodes between looks at the clock and the keyboard
CAPACITY = 20_000  # vectors of one weight that are kept; beyond it the enumeration stops
PIVOT_ROUNDS, PIVOT_STEPS = 20, 2_000
VANISHES, ELIMINATED, PRESENT = 0, 1, 2  # how a row was decided
ROW, DEPTH, WEIGHT, FOUND, NODES = range(5)  # places of the walk's state


@dataclass(frozen=True)
class SparseVectors:
    """Sparse vectors of a column space modulo `PRIME`, each up to scale and once.

    Attributes:
        vectors: shape (count, r), sorted by weight.
        complete: every vector of minimal support with at most so many non-zeros is among them, unless sparser ones span it.
        safe: no minor vanishes modulo the prime by accident.
    """

    vectors: np.ndarray
    complete: int
    safe: bool


def sparse_vectors(
    matrix: np.ndarray, *, budget: int = 10_000_000, seed: int = 0, progress: Callable[[str], None] | None = None
) -> SparseVectors:
    """Sparse vectors of the column space, enough to span it: all of weight 1, 2, ... until they do, or the budget is spent.

    Args:
        matrix: integers, shape (r, d), of full column rank.
        budget: nodes of the enumeration, all weights together; then random pivot steps.
        seed: of the random pivot steps.
        progress: called with one line now and then.

    Raises:
        InputError: the columns are linearly dependent.
    """
    generator = np.ascontiguousarray(matrix % PRIME).astype(np.int64)
    rows, dimension = generator.shape
    if len(independent(generator)) < dimension:
        raise InputError("the columns are linearly dependent: some entry of the map does not matter")
    squares = np.sort((matrix.astype(object) ** 2).sum(axis=1))[::-1]
    safe = prod(int(square) for square in squares[:dimension]) < PRIME**2
    found = np.zeros((0, rows), dtype=np.int64)
    complete = 0
    for weight in range(1, rows + 1):
        checks = _checks(generator, found)
        if not checks.shape[1]:
            break
        vectors, used = _enumerate(generator, weight, checks, budget, progress)
        budget -= used
        if vectors is None:
            found = np.concatenate([found, _pivot_rounds(generator, checks, seed)])
            break
        found, complete = np.concatenate([found, vectors]), weight
    return SparseVectors(found, complete, safe)


def scalings(vectors: np.ndarray) -> np.ndarray:
    """Entries of each vector that are neither 0 nor +-1 in the scale that leaves the fewest of them."""
    magnitudes = np.minimum(vectors, PRIME - vectors)
    return np.array([np.count_nonzero(row) - _most_common(row)[1] for row in magnitudes], dtype=np.int64)


def to_unit(vector: np.ndarray) -> np.ndarray:
    """The multiple of a vector modulo `PRIME` with the most entries +-1, the first of these 1."""
    unit, _ = _most_common(np.minimum(vector, PRIME - vector))
    first = int(vector[np.flatnonzero((vector == unit) | (vector == PRIME - unit))[0]])
    return vector * pow(first, -1, PRIME) % PRIME


def independent(columns: np.ndarray) -> list[int]:
    """The places of the first linearly independent columns modulo `PRIME`: a greedy choice from the left."""
    echelon: list[tuple[int, np.ndarray]] = []
    chosen = []
    for place, column in enumerate(columns.T % PRIME):
        rest = column
        for pivot, row in echelon:
            if rest[pivot]:
                rest = (rest - rest[pivot] * row) % PRIME
        if rest.any():
            pivot = int(np.flatnonzero(rest)[0])
            echelon.append((pivot, rest * pow(int(rest[pivot]), -1, PRIME) % PRIME))
            chosen.append(place)
            if len(chosen) == len(columns):
                break
    return chosen


def _most_common(magnitudes: np.ndarray) -> tuple[int, int]:
    values, counts = np.unique(magnitudes[magnitudes > 0], return_counts=True)
    return int(values[counts.argmax()]), int(counts.max())


def _times(vectors: np.ndarray, checks: np.ndarray) -> np.ndarray:
    """Their product modulo the prime, term by term: sums of products of residues overflow."""
    total = np.zeros((len(vectors), checks.shape[1]), dtype=np.int64)
    for column, row in zip(vectors.T, checks, strict=True):
        if row.any():
            total = (total + column[:, None] * row) % PRIME
    return total


def _distinct(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to a first non-zero entry of 1, each once."""
    if not len(vectors):
        return vectors
    leads = vectors[np.arange(len(vectors)), (vectors != 0).argmax(axis=1)]
    inverses, power = np.ones_like(leads), leads.copy()
    for bit in range(31):  # by Fermat: to the power of p - 2
        if (PRIME - 2) >> bit & 1:
            inverses = inverses * power % PRIME
        power = power * power % PRIME
    scaled = vectors * inverses[:, None] % PRIME
    multipliers = np.random.default_rng(0).integers(1, 2**63, vectors.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    keys = (scaled.astype(np.uint64) * multipliers).sum(axis=1)  # sorting rows is a hundred times slower than sorting numbers
    return scaled[np.sort(np.unique(keys, return_index=True)[1])]


def _checks(generator: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """H of shape (r, d - rank): a vector of the column space lies in the span of `vectors` exactly when it times H is 0."""
    rows, dimension = generator.shape
    places = independent(generator.T)  # these rows determine a vector
    work = np.concatenate([vectors[:, places].T % PRIME, np.eye(dimension, dtype=np.int64)], axis=1)
    rank = 0
    for column in range(len(vectors)):
        pivots = np.flatnonzero(work[rank:, column])
        if not len(pivots):
            continue
        work[[rank, rank + pivots[0]]] = work[[rank + pivots[0], rank]]
        factors = work[rank + 1 :, column] * pow(int(work[rank, column]), -1, PRIME) % PRIME
        work[rank + 1 :] = (work[rank + 1 :] - factors[:, None] * work[rank]) % PRIME
        rank += 1
        if rank == dimension:
            break
    checks = np.zeros((rows, dimension - rank), dtype=np.int64)
    checks[places] = work[rank:, len(vectors) :].T
    return checks


def _enumerate(
    generator: np.ndarray, weight: int, checks: np.ndarray, budget: int, progress: Callable[[str], None] | None
) -> tuple[np.ndarray | None, int]:
    """Every vector of `weight` non-zeros outside a span (None when the budget ends before, or they are too many), and the nodes used."""
    rows, dimension = generator.shape
    stack = np.zeros((dimension, rows, dimension), dtype=np.int64)
    stack[0] = generator
    choice = np.zeros(rows + 1, dtype=np.int64)
    state = np.zeros(5, dtype=np.int64)
    found = np.empty((CAPACITY, rows), dtype=np.int64)
    while state[NODES] < budget and state[FOUND] < CAPACITY:
        if _walk(stack, choice, state, found, weight, checks, min(CHUNK, budget - state[NODES])):
            return _distinct(found[: state[FOUND]]), int(state[NODES])
        if progress is not None:
            progress(f"weight {weight}: {state[FOUND]} vectors, {state[NODES] / 1e6:.1f}M nodes")
    return None, int(state[NODES])


def _pivot_rounds(generator: np.ndarray, checks: np.ndarray, seed: int) -> np.ndarray:
    """The sparsest vectors outside a span that random pivot steps meet, sorted by weight."""
    rows = len(generator)
    kept, heaviest = np.zeros((0, rows), dtype=np.int64), rows
    buffer = np.empty((CAPACITY, rows), dtype=np.int64)
    for round_ in range(PIVOT_ROUNDS):
        steps = PIVOT_STEPS if round_ else 1
        count = _pivot_walk(generator.copy(), steps, PIVOT_ROUNDS * seed + round_ + 1, heaviest, checks, buffer)
        kept = _distinct(np.concatenate([kept, buffer[:count]]))
        weights = np.count_nonzero(kept, axis=1)
        order = np.argsort(weights, kind="stable")
        basis = independent(_times(kept[order], checks).T)
        heaviest = int(weights[order[basis[-1]]])  # what is heavier than all of a basis is of no use
        kept = kept[order][weights[order] <= heaviest]
    return kept


@compiled()
def _walk(stack, choice, state, found, weight, checks, steps):  # type: ignore[no-untyped-def]
    """Up to `steps` nodes of the tree, from where `state` stands; whether it is done."""
    dimension, rows, _ = stack.shape
    row, depth, present = state[ROW], state[DEPTH], state[WEIGHT]
    for _step in range(steps):
        state[NODES] += 1
        forward = False
        if depth == dimension - 1:
            total = 0
            for k in range(rows):
                total += stack[depth, k, 0] != 0
            if total == weight and state[FOUND] < len(found):
                found[state[FOUND]] = stack[depth, :, 0]
                state[FOUND] += 1
        elif row < rows:
            width = dimension - depth
            pivot = -1
            for j in range(width):
                if stack[depth, row, j] != 0:
                    pivot = j
                    break
            if pivot < 0:
                choice[row] = VANISHES
                forward = True
            else:
                _eliminate(stack, depth, row, pivot)
                clash = True  # with the span of sparser vectors: nothing new is left below
                for j in range(width - 1):
                    if _outside(stack[depth + 1, :, j], checks):
                        clash = False
                        break
                for k in range(0 if clash else row):
                    if choice[k] == PRESENT:
                        clash = True
                        for j in range(width - 1):
                            if stack[depth + 1, k, j] != 0:
                                clash = False
                                break
                        if clash:
                            break
                if not clash:
                    choice[row] = ELIMINATED
                    depth += 1
                    forward = True
                elif present < weight:
                    choice[row] = PRESENT
                    present += 1
                    forward = True
        if forward:
            row += 1
            continue
        while True:  # back to the last row that could still be decided otherwise
            row -= 1
            if row < 0:
                return True
            if choice[row] == ELIMINATED:
                depth -= 1
                if present < weight:
                    choice[row] = PRESENT
                    present += 1
                    row += 1
                    break
            elif choice[row] == PRESENT:
                present -= 1
    state[ROW], state[DEPTH], state[WEIGHT] = row, depth, present
    return False


@compiled()
def _outside(vector, checks):  # type: ignore[no-untyped-def]
    """Whether a vector times the checks is not 0."""
    for j in range(checks.shape[1]):
        total = 0
        for k in range(len(vector)):
            if checks[k, j] != 0 and vector[k] != 0:
                total = (total + checks[k, j] * vector[k]) % PRIME
        if total != 0:
            return True
    return False


@compiled()
def _eliminate(stack, depth, row, pivot):  # type: ignore[no-untyped-def]
    """The part of the space in `stack[depth]` that vanishes on a row, one column fewer, in `stack[depth + 1]`."""
    dimension, rows, _ = stack.shape
    inverse = _inverse(stack[depth, row, pivot])
    place = 0
    for j in range(dimension - depth):
        if j == pivot:
            continue
        factor = stack[depth, row, j] * inverse % PRIME
        for k in range(rows):
            value = stack[depth, k, j]
            if factor != 0 and stack[depth, k, pivot] != 0:
                value = (value + (PRIME - factor) * stack[depth, k, pivot]) % PRIME
            stack[depth + 1, k, place] = value
        place += 1


@compiled()
def _inverse(value):  # type: ignore[no-untyped-def]
    """1/value modulo the prime, by Euclid's algorithm; most values met are 1 or -1."""
    if value == 1 or value == PRIME - 1:
        return value
    low, high, a, b = value, PRIME, 1, 0
    while low > 1:
        quotient = high // low
        low, high = high - quotient * low, low
        a, b = b - quotient * a, a
    return a % PRIME


@compiled()
def _pivot_walk(generator, steps, seed, heaviest, checks, found):  # type: ignore[no-untyped-def]
    """Columns of random systematic forms outside a span with at most `heaviest` non-zeros, until `found` is full; their number."""
    rows, dimension = generator.shape
    state = np.uint64(seed)
    basic = np.full(rows, -1)  # the column that alone is non-zero on a row
    count = 0
    for step in range(steps + dimension):
        column = step % dimension  # the first round builds the form, the rest exchanges one row after another
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
        row = np.int64(state % np.uint64(rows))
        tries = 0
        while tries < rows and (basic[row] >= 0 or generator[row, column] == 0):
            row = (row + 1) % rows
            tries += 1
        if tries == rows:  # a vector of weight 1 stays
            continue
        for k in range(rows):
            if basic[k] == column:
                basic[k] = -1
        basic[row] = column
        inverse = _inverse(generator[row, column])
        for k in range(rows):
            generator[k, column] = generator[k, column] * inverse % PRIME
        for j in range(dimension):
            factor = generator[row, j]
            if j != column and factor != 0:
                for k in range(rows):
                    generator[k, j] = (generator[k, j] + (PRIME - factor) * generator[k, column]) % PRIME
        if step + 1 < dimension:
            continue
        for j in range(dimension):
            total = 0
            for k in range(rows):
                total += generator[k, j] != 0
            if total <= heaviest and _outside(generator[:, j], checks):
                if count == len(found):
                    return count
                found[count] = generator[:, j]
                count += 1
    return count

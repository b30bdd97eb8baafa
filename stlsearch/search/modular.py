"""Linear equations modulo a prime: a sparse matrix eliminated once, many right-hand sides solved after it.

Elimination finds the rank, the independent columns (leftmost first), as many independent rows, and the triangular factors of the
square matrix in both; the rest of the matrix follows from that and is not kept. A system is then solved by its independent
rows, with 0 for the other unknowns. Whether the other rows agree is for the caller to check, who knows the sparse matrix; a row
that does not is the sum of independent ones, `Elimination.combination`, and that sum proves that there is no solution.

Modulo 2 a row is a string of bits in words of 64, modulo 3 two strings, one for the ones and one for the twos. Modulo other
primes rows are floats, eliminated in blocks of columns so that nearly all the work is products of matrices; sums of `BLOCK`
products of residues are integers that the floats hold exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stlsearch.solvers.machine_code import compiled

BLOCK = 64  # columns eliminated one by one before the rest of the matrix is brought up to date
MAX_PRIME = 2**15
FLOAT32_SUMS = 2**22  # up to here float32 divides by p closely enough to find the remainder, and holds every integer


@dataclass(frozen=True, eq=False)
class Elimination:
    """A matrix modulo p, as far as solving needs it.

    Attributes:
        prime: p.
        columns: how many the matrix has.
        pivot_rows, pivot_columns: independent rows and columns, shape (rank,), columns ascending.
        triangles: L and U of the matrix in these rows and columns, packed, L with ones on its diagonal; (rank, rank).
    """

    prime: int
    columns: int
    pivot_rows: np.ndarray
    pivot_columns: np.ndarray
    triangles: np.ndarray

    @staticmethod
    def of(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int], prime: int) -> Elimination:
        """Eliminate the matrix with `values[t]` at (rows[t], columns[t]), residues in 0..p-1, every place given once.

        p is a prime below 2^15. Takes rows x columns/8 bytes modulo 2, twice that modulo 3, else 4 (p < 256) or 8 bytes for
        each of rows x columns.
        """
        height, width = shape
        if prime <= 3:
            planes = [_packed(rows[values == unit], columns[values == unit], shape) for unit in range(1, prime)]
            pivot_rows, pivot_columns = _eliminate_bits(planes[0], width) if prime == 2 else _eliminate_threes(*planes, width)
            triangles = _unpacked(planes[0], pivot_rows, pivot_columns)
            if prime == 3:
                triangles += 2 * _unpacked(planes[1], pivot_rows, pivot_columns)
        else:
            dense = np.zeros((height, width), dtype=np.float32 if (BLOCK + 1) * prime**2 < FLOAT32_SUMS else np.float64)
            dense[rows, columns] = values
            pivot_rows, pivot_columns = _eliminate_blocks(dense, prime)
            triangles = dense[: len(pivot_rows)][:, pivot_columns].astype(np.uint16)
        return Elimination(prime, width, pivot_rows, pivot_columns, triangles)

    @property
    def rank(self) -> int:
        return len(self.pivot_rows)

    def solve(self, right: np.ndarray) -> np.ndarray:
        """x, shape (columns,), that meets the independent rows of the system for `right` (rows,); 0 outside the pivot columns.

        Several systems at once for `right` (rows, systems), x then being (columns, systems).
        """
        solution = np.zeros((self.columns, *right.shape[1:]), dtype=np.int64)
        part = right[self.pivot_rows].astype(np.int64) % self.prime
        _solve(self.triangles, part.reshape(self.rank, right.size // len(right)), self.prime, _inverses(self.prime))
        solution[self.pivot_columns] = part
        return solution

    def combination(self, row: np.ndarray) -> np.ndarray:
        """y, shape (rank,): `row` (columns,) of the matrix is the sum of y[t] times row pivot_rows[t]."""
        part = row[self.pivot_columns].astype(np.int64) % self.prime
        _solve_transposed(self.triangles, part, self.prime, _inverses(self.prime))
        return part


def _inverses(prime: int) -> np.ndarray:
    """1/x modulo p for x = 1..p-1, in a table that begins at 0."""
    return np.array([0, *(pow(x, -1, prime) for x in range(1, prime))], dtype=np.int64)


def _packed(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bits at the given places, 64 columns a word, the first in the lowest bit."""
    words = np.zeros((shape[0], (shape[1] + 63) // 64), dtype=np.uint64)
    np.bitwise_or.at(words, (rows, columns >> 6), np.uint64(1) << (columns & 63).astype(np.uint64))
    return words


@compiled()
def _eliminate_bits(words: Any, width: Any) -> Any:
    """Row by row: every row is reduced by the independent ones before it, the multipliers staying where they cancelled a bit.

    Returns the independent rows and their first columns, sorted by column.
    """
    owner = np.full(width, -1, np.int64)  # of a column: the row that begins there
    for row in range(len(words)):
        mine = words[row]
        w, beyond = 0, ~np.uint64(0)  # the word looked at, and its bits still to look at
        while w < words.shape[1]:
            left = mine[w] & beyond
            if left == 0:
                w, beyond = w + 1, ~np.uint64(0)
                continue
            bit = _lowest(left)
            other = owner[64 * w + bit]
            if other < 0:
                owner[64 * w + bit] = row
                break
            beyond = _above(bit)
            above = words[other]
            mine[w] ^= above[w] & beyond  # the bit itself stays: it is the multiplier
            for k in range(w + 1, words.shape[1]):
                mine[k] ^= above[k]
    columns = np.flatnonzero(owner >= 0)
    return owner[columns], columns


@compiled()
def _eliminate_threes(ones: Any, twos: Any, width: Any) -> Any:
    """`_eliminate_bits` modulo 3, for bits that say where a 1 is and where a 2."""
    owner = np.full(width, -1, np.int64)
    for row in range(len(ones)):
        w, beyond = 0, ~np.uint64(0)
        while w < ones.shape[1]:
            left = (ones[row, w] | twos[row, w]) & beyond
            if left == 0:
                w, beyond = w + 1, ~np.uint64(0)
                continue
            bit = _lowest(left)
            other = owner[64 * w + bit]
            if other < 0:
                owner[64 * w + bit] = row
                break
            beyond, place = _above(bit), np.uint64(1) << np.uint64(bit)
            # The multiplier is the quotient of the two entries: 1 when they are equal. Twice a row is the row subtracted.
            equal = (ones[row, w] & place) == (ones[other, w] & place)
            plus, minus = (twos[other], ones[other]) if equal else (ones[other], twos[other])
            mine, mine_twos = ones[row], twos[row]
            kept_ones, kept_twos = mine[w] & ~beyond & ~place, mine_twos[w] & ~beyond & ~place
            for k in range(w, ones.shape[1]):
                either = (mine[k] | minus[k]) ^ (mine_twos[k] | plus[k])
                total_ones = (mine_twos[k] | minus[k]) ^ either
                mine_twos[k] = (mine[k] | plus[k]) ^ either
                mine[k] = total_ones
            mine[w] = mine[w] & beyond | kept_ones | (place if equal else np.uint64(0))
            mine_twos[w] = mine_twos[w] & beyond | kept_twos | (np.uint64(0) if equal else place)
    columns = np.flatnonzero(owner >= 0)
    return owner[columns], columns


@compiled()
def _lowest(word: Any) -> Any:
    """The number of the lowest bit that is set."""
    bit = 0
    while not (word >> np.uint64(bit)) & np.uint64(1):
        bit += 1
    return bit


@compiled()
def _above(bit: Any) -> Any:
    """All bits above that one."""
    return ~((np.uint64(2) << np.uint64(bit)) - np.uint64(1))


@compiled()
def _unpacked(words: Any, rows: Any, columns: Any) -> Any:
    """The bits in the chosen rows and columns as bytes."""
    result = np.empty((len(rows), len(columns)), np.uint8)
    for i in range(len(rows)):
        for j in range(len(columns)):
            result[i, j] = (words[rows[i], columns[j] >> 6] >> np.uint64(columns[j] & 63)) & np.uint64(1)
    return result


def _eliminate_blocks(dense: np.ndarray, prime: int) -> tuple[np.ndarray, np.ndarray]:
    """In place: rows swapped so that the independent ones come first, the packed triangles in the pivot columns."""
    height, width = dense.shape
    order = np.arange(height)
    inverses = _inverses(prime)
    pivots: list[int] = []
    for first in range(0, width, BLOCK):
        top, last = len(pivots), min(first + BLOCK, width)
        panel = dense[top:, first:last].astype(np.int64)
        found = _eliminate_panel(panel, prime, inverses, swaps := np.arange(height - top))
        if len(found) == 0:
            continue
        moved = np.flatnonzero(swaps != np.arange(height - top))
        dense[top + moved] = dense[top + swaps[moved]]
        order[top + moved] = order[top + swaps[moved]]
        dense[top:, first:last] = panel
        lower = panel[:, found].astype(dense.dtype)
        upper = dense[top : top + len(found), last:]
        for step in range(1, len(found)):
            upper[step] = (upper[step] - lower[step, :step] @ upper[:step]) % prime
        rest = dense[top + len(found) :, last:]
        _remainders(rest, lower[len(found) :] @ upper, dense.dtype.type(prime))
        pivots += (first + found).tolist()
        if len(pivots) == height:
            break
    return order[: len(pivots)], np.array(pivots, dtype=np.int64)


@compiled()
def _eliminate_panel(panel: Any, prime: Any, inverses: Any, order: Any) -> Any:
    """A few columns of all rows, with row swaps noted in `order`, multipliers in the pivot columns; the pivot columns."""
    found = np.empty(panel.shape[1], np.int64)
    count = 0
    for column in range(panel.shape[1]):
        pivot = -1
        for row in range(count, len(panel)):
            if panel[row, column] != 0:
                pivot = row
                break
        if pivot < 0:
            continue
        if pivot != count:
            for k in range(panel.shape[1]):
                panel[pivot, k], panel[count, k] = panel[count, k], panel[pivot, k]
            order[pivot], order[count] = order[count], order[pivot]
        inverse = inverses[panel[count, column]]
        for row in range(count + 1, len(panel)):
            if panel[row, column] != 0:
                factor = panel[row, column] * inverse % prime
                panel[row, column] = factor
                for k in range(column + 1, panel.shape[1]):
                    panel[row, k] = (panel[row, k] + (prime - factor) * panel[count, k]) % prime
        found[count] = column
        count += 1
    return found[:count]


@compiled()
def _remainders(values: Any, less: Any, prime: Any) -> None:
    """values = (values - less) mod p in floats. Half is added before dividing: the quotient is then never on an integer."""
    half, inverse = values.dtype.type(0.5), values.dtype.type(1) / prime
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            difference = values[i, j] - less[i, j]
            values[i, j] = difference - prime * np.floor((difference + half) * inverse)


@compiled()
def _solve(triangles: Any, parts: Any, prime: Any, inverses: Any) -> None:
    size = len(parts)
    total = np.empty(parts.shape[1], np.int64)
    for i in range(size):
        total[:] = parts[i]
        for j in range(i):
            factor = np.int64(triangles[i, j])
            if factor != 0:
                for k in range(len(total)):
                    total[k] -= factor * parts[j, k]  # at most 2^30 each
        for k in range(len(total)):
            parts[i, k] = total[k] % prime
    for i in range(size - 1, -1, -1):
        total[:] = parts[i]
        for j in range(i + 1, size):
            factor = np.int64(triangles[i, j])
            if factor != 0:
                for k in range(len(total)):
                    total[k] -= factor * parts[j, k]
        for k in range(len(total)):
            parts[i, k] = total[k] % prime * inverses[triangles[i, i]] % prime


@compiled()
def _solve_transposed(triangles: Any, part: Any, prime: Any, inverses: Any) -> None:
    size = len(part)
    for i in range(size):
        value = part[i] % prime * inverses[triangles[i, i]] % prime
        part[i] = value
        if value:
            for j in range(i + 1, size):
                part[j] -= triangles[i, j] * value
    for i in range(size - 1, -1, -1):
        value = part[i] % prime
        part[i] = value
        if value:
            for j in range(i):
                part[j] -= triangles[i, j] * value

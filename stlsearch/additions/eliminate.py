"""Straight-line programs of a matrix with few additions: elimination of common pairs, then search with cancellation.

Coefficients other than -1, 0 and 1 are made inputs of their own first: a row whose coefficients are all of one size is that size times a
row of signs, and c x in several rows is scaled once. What is left has rows of signs, for which `pair_kernel` finds a program without
cancellation and `closure_kernel` a shorter one with it. The transposed matrix is tried as well (see `program`); the shorter one stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from stlsearch.additions.closure_kernel import MOST, fewest, partial_sums
from stlsearch.additions.pair_kernel import count_all, improve, substitute
from stlsearch.additions.program import ZERO, Coefficient, Program, Term
from stlsearch.errors import InputError

RESTARTS = 100
BATCH = 25  # eliminations between two searches with cancellation, which start from the best of them
MASK = 64  # inputs that a sum with cancellation can have: bits of a mask
TRIES = 20  # sums replaced for every elimination
MIX = 0x9E3779B97F4A7C15
Rows = Sequence[Sequence[Coefficient]]
Sum = tuple[int, int]  # bit masks of the inputs added and subtracted


def straight_line(rows: Rows, restarts: int = RESTARTS, seed: int = 0) -> Program:
    """A program with few additions that multiplies by a matrix of integers or fractions, verified.

    Args:
        restarts: eliminations, of the matrix and of its transpose together; the time is proportional to them.
        seed: of the choice among pairs that occur equally often, and of all others; the same arguments give the same program.

    Raises:
        InputError: rows of unequal length, or none; restarts below 1.
    """
    if not rows or not rows[0] or len({len(row) for row in rows}) > 1:
        raise InputError("a straight-line program needs a matrix of at least one row and one column, all rows equally long")
    if restarts < 1:
        raise InputError(f"restarts must be at least 1, not {restarts}")
    exact = [[Fraction(value) for value in row] for row in rows]
    turned = [list(column) for column in zip(*exact, strict=True)]
    # The side with more rows is the faster one, and mostly the better; a quarter of the restarts goes to the other.
    wide = len(rows) < len(rows[0])
    quarter = restarts // 4
    shares = (quarter, restarts - quarter) if wide else (restarts - quarter, quarter)
    programs = []
    for matrix, share, transposed in ((exact, shares[0], False), (turned, shares[1], True)):
        if share > 0:
            program = _one_side(matrix, share, seed)
            programs.append(program.transposed() if transposed else program)
    best = min(programs, key=lambda program: (program.additions, program.scalings))
    assert best.computes(exact), "a straight-line program that does not compute its matrix"
    return best


@dataclass(frozen=True)
class _Signs:
    """A matrix as distinct rows of signs of which its rows are multiples.

    Attributes:
        scaled: the inputs behind the original ones, (coefficient, input).
        rows: distinct up to sign, with two coefficients or more.
        outputs: (coefficient, row), or (coefficient, ~input) for rows with a single one, or None for zero.
    """

    inputs: int
    scaled: list[Term]
    rows: list[tuple[int, ...]]
    outputs: list[tuple[Coefficient, int] | None]


def _signs(matrix: list[list[Fraction]]) -> _Signs:
    inputs = len(matrix[0])
    scales: list[Fraction] = []
    for row in matrix:
        sizes = Counter(abs(value) for value in row if value)
        scales.append(
            min(sizes, key=lambda scale: ((scale != 1) + len(row) - row.count(Fraction(0)) - sizes[scale], scale), default=Fraction(1))
        )
    scaled: list[Term] = []
    for row, scale in zip(matrix, scales, strict=True):
        if sum(map(bool, row)) > 1:
            scaled += [(abs(value) / scale, j) for j, value in enumerate(row) if value and abs(value) != scale]
    scaled = list(dict.fromkeys(scaled))
    places = {term: inputs + k for k, term in enumerate(scaled)}
    known: dict[tuple[int, ...], int] = {}
    outputs: list[tuple[Coefficient, int] | None] = []
    for row, scale in zip(matrix, scales, strict=True):
        terms = [(value, j) for j, value in enumerate(row) if value]
        if len(terms) < 2:
            outputs.append((terms[0][0], ~terms[0][1]) if terms else None)
            continue
        signs = [0] * (inputs + len(scaled))
        for value, j in terms:
            signs[places.get((abs(value) / scale, j), j)] = 1 if value > 0 else -1
        lead = signs[-1 - next(k for k, sign in enumerate(reversed(signs)) if sign)]
        line = tuple(lead * sign for sign in signs)
        outputs.append((_plain(lead * scale), known.setdefault(line, len(known))))
    return _Signs(inputs, scaled, list(known), outputs)


def _one_side(matrix: list[list[Fraction]], restarts: int, seed: int) -> Program:
    signs = _signs(matrix)
    width = signs.inputs + len(signs.scaled)
    first: list[tuple[Term, ...]] = [((_plain(coefficient), value),) for coefficient, value in signs.scaled]
    instructions, sums = _shortest(signs.rows, width, restarts, seed) if signs.rows else ([], [])
    outputs: list[Term] = []
    for output in signs.outputs:
        if output is None:
            outputs.append(ZERO)
        elif output[1] < 0:
            outputs.append((_plain(output[0]), ~output[1]))
        else:
            sign, value = sums[output[1]]
            outputs.append((sign * output[0], value))
    return Program(signs.inputs, (*first, *instructions), tuple(outputs)).tidied()


def _shortest(rows: list[tuple[int, ...]], width: int, restarts: int, seed: int) -> tuple[list[tuple[Term, ...]], list[Term]]:
    """Instructions and where the rows are found, of the best of the restarts."""
    plus, minus = _columns(rows)
    words = plus.shape[1]
    naive = sum(sum(map(abs, row)) - 1 for row in rows)
    random = np.array([(seed * MIX + 0x632BE59BD9B4E019) % 2**64 or 1], dtype=np.uint64)
    pairs = np.zeros((naive + 1, 3), dtype=np.int64)
    best: tuple[list[tuple[Term, ...]], list[Term]] | None = None
    for begun in range(0, restarts, BATCH):
        rounds = min(BATCH, restarts - begun)
        made, saved = improve(plus, minus, words, width, rounds, random, pairs)
        columns = _eliminated(plus, minus, pairs[:made])
        if width <= MASK and width + naive - saved <= MOST:
            found = _closed(rows, width, columns, pairs[:made], TRIES * rounds, random)
        else:
            found = _paired(len(rows), width, columns, pairs[:made])
        if best is None or len(found[0]) < len(best[0]):
            best = found
        if len(best[0]) == len(rows):  # each row needs one
            break
    assert best is not None
    return best


def _columns(rows: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Masks (inputs, words) of the rows that add and that subtract each input."""
    matrix = np.array(rows, dtype=np.int64)
    padded = np.zeros((-(-len(matrix) // 64) * 64, matrix.shape[1]), dtype=np.int64)
    padded[: len(matrix)] = matrix
    blocks = padded.T.reshape(matrix.shape[1], -1, 64)
    powers = np.uint64(1) << np.arange(64, dtype=np.uint64)
    return (blocks == 1) @ powers, (blocks == -1) @ powers


def _eliminated(plus: np.ndarray, minus: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The masks after the substitution of pairs."""
    inputs, words = plus.shape
    room = inputs + len(pairs)
    grown = [np.concatenate([masks, np.zeros((len(pairs), words), dtype=np.uint64)]) for masks in (plus, minus)]
    counts = np.zeros(max(2, room * (room - 1)), dtype=np.uint16)
    count_all(*grown, counts, words, inputs)
    for number, (i, j, opposite) in enumerate(pairs.tolist()):
        substitute(*grown, counts, words, inputs + number, i, j, opposite)
    return grown[0], grown[1]


def _paired(count: int, width: int, columns: tuple[np.ndarray, np.ndarray], pairs: np.ndarray) -> tuple[list[tuple[Term, ...]], list[Term]]:
    """The program of an elimination: its pairs, then every row added up from what is left of it."""
    instructions: list[tuple[Term, ...]] = [((1, i), (-1 if opposite else 1, j)) for i, j, opposite in pairs.tolist()]
    results: list[Term] = []
    for row in range(count):
        word, bit = row // 64, np.uint64(1 << row % 64)
        terms: list[Term] = [(1, int(v)) for v in np.nonzero(columns[0][:, word] & bit)[0]]
        terms += [(-1, int(v)) for v in np.nonzero(columns[1][:, word] & bit)[0]]
        while len(terms) > 1:
            instructions.append((terms[0], terms[1]))
            terms = [(1, width + len(instructions) - 1), *terms[2:]]
        results.append(terms[0])
    return instructions, results


def _closed(
    rows: list[tuple[int, ...]], width: int, columns: tuple[np.ndarray, np.ndarray], pairs: np.ndarray, tries: int, random: np.ndarray
) -> tuple[list[tuple[Term, ...]], list[Term]]:
    """The program of an elimination, with cancellation: see `closure_kernel`."""
    sums = np.zeros((MOST, 2), dtype=np.uint64)
    sums[:width, 0] = np.uint64(1) << np.arange(width, dtype=np.uint64)
    for k, row in enumerate(rows):
        sums[width + k] = [sum(1 << v for v, sign in enumerate(row) if sign == wanted) for wanted in (1, -1)]
    fixed = width + len(rows)
    vectors = np.zeros((width + len(pairs), 2), dtype=np.uint64)
    size = partial_sums(*columns, width, pairs, len(pairs), len(rows), sums, fixed, vectors)
    order, first, second = (np.zeros(MOST, dtype=np.int64) for _ in range(3))
    _, reached = fewest(sums, width, len(rows), size, tries, random, order, first, second)
    masks = [(int(plus), int(minus)) for plus, minus in sums.tolist()]
    instructions: list[tuple[Term, ...]] = []
    places = {value: value for value in range(width)}
    for value in order[width:reached].tolist():
        a, b = int(first[value]), int(second[value])
        signs = next((s, t) for s in (1, -1) for t in (1, -1) if _combined(masks[a], masks[b], s, t) == masks[value])
        instructions.append(((signs[0], places[a]), (signs[1], places[b])))
        places[value] = width + len(instructions) - 1
    return instructions, [(1, places[width + k]) for k in range(len(rows))]


def _combined(a: Sum, b: Sum, s: int, t: int) -> Sum:
    """+-a +-b, where that has coefficients -1, 0 and 1."""
    plus, minus = a if s > 0 else a[::-1]
    more, less = b if t > 0 else b[::-1]
    if plus & more or minus & less:
        return -1, -1
    return (plus & ~less) | (more & ~minus), (minus & ~more) | (less & ~plus)


def _plain(value: Coefficient) -> Coefficient:
    """An integer where it is one."""
    return int(value) if Fraction(value).denominator == 1 else value

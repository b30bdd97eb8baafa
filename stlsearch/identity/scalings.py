"""How terms that correspond are scaled: a multiplicative system, solved by tying unknowns together and eliminating.

Where term r goes to term r' with X u_r = a_r u'_r Y, Y v_r = b_r v'_r Z, Z w_r = c_r w'_r X, the traces say
a_r b_s c_t = T_rst/T'_rst wherever T is not 0, and a_r b_r c_r = 1. Two a that meet the same b_s c_t have a known
quotient, so that unknowns fall into few groups (one for each of a, b, c as a rule); what is left between the groups is a
small system of products of powers. X, Y, Z may be scaled, which leaves two unknowns free always; more are where the trace
graph falls apart, as it does for algorithms with a continuous group of symmetries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components

ALWAYS_FREE = 2
MOST_TRIED = 256  # values of further free unknowns, over small fields


@dataclass(frozen=True, eq=False)
class Scalings:
    """The solutions found, and whether there are no others but for those that scaling X, Y, Z makes of them.

    Attributes:
        solutions: each (3, r), the a, b, c modulo p.
        complete: there are no others. No solution and complete: the terms do not correspond.
        free: unknowns that could take any value, those that scaling X, Y, Z takes up among them.
    """

    solutions: tuple[np.ndarray, ...]
    complete: bool
    free: int = 0


def solve(traces: np.ndarray, others: np.ndarray, prime: int) -> Scalings:
    """All scalings that take the traces T of one algorithm to T' of the other, both (r, r, r) modulo a prime, terms matched."""
    present = traces != 0
    if not np.array_equal(present, others != 0):
        return Scalings((), True)
    rank = len(traces)
    groups, local = [], []
    for mode in range(3):
        # Rows: the unknowns of one mode; columns: the pairs of the two others.
        turn = (mode, (mode + 1) % 3, (mode + 2) % 3)
        group, value = _tied(traces.transpose(turn).reshape(rank, -1), others.transpose(turn).reshape(rank, -1), prime)
        groups.append(group)
        local.append(value)
    equations = _between_groups(traces, others, groups, local, prime)
    counts = [int(group.max()) + 1 for group in groups]
    starts = np.cumsum([0, *counts])
    solved = _eliminate([_spread(equation, starts) for equation in equations], int(starts[-1]), prime)
    if solved is None:
        return Scalings((), True)
    solutions = []
    for values in _choices(len(solved.free), prime):
        whole = solved.values(dict(zip(solved.free, values, strict=True)))
        if whole is None:
            continue
        scales = np.array(
            [
                [whole[starts[mode] + int(group)] * int(value) % prime for group, value in zip(groups[mode], local[mode], strict=True)]
                for mode in range(3)
            ],
            dtype=np.int64,
        )
        a, b, c = scales
        made = others * a[:, None, None] % prime * b[None, :, None] % prime * c[None, None, :] % prime
        if np.array_equal(made, traces) and (a * b % prime * c % prime == 1).all():
            solutions.append(scales)
    free = len(solved.free)
    every = free <= ALWAYS_FREE or (prime - 1) ** free <= MOST_TRIED
    return Scalings(tuple(solutions), every and not solved.hard, free)


def _choices(free: int, prime: int) -> Iterator[tuple[int, ...]]:
    """Values of the free unknowns: 1 where scaling X, Y, Z makes all others of it, else every value of a small field, else 1 again."""
    if free > ALWAYS_FREE and (prime - 1) ** free <= MOST_TRIED:
        yield from product(range(1, prime), repeat=free)
    else:
        yield (1,) * free


def _tied(own: np.ndarray, others: np.ndarray, prime: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups of rows that share a column where both are not 0, and each row's quotient to the first of its group."""
    present = csr_matrix((own != 0).astype(np.int32))
    shared = present @ present.T
    count, group = connected_components(shared, directed=False)
    value = np.ones(len(own), dtype=np.int64)
    for index in range(count):
        members = np.flatnonzero(group == index)
        order, before = breadth_first_order(shared, int(members[0]), directed=False)
        for row in order[1:]:
            known = int(before[row])
            column = int(((own[row] != 0) & (own[known] != 0)).argmax())
            quotient = int(own[row, column]) * int(others[known, column]) % prime
            quotient = quotient * pow(int(others[row, column]) * int(own[known, column]) % prime, -1, prime)
            value[row] = int(value[known]) * quotient % prime
    return group, value


def _between_groups(
    traces: np.ndarray, others: np.ndarray, groups: list[np.ndarray], local: list[np.ndarray], prime: int
) -> list[tuple[tuple[int, int, int], int]]:
    """(group of a, of b, of c) and what their product must be: one equation a triple of groups, and those of the terms."""
    places = np.argwhere(traces != 0)
    keys = np.stack([group[places[:, mode]] for mode, group in enumerate(groups)], axis=1)
    _, first = np.unique(keys, axis=0, return_index=True)
    equations = []
    for index in first:
        r, s, t = (int(place) for place in places[index])
        below = int(others[r, s, t]) * int(local[0][r]) * int(local[1][s]) * int(local[2][t]) % prime
        a, b, c = (int(key) for key in keys[index])
        equations.append(((a, b, c), int(traces[r, s, t]) * pow(below, -1, prime) % prime))
    for r in range(len(traces)):
        below = int(local[0][r]) * int(local[1][r]) * int(local[2][r]) % prime
        equations.append(((int(groups[0][r]), int(groups[1][r]), int(groups[2][r])), pow(below, -1, prime)))
    return list(dict.fromkeys(equations))


def _spread(equation: tuple[tuple[int, int, int], int], starts: np.ndarray) -> tuple[dict[int, int], int]:
    groups, value = equation
    return {int(starts[mode]) + group: 1 for mode, group in enumerate(groups)}, value


@dataclass(frozen=True)
class _Solved:
    """What elimination leaves of a system.

    Attributes:
        free: unknowns that nothing determines.
        steps: (unknown, exponents of others, known): each unknown as known times powers of others, in the order eliminated.
        hard: equations left over, with no exponent +-1.
        prime: p.
    """

    free: list[int]
    steps: list[tuple[int, dict[int, int], int]]
    hard: list[tuple[dict[int, int], int]]
    prime: int

    def values(self, chosen: dict[int, int]) -> dict[int, int] | None:
        """All unknowns from values of the free ones; None where those do not fit the hard equations."""
        values = dict(chosen)
        for key, exponents, known in reversed(self.steps):
            values[key] = known * self._power(exponents, values) % self.prime
        fits = all(self._power(exponents, values) == wanted for exponents, wanted in self.hard)
        return values if fits else None

    def _power(self, exponents: dict[int, int], values: dict[int, int]) -> int:
        total = 1
        for key, power in exponents.items():
            total = total * pow(values[key], power, self.prime) % self.prime
        return total


def _eliminate(equations: list[tuple[dict[int, int], int]], unknowns: int, prime: int) -> _Solved | None:
    """Solve prod x_i^e_i = value for the unknowns with an exponent +-1; None when two equations contradict each other."""
    steps: list[tuple[int, dict[int, int], int]] = []
    waiting, hard = list(equations), []
    while waiting:
        exponents, value = waiting.pop()
        exponents = {key: power for key, power in exponents.items() if power}
        simple = next((key for key, power in exponents.items() if abs(power) == 1), None)
        if not exponents:
            if value % prime != 1:
                return None
        elif simple is None:
            hard.append((exponents, value))
        else:
            sign = exponents.pop(simple)
            own = {key: -sign * power for key, power in exponents.items()}
            known = value if sign == 1 else pow(value, -1, prime)
            steps.append((simple, own, known))
            waiting, hard = [_put(equation, simple, own, known, prime) for equation in (*waiting, *hard)], []
    dependent = {key for key, _, _ in steps}
    return _Solved([key for key in range(unknowns) if key not in dependent], steps, hard, prime)


def _put(equation: tuple[dict[int, int], int], key: int, own: dict[int, int], known: int, prime: int) -> tuple[dict[int, int], int]:
    exponents, value = equation
    power = exponents.get(key, 0)
    if not power:
        return equation
    merged = {other: count for other, count in exponents.items() if other != key}
    for other, count in own.items():
        merged[other] = merged.get(other, 0) + power * count
    return merged, value * pow(pow(known, power, prime), -1, prime) % prime

"""Flip graph search: a seeded random walk over exact algorithms with coefficients -1, 0, 1.

Two terms that share a factor (up to sign) can trade: with e = +-1,

    x (x) y1 (x) z1 + x (x) y2 (x) z2  =  x (x) (y1 + e y2) (x) z1 + x (x) y2 (x) (z2 - e z1),

and likewise for every choice of the three modes. Such a flip keeps the sum, so every state of the
walk is an exact algorithm over Z; one that would leave {-1, 0, 1} is refused. A factor that becomes
zero drops its term, and two terms that share two factors merge: the rank falls. A walk that stays
at one rank for long splits a pair into three terms (a "plus" transition) and walks on from there.

Source: Kauers and Moosbauer, Flip graphs for matrix multiplication (2022); plus transitions: Arai,
Ichikawa and Hukushima, Adaptive flip graph algorithm for matrix multiplication (2024). The ternary
form over Z, without lifting from Z2, is the same identity with signs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import standard_terms
from stlsearch.errors import InputError
from stlsearch.targets import Target

MODES = ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (1, 0, 2), (2, 1, 0))  # (shared, added to, subtracted from)
CHUNK = 10_000  # flips between two looks at the budget, the plateau and the callback
PLUS_ATTEMPTS = 100  # of a plus transition: with dense terms most pairs would leave {-1, 0, 1}

Vector = tuple[int, int]  # bit masks of the coefficients +1 and -1; the first exceeds the second in a normalised one


class FlipWalk:
    """A state of the walk: terms sign * u (x) v (x) w with ternary u, v, w kept as bit masks.

    Args:
        start: an exact algorithm with all coefficients -1, 0, 1.
        seed: of the walk; the same start and seed give the same walk.

    Raises:
        InputError: `start` is not exact over Z or not ternary.
    """

    def __init__(self, start: BilinearAlgorithm, seed: int) -> None:
        if not start.is_ternary or start.ring != "Z":
            raise InputError("a flip walk starts from an exact algorithm over Z with coefficients -1, 0, 1")
        self.target = start.target
        self.seed = seed
        self.flips = 0
        self._random = random.Random(seed).random
        self._load([tuple(_pack(factor[row]) for factor in (start.U, start.V, start.W)) for row in range(start.rank)], [1] * start.rank)

    @property
    def rank(self) -> int:
        """Terms of the present state."""
        return len(self._signs)

    def snapshot(self) -> tuple[list[tuple[Vector, ...]], list[int]]:
        """The present terms and their signs, to come back to with `restore`."""
        return list(zip(*self._factors, strict=True)), list(self._signs)

    def restore(self, snapshot: tuple[list[tuple[Vector, ...]], list[int]]) -> None:
        """Go back to an earlier state; the stream of random numbers goes on."""
        self._load(*snapshot)

    def algorithm(self, **provenance: object) -> BilinearAlgorithm:
        """The present state as a verified exact algorithm over Z."""
        rows = [np.array([_unpack(x, d) for x in mode], dtype=np.int64) for mode, d in zip(self._factors, self.target.dims, strict=True)]
        rows[2] = rows[2] * np.array(self._signs)[:, None]
        return BilinearAlgorithm.from_exact(self.target, *rows, ring="Z", provenance=provenance)

    def run(self, flips: int, stop_rank: int = 0) -> None:
        """Walk until `flips` more pairs have been tried or the rank is at most `stop_rank`."""
        draw, factors, signs = self._random, self._factors, self._signs
        for done in range(flips):
            rank = len(signs)
            if rank <= stop_rank:
                self.flips += done
                return
            first = int(draw() * rank)
            shared, added, subtracted = MODES[int(draw() * 6)]
            bucket = self._index[shared][factors[shared][first]]
            if len(bucket) == 1:
                continue
            second = bucket[int(draw() * len(bucket))]
            if second == first:
                continue
            sign = 1 if draw() < 0.5 else -1
            y = _add(factors[added][first], factors[added][second], sign)
            if y is None:
                continue
            z = _add(factors[subtracted][second], factors[subtracted][first], -sign * signs[first] * signs[second])
            if z is None:
                continue
            self._replace(added, first, y)
            self._replace(subtracted, second, z)
            empty = [term for term, x in ((first, y), (second, z)) if not (x[0] or x[1])]
            for term in sorted(empty, reverse=True):
                self._remove(term)
            if not empty and not self._merge(added, first):
                self._merge(subtracted, second)
        self.flips += flips

    def plus(self) -> bool:
        """Split a random pair of terms into three, raising the rank by one; False when a coefficient would not fit.

        x1 y1 z1 + x2 y2 z2 = x1 (y1 + y2) z1 + x1 y2 (z2 - z1) + (x2 - x1) y2 z2, modes in random order.
        """
        first, second = int(self._random() * self.rank), int(self._random() * self.rank)
        a, b, c = MODES[int(self._random() * 6)]
        (x1, y1, z1), (x2, y2, z2) = ([self._factors[mode][term] for mode in (a, b, c)] for term in (first, second))
        s1, s2 = self._signs[first], self._signs[second]
        y, z, x = _add(y1, y2, 1), _add(z2, z1, -s1 * s2), _add(x2, x1, -1)
        if first == second or any(new is None or new == (0, 0) for new in (x, y, z)):
            return False
        assert x is not None and y is not None and z is not None
        self._replace(b, first, y)
        self._replace(a, second, x)
        middle: list[Vector] = [x1, x1, x1]
        middle[b], middle[c] = y2, z
        self._append(middle, s2)
        return True

    def _load(self, terms: Sequence[Sequence[Vector]], signs: Sequence[int]) -> None:
        self._signs: list[int] = []
        self._factors: tuple[list[Vector], ...] = ([], [], [])
        self._index: tuple[dict[Vector, list[int]], ...] = ({}, {}, {})  # by mode: factor -> the terms that hold it
        for vectors, sign in zip(terms, signs, strict=True):
            self._append(vectors, sign)

    def _append(self, vectors: Sequence[Vector], sign: int) -> None:
        term = len(self._signs)
        self._signs.append(sign)
        for mode, vector in enumerate(vectors):
            self._factors[mode].append((0, 0))
            self._index[mode].setdefault((0, 0), []).append(term)
            self._replace(mode, term, vector)

    def _replace(self, mode: int, term: int, vector: Vector) -> None:
        """Put `vector` into a term, its sign moved into the term's sign when -1 times it is the normal form."""
        if vector[1] > vector[0]:
            vector = (vector[1], vector[0])
            self._signs[term] = -self._signs[term]
        index, factors = self._index[mode], self._factors[mode]
        old = factors[term]
        bucket = index[old]
        if len(bucket) == 1:
            del index[old]
        else:
            bucket.remove(term)
        factors[term] = vector
        index.setdefault(vector, []).append(term)

    def _remove(self, term: int) -> None:
        last = len(self._signs) - 1
        for factors, index in zip(self._factors, self._index, strict=True):
            for gone in dict.fromkeys((term, last)):
                index[factors[gone]].remove(gone)
                if not index[factors[gone]]:
                    del index[factors[gone]]
            moved = factors.pop()
            if term != last:  # the last term takes the free place
                factors[term] = moved
                index.setdefault(moved, []).append(term)
        sign = self._signs.pop()
        if term != last:
            self._signs[term] = sign

    def _merge(self, mode: int, term: int) -> bool:
        """Add a term into another that shares its factor of `mode` and one more; True when the rank fell."""
        factors = self._factors
        for other in self._index[mode][factors[mode][term]]:
            if other == term:
                continue
            for equal, free in (((mode + 1) % 3, (mode + 2) % 3), ((mode + 2) % 3, (mode + 1) % 3)):
                if factors[equal][term] != factors[equal][other]:
                    continue
                total = _add(factors[free][other], factors[free][term], self._signs[term] * self._signs[other])
                if total is None:
                    continue
                self._replace(free, other, total)
                for gone in sorted((term, other) if total == (0, 0) else (term,), reverse=True):
                    self._remove(gone)
                return True
        return False


def flip_search(
    target: Target,
    target_rank: int,
    seed: int = 0,
    max_flips: int = 10_000_000,
    callback: Callable[[int, int, int], bool | None] | None = None,
    *,
    start: BilinearAlgorithm | None = None,
    plateau: int = 50_000,
    margin: int = 2,
) -> BilinearAlgorithm:
    """Walk from `start` (default: the standard algorithm) until `target_rank` is reached, or the budget ends.

    After `plateau` flips without a lower rank the walk makes a plus transition, up to `margin` above the
    lowest rank seen; from there it returns to the last state of lowest rank. The same arguments give the
    same result on every machine.

    Args:
        callback: called as callback(flips, rank, lowest rank) every 10000 flips; returning True ends the walk.

    Returns:
        The algorithm of lowest rank seen, exact over Z and ternary; its rank may exceed `target_rank`.

    Raises:
        InputError: `start` of another target, not ternary or not exact over Z, or budgets below 1.
    """
    if min(target_rank, max_flips, plateau) < 1 or margin < 0:
        raise InputError("target_rank, max_flips and plateau must be at least 1, margin at least 0")
    if start is not None and start.target != target:
        raise InputError(f"the start is an algorithm for {start.target.slug}, not {target.slug}")
    walk = FlipWalk(start or standard_terms(target), seed)
    best, best_rank, last_change, ended = walk.snapshot(), walk.rank, 0, "budget"
    while walk.flips < max_flips:
        before = walk.rank
        walk.run(min(CHUNK, max_flips - walk.flips), target_rank)
        if walk.rank < before:
            last_change = walk.flips
        if walk.rank <= best_rank:  # of equal rank too: it lies further from the start
            best, best_rank = walk.snapshot(), walk.rank
        if best_rank <= target_rank:
            ended = "reached"
            break
        if callback is not None and callback(walk.flips, walk.rank, best_rank):
            ended = "stopped"
            break
        if walk.flips - last_change >= plateau:
            last_change = walk.flips
            if walk.rank >= best_rank + margin:
                walk.restore(best)
            else:
                any(walk.plus() for _ in range(PLUS_ATTEMPTS))
    walk.restore(best)
    options = "" if start is None else ", start=..."
    command = f"flip_search(Target.make({target.kind!r}, {dict(target.params)!r}), {target_rank}, seed={seed}, max_flips={max_flips}"
    command += f"{options}, plateau={plateau}, margin={margin})"
    provenance: dict[str, object] = {"search": "flip graph", "seed": seed, "flips": walk.flips, "ended": ended, "command": command}
    if start is not None:
        provenance["parents"] = [{"id": start.id, "name": start.name}]
    return walk.algorithm(**provenance)


def _add(x: Vector, y: Vector, sign: int) -> Vector | None:
    """x + sign y, None when a coefficient leaves {-1, 0, 1}."""
    plus, minus = x
    more, less = y if sign > 0 else (y[1], y[0])
    if plus & more or minus & less:
        return None
    return (plus & ~less) | (more & ~minus), (minus & ~more) | (less & ~plus)


def _pack(row: np.ndarray) -> Vector:
    values = row.tolist()
    return sum(1 << i for i, value in enumerate(values) if value == 1), sum(1 << i for i, value in enumerate(values) if value == -1)


def _unpack(vector: Vector, length: int) -> list[int]:
    return [(vector[0] >> i & 1) - (vector[1] >> i & 1) for i in range(length)]

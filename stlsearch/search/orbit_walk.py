"""A walker that keeps a group of symmetries: `FlipWalk` for whole orbits of terms."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.search import orbit_kernel as kernel
from stlsearch.search import orbit_state
from stlsearch.search.checkpoint import number_in
from stlsearch.search.flip_masks import MAX_ENTRIES, algorithm_of, masks_of
from stlsearch.search.flip_state import RINGS, random_word
from stlsearch.search.groups import group_of

MAX_ORBITS = 512
HEAD, SIGN, LENGTH = (int(row) for row in (orbit_state.HEAD, orbit_state.SIGN, orbit_state.LENGTH))
ORBITS, RANDOM, FLIPS, RING = (int(column) for column in (orbit_state.ORBITS, orbit_state.RANDOM, orbit_state.FLIPS, orbit_state.RING))


class OrbitWalk:
    """One walker over algorithms that a group of symmetries leaves as they are, and its last state of lowest rank.

    Args:
        start: an exact algorithm whose coefficients are, or reduce to, those of the ring, and whose terms the group permutes.
        seed: of the walk; the same start and seed give the same walk on every machine.
        ring: one of `flip_state.RINGS`.
        symmetry: generators of the group, see `groups.group_of`.

    Raises:
        InputError: as for `FlipWalk`, no such group, and a start whose terms it does not permute.
    """

    def __init__(self, start: BilinearAlgorithm, seed: int, ring: str, symmetry: str) -> None:
        if start.target.shape is None:
            raise InputError(f"symmetries are those of matrix products, not of {start.target.slug}")
        self.target, self.ring, self.seed, self.symmetry = start.target, ring, seed, symmetry
        self.group = group_of(symmetry, start.target.shape)
        order = self.group.order
        terms, signs = self._orbits(*masks_of(start, ring), start.name)
        if len(terms) > MAX_ORBITS - 3:
            raise InputError(f"{start.name} has {len(terms)} orbits under {symmetry}; at most {MAX_ORBITS - 3} can be held")
        self._state = np.zeros((orbit_state.ROWS, order * MAX_ORBITS), dtype=np.uint64)
        head = self._state[HEAD]
        head[RANDOM] = random_word(seed)
        head[RING], head[ORBITS] = RINGS[ring], len(terms)
        columns = np.arange(len(terms)) * order
        self._state[:3, columns], self._state[3:6, columns] = terms[:, :, 0].T, terms[:, :, 1].T
        self._state[SIGN, columns] = signs
        for number in range(len(terms)):
            self._spread(self._state, number)
        self._best = self._state.copy()
        self.tries = self.improved = self._since = 0

    @property
    def rank(self) -> int:
        """Terms of the present state."""
        return int(orbit_state.rank_of(self._state, np.uint64(self.group.order)))

    @property
    def lowest(self) -> int:
        """Terms of the best state so far."""
        return int(orbit_state.rank_of(self._best, np.uint64(self.group.order)))

    @property
    def flips(self) -> int:
        """Flips of orbits made; fewer than tried."""
        return int(self._state[HEAD, FLIPS])

    def run(self, tries: int) -> None:
        """Flip only, and merge what can be merged."""
        kernel.wander(self._state, *self._tables, tries)

    def plus(self) -> bool:
        """Split a random pair of orbits into three; False when no pair was found whose coefficients fit."""
        return bool(kernel.plus(self._state, *self._tables))

    def search(self, tries: int, stop_rank: int, plateau: int, margin: int) -> None:
        """Walk with plus transitions, see `flip_search`; without the interpreter's lock."""
        arguments = (tries, plateau, np.uint64(margin), np.uint64(stop_rank), self._since)
        before = self.lowest
        made, self._since = kernel.search(self._state, self._best, *self._tables, *arguments)
        self.tries += made
        if self.lowest < before:
            self.improved = self.tries  # how many had been made when the lowest rank fell last

    def states(self) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        """All that decides how the walk goes on: the present state, the best one, and counts. See `restore`."""
        return self._state, self._best, {"tries": self.tries, "improved": self.improved, "since": int(self._since)}

    def restore(self, state: np.ndarray, best: np.ndarray, counts: Mapping[str, object]) -> None:
        """Go on where another walk of the same target, ring and symmetry stood, by its `states`.

        Raises:
            InputError: arrays that are not states of such a walk, or counts that are none.
        """
        for array in (state, best):
            self._check(array)
        self._state, self._best = state.copy(), best.copy()
        self.tries, self.improved, self._since = (number_in(counts, name) for name in ("tries", "improved", "since"))
        for is_best in (False, True):
            self.algorithm(best=is_best)  # verified on the way

    def _check(self, array: np.ndarray) -> None:
        """Whether an array from a file is a state: compiled code trusts the images and lengths in it."""
        damaged = InputError("the checkpoint is damaged: an array that is not the state of a walk")
        if array.dtype != np.uint64 or array.shape != self._state.shape or int(array[HEAD, RING]) != RINGS[self.ring]:
            raise damaged
        orbits, order = int(array[HEAD, ORBITS]), self.group.order
        if not 1 <= orbits <= MAX_ORBITS - 3 or not array[HEAD, RANDOM]:
            raise damaged
        fresh = array.copy()
        for number in range(orbits):
            terms = fresh[:6, number * order].reshape(2, 3).T
            if any(size < MAX_ENTRIES and (terms[mode] >> np.uint64(size)).any() for mode, size in enumerate(self.target.dims)):
                raise damaged
            self._spread(fresh, number)
        if not np.array_equal(fresh[:HEAD, : orbits * order : order], array[:HEAD, : orbits * order : order]) or not np.array_equal(
            fresh[:LENGTH, : orbits * order], array[:LENGTH, : orbits * order]
        ):
            raise damaged

    def algorithm(self, *, best: bool = False, **provenance: object) -> BilinearAlgorithm:
        """The present state, or the best one, as a verified exact algorithm over the ring."""
        state = self._best if best else self._state
        images = [term for number in range(int(state[HEAD, ORBITS])) for term in self._images(state, number * self.group.order)]
        terms = np.array([np.array(term[:6], dtype=np.uint64).reshape(2, 3).T for term in images])
        signs = np.array([term[6] for term in images], dtype=np.uint64)
        return algorithm_of(self.target, self.ring, terms, signs, **provenance)

    @property
    def _tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.group.modes, self.group.tables, self.group.product

    def _spread(self, state: np.ndarray, number: int) -> None:
        """Write the images of an orbit's term, and how many different ones there are."""
        orbit_state.spread(state, self.group.modes, self.group.tables, np.uint64(number))
        state[LENGTH, number * self.group.order] = len(self._images(state, number * self.group.order))

    def _images(self, state: np.ndarray, column: int) -> list[tuple[int, ...]]:
        """The different terms of the orbit that begins at a column: six masks and a sign."""
        return list(dict.fromkeys(map(tuple, state[: SIGN + 1, column : column + self.group.order].T.tolist())))

    def _orbits(self, terms: np.ndarray, signs: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        """One term of every orbit, and its sign."""
        images = self.group.images(terms)
        place = {_key(term, sign): number for number, (term, sign) in enumerate(zip(terms, signs, strict=True))}
        if len(place) < len(terms):
            raise InputError(f"{name} has a term twice: symmetric walks start from different terms")
        found, seen = [], set[int]()
        for number in range(len(terms)):
            orbit = {place.get(_key(image[number], signs[number]), -1) for image in images}
            if -1 in orbit:
                raise InputError(f"{name} is not symmetric: {self.symmetry} takes some of its terms to others")
            if number not in seen:
                found.append(number)
                seen |= orbit
        return terms[found], signs[found]


def _key(term: np.ndarray, sign: int) -> tuple[int, ...]:
    """A term's masks in normal form and its sign: the same for every way to write it."""
    key = []
    negative = int(sign)
    for plus, minus in term.tolist():
        negative ^= minus > plus
        key += [max(plus, minus), min(plus, minus)]
    return (*key, negative)

"""Flip graph search: random walks over exact algorithms, from the standard one to those of low rank.

Every state is an exact algorithm over the ring of the walk: Z2, Z3, or Z with coefficients -1, 0, 1. `stlsearch.search.flip_kernel` has
the moves, compiled; here they are started, run side by side, and turned into algorithms. Sources: Kauers and Moosbauer (arXiv
2212.01175), plus transitions by Arai, Ichikawa and Hukushima (arXiv 2312.16960); the ternary form over Z, without lifting, is the
same identity with signs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import standard_terms
from stlsearch.errors import InputError
from stlsearch.search.checkpoint import check_rank, check_state, number_in
from stlsearch.search.checkpoint import read as read_checkpoint
from stlsearch.search.checkpoint import write as write_checkpoint
from stlsearch.search.cyclic_orbits import expanded, fused, orbits
from stlsearch.search.flip_masks import MAX_ENTRIES, algorithm_of, masks_of
from stlsearch.search.flip_state import (
    FIXED,
    FIXED_MASKS,
    FLIPS,
    HASH_BITS,
    MAX_FIXED,
    MIX,
    RANDOM,
    RANK,
    RINGS,
    WORDS,
    load,
    random_word,
    terms_of,
)
from stlsearch.search.flip_walk import flip, reduce_once, search, split
from stlsearch.search.groups import group_of
from stlsearch.search.orbit_walk import OrbitWalk
from stlsearch.targets import Target

SYMMETRIES = ("none", "cyclic")  # of `FlipWalk`; `OrbitWalk` has every other
SMALL = 128  # terms up to which a hash table of 2^9 places is enough
LARGE = 36  # terms of the standard algorithm from which detours may go further
ROUND = 4_000_000  # tries of every walker between two looks at all of them
SAVE_SECONDS = 60.0  # between two checkpoints
MAX_WALKERS = 512  # a checkpoint holds so many with the largest groups of symmetries
Progress = Callable[[int, int, int], bool | None]
Walk: TypeAlias = "FlipWalk | OrbitWalk"


class FlipWalk:
    """One walker: a state, and the last state of lowest rank that it met.

    Args:
        start: an exact algorithm whose coefficients are, or reduce to, those of the ring.
        seed: of the walk; the same start and seed give the same walk on every machine.
        ring: one of `RINGS`.
        symmetry: one of `SYMMETRIES`; with "cyclic" all moves are made to the three rotations of a term at once.
        fuse: of a cyclic walk, how often two fixed terms are made one before it starts, see `cyclic_orbits.fused`.

    Raises:
        InputError: another ring or symmetry, a start that is not exact over it or not ternary over Z or without the symmetry, too many
            terms or entries.
    """

    def __init__(self, start: BilinearAlgorithm, seed: int, ring: str = "Z", symmetry: str = "none", fuse: int = 0) -> None:
        if symmetry not in SYMMETRIES:
            raise InputError(f"unknown symmetry {symmetry!r:.20}; valid: {', '.join(SYMMETRIES)}")
        terms, signs = masks_of(start, ring)
        self.target, self.ring, self.seed, self.cyclic = start.target, ring, seed, symmetry == "cyclic"
        self._state = np.zeros(WORDS, dtype=np.uint64)
        self._state[int(RANDOM)] = random_word(seed)
        if self.cyclic:
            terms, signs, fixed = fused(*orbits(terms, signs, start.target, start.name), fuse)
            if len(fixed) > MAX_FIXED:
                raise InputError(f"{start.name} has {len(fixed)} terms that the rotation does not move; at most {MAX_FIXED} can be held")
            self._state[int(FIXED)] = len(fixed)
            self._fixed(self._state)[: len(fixed)] = fixed
        self._bits = np.uint64(9 if len(terms) <= SMALL else HASH_BITS)
        load(self._state, terms, signs, np.uint64(RINGS[ring]), self.cyclic, self._bits)
        self._best = self._state.copy()
        self.tries = self.improved = self._since = 0

    @property
    def rank(self) -> int:
        """Terms of the present state."""
        return self._rank(self._state)

    @property
    def lowest(self) -> int:
        """Terms of the best state so far."""
        return self._rank(self._best)

    @property
    def flips(self) -> int:
        """Flips made; over Z fewer than tried."""
        return int(self._state[int(FLIPS)])

    def run(self, tries: int, stop_rank: int = 0) -> int:
        """Flip only: try that many flips, or until at most `stop_rank` terms (orbits, if cyclic) are left; how many were tried."""
        return int(flip(self._state, tries, np.uint64(stop_rank)))

    def plus(self) -> bool:
        """Split a random pair of terms into three; False when no pair was found whose coefficients fit."""
        return bool(split(self._state))

    def reduce(self) -> bool:
        """Give a term to others that share one of its factors, if another of its factors depends on theirs; whether one did.

        Not for cyclic walks, whose terms share factors across modes.
        """
        if self.cyclic:
            return False
        return bool(reduce_once(self._state))

    def search(self, tries: int, stop_rank: int, plateau: int, margin: int) -> None:
        """Walk with plus transitions, see `flip_search`; without the interpreter's lock."""
        arguments = (tries, plateau, np.uint64(margin), np.uint64(stop_rank), self._since)
        before = self.lowest
        made, self._since = search(self._state, self._best, *arguments)
        self.tries += made
        if self.lowest < before:
            self.improved = self.tries  # how many had been made when the lowest rank fell last

    def descend(self, tries: int, length: int, stop_rank: int = 0) -> None:
        """Flip only, and return to where the rank fell last after every `length` tries without a fall.

        Far from a start with few and sparse factors terms share ever less: large products are led down by many short walks, small ones
        and those near their lowest rank by long ones with plus transitions, `search`.
        """
        done = 0
        while done < tries and self.lowest > stop_rank:
            below = self.lowest - 1
            fixed = int(self._best[int(FIXED)]) if self.cyclic else 0
            made = self.run(min(length, tries - done), max(0, below - fixed) // 3 if self.cyclic else below)
            done += max(made, 1)
            if self.rank < self.lowest:
                self._best[:] = self._state
                self.improved = self.tries + done
            else:
                random, flips = self._state[int(RANDOM)], self._state[int(FLIPS)]
                self._state[:] = self._best
                self._state[int(RANDOM)], self._state[int(FLIPS)] = random, flips
            if made == 0:
                break  # nothing can be flipped
        self.tries += done

    def states(self) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        """All that decides how the walk goes on: the present state, the best one, and counts. See `restore`."""
        counts = {"tries": self.tries, "improved": self.improved, "since": int(self._since)}
        return self._state, self._best, counts

    def restore(self, state: np.ndarray, best: np.ndarray, counts: Mapping[str, object]) -> None:
        """Go on where another walk of the same target, ring and symmetry stood, by its `states`.

        Raises:
            InputError: arrays that are not states of such a walk, or counts that are none.
        """
        for array in (state, best):
            check_rank(array)
            terms, signs = terms_of(array)
            beyond = any(size < MAX_ENTRIES and (terms[:, mode] >> np.uint64(size)).any() for mode, size in enumerate(self.target.dims))
            if beyond or int(array[int(FIXED)]) > MAX_FIXED:
                raise InputError(f"the checkpoint is damaged: a state with terms that are not those of {self.target.slug}")
            fresh = np.zeros(WORDS, dtype=np.uint64)
            load(fresh, terms, signs, np.uint64(RINGS[self.ring]), self.cyclic, self._bits)
            check_state(array, fresh)
        self._state, self._best = state.copy(), best.copy()
        self.tries, self.improved, self._since = (number_in(counts, name) for name in ("tries", "improved", "since"))
        for is_best in (False, True):
            self.algorithm(best=is_best)  # verified on the way

    def _rank(self, state: np.ndarray) -> int:
        terms = int(state[int(RANK)])
        return 3 * terms + int(state[int(FIXED)]) if self.cyclic else terms

    @staticmethod
    def _fixed(state: np.ndarray) -> np.ndarray:
        """The masks (MAX_FIXED, 2) of fixed terms, a view."""
        return state[int(FIXED_MASKS) :][: 2 * MAX_FIXED].reshape(MAX_FIXED, 2)

    def algorithm(self, *, best: bool = False, **provenance: object) -> BilinearAlgorithm:
        """The present state, or the best one, as a verified exact algorithm over the ring."""
        state = self._best if best else self._state
        terms, signs = terms_of(state)
        if self.cyclic:
            assert self.target.shape is not None
            terms, signs = expanded(terms, signs, self._fixed(state)[: int(state[int(FIXED)])], self.target.shape[0])
        return algorithm_of(self.target, self.ring, terms, signs, **provenance)


def defaults(target: Target, symmetry: str) -> tuple[int, int, int]:
    """(plateau, margin, patience) that do well: of plain walks, cyclic ones, and walks with a group of `groups`."""
    if symmetry == "none":
        return 500, 2 if target.trivial_rank < LARGE else 4, 50_000_000
    if symmetry == "cyclic":
        return 5_000, 6, 20_000_000
    if target.shape is None:
        raise InputError(f"symmetries are those of matrix products, not of {target.slug}")
    return 500, max(7, 2 * group_of(symmetry, target.shape).order), 2_000_000


def flip_search(
    target: Target,
    target_rank: int,
    seed: int = 0,
    max_flips: int = 10_000_000,
    callback: Progress | None = None,
    *,
    ring: str = "Z",
    symmetry: str = "none",
    start: BilinearAlgorithm | None = None,
    walkers: int = 1,
    threads: int = 1,
    plateau: int | None = None,
    margin: int | None = None,
    patience: int | None = None,
    checkpoint: Path | None = None,
    resume: Path | None = None,
) -> BilinearAlgorithm:
    """Walk from `start` (default: the standard algorithm) until `target_rank` is reached, or the budget ends.

    After `plateau` tries without a lower rank a walker makes a plus transition, up to `margin` above the lowest rank it has
    seen; from there it returns to its last state of lowest rank. After `patience` tries without a lower rank it begins anew, with other
    random numbers. `defaults` has the three. The same arguments give the same result on every machine, whatever the number of threads.

    Args:
        max_flips: budget of flips tried, by all walkers together.
        callback: called as callback(flips tried, rank, lowest rank) of the best walker after every round; returning True ends it.
        ring: Z (coefficients -1, 0, 1), Z2 or Z3.
        symmetry: "cyclic" keeps u (x) v (x) w -> v (x) w (x) u of square products, which lowers ranks by three at a time;
            walkers start with as few fixed terms as can lead to the rank, see `cyclic_orbits.fused`. Anything else but "none" is a list of
            generators, see `groups.group_of`: orbits of that group are moved as a whole, and the start has to have it.
        walkers: walks with random numbers of their own, side by side; the first to reach the rank in a round wins.
        threads: of the machine.
        checkpoint: a file that gets the state of all walkers every minute and at the end, see `stlsearch.search.checkpoint`.
        resume: such a file of a search with the same arguments, budget aside. It goes on as if it had never ended: rounds of the walkers
            that the budget cut short are walked again, whole.

    Returns:
        The algorithm of lowest rank seen, exact over the ring; its rank may exceed `target_rank`.

    Raises:
        InputError: `start` of another target or not over the ring, budgets below 1, more than 512 walkers, factors of more than 64 entries,
            or a file to resume that is no checkpoint of this search.
        RegistryError: the checkpoint cannot be written.
    """
    usual = defaults(target, symmetry)
    plateau, margin, patience = (given if value is None else value for given, value in zip(usual, (plateau, margin, patience), strict=True))
    if min(target_rank, max_flips, plateau, patience, walkers, threads) < 1 or margin < 0:
        raise InputError("target_rank, max_flips, plateau, patience, walkers and threads must be at least 1, margin at least 0")
    if walkers > MAX_WALKERS:
        raise InputError(f"at most {MAX_WALKERS} walkers can walk side by side, not {walkers}")
    if start is not None and start.target != target:
        raise InputError(f"the start is an algorithm for {start.target.slug}, not {target.slug}")
    first = start or standard_terms(target)
    # Ranks of cyclic walks are three times their orbits and the fixed terms: as few of those as lead to the rank.
    sizes = range(1, target.shape[0] + 1) if target.shape and symmetry == "cyclic" else ()
    fixed = next((size for size in sizes if (target_rank - size) % 3 == 0), 1)
    fuse = len(sizes) - fixed if sizes else 0

    def walker(number: int) -> Walk:
        if symmetry not in SYMMETRIES:
            return OrbitWalk(first, seed + MIX * number, ring, symmetry)
        return FlipWalk(first, seed + MIX * number, ring, symmetry, fuse)

    team, begun = [walker(number) for number in range(walkers)], walkers
    best, ended = team[0], "budget"
    options = {
        "target": target.slug,
        "target_rank": target_rank,
        "ring": ring,
        "symmetry": symmetry,
        "start": first.id,
        "seed": seed,
        "walkers": walkers,
        "plateau": plateau,
        "margin": margin,
        "patience": patience,
    }
    if resume is not None:
        begun, best = _restored(resume, options, team, walker)
    saved, whole = time.monotonic(), min(ROUND, patience)
    with ThreadPoolExecutor(min(threads, walkers)) as pool:
        while best.lowest > target_rank and (left := max_flips - sum(each.tries for each in team)) > 0:
            tries = max(1, min(whole, left // walkers))
            if checkpoint is not None and (tries < whole or time.monotonic() - saved >= SAVE_SECONDS):
                _save(checkpoint, options, team, begun, best)
                saved = time.monotonic()
                if tries < whole:
                    checkpoint = None  # a longer budget would not have cut the round short
            list(pool.map(lambda each, tries=tries: each.search(tries, target_rank, plateau, margin), team))
            leader = min(team, key=lambda each: each.lowest)
            best = min(best, leader, key=lambda each: each.lowest)
            if best.lowest <= target_rank:
                break
            told = sum(each.tries for each in team), leader.rank, best.lowest
            for place, each in enumerate(team):
                if each.tries - each.improved >= patience:
                    team[place] = walker(begun)
                    team[place].tries = team[place].improved = each.tries
                    begun += 1
            if callback is not None and callback(*told):
                ended = "stopped"
                break
    if checkpoint is not None:
        _save(checkpoint, options, team, begun, best)
    ended = "reached" if best.lowest <= target_rank else ended
    given = "" if start is None else ", start=..."
    command = f"flip_search(Target.make({target.kind!r}, {dict(target.params)!r}), {target_rank}, seed={seed}, max_flips={max_flips}, "
    command += f"ring={ring!r}, symmetry={symmetry!r}{given}, walkers={walkers}, plateau={plateau}, margin={margin}, patience={patience})"
    flips = sum(each.tries for each in team)
    provenance: dict[str, object] = {"search": "flip graph", "seed": seed, "flips": flips, "ended": ended, "command": command}
    if start is not None:
        provenance["parents"] = [{"id": start.id, "name": start.name}]
    return best.algorithm(best=True, **provenance)


def _save(path: Path, options: dict[str, object], team: list[Walk], begun: int, best: Walk) -> None:
    """Write the state of a search; `best` may be a walker that has made room for another."""
    walks = team if any(best is each for each in team) else [*team, best]
    states, kept, counts = zip(*(each.states() for each in walks), strict=True)
    place = next(place for place, each in enumerate(walks) if each is best)
    stands = {"begun": begun, "best": place, "walks": counts}
    write_checkpoint(path, "flips", options, stands, {"states": np.stack(states), "kept": np.stack(kept)})


def _restored(path: Path, options: dict[str, object], team: list[Walk], walker: Callable[[int], Walk]) -> tuple[int, Walk]:
    """(walkers begun, best walker) of a checkpoint; the walkers of `team` are put where they stood."""
    counts, arrays = read_checkpoint(path, "flips", options)
    walks, (states, kept) = counts.get("walks"), (arrays.get(name, np.zeros(0)) for name in ("states", "kept"))
    begun, place = number_in(counts, "begun"), number_in(counts, "best", len(team))
    count = max(len(team), place + 1)
    if not (isinstance(walks, list) and all(isinstance(each, dict) for each in walks) and len(walks) == len(states) == len(kept) == count):
        raise InputError(f"{path} is damaged: it does not hold the states of {count} walkers")
    all_walks = [*team, walker(0)][:count]
    for each, state, best, numbers in zip(all_walks, states, kept, walks, strict=True):
        each.restore(state, best, numbers)
    return begun, all_walks[place]

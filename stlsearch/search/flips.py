"""Flip graph search: random walks over exact algorithms, from the standard one to those of low rank.

Every state is an exact algorithm over the ring of the walk: Z2, Z3, or Z with coefficients -1, 0, 1. `stlsearch.search.flip_kernel` has
the moves, compiled; here they are started, run side by side, and turned into algorithms. Sources: Kauers and Moosbauer (arXiv
2212.01175), plus transitions by Arai, Ichikawa and Hukushima (arXiv 2312.16960); the ternary form over Z, without lifting, is the
same identity with signs.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import standard_terms
from stlsearch.errors import InputError
from stlsearch.exact import modulus_of
from stlsearch.search.cyclic_orbits import expanded, fused, orbits
from stlsearch.search.flip_state import (
    FIXED,
    FIXED_MASKS,
    FLIPS,
    HASH_BITS,
    MAX_FIXED,
    MAX_TERMS,
    RANDOM,
    RANK,
    RINGS,
    WORDS,
    load,
    terms_of,
)
from stlsearch.search.flip_walk import flip, reduce_once, search, split
from stlsearch.targets import Target

SYMMETRIES = ("none", "cyclic")
MAX_ENTRIES = 64  # of a factor: bits of a mask
SMALL = 128  # terms up to which a hash table of 2^9 places is enough
LARGE = 36  # terms of the standard algorithm from which detours may go further
ROUND = 4_000_000  # tries of every walker between two looks at all of them
MIX = 0x9E3779B97F4A7C15
Progress = Callable[[int, int, int], bool | None]


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
        terms, signs = _packed(start, ring)
        self.target, self.ring, self.seed, self.cyclic = start.target, ring, seed, symmetry == "cyclic"
        self._state = np.zeros(WORDS, dtype=np.uint64)
        self._state[int(RANDOM)] = (seed * MIX + 0x632BE59BD9B4E019) % 2**64 or 1  # xorshift stays at 0
        if self.cyclic:
            terms, signs, fixed = fused(*orbits(terms, signs, start.target, start.name), fuse)
            if len(fixed) > MAX_FIXED:
                raise InputError(f"{start.name} has {len(fixed)} terms that the rotation does not move; at most {MAX_FIXED} can be held")
            self._state[int(FIXED)] = len(fixed)
            self._fixed(self._state)[: len(fixed)] = fixed
        bits = 9 if len(terms) <= SMALL else HASH_BITS
        load(self._state, terms, signs, np.uint64(RINGS[ring]), self.cyclic, np.uint64(bits))
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
        factors = [_unpacked(terms[:, mode], size) for mode, size in enumerate(self.target.dims)]
        factors[2] = factors[2] * (1 - 2 * signs.astype(np.int64))[:, None]
        if (prime := modulus_of(self.ring)) is not None:
            factors = [factor % prime for factor in factors]
        return BilinearAlgorithm.from_exact(self.target, *factors, ring=self.ring, provenance=provenance)


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
) -> BilinearAlgorithm:
    """Walk from `start` (default: the standard algorithm) until `target_rank` is reached, or the budget ends.

    After `plateau` tries without a lower rank a walker makes a plus transition, up to `margin` above the lowest rank it has
    seen; from there it returns to its last state of lowest rank. By default 500 and 4, 2 for standard algorithms of less than 36
    terms; 5000 and 6 for cyclic walks. After `patience` tries (5e7, cyclic 2e7) without a lower rank it begins anew, with other
    random numbers. The same arguments give the same result on every machine, whatever the number of threads.

    Args:
        max_flips: budget of flips tried, by all walkers together.
        callback: called as callback(flips tried, rank, lowest rank) of the best walker after every round; returning True ends it.
        ring: Z (coefficients -1, 0, 1), Z2 or Z3.
        symmetry: "cyclic" keeps u (x) v (x) w -> v (x) w (x) u of square products, which lowers ranks by three at a time;
            walkers start with as few fixed terms as can lead to the rank, see `cyclic_orbits.fused`.
        walkers: walks with random numbers of their own, side by side; the first to reach the rank in a round wins.
        threads: of the machine.

    Returns:
        The algorithm of lowest rank seen, exact over the ring; its rank may exceed `target_rank`.

    Raises:
        InputError: `start` of another target or not over the ring, budgets below 1, or factors of more than 64 entries.
    """
    plateau = (5_000 if symmetry == "cyclic" else 500) if plateau is None else plateau
    margin = (6 if symmetry == "cyclic" else 2 if target.trivial_rank < LARGE else 4) if margin is None else margin
    patience = (20_000_000 if symmetry == "cyclic" else 50_000_000) if patience is None else patience
    if min(target_rank, max_flips, plateau, patience, walkers, threads) < 1 or margin < 0:
        raise InputError("target_rank, max_flips, plateau, patience, walkers and threads must be at least 1, margin at least 0")
    if start is not None and start.target != target:
        raise InputError(f"the start is an algorithm for {start.target.slug}, not {target.slug}")
    first = start or standard_terms(target)
    # Ranks of cyclic walks are three times their orbits and the fixed terms: as few of those as lead to the rank.
    sizes = range(1, target.shape[0] + 1) if target.shape and symmetry == "cyclic" else ()
    fixed = next((size for size in sizes if (target_rank - size) % 3 == 0), 1)
    fuse = len(sizes) - fixed if sizes else 0

    def walker(number: int) -> FlipWalk:
        return FlipWalk(first, seed + MIX * number, ring, symmetry, fuse)

    team, begun = [walker(number) for number in range(walkers)], walkers
    best, ended = team[0], "budget"
    with ThreadPoolExecutor(min(threads, walkers)) as pool:
        while best.lowest > target_rank and (left := max_flips - sum(each.tries for each in team)) > 0:
            tries = max(1, min(ROUND, left // walkers))
            list(pool.map(lambda each, tries=tries: each.search(tries, target_rank, plateau, margin), team))
            leader = min(team, key=lambda each: each.lowest)
            best = min(best, leader, key=lambda each: each.lowest)
            if best.lowest <= target_rank:
                break
            if callback is not None and callback(sum(each.tries for each in team), leader.rank, best.lowest):
                ended = "stopped"
                break
            for place, each in enumerate(team):
                if each.tries - each.improved >= patience:
                    team[place] = walker(begun)
                    team[place].tries = team[place].improved = each.tries
                    begun += 1
    ended = "reached" if best.lowest <= target_rank else ended
    options = "" if start is None else ", start=..."
    command = f"flip_search(Target.make({target.kind!r}, {dict(target.params)!r}), {target_rank}, seed={seed}, max_flips={max_flips}, "
    command += f"ring={ring!r}, symmetry={symmetry!r}{options}, walkers={walkers}, plateau={plateau}, margin={margin}, patience={patience})"
    flips = sum(each.tries for each in team)
    provenance: dict[str, object] = {"search": "flip graph", "seed": seed, "flips": flips, "ended": ended, "command": command}
    if start is not None:
        provenance["parents"] = [{"id": start.id, "name": start.name}]
    return best.algorithm(best=True, **provenance)


def _packed(start: BilinearAlgorithm, ring: str) -> tuple[np.ndarray, np.ndarray]:
    """Terms and signs of an algorithm as `flip_state.load` takes them."""
    if ring not in RINGS:
        raise InputError(f"a flip walk cannot be over {ring!r:.20}; valid: {', '.join(RINGS)}")
    if ring not in start.valid_rings() or start.exact is None:
        raise InputError(f"{start.name} is not exact over {ring}: valid over {', '.join(start.valid_rings()) or 'no exact ring'}")
    if max(start.target.dims) > MAX_ENTRIES or start.rank > MAX_TERMS:
        raise InputError(
            f"flip walks hold up to {MAX_ENTRIES} entries of a factor and {MAX_TERMS} terms; "
            f"{start.name} has {max(start.target.dims)} and {start.rank}"
        )
    prime = modulus_of(ring)
    factors = []
    for factor in start.exact:
        values = factor.real
        if prime is not None:
            values = values * pow(factor.denominator, -1, prime) % prime
            values = np.where(values == 2, -1, values)
        factors.append(values)
    if prime is None and not start.is_ternary:
        raise InputError(f"a flip walk over Z needs coefficients -1, 0, 1; {start.name} has others")
    if not all(factor.any(axis=1).all() for factor in factors):
        raise InputError(f"{start.name} has a term that is zero over {ring}")
    powers = np.uint64(1) << np.arange(MAX_ENTRIES, dtype=np.uint64)
    masks = [[(factor == sign) @ powers[: factor.shape[1]] for sign in (1, -1)] for factor in factors]
    return np.array(masks, dtype=np.uint64).transpose(2, 0, 1).copy(), np.zeros(start.rank, dtype=np.uint64)


def _unpacked(masks: np.ndarray, size: int) -> np.ndarray:
    """Masks (r, 2) as coefficients (r, size)."""
    bits = (masks[:, :, None] >> np.arange(size, dtype=np.uint64)) & np.uint64(1)
    return bits[:, 0].astype(np.int64) - bits[:, 1].astype(np.int64)

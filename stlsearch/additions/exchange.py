"""Exchange of an algorithm for one of the same rank with fewer additions.

Algorithms of one rank are connected by flips, changes of basis, and detours over one more term; what they take after common sums are
shared differs widely. `exchange` walks among those with coefficients -1, 0 and 1, in rounds of simulated annealing
(`stlsearch.additions.walk_kernel`). Each round starts with a detour from where the best of the rounds before ended. Reducing additions by
walks on the flip graph: Perminov (arXiv 2511.20317, 2512.13365).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stlsearch.additions.closure_kernel import MOST
from stlsearch.additions.counting import Additions, count
from stlsearch.additions.ternary import ternary_form
from stlsearch.additions.walk_kernel import KNOWN_BITS, NEVER, anneal, detour
from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import modulus_of
from stlsearch.search.flip_masks import algorithm_of, masks_of
from stlsearch.search.flip_state import HASH_BITS, RANDOM, RANK, RINGS, WORDS, load, terms_of

MOVES = 1_000_000
ROUND = 50_000  # moves from hot to cold
PIECE = 10_000  # moves between two looks at the clock
HOT, COLD = 1.0, 0.2  # temperatures, in additions
SHEARS = 4096  # of 2^16 moves
DETOUR = 10_000_000  # flips tried to come back from a detour
SPLITS = 8  # of terms on a detour, at most
DETOURS = 20  # tried for one that comes back
BETWEEN = 2.0  # temperature between rounds, in additions
CANDIDATES = 48  # algorithms whose programs are searched longer in the end
FINALISTS = 8  # of them those that are searched as long as asked for
MIX = 0x9E3779B97F4A7C15
Progress = Callable[[int, int], bool | None]


@dataclass(frozen=True)
class Exchange:
    """The algorithm of fewest additions met.

    Attributes:
        algorithm: exact over Z.
        additions: its additions.
        moves: made.
        ended: "budget" or "stopped".
    """

    algorithm: BilinearAlgorithm
    additions: Additions
    moves: int
    ended: str


def exchange(
    algorithm: BilinearAlgorithm, moves: int = MOVES, restarts: int = 1000, seed: int = 0, callback: Progress | None = None
) -> Exchange:
    """Look for an algorithm of the same rank, or a lower one, with fewer additions.

    Args:
        algorithm: exact over Z, with at most 64 entries in each factor, and coefficients -1, 0 and 1 in some basis.
        moves: flips and changes of basis, in rounds of 50,000.
        restarts: of the elimination in the end, see `counting.count`.
        seed: the same arguments give the same result on every machine.
        callback: called as callback(moves made, fewest additions so far) now and then; returning True ends the walk.

    Returns:
        The algorithm itself when no other is better.

    Raises:
        InputError: an algorithm that is not as above, moves below 1.
    """
    if moves < 1:
        raise InputError(f"moves must be at least 1, not {moves}")
    if algorithm.exact is None:
        raise InputError(f"{algorithm.name} is not exact: only exact algorithms are exchanged")
    if modulus_of(algorithm.ring) is not None:
        raise InputError(f"algorithms are exchanged over Z; {algorithm.name} is over {algorithm.ring}")
    if max(algorithm.target.dims) + algorithm.rank > MOST:
        raise InputError(f"a factor may have up to {MOST} rows and columns together; {algorithm.name} has more")
    terms, signs = masks_of(ternary_form(algorithm, seed), "Z")
    target = algorithm.target
    sizes = np.array([*(target.shape or (0, 0, 0)), *target.dims], dtype=np.int64)
    state = np.zeros(WORDS, dtype=np.uint64)
    state[int(RANDOM)] = (seed * MIX + 0x632BE59BD9B4E019) % 2**64 or 1
    load(state, terms, signs, np.uint64(RINGS["Z"]), False, np.uint64(9 if len(terms) <= 128 else HASH_BITS))
    spare, kept, here, end = (state.copy() for _ in range(4))
    known = np.zeros((1 << KNOWN_BITS, 2), dtype=np.uint64)
    shears = SHEARS if target.shape is not None else 0
    draws = np.random.default_rng(seed)
    met: list[_Met] = []
    made, ended, level = 0, "budget", (len(terms), NEVER)
    while made < moves and ended == "budget":
        length, reached = min(ROUND, moves - made), (len(terms), NEVER)
        for begun in range(0, length, PIECE):
            piece = min(PIECE, length - begun)
            hot, cold = (HOT * (COLD / HOT) ** (at / length) for at in (begun, begun + piece))
            lowest = int(anneal(state, spare, kept, sizes, piece, hot, cold, shears, known, NEVER))
            made += piece
            met.append(_Met(int(kept[int(RANK)]), lowest, kept.copy()))
            if met[-1].key <= reached:
                reached, end = met[-1].key, met[-1].state
            met = sorted(met, key=lambda each: each.key)[:CANDIDATES]
            if callback is not None and callback(made, met[0].energy + met[0].rank - target.dims[2]):
                ended = "stopped"
                break
        if made >= moves or ended == "stopped":
            break
        if reached[0] < level[0] or draws.random() < np.exp(min(0, level[1] - reached[1]) / BETWEEN):
            level, here = reached, end
        random = state[int(RANDOM)]
        state[:] = here
        state[int(RANDOM)] = random
        for _ in range(DETOURS):
            if detour(state, spare, int(draws.integers(1, SPLITS + 1)), DETOUR):
                break
    best, additions = algorithm, count(algorithm, restarts, seed)
    others = {other.id: other for other in (algorithm_of(target, "Z", *terms_of(each.state)) for each in met)}
    quick = sorted(others.values(), key=lambda other: (other.rank, count(other, max(1, restarts // 10), seed).total))
    for other in quick[:FINALISTS]:
        shorter = count(other, restarts, seed)
        if (other.rank, shorter.total) < (best.rank, additions.total):
            best, additions = other, shorter
    if best is not algorithm:
        parents = [{"id": algorithm.id, "name": algorithm.name}]
        best = best.with_provenance(search="exchange for fewer additions", seed=seed, moves=made, ended=ended, parents=parents)
    return Exchange(best, additions, made, ended)


@dataclass(frozen=True)
class _Met:
    """A state met on the way."""

    rank: int
    energy: int
    state: np.ndarray

    @property
    def key(self) -> tuple[int, int]:
        return self.rank, self.energy

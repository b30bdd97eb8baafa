"""Search between sizes: walks on the flip graphs of all products up to a given one, each started from the best of the others.

From the standard algorithm a walk on a large product gets stuck high: <4,5,5> at 95 of 100. A start that is put together from good
algorithms of smaller sizes, or cut out of a larger one, lies far lower (Arai, Ichikawa and Hukushima, arXiv 2312.16960, add the standard
algorithm of a slab; arXiv 2511.20317 projects, extends and merges). Here every size n <= m <= p within the target's has a pool of its
algorithms of lowest rank. A *stint* is one walk on one size; it starts from

- an algorithm of the size's pool,
- two of smaller sizes side by side along n, m or p (`transforms.direct_sum`; where one of them is a slab, its standard algorithm), or
- one of a larger size without one row or column (`sizes.project`),

and its best algorithm enters the pool if none there is lower. From the latter two, whose factors are sparse and often shared, it first
goes down by flips alone (`FlipWalk.descend`). Sizes are taken from small to large, each until some stints in a row
brought nothing; then all again, with twice the patience.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import standard
from stlsearch.constructions.transforms import DIMENSIONS, direct_sum, permute_to
from stlsearch.errors import InputError
from stlsearch.search.checkpoint import number_in, read, write
from stlsearch.search.flip_masks import MAX_ENTRIES
from stlsearch.search.flip_state import MAX_TERMS, MIX, RINGS
from stlsearch.search.flips import MAX_WALKERS, SAVE_SECONDS, FlipWalk
from stlsearch.search.sizes import project
from stlsearch.targets import Target, parse_tile

Size = tuple[int, int, int]
KEPT = 16  # algorithms of a size
STINT = 200_000  # tries of a stint, for each product n m p of the standard algorithm
DESCENT = 300_000  # flips without a lower rank after which a walk goes back, in the first half of a stint from other sizes
PATIENCE = 4  # stints in a row without gain after which a size is left, in the first round through all sizes
TARGET_SHARE = 8  # times as many for the size that is wanted
SLACK, SLACK_SHARE = 4, 12  # starts lie at most 4 ranks, or a twelfth, above the lowest
OWN = 0.5  # share of stints that start from the size's own pool
Progress = Callable[["Climb"], bool | None]


class _Sum(NamedTuple):
    """Two shapes side by side along a dimension, and the rank that they make."""

    rank: int
    along: int
    first: Size
    second: Size


class Climb:
    """The pools of a search between sizes, and where it stands.

    Args:
        target: a matrix product; sizes up to its own are searched.
        seed: of every choice; the same arguments give the same search on every machine.
        ring: Z (coefficients -1, 0, 1), Z2 or Z3.
        walkers: stints made side by side from the same pools.
        plateau, margin: of the walks, see `flips.flip_search`.
        starts: algorithms that the pools begin with, of any size up to the target's or with one dimension larger by one.

    Attributes:
        pools: algorithms of lowest rank by size n <= m <= p.
        flips: tried so far.
        stints: made so far.
        walked: the size of the last stint.

    Raises:
        InputError: not a matrix product, factors of more than 64 entries or too many terms, another ring, or a start that is not exact
            over it, not ternary over Z, or of a size that does not help.
    """

    def __init__(
        self,
        target: Target,
        seed: int = 0,
        *,
        ring: str = "Z",
        walkers: int = 1,
        plateau: int = 1000,
        margin: int = 4,
        starts: Sequence[BilinearAlgorithm] = (),
    ) -> None:
        if target.shape is None:
            raise InputError(f"a search between sizes is for matrix products, not for {target.slug}")
        if ring not in RINGS:
            raise InputError(f"a flip walk cannot be over {ring!r:.20}; valid: {', '.join(RINGS)}")
        if max(target.dims) > MAX_ENTRIES or target.trivial_rank > MAX_TERMS:
            raise InputError(f"flip walks hold up to {MAX_ENTRIES} entries of a factor and {MAX_TERMS} terms; {target.slug} needs more")
        if min(walkers, plateau) < 1 or margin < 0:
            raise InputError("walkers and plateau must be at least 1, margin at least 0")
        if walkers > MAX_WALKERS:
            raise InputError(f"at most {MAX_WALKERS} walkers can walk side by side, not {walkers}")
        self.target, self.seed, self.ring, self.walkers, self.plateau, self.margin = target, seed, ring, walkers, plateau, margin
        self.size = ordered(target.shape)
        within = [size for size in combinations_with_replacement(range(2, self.size[2] + 1), 3) if _fits(size, self.size)]
        self.sizes = sorted({*within, self.size}, key=lambda size: (int(np.prod(size)), size))
        self.pools: dict[Size, list[BilinearAlgorithm]] = {size: [self._over_ring(standard(*size))] for size in self.sizes}
        self.idle = dict.fromkeys(self.sizes, 0)
        self.round = self.stints = self.flips = 0
        self.walked = self.size
        for start in starts:
            self._enter(start)

    def _enter(self, start: BilinearAlgorithm) -> None:
        shape = start.target.shape
        size = ordered(shape) if shape else (0, 0, 0)
        if not is_start(size, self.size):
            limit = f"sizes up to {self.target.slug} are, or one of its dimensions larger by one"
            raise InputError(f"{start.name} is no start for {self.target.slug}: {limit}")
        self.keep(permute_to(self._over_ring(start), size))

    def _over_ring(self, algorithm: BilinearAlgorithm) -> BilinearAlgorithm:
        return FlipWalk(algorithm, 0, self.ring).algorithm()

    def keep(self, algorithm: BilinearAlgorithm) -> bool:
        """Put an algorithm of a size n <= m <= p into its pool, if none there is lower; whether the lowest rank fell."""
        assert algorithm.target.shape is not None
        pool = self.pools.setdefault(algorithm.target.shape, [])
        lowest = pool[0].rank if pool else algorithm.rank + 1
        if algorithm.rank < lowest:
            pool[:] = [algorithm]
        elif algorithm.rank == lowest and all(algorithm.id != other.id for other in pool):
            pool[:] = [*pool[-KEPT + 1 :], algorithm]
        return algorithm.rank < lowest

    @property
    def best(self) -> BilinearAlgorithm:
        """The last algorithm of lowest rank for the target."""
        assert self.target.shape is not None
        return permute_to(self.pools[self.size][-1], self.target.shape)

    def next_size(self) -> Size:
        """The size whose turn it is: the smallest that still gains; when none does, all again with more patience."""
        while True:
            patience = PATIENCE << self.round
            for size in self.sizes:
                if self.idle[size] < patience * (TARGET_SHARE if size == self.size else 1):
                    return size
            self.round += 1
            self.idle = dict.fromkeys(self.sizes, 0)

    def tries(self, size: Size) -> int:
        """Tries of one stint on a size."""
        return STINT * int(np.prod(size))

    def step(self, pool: ThreadPoolExecutor, target_rank: int, most: int | None = None) -> None:
        """Make a stint with every walker, on the size whose turn it is.

        Args:
            pool: threads, whose number does not change the result.
            target_rank: rank of the target at which a walk ends early.
            most: tries of each walker, if fewer than usual.
        """
        size = self.next_size()
        tries = self.tries(size) if most is None else min(most, self.tries(size))
        stop = target_rank if size == self.size else 1
        numbers = range(self.stints, self.stints + self.walkers)
        starts = [self._start(size, np.random.default_rng([self.seed, number])) for number in numbers]
        walks = [FlipWalk(start, self.seed + MIX * number, self.ring) for number, start in zip(numbers, starts, strict=True)]

        def walked(walk: FlipWalk, start: BilinearAlgorithm) -> None:
            if not any(start is each for each in self.pools[size]):
                walk.descend(tries // 2, DESCENT, stop)
            if walk.lowest > stop:
                walk.search(max(1, tries - walk.tries), stop, self.plateau, self.margin)

        list(pool.map(walked, walks, starts))
        self.walked = size
        gained = [self.keep(walk.algorithm(best=True)) for walk in walks]
        self.idle[size] = 0 if any(gained) else self.idle[size] + self.walkers
        self.stints += self.walkers
        self.flips += sum(walk.tries for walk in walks)

    def _start(self, size: Size, random: np.random.Generator) -> BilinearAlgorithm:
        """Where a stint starts: the size's own pool, or what the others make of it, if that lies lower or not far above."""
        own = self.pools[size]
        sums = list(self._sums(size))
        projected = self._projected(size, random)
        least = min([own[0].rank, *(each.rank for each in sums), *(each.rank for each in projected)])
        if own[0].rank == least and random.random() < OWN:
            return _drawn(own, random)
        most = least + (max(SLACK, least // SLACK_SHARE) if own[0].rank == least else 0)
        candidates: list[_Sum | BilinearAlgorithm] = [*sums, *projected]
        others = [each for each in candidates if each.rank <= most]
        if not others:
            return _drawn(own, random)
        chosen = others[random.integers(len(others))]
        if isinstance(chosen, BilinearAlgorithm):
            return chosen
        first, second = (permute_to(_drawn(self._pool(shape), random), shape) for shape in (chosen.first, chosen.second))
        return direct_sum(first, second, DIMENSIONS[chosen.along])

    def _pool(self, shape: Size) -> list[BilinearAlgorithm]:
        size = ordered(shape)
        return self.pools[size] if size in self.pools else [standard(*size)]

    def _sums(self, size: Size) -> Iterator[_Sum]:
        """The ways to put a size together from two."""
        for along in range(3):
            for part in range(1, size[along] // 2 + 1):
                first, second = _resized(size, along, size[along] - part), _resized(size, along, part)
                yield _Sum(self._pool(first)[0].rank + self._pool(second)[0].rank, along, first, second)

    def _projected(self, size: Size, random: np.random.Generator) -> list[BilinearAlgorithm]:
        """An algorithm of a larger size, drawn, without the index that leaves it the lowest rank; none when there is no larger size."""
        larger = [(along, _resized(size, along, size[along] + 1)) for along in range(3)]
        larger = [(along, shape) for along, shape in larger if ordered(shape) in self.pools]
        if not larger:
            return []
        along, shape = larger[random.integers(len(larger))]
        whole = permute_to(_drawn(self.pools[ordered(shape)], random), shape)
        return [min((project(whole, DIMENSIONS[along], index) for index in range(shape[along])), key=lambda each: each.rank)]

    def save(self, path: Path, options: dict[str, object]) -> None:
        """Write a checkpoint: the pools and the counts.

        Raises:
            RegistryError: the file cannot be written.
        """
        pools = {"x".join(map(str, size)): pool for size, pool in self.pools.items()}
        arrays = {name: np.stack([_coefficients(algorithm) for algorithm in pool]) for name, pool in pools.items()}
        idle = [self.idle[size] for size in self.sizes]
        write(path, "sizes", options, {"round": self.round, "stints": self.stints, "flips": self.flips, "idle": idle}, arrays)

    def restore(self, path: Path, options: dict[str, object]) -> None:
        """Go on where a search with the same arguments stood.

        Raises:
            InputError: no checkpoint of such a search, or a damaged one.
        """
        counts, arrays = read(path, "sizes", options)
        idle = counts.get("idle")
        names = {"x".join(map(str, size)) for size in self.sizes}
        if not isinstance(idle, list) or len(idle) != len(self.sizes) or not names <= set(arrays):
            raise InputError(f"{path} is damaged: it lacks sizes up to {self.target.slug}")
        self.round = number_in(counts, "round", 40)
        self.stints, self.flips = number_in(counts, "stints"), number_in(counts, "flips")
        self.idle = {size: number_in({"idle": value}, "idle") for size, value in zip(self.sizes, idle, strict=True)}
        self.pools = {}
        for name, pool in arrays.items():
            target = Target.matmul(*parse_tile(name))
            if pool.dtype != np.int8 or pool.ndim != 3 or pool.shape[2] != sum(target.dims) or not 1 <= len(pool) <= KEPT:
                raise InputError(f"{path} is damaged: its array {name!r:.20} holds no algorithms")
            assert target.shape is not None
            ends = np.cumsum(target.dims)[:2]
            factors = [np.split(coefficients.astype(np.int64), ends, axis=1) for coefficients in pool]
            self.pools[target.shape] = [BilinearAlgorithm.from_exact(target, *parts, ring=self.ring) for parts in factors]


def _coefficients(algorithm: BilinearAlgorithm) -> np.ndarray:
    """The factors side by side, int8: (r, a + b + c)."""
    assert algorithm.exact is not None
    return np.concatenate([factor.real for factor in algorithm.exact], axis=1).astype(np.int8)


def climb(
    target: Target,
    target_rank: int,
    seed: int = 0,
    max_flips: int = 10_000_000_000,
    callback: Progress | None = None,
    *,
    ring: str = "Z",
    starts: Sequence[BilinearAlgorithm] = (),
    walkers: int = 1,
    threads: int = 1,
    plateau: int = 1000,
    margin: int = 4,
    checkpoint: Path | None = None,
    resume: Path | None = None,
) -> BilinearAlgorithm:
    """Search a matrix product through all smaller ones, see `Climb`, until `target_rank` is reached or the budget ends.

    Args:
        max_flips: budget of flips tried, by all walkers on all sizes together.
        callback: called with the `Climb` after every stint; returning True ends it.
        threads: of the machine; they do not change the result.
        checkpoint: a file that gets the pools every minute and at the end.
        resume: such a file of a search with the same arguments, budget aside, which goes on as if it had never ended.

    Returns:
        The algorithm of lowest rank seen, exact over the ring; its rank may exceed `target_rank`.

    Raises:
        InputError: as `Climb`, budgets below 1, or a file to resume that is no checkpoint of this search.
        RegistryError: the checkpoint cannot be written.
    """
    if min(target_rank, max_flips, threads) < 1:
        raise InputError("target_rank, max_flips and threads must be at least 1")
    state = Climb(target, seed, ring=ring, walkers=walkers, plateau=plateau, margin=margin, starts=starts)
    options = {
        "target": target.slug,
        "target_rank": target_rank,
        "ring": ring,
        "starts": [start.id for start in starts],
        "seed": seed,
        "walkers": walkers,
        "plateau": plateau,
        "margin": margin,
    }
    if resume is not None:
        state.restore(resume, options)
    ended, saved = "budget", time.monotonic()
    with ThreadPoolExecutor(min(threads, walkers)) as pool:
        while state.best.rank > target_rank and (left := max_flips - state.flips) > 0:
            cut = left // walkers < state.tries(state.next_size())
            if checkpoint is not None and (cut or time.monotonic() - saved >= SAVE_SECONDS):
                state.save(checkpoint, options)
                saved = time.monotonic()
                if cut:
                    checkpoint = None  # a longer budget would not have cut the stint short
            state.step(pool, target_rank, max(1, left // walkers))
            if callback is not None and callback(state) and state.best.rank > target_rank:
                ended = "stopped"
                break
    if checkpoint is not None:
        state.save(checkpoint, options)
    ended = "reached" if state.best.rank <= target_rank else ended
    given = ", starts=..." if starts else ""
    command = f"climb(Target.make({target.kind!r}, {dict(target.params)!r}), {target_rank}, seed={seed}, max_flips={max_flips}, "
    command += f"ring={ring!r}{given}, walkers={walkers}, plateau={plateau}, margin={margin})"
    provenance: dict[str, object] = {
        "search": "flip graphs between sizes",
        "seed": seed,
        "flips": state.flips,
        "ended": ended,
        "command": command,
    }
    if starts:
        provenance["parents"] = [{"id": start.id, "name": start.name} for start in starts]
    return replace(state.best, provenance=provenance)


def _drawn(pool: list[BilinearAlgorithm], random: np.random.Generator) -> BilinearAlgorithm:
    return pool[random.integers(len(pool))]


def _resized(size: Size, along: int, extent: int) -> Size:
    n, m, p = (extent if d == along else old for d, old in enumerate(size))
    return n, m, p


def ordered(shape: Size) -> Size:
    """A shape's sizes from small to large."""
    n, m, p = sorted(shape)
    return n, m, p


def is_start(shape: Size, target: Size) -> bool:
    """Whether algorithms of a shape help a search for `target`: it fits into it, or is larger by one in one dimension, in any order."""
    most = ordered(target)
    larger = [ordered(_resized(most, along, most[along] + 1)) for along in range(3)]
    return min(shape) > 1 and (_fits(ordered(shape), most) or ordered(shape) in larger)


def _fits(size: Size, most: Size) -> bool:
    return all(part <= whole for part, whole in zip(size, most, strict=True))

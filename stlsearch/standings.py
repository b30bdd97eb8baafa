"""Our best exact algorithm of every small matrix product, beside the record.

"Ours" is what the registry holds and what follows from it without search: the sizes in any order (a permutation of <n,m,p> keeps
the rank), direct sums along one dimension, rank(<n,m,p+q>) <= rank(<n,m,p>) + rank(<n,m,q>), and Kronecker products,
rank(<nn',mm',pp'>) <= rank(<n,m,p>) rank(<n',m',p'>). A dynamic program over the sizes, smallest first, takes the least of these
and the standard algorithm's nmp. What it finds is an expression that `stlsearch construct` accepts, and it is built and verified here
before anything is said about it.

Over a ring count the algorithms of every ring that maps to it (`stlsearch.records.implied_by`). An algorithm with halves is one
modulo 3, but is not mixed with one over Z3 in an expression: the constructions keep either fractions or residues.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, permutations, product

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.expression import construct
from stlsearch.constructions.transforms import DIMENSIONS
from stlsearch.exact import EXACT_RINGS, modulus_of, smallest_ring
from stlsearch.records import MAX_SIZE, Record, Shape, implied_by, record
from stlsearch.stability import growth_factor

Additions = Callable[[BilinearAlgorithm], int]
ORDERS = tuple(permutations((0, 1, 2)))


@dataclass(frozen=True)
class Way:
    """How the best rank of one sorted shape comes about.

    Attributes:
        shape: (n, m, p), sorted.
        rank: of the result.
        registered: the algorithm, of that shape in some order, or None.
        parts: else the shapes that are put together, in the frame of `shape`; none for the standard algorithm.
        along: the dimension 0, 1, 2 of a direct sum, or None for a Kronecker product.
    """

    shape: Shape
    rank: int
    registered: BilinearAlgorithm | None = None
    parts: tuple[Shape, ...] = ()
    along: int | None = None


@dataclass(frozen=True)
class Standing:
    """Our best exact algorithm of one shape over one ring, beside the record.

    Attributes:
        shape: (n, m, p), sorted.
        ring: the ring asked for; the algorithm's own is one that maps to it.
        expression: what `stlsearch construct` builds it from: a registered name alone, or a construction.
        algorithm: what it builds, verified.
        registered: whether the registry holds it as it is.
        record: the least known rank over that ring.
    """

    shape: Shape
    ring: str
    expression: str
    algorithm: BilinearAlgorithm
    registered: bool
    record: Record

    @property
    def gap(self) -> int:
        """Our rank less the record: 0 when matched, negative when beaten."""
        return self.algorithm.rank - self.record.rank

    @property
    def exponent(self) -> float | None:
        """3 log r / log nmp, which the algorithm alone bounds the exponent of matrix multiplication by; None for <1,1,1>."""
        volume = math.prod(self.shape)
        return None if volume == 1 else 3 * math.log(self.algorithm.rank) / math.log(volume)

    @property
    def growth_factor(self) -> float | None:
        """gamma of `stlsearch.stability`, sum_r |u_r| |v_r| |w_r|; None over Z2 and Zp."""
        return growth_factor(self.algorithm) if self.algorithm.is_real else None


def naive_additions(algorithm: BilinearAlgorithm) -> int:
    """Additions of the three linear maps as they are written."""
    return algorithm.additions


def standings(
    algorithms: Sequence[BilinearAlgorithm], rings: Sequence[str], shapes: Sequence[Shape], additions: Additions = naive_additions
) -> list[Standing]:
    """Our best algorithm of every shape over every ring, shapes in the order given, rings within.

    Args:
        algorithms: what is registered; all but exact matrix products of sizes up to 5 are passed over.
        shapes: (n, m, p) in any order, sizes from 1 to 5.
        additions: how additions are counted, which decides among registered algorithms of one size, rank and ring.

    Raises:
        InputError: an unknown ring, or a size beyond 5.
    """
    for shape in shapes:
        record(shape)  # before any work
    needed = [part for part in sorted_shapes() if any(all(x <= y for x, y in zip(part, sorted(shape), strict=True)) for shape in shapes)]
    chosen = {ring: _choose(algorithms, ring, needed, additions) for ring in rings}
    names = {name: algorithm for algorithm in algorithms for name in (_short(algorithm), algorithm.name)}
    built: dict[str, BilinearAlgorithm] = {}
    found = []
    for shape in map(_sorted, shapes):
        for ring in rings:
            way, expression = chosen[ring][shape]
            if expression not in built:
                built[expression] = construct(expression, names.get)
            algorithm = built[expression]
            assert (algorithm.target.shape, algorithm.rank) == (shape, way.rank), expression
            found.append(Standing(shape, ring, expression, algorithm, expression in names, record(shape, ring)))
    return found


def sorted_shapes(largest: int = MAX_SIZE) -> list[Shape]:
    """Every n <= m <= p up to `largest`, in lexicographic order."""
    return list(combinations_with_replacement(range(1, largest + 1), 3))


def _choose(
    algorithms: Sequence[BilinearAlgorithm], ring: str, shapes: Sequence[Shape], additions: Additions
) -> dict[Shape, tuple[Way, str]]:
    """The best way of every one of the shapes over `ring`, with its expression."""
    best: dict[Shape, tuple[Way, str]] = {}
    for rings in _compatible(ring):
        ways = best_ways(algorithms, rings, shapes, additions)
        for shape, way in ways.items():
            if shape not in best or way.rank < best[shape][0].rank:
                best[shape] = way, expression_of(shape, ways)
    return best


def _compatible(ring: str) -> Iterator[tuple[str, ...]]:
    """Sets of rings whose algorithms go together in one construction valid over `ring`, the preferred set first."""
    rings = implied_by(ring)
    if modulus_of(ring) is None:
        yield rings
    else:
        yield from (("Z", ring), rings[:-1]) if len(rings) > 2 else (rings,)


def best_ways(
    algorithms: Sequence[BilinearAlgorithm], rings: Sequence[str], shapes: Sequence[Shape], additions: Additions = naive_additions
) -> dict[Shape, Way]:
    """The dynamic program: the best way of every shape from algorithms over `rings`, which must go together.

    Args:
        shapes: sorted, and with each every sorted one that is nowhere larger.

    On a tie a registered algorithm is preferred, in the order of `rings`, with the fewest additions; then the standard
    algorithm, then a product, then a sum.
    """
    leaves: dict[Shape, list[BilinearAlgorithm]] = {}
    for algorithm in algorithms:
        if algorithm.is_exact and algorithm.target.shape is not None and _own_ring(algorithm) in rings:
            leaves.setdefault(_sorted(algorithm.target.shape), []).append(algorithm)
    ways: dict[Shape, Way] = {}
    for shape in sorted(shapes, key=math.prod):
        held = leaves.get(shape, [])
        least = min(((algorithm.rank, rings.index(_own_ring(algorithm))) for algorithm in held), default=None)
        equal = [algorithm for algorithm in held if (algorithm.rank, rings.index(_own_ring(algorithm))) == least]
        if len(equal) > 1:  # counting additions may take long
            equal.sort(key=lambda algorithm: (additions(algorithm), algorithm.amplification, algorithm.name))
        candidates = [Way(shape, algorithm.rank, algorithm) for algorithm in equal[:1]]
        candidates += [Way(shape, math.prod(shape)), *_products(shape, ways), *_sums(shape, ways)]
        ways[shape] = min(candidates, key=lambda way: way.rank)  # the first of equal ones
    return ways


def _products(shape: Shape, ways: Mapping[Shape, Way]) -> Iterator[Way]:
    for outer in product(*([d for d in range(1, size + 1) if size % d == 0] for size in shape)):
        inner = tuple(size // part for size, part in zip(shape, outer, strict=True))
        if 1 not in (math.prod(outer), math.prod(inner)):
            parts: tuple[Shape, ...] = (outer, inner)  # type: ignore[assignment]
            yield Way(shape, math.prod(ways[_sorted(part)].rank for part in parts), parts=parts)


def _sums(shape: Shape, ways: Mapping[Shape, Way]) -> Iterator[Way]:
    for along in range(3):
        for cut in range(shape[along] - 1, (shape[along] - 1) // 2, -1):  # the larger part first
            sizes = cut, shape[along] - cut
            parts: tuple[Shape, ...] = tuple((*shape[:along], size, *shape[along + 1 :]) for size in sizes)  # type: ignore[misc]
            yield Way(shape, sum(ways[_sorted(part)].rank for part in parts), parts=parts, along=along)


def expression_of(shape: Shape, ways: Mapping[Shape, Way]) -> str:
    """The text that `stlsearch construct` builds the best algorithm of `shape`, in that order of its sizes, from.

    Registered algorithms stand in it by the first 8 digits of their ids, but for one that is the whole, which stands by its name.
    """
    way = ways[_sorted(shape)]
    if way.registered is not None and way.registered.target.shape == shape:
        return way.registered.name
    return _text(shape, ways)


def _text(shape: Shape, ways: Mapping[Shape, Way]) -> str:
    way = ways[_sorted(shape)]
    if way.registered is not None:
        own = way.registered.target.shape
        assert own is not None
        order = next(order for order in ORDERS if tuple(own[d] for d in order) == shape)
        numbers = ",".join(str(d + 1) for d in order)
        return _short(way.registered) if own == shape else f"permute({_short(way.registered)},{numbers})"
    if not way.parts:
        return f"standard({','.join(map(str, shape))})"
    order = next(order for order in ORDERS if tuple(way.shape[d] for d in order) == shape)
    parts = [tuple(part[d] for d in order) for part in way.parts]
    texts = [_text(part, ways) for part in parts]  # type: ignore[arg-type]
    if way.along is not None:
        sign = f" +{DIMENSIONS[order.index(way.along)]} "
        return sign.join(texts[:1] + [f"({text})" if " +" in text else text for text in texts[1:]])
    return "*".join(f"({text})" if " +" in text else text for text in texts)


def _own_ring(algorithm: BilinearAlgorithm) -> str:
    """The smallest ring of characteristic 0 that holds an exact algorithm's coefficients, or its Zp."""
    assert algorithm.exact is not None
    return smallest_ring(algorithm.exact) if algorithm.ring in EXACT_RINGS else algorithm.ring


def _short(algorithm: BilinearAlgorithm) -> str:
    return algorithm.id[:8]


def _sorted(shape: Sequence[int]) -> Shape:
    n, m, p = sorted(shape)
    return n, m, p

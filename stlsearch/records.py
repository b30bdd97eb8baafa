"""The least known ranks of small matrix products, as data with their sources: `records.json`.

A record is an upper bound that somebody published, of a non-commutative algorithm. It depends on the ring: coefficients in
Z are coefficients in every ring, those in Z[1/2] are so in Q, R, C and modulo odd primes, but an algorithm over Z2 is one
nowhere else, and one over Q with other denominators need not reduce modulo a prime. The data list what no other line implies;
`record` takes the least over all rings that map to the one asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stlsearch.errors import InputError
from stlsearch.exact import EXACT_RINGS, check_ring, modulus_of

MAX_SIZE = 5  # records are kept for n, m, p up to this
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Source:
    """Where a rank was published.

    Attributes:
        key: its short name in the data.
        text: authors, title, place.
        url: None for what needs no reference.
    """

    key: str
    text: str
    url: str | None


@dataclass(frozen=True)
class Record:
    """The least known rank of a matrix product over a ring.

    Attributes:
        shape: (n, m, p), sorted: the rank of the product is the same in every order of its sizes.
        ring: the ring it was published over, which maps to the one asked for.
        rank: number of multiplications.
        source: who published it.
    """

    shape: Shape
    ring: str
    rank: int
    source: Source


def implied_by(ring: str) -> tuple[str, ...]:
    """The rings whose algorithms are algorithms over `ring` as well, itself the last: those that map to it.

    Raises:
        InputError: an unknown ring.
    """
    check_ring(ring)
    prime = modulus_of(ring)
    if prime is not None:
        return ("Z", ring) if prime == 2 else ("Z", "Z[1/2]", ring)
    if ring in EXACT_RINGS:
        return EXACT_RINGS[: EXACT_RINGS.index(ring) + 1]
    return (*EXACT_RINGS[:-1], "R") if ring == "R" else (*EXACT_RINGS, "R", "C")


def record(shape: Shape, ring: str = "Z") -> Record:
    """The least known rank of <n,m,p>, in any order of the sizes, over `ring`; on a tie the one over the smallest ring.

    Raises:
        InputError: an unknown ring, or sizes beyond those that records are kept for.
    """
    rings = implied_by(ring)
    found = [held for held in records() if held.shape == tuple(sorted(shape)) and held.ring in rings]
    if not found:
        raise InputError(f"no record of {'x'.join(map(str, shape))} is kept: sizes go from 1 to {MAX_SIZE}")
    return min(found, key=lambda held: (held.rank, rings.index(held.ring)))


@cache
def records() -> tuple[Record, ...]:
    """Every line of the data, sorted by shape."""
    data = _data()
    sources = {key: Source(key, source["text"], source["url"]) for key, source in data["sources"].items()}
    return tuple(Record(tuple(line["tile"]), line["ring"], line["rank"], sources[line["source"]]) for line in data["records"])


def as_of() -> str:
    """The month the data were gathered in, ``2026-11``."""
    return _data()["as_of"]


@cache
def _data() -> dict:
    return json.loads(Path(__file__).with_name("records.json").read_text(encoding="utf-8"))

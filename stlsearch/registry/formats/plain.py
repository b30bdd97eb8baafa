"""Plain JSON of an algorithm for a matrix product, as collections of other people's algorithms write it.

    {"n": [2, 2, 2], "U": [[1, 0, 0, 1], ...], "V": [...], "W": [...], "ring": "Z", "source": "...", "licence": "..."}

The sizes are "n": [n, m, p], or "n", "m" and "p" one by one. Entries are integers, fractions as text ("-3/8"), floats,
or pairs [real, imaginary] of these. Factors are U, V, W (or u, v, w) with a row per product, or a column per product.
"ring" is one of ours, or ZT (coefficients -1, 0, 1); "z2": true means Z2. Other keys are passed over, but source,
licence and note are kept in the provenance. Which convention the factors follow is found by `conventions`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from math import lcm

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import EXACT_RINGS, MAX_INTEGER, ExactMatrix, check_ring, modulus_of, smallest_ring
from stlsearch.registry.codec import check_effort
from stlsearch.registry.formats.conventions import detect
from stlsearch.targets import Target

KEPT = ("source", "licence", "license", "note", "authors", "url")  # of a file, in the provenance
MAX_KEPT = 2000  # characters of each
MAX_DYADIC = 2**20  # the largest denominator of floats that are taken as fractions: 0.375 is meant exactly, 0.1 is not

Number = Fraction | float
Entry = tuple[Number, Number]  # real and imaginary part


def is_plain(document: object) -> bool:
    """Whether a JSON document looks like this format: an object with factors that does not name a format of ours."""
    return isinstance(document, Mapping) and "format" not in document and any(key in document for key in "UVWuvw")


def decode(document: Mapping[str, object]) -> BilinearAlgorithm:
    """The algorithm of a plain document: exact, and verified, where its coefficients are; else over R or C.

    Raises:
        InputError: one line that names the first fault.
    """
    target = target_of(document)
    rows = [_rows(name, document) for name in "UVW"]
    rank = _rank(rows, target)
    check_effort(target, rank)
    entries = [_oriented(name, factor, rank, extent) for name, factor, extent in zip("UVW", rows, target.dims, strict=True)]
    ring = _claimed_ring(document)
    provenance = {**kept(document), "imported": "plain JSON"}
    if _are_exact(entries):
        try:
            return _exact(target, entries, ring, provenance)
        except InputError as error:
            if ring is None:
                raise InputError(f'{error} (say "ring": "R" in the file if it is meant to be approximate)') from None
            if ring not in ("R", "C"):
                raise
    elif ring not in ("R", "C", None):
        raise InputError(f"the file claims the ring {ring}, but holds floating-point numbers that are no fractions")
    return _inexact(target, entries, provenance)


def target_of(document: Mapping[str, object]) -> Target:
    """The matrix product that "n": [n, m, p], or "n", "m" and "p", name.

    Raises:
        InputError: neither is there, or sizes that are not valid.
    """
    sizes = document.get("n")
    if not isinstance(sizes, list):
        sizes = [document.get(key) for key in "nmp"]
    if len(sizes) != 3 or not all(type(size) is int for size in sizes):
        raise InputError('the sizes must be given as "n": [n, m, p], or as the integers "n", "m" and "p"')
    return Target.matmul(*sizes)


def kept(document: Mapping[str, object]) -> dict[str, object]:
    """Source, licence and the like, as far as they are text."""
    found = {key: document[key] for key in KEPT if isinstance(document.get(key), str) and document[key]}
    return {"licence" if key == "license" else key: str(value)[:MAX_KEPT] for key, value in found.items()}


def number(value: object) -> Number:
    """An integer, a fraction as text such as "-3/8", or a float; floats with small denominators count as fractions.

    Raises:
        InputError: anything else, or integers beyond 2^53.
    """
    if isinstance(value, str) and (match := re.fullmatch(r"([+-]?[0-9]{1,16})(?:/([0-9]{1,16}))?", value.strip())):
        if int(match[2] or 1) == 0:
            raise InputError(f"a coefficient is {value!r:.40}: its denominator is 0")
        return Fraction(int(match[1]), int(match[2] or 1))
    if type(value) is int and abs(value) <= MAX_INTEGER:
        return Fraction(value)
    if type(value) is float:
        exact = Fraction(value)
        return exact if exact.denominator <= MAX_DYADIC and abs(value) <= MAX_INTEGER else value
    raise InputError(f'a coefficient must be an integer up to 2^53, a fraction such as "1/8", or a float, not {value!r:.40}')


def over_one_denominator(rows: list[list[Fraction]]) -> tuple[list[list[int]], int]:
    """Integers over the least common denominator.

    Raises:
        InputError: it exceeds 2^53 (stopping there: the denominators of a hostile file multiply up for ever).
    """
    denominator = 1
    for value in {value.denominator for row in rows for value in row}:
        denominator = lcm(denominator, value)
        if denominator > MAX_INTEGER:
            raise InputError("the least common denominator of a factor exceeds 2^53")
    return [[int(value * denominator) for value in row] for row in rows], denominator


def _rows(name: str, document: Mapping[str, object]) -> list[list]:
    value = document.get(name, document.get(name.lower()))
    if not isinstance(value, list) or not value or not all(isinstance(row, list) and row for row in value):
        raise InputError(f"{name} must be a matrix: a list of lists of coefficients")
    if any(len(row) != len(value[0]) for row in value):
        raise InputError(f"{name} must be a matrix: its rows have different lengths")
    return value


def _rank(rows: list[list[list]], target: Target) -> int:
    """The rank that the shapes agree on, (r, d) for every factor or else (d, r)."""
    shapes = [(len(factor), len(factor[0])) for factor in rows]
    for ranks, extents in (([r for r, _ in shapes], [d for _, d in shapes]), ([r for _, r in shapes], [d for d, _ in shapes])):
        if tuple(extents) == target.dims and len(set(ranks)) == 1:
            return target.check_rank(ranks[0])
    wanted = ", ".join(f"r x {extent}" for extent in target.dims)
    raise InputError(f"U, V and W have the shapes {shapes}; for {target.slug} they must be {wanted} (or all transposed)")


def _oriented(name: str, factor: list[list], rank: int, extent: int) -> list[list[Entry]]:
    try:
        entries = [[_entry(value) for value in row] for row in factor]
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return entries if (len(entries), len(entries[0])) == (rank, extent) else [list(column) for column in zip(*entries, strict=True)]


def _entry(value: object) -> Entry:
    if isinstance(value, list):
        if len(value) != 2:
            raise InputError(f"a complex coefficient is a pair [real, imaginary], not {value!r:.40}")
        return number(value[0]), number(value[1])
    return number(value), Fraction(0)


def _claimed_ring(document: Mapping[str, object]) -> str | None:
    claimed = document.get("ring")
    if claimed is None:
        return "Z2" if document.get("z2") is True else None
    return check_ring({"ZT": "Z"}.get(claimed, claimed) if isinstance(claimed, str) else claimed)


def _are_exact(entries: list[list[list[Entry]]]) -> bool:
    return all(isinstance(part, Fraction) for factor in entries for row in factor for entry in row for part in entry)


def _exact(target: Target, entries: list[list[list[Entry]]], ring: str | None, provenance: Mapping[str, object]) -> BilinearAlgorithm:
    factors = []
    for factor in entries:
        parts = [[[Fraction(entry[part]) for entry in row] for row in factor] for part in (0, 1)]
        numerators, denominator = over_one_denominator([*parts[0], *parts[1]])
        rank = len(factor)
        factors.append(ExactMatrix.make(numerators[:rank], denominator, numerators[rank:]))
    found = (factors[0], factors[1], factors[2])
    check_effort(target, len(entries[0]), found)
    prime = modulus_of(ring) if ring else None
    held = smallest_ring(found)
    if prime is not None and held != "Z":
        raise InputError(f"an algorithm over {ring} needs integer coefficients")
    if ring in EXACT_RINGS and EXACT_RINGS.index(held) > EXACT_RINGS.index(ring):
        raise InputError(f"the coefficients lie in {held}, outside the ring {ring} that the file claims")
    convention, _ = detect(target, [factor.real if prime else factor.to_float() for factor in found], prime)
    turned = [factor.columns(order) for factor, order in zip(found, convention.columns, strict=True)]
    if prime is not None:
        turned = [ExactMatrix.make(factor.real % prime) for factor in turned]
    ring = ring if prime is not None else held  # the smallest: a stronger claim than the file's, and verified here
    return BilinearAlgorithm.from_exact(target, *turned, ring=ring, provenance={**provenance, "convention": convention.name})


def _inexact(target: Target, entries: list[list[list[Entry]]], provenance: Mapping[str, object]) -> BilinearAlgorithm:
    factors = []
    for factor in entries:
        real, imaginary = (np.array([[float(entry[part]) for entry in row] for row in factor]) for part in (0, 1))
        factors.append(real + 1j * imaginary if imaginary.any() else real)
    with np.errstate(all="ignore"):
        convention, error = detect(target, factors)
        if all(factor.shape == (target.dims[0],) * 2 for factor in factors):  # a row or a column per product: the shapes do not tell
            columns = [factor.T for factor in factors]
            other, other_error = detect(target, columns)
            if other_error < error:
                factors, convention = columns, other
    turned = [factor[:, order] for factor, order in zip(factors, convention.columns, strict=True)]
    return BilinearAlgorithm.from_floats(target, *turned, provenance={**provenance, "convention": convention.name})

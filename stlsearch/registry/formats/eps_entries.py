"""Families in eps of other programs: the way from entries such as {exponent: coefficient} to a verified family.

`plain_family` reads the JSON of collections,

    {"n": [3, 2, 2], "Ueps": [[{"0": 1, "1": -1}, 0, ...], ...], "Veps": [...], "Weps": [...], "source": "...", "licence": "..."}

one row per product, an entry being 0, a number, or {exponent of eps: coefficient}. The text format of the fast-matmul
collection is in `fast_matmul`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from stlsearch.border import BorderAlgorithm
from stlsearch.errors import InputError
from stlsearch.laurent import MAX_EXPONENT, LaurentMatrix
from stlsearch.registry.codec import check_effort
from stlsearch.registry.formats.coefficients import number, over_one_denominator
from stlsearch.registry.formats.conventions import detect_family
from stlsearch.registry.formats.plain import kept, target_of
from stlsearch.targets import Target

MAX_CELLS = 2**23  # powers of eps times coefficients of one factor

Entry = Mapping[int, Fraction]


def is_plain_family(document: object) -> bool:
    """Whether a JSON document looks like this format."""
    return isinstance(document, Mapping) and "format" not in document and "Ueps" in document


def plain_family(document: Mapping[str, object]) -> BorderAlgorithm:
    """The family of such a document, verified over Q[eps, 1/eps].

    Raises:
        InputError: one line that names the first fault.
    """
    target = target_of(document)
    factors = []
    for name, extent in zip("UVW", target.dims, strict=True):
        rows = document.get(f"{name}eps")
        if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and len(row) == extent for row in rows):
            raise InputError(f"{name}eps must be a list of rows of {extent} entries for {target.slug}")
        try:
            factors.append([[_entry(value) for value in row] for row in rows])
        except InputError as error:
            raise InputError(f"{name}eps: {error}") from None
    return family_of(target, factors, {**kept(document), "imported": "plain JSON in eps"})


def family_of(target: Target, factors: Sequence[Sequence[Sequence[Entry]]], provenance: Mapping[str, object]) -> BorderAlgorithm:
    """A family from the entries of its factors (one row per product), in whichever convention they are.

    Raises:
        InputError: ranks that differ or are too large, or not a family for the target.
    """
    ranks = [len(factor) for factor in factors]
    if len(set(ranks)) != 1:
        raise InputError(f"U, V and W must have the same number of rows, not {ranks}")
    check_effort(target, target.check_rank(ranks[0]))
    U, V, W = (_matrix(name, factor) for name, factor in zip("UVW", factors, strict=True))
    convention, turned = detect_family(target, (U, V, W))
    return BorderAlgorithm.make(target, turned, {**provenance, "convention": convention.name})


def _entry(value: object) -> Entry:
    terms = value if isinstance(value, dict) else {"0": value}
    result = {}
    for key, coefficient in terms.items():
        if not re.fullmatch(r"-?[0-9]{1,4}", key):
            raise InputError(f"an exponent of eps is an integer, not {key!r:.40}")
        result[int(key)] = exact_number(coefficient)
    return result


def exact_number(value: object) -> Fraction:
    """As `plain.number`, but a fraction always.

    Raises:
        InputError: a float that is none.
    """
    found = number(value)
    if not isinstance(found, Fraction):
        raise InputError(f"a family in eps has rational coefficients, not {value!r:.40}")
    return found


def _matrix(name: str, rows: Sequence[Sequence[Entry]]) -> LaurentMatrix:
    exponents = sorted({exponent for row in rows for entry in row for exponent, value in entry.items() if value})
    wrong = next((exponent for exponent in exponents if abs(exponent) > MAX_EXPONENT), None)
    if wrong is not None:
        raise InputError(f"{name}: exponents of eps are integers from -{MAX_EXPONENT} to {MAX_EXPONENT}, not {wrong}")
    shape = len(exponents) or 1, len(rows), len(rows[0])
    if np.prod(shape) > MAX_CELLS:
        raise InputError(f"{name} is too large: {shape[0]} powers of eps of a {shape[1]} x {shape[2]} matrix")
    places = [(exponent, i, j) for i, row in enumerate(rows) for j, entry in enumerate(row) for exponent in entry if entry[exponent]]
    numerators, denominator = over_one_denominator([[rows[i][j][exponent] for exponent, i, j in places]])
    terms = {exponent: np.zeros(shape[1:], dtype=object) for exponent in exponents or [0]}
    for (exponent, i, j), value in zip(places, numerators[0], strict=True):
        terms[exponent][i, j] = value
    return LaurentMatrix.make(terms, denominator)


def is_family(document: object) -> bool:
    """Whether a JSON document is a family in eps, ours or that of a collection."""
    return is_plain_family(document) or (isinstance(document, Mapping) and document.get("format") == "stlsearch.border")


def refuse_family() -> InputError:
    """What a reader of algorithms answers to a family."""
    return FamilyError("this is a family with a parameter eps: `stlsearch border at FILE --eps 0.1` registers a member of it")


class FamilyError(InputError):
    """The file holds a family in eps, not an algorithm."""

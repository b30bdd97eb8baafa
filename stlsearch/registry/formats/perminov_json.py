"""JSON of the largest public catalogue (A. Perminov, arXiv:2511.20317): {"n": [n, m, p], "m": rank, "z2": false, "u", "v", "w"}.

A row per product, integers or fractions as text, W of C^T: `plain` reads it. Its second form, `_reduced.json`, is a
straight-line program with few additions. There "u" and "v" hold for each product, and "w" for each entry of C^T, the terms of a
sum [{"index": i, "value": c}, ...] over the entries of A, of B, and over the products; an index beyond these names a fresh
variable, itself such a sum in "u_fresh", "v_fresh" or "w_fresh", of what comes before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import MAX_INTEGER
from stlsearch.registry.codec import kind_of
from stlsearch.registry.formats import plain
from stlsearch.registry.formats.coefficients import Entry, factor_of, number
from stlsearch.registry.formats.layout import check_held, entries, sizes
from stlsearch.registry.formats.scheme import Scheme, Source, checked_target

NAME = "Perminov's JSON"
MAX_FRESH = 100_000
_FRESH = ("u_fresh", "v_fresh", "w_fresh")

Sum = dict[int, Fraction]


def is_reduced(document: object) -> bool:
    """Whether a JSON document looks like the second form."""
    return isinstance(document, Mapping) and "format" not in document and any(key in document for key in _FRESH)


def is_catalogue(document: object) -> bool:
    """Whether a JSON document looks like either form."""
    return is_reduced(document) or (plain.is_plain(document) and all(key in document for key in ("n", "u", "v", "w")))  # type: ignore[operator]


def read(source: Source) -> list[Scheme]:
    """The algorithm of either form, not yet verified.

    Raises:
        InputError: one line that names the first fault.
    """
    document = source.document
    if is_reduced(document):
        return [expanded(document)]  # type: ignore[arg-type]
    if not is_catalogue(document):
        found = kind_of(document) if not isinstance(document, dict) else "an object without them"
        raise InputError(f"expected an object with the keys n, m, u, v and w, found {found}")
    scheme = plain.scheme_of(document)  # type: ignore[arg-type]
    return [Scheme(scheme.factors, scheme.shape, scheme.ring, {**scheme.provenance, "imported": NAME})]


def expanded(document: Mapping[str, object]) -> Scheme:
    """The algorithm that a reduced document computes, fresh variables replaced by what they stand for.

    Raises:
        InputError: one line that names the first fault.
    """
    rank = document.get("m")
    if type(rank) is not int:
        raise InputError(f'"m" must be the rank, an integer, not {rank!r:.40}')
    shape = plain.target_of(document).shape
    assert shape is not None
    target = checked_target(shape, rank)
    a, b, c = target.dims
    U = _expanded(document, "u", rank, a)
    V = _expanded(document, "v", rank, b)
    W = [list(row) for row in zip(*_expanded(document, "w", c, rank), strict=True)]
    factors = [factor_of(name, rows) for name, rows in zip("UVW", (U, V, W), strict=True)]
    provenance = {**plain.kept(document), "imported": f"{NAME}, reduced"}
    return Scheme((factors[0], factors[1], factors[2]), shape, plain.claimed_ring(document), provenance)


def write(algorithm: BilinearAlgorithm) -> bytes:
    """The document of the first form."""
    check_held(algorithm, "perminov-json", "fractions")
    if algorithm.ring not in ("Z2", "Z", "Z[1/2]", "Q"):
        raise InputError(f"perminov-json holds algorithms over Z2, Z and Q only, not over {algorithm.ring}")
    head = {"n": list(sizes(algorithm)), "m": algorithm.rank, "z2": algorithm.ring == "Z2"}
    lines = [f'    "{key}": {json.dumps(value)}' for key, value in head.items()]
    for key, factor in zip("uvw", entries(algorithm, "C^T"), strict=True):
        rows = ",\n".join(f"        {json.dumps([_plain(value) for value in row])}" for row in factor)
        lines.append(f'    "{key}": [\n{rows}\n    ]')
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _expanded(document: Mapping[str, object], key: str, count: int, extent: int) -> list[list[Entry]]:
    """`count` rows of `extent` numbers."""
    fresh: list[Sum] = []
    listed = document.get(f"{key}_fresh", [])
    if not isinstance(listed, list) or len(listed) > MAX_FRESH:
        raise InputError(f"{key}_fresh must be a list of at most {MAX_FRESH} sums")
    for index, terms in enumerate(listed, 1):
        fresh.append(_sum(f"{key}_fresh, sum {index}", terms, extent, fresh))
    sums = document.get(key)
    if not isinstance(sums, list) or len(sums) != count:
        found = f"{len(sums)} of them" if isinstance(sums, list) else kind_of(sums)
        raise InputError(f"{key} must be a list of {count} sums, not {found}")
    rows = []
    for index, terms in enumerate(sums, 1):
        row: list[Entry] = [0] * extent
        for place, value in _sum(f"{key}, sum {index}", terms, extent, fresh).items():
            row[place] = value
        rows.append(row)
    return rows


def _sum(where: str, terms: object, extent: int, fresh: list[Sum]) -> Sum:
    if not isinstance(terms, list):
        raise InputError(f'{where} must be a list of {{"index", "value"}}, not {kind_of(terms)}')
    result: Sum = {}
    for term in terms:
        index = term.get("index") if isinstance(term, dict) else None
        if type(index) is not int or not 0 <= index < extent + len(fresh):
            raise InputError(f"{where}: an index must be an integer from 0 to {extent + len(fresh) - 1} there, not {index!r:.40}")
        value = number(term.get("value"))
        if not isinstance(value, Fraction):
            raise InputError(f"{where}: a value must be a fraction, not {value!r:.40}")
        for place, part in (fresh[index - extent] if index >= extent else {index: Fraction(1)}).items():
            total = result.get(place, Fraction(0)) + value * part
            if max(abs(total.numerator), total.denominator) > MAX_INTEGER:
                raise InputError(f"{where}: its coefficients grow beyond 2^53")
            result[place] = total
    return result


def _plain(value: Entry) -> object:
    return value if isinstance(value, int) else str(value)

"""Plain JSON of an algorithm for a matrix product, as collections of other people's algorithms write it.

    {"n": [2, 2, 2], "U": [[1, 0, 0, 1], ...], "V": [...], "W": [...], "ring": "Z", "source": "...", "licence": "..."}

The sizes are "n": [n, m, p], or "n", "m" and "p" one by one. Entries are integers, fractions as text ("-3/8"), floats,
or pairs [real, imaginary] of these. Factors are U, V, W (or u, v, w) with a row per product, or a column per product.
"ring" is one of ours, or ZT (coefficients -1, 0, 1); "z2": true means Z2. Other keys are passed over, but source,
licence and note are kept in the provenance. Which convention the factors follow is found by `conventions`.
"""

from __future__ import annotations

from collections.abc import Mapping

from stlsearch.errors import InputError
from stlsearch.exact import MAX_INTEGER
from stlsearch.registry.codec import check_effort
from stlsearch.registry.formats.coefficients import Entry, factor_of, number
from stlsearch.registry.formats.scheme import Scheme, ring_name
from stlsearch.targets import Target

KEPT = ("source", "licence", "license", "note", "authors", "url")  # of a file, in the provenance
MAX_KEPT = 2000  # characters of each


def is_plain(document: object) -> bool:
    """Whether a JSON document looks like this format: an object with factors that does not name a format of ours."""
    return isinstance(document, Mapping) and "format" not in document and any(key in document for key in "UVWuvw")


def scheme_of(document: Mapping[str, object]) -> Scheme:
    """The factors of a plain document, not yet verified.

    Raises:
        InputError: one line that names the first fault.
    """
    target = target_of(document)
    rows = [_rows(name, document) for name in "UVW"]
    rank = _rank(rows, target)
    check_effort(target, rank)
    entries = [_oriented(name, factor, rank, extent) for name, factor, extent in zip("UVW", rows, target.dims, strict=True)]
    U, V, W = (factor_of(name, factor) for name, factor in zip("UVW", entries, strict=True))
    return Scheme((U, V, W), target.shape, claimed_ring(document), {**kept(document), "imported": "plain JSON"})


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
    return value if type(value) is int and abs(value) <= MAX_INTEGER else number(value)


def claimed_ring(document: Mapping[str, object]) -> str | None:
    """The ring that a document claims, None when it claims none."""
    claimed = document.get("ring")
    if claimed is None:
        return "Z2" if document.get("z2") is True else None
    return ring_name(claimed)

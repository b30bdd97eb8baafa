"""An algorithm as a JSON document, the contract with every other program (docs/format.md).

The document holds what the algorithm is, never what is measured of it: e and g are computed again
on load, the id is computed again and compared, and a claim of exactness is verified. Decoding is
strict, since a lenient reader turns somebody's typo into a wrong matrix product.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import log2

import numpy as np

from stlsearch import exact
from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix, Factors
from stlsearch.metric import Metric
from stlsearch.registry import text as json_text
from stlsearch.targets import Target

FORMAT = "stlsearch.algorithm"
VERSION = 1
MIGRATIONS: dict[int, Callable[[dict], dict]] = {}
"""From each older version to the next one: a document in, a document out."""

KEYS = ("format", "version", "id", "target", "dims", "rank", "ring", "factors", "metric", "provenance")
LEAST_NORM_SQ = 1e-200  # of a target: errors are relative to it
MAX_DEPTH = 32  # of provenance and layout

# Checking an algorithm costs r*a*b*c multiplications and holds r*b*c numbers: a small hostile file must not ask for hours
# or for all memory. Strassen's algorithm taken four times, <16,16,16> of rank 2401, is within both.
MAX_HELD = 2**28
MAX_WORK = 2**36
MAX_WORK_BIG_INTEGERS = 2**27  # products beyond 62 bits are Python integers, some hundred times slower


def encode(algorithm: BilinearAlgorithm) -> dict[str, object]:
    """The document of an algorithm, of plain JSON values.

    Raises:
        InputError: provenance or metric that JSON cannot hold.
    """
    if algorithm.exact is not None:
        factors = {name: _exact_document(factor) for name, factor in zip("UVW", algorithm.exact, strict=True)}
    else:
        factors = {name: _float_document(factor) for name, factor in zip("UVW", (algorithm.U, algorithm.V, algorithm.W), strict=True)}
    return {
        "format": FORMAT,
        "version": VERSION,
        "id": algorithm.id,
        "target": algorithm.target.describe(),
        "dims": list(algorithm.target.dims),
        "rank": algorithm.rank,
        "ring": algorithm.ring,
        "factors": factors,
        "metric": None if algorithm.metric is None else plain_json("metric", algorithm.metric.describe()),
        "provenance": plain_json("provenance", algorithm.provenance),
    }


def decode(document: object) -> BilinearAlgorithm:
    """The algorithm of a document, checked in every respect.

    Raises:
        InputError: one line that names the first fault and what is valid there.
    """
    fields = check_fields("the document", _migrate(document), KEYS)
    target_fields = check_fields("target", fields["target"], ("kind", "params"))
    target = Target.make(target_fields["kind"], target_fields["params"])  # type: ignore[arg-type]
    if target.kind == "tensor" and target != Target.explicit(target.tensor):
        raise InputError("target.params.entries must be the non-zero entries, each once, sorted by index")
    if target.norm_sq < LEAST_NORM_SQ:
        raise InputError("the target tensor is zero")
    if fields["dims"] != list(target.dims) or not all(type(extent) is int for extent in fields["dims"]):
        raise InputError(f"dims must be {list(target.dims)} for {target.slug}, not {fields['dims']!r:.60}")
    rank = fields["rank"]
    if type(rank) is not int or not 1 <= rank <= target.trivial_rank:
        raise InputError(f"rank must be an integer from 1 to {target.trivial_rank} for {target.slug}, not {rank!r:.40}")
    ring = exact.check_ring(fields["ring"])
    provenance = plain_json("provenance", fields["provenance"])
    if not isinstance(provenance, dict):
        raise InputError(f"provenance must be an object, not {kind_of(fields['provenance'])}")
    metric = _metric(fields["metric"], target)

    factors = check_fields("factors", fields["factors"], ("U", "V", "W"))
    if ring in ("R", "C"):
        U, V, W = (_float_factor(name, factors[name], ring, rank, extent) for name, extent in zip("UVW", target.dims, strict=True))
        check_effort(target, rank)
        algorithm = BilinearAlgorithm.from_floats(target, U, V, W, provenance=provenance, balance=False)
        with np.errstate(all="ignore"):
            if not np.isfinite([algorithm.error, algorithm.amplification]).all():
                raise InputError("the coefficients are so large that the error overflows")
    else:
        E, F, G = (_exact_factor(name, factors[name], ring, rank, extent) for name, extent in zip("UVW", target.dims, strict=True))
        check_effort(target, rank, (E, F, G))
        algorithm = BilinearAlgorithm.from_exact(target, E, F, G, ring=ring, provenance=provenance)
    if not isinstance(fields["id"], str) or not re.fullmatch(r"[0-9a-f]{64}", fields["id"]):
        raise InputError(f"id must be 64 lower-case hexadecimal digits, not {fields['id']!r:.80}")
    if fields["id"] != algorithm.id:
        raise InputError(f"tampered or damaged: the id says {fields['id'][:16]}..., the content is {algorithm.id[:16]}...")
    return replace(algorithm, metric=metric)


def dumps(algorithm: BilinearAlgorithm) -> str:
    """The document as text, one factor row per line, with a final newline.

    Raises:
        InputError: as `encode`.
    """
    return json_text.layout(encode(algorithm)) + "\n"


def loads(data: bytes | str) -> BilinearAlgorithm:
    """The algorithm in a document's text.

    Raises:
        InputError: one line that names the first fault.
    """
    return decode(json_text.parse(data))


def _exact_document(factor: ExactMatrix) -> dict[str, object]:
    parts = {"real": factor.real.tolist()}
    if factor.imaginary is not None:
        parts["imaginary"] = factor.imaginary.tolist()
    return {**parts, "denominator": factor.denominator}


def _float_document(factor: np.ndarray) -> dict[str, object]:
    if np.iscomplexobj(factor):
        return {"real": factor.real.tolist(), "imaginary": factor.imag.tolist()}
    return {"real": factor.tolist()}


def _migrate(document: object) -> object:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = f"format {document.get('format')!r:.40}" if isinstance(document, dict) else kind_of(document)
        raise InputError(f'not an stlsearch algorithm: expected an object with "format": "{FORMAT}", found {found}')
    version = document.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        newer = "; a newer stlsearch wrote it" if type(version) is int and version > VERSION else ""
        raise InputError(f"version {version!r:.40} is not supported{newer}; valid: {', '.join(map(str, range(1, VERSION + 1)))}")
    for step in range(version, VERSION):
        document = MIGRATIONS[step](document)
    return document


def _exact_factor(name: str, value: object, ring: str, rank: int, extent: int) -> ExactMatrix:
    where = f"factors.{name}"
    parts = check_fields(where, value, ("real", "denominator"), ("imaginary",))
    imaginary = None
    if "imaginary" in parts:
        imaginary = check_rows(f"{where}.imaginary", parts["imaginary"], rank, extent, {int}, f"integers for the ring {ring}")
    real = check_rows(f"{where}.real", parts["real"], rank, extent, {int}, f"integers for the ring {ring}")
    try:
        return ExactMatrix.make(real, parts["denominator"], imaginary)  # type: ignore[arg-type]
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _float_factor(name: str, value: object, ring: str, rank: int, extent: int) -> np.ndarray:
    where = f"factors.{name}"
    parts = check_fields(where, value, ("real",) if ring == "R" else ("real", "imaginary"))
    real = _float_matrix(f"{where}.real", parts["real"], rank, extent)
    return real if ring == "R" else real + 1j * _float_matrix(f"{where}.imaginary", parts["imaginary"], rank, extent)


def _float_matrix(where: str, value: object, rows: int, columns: int) -> np.ndarray:
    numbers = check_rows(where, value, rows, columns, {int, float}, "numbers")
    try:
        matrix = np.array(numbers, dtype=np.float64)
    except OverflowError:
        raise InputError(f"{where} holds a number beyond double precision") from None
    if not np.isfinite(matrix).all():
        raise InputError(f"{where} holds NaN or infinite values")
    return matrix


def check_rows(where: str, value: object, rows: int, columns: int, types: set[type], noun: str) -> list[list]:
    """A list of `rows` lists of `columns` values of the types given.

    Raises:
        InputError: anything else, with its place.
    """
    if not isinstance(value, list) or len(value) != rows:
        found = f"{len(value)} rows" if isinstance(value, list) else kind_of(value)
        raise InputError(f"{where} must be a list of {rows} rows, not {found}")
    for index, row in enumerate(value):
        if not isinstance(row, list) or len(row) != columns:
            found = f"{len(row)} of them" if isinstance(row, list) else kind_of(row)
            raise InputError(f"{where} row {index + 1} must be a list of {columns} {noun}, not {found}")
        if not types.issuperset(map(type, row)):  # by type and not isinstance: true and false are no numbers here
            wrong = next(item for item in row if type(item) not in types)
            raise InputError(f"{where} row {index + 1} must hold {noun}, not {wrong!r:.40}")
    return value


def _metric(value: object, target: Target) -> Metric | None:
    """Uncentred second moments E[x x^T] of the vectorised tiles of A (a x a) and of B (b x b)."""
    if value is None:
        return None
    fields = check_fields("metric", value, ("activation", "weight", "layout"))
    activation, weight = (
        _float_matrix(f"metric.{name}", fields[name], extent, extent)
        for name, extent in zip(("activation", "weight"), target.dims, strict=False)
    )
    layout = plain_json("metric.layout", fields["layout"])
    if not isinstance(layout, dict):
        raise InputError(f"metric.layout must be an object, not {kind_of(layout)}")
    return Metric(activation, weight, layout)


def check_effort(target: Target, rank: int, factors: Factors | None = None) -> None:
    """Refuse what would take hours or all memory to check.

    Raises:
        InputError: the rank, dims or coefficients are too large.
    """
    a, b, c = target.dims
    bits = log2(4 * rank)  # of the largest sum of products of integers
    for factor in factors or ():
        parts = (factor.real, factor.real if factor.imaginary is None else factor.imaginary)
        bits += log2(max(1, *(int(np.abs(part).max()) for part in parts)))
    if rank * b * c > MAX_HELD or rank * a * b * c > (MAX_WORK if bits < 62 else MAX_WORK_BIG_INTEGERS):
        raise InputError(f"rank {rank} with dims {list(target.dims)} and coefficients of this size is too large to check")


def check_fields(where: str, value: object, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, object]:
    """An object that has the required keys and no others but the optional ones.

    Raises:
        InputError: anything else, with the key.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{where} must be an object with the keys {', '.join(required)}, not {kind_of(value)}")
    missing = [key for key in required if key not in value]
    if missing:
        raise InputError(f"{where} lacks the key {missing[0]!r}; required: {', '.join(required)}")
    unknown = [key for key in value if key not in (*required, *optional)]
    if unknown:
        raise InputError(f"{where} has the unknown key {unknown[0]!r:.40}; valid: {', '.join((*required, *optional))}")
    return dict(value)


def plain_json(where: str, value: object, depth: int = 0) -> object:
    """Plain JSON values: NumPy scalars and arrays, tuples and mappings become numbers, lists and dicts."""
    if depth > MAX_DEPTH:
        raise InputError(f"{where} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {_plain_string(where, key): plain_json(where, item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(where, item, depth + 1) for item in value]
    if isinstance(value, str):
        return _plain_string(where, value)
    if isinstance(value, float) and not np.isfinite(value):
        raise InputError(f"{where} holds NaN or infinite values")
    if value is None or isinstance(value, bool | int | float):
        return value
    raise InputError(f"{where} holds a {type(value).__name__}, which JSON cannot store")


def _plain_string(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where} has the key {value!r:.40}; keys are strings")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where} holds a string with half a surrogate pair") from None
    return value


def kind_of(value: object) -> str:
    """What kind of JSON value it is, in words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    names = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)

"""A border-rank family as a JSON document, "stlsearch.border" version 1 (docs/format.md), and the reader of every format of them.

As with algorithms the document holds what a family is and nothing measured of it: the order of its error is computed
again on load, where the family is verified over Q[eps, 1/eps], and the id is compared.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from stlsearch.border import BorderAlgorithm, factor_document
from stlsearch.errors import InputError
from stlsearch.laurent import MAX_EXPONENT, LaurentMatrix
from stlsearch.registry import text as json_text
from stlsearch.registry.codec import check_effort, check_fields, check_rows, kind_of, plain_json
from stlsearch.registry.formats import eps_entries, fast_matmul
from stlsearch.targets import Target

FORMAT = "stlsearch.border"
VERSION = 1
KEYS = ("format", "version", "id", "target", "dims", "rank", "factors", "provenance")


def encode(family: BorderAlgorithm) -> dict[str, object]:
    """The document of a family, of plain JSON values.

    Raises:
        InputError: provenance that JSON cannot hold.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "id": family.id,
        "target": family.target.describe(),
        "dims": list(family.target.dims),
        "rank": family.rank,
        "factors": {name: factor_document(factor) for name, factor in zip("UVW", family.factors, strict=True)},
        "provenance": plain_json("provenance", family.provenance),
    }


def decode(document: object) -> BorderAlgorithm:
    """The family of a document, checked in every respect.

    Raises:
        InputError: one line that names the first fault and what is valid there.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = f"format {document.get('format')!r:.40}" if isinstance(document, dict) else kind_of(document)
        raise InputError(f'not a family in eps: expected an object with "format": "{FORMAT}", found {found}')
    if type(document.get("version")) is not int or document["version"] != VERSION:
        raise InputError(f"version {document.get('version')!r:.40} is not supported; valid: {VERSION}")
    parts = check_fields("the document", document, KEYS)
    target_parts = check_fields("target", parts["target"], ("kind", "params"))
    target = Target.make(target_parts["kind"], target_parts["params"])  # type: ignore[arg-type]
    rank = parts["rank"]
    if type(rank) is not int or not 1 <= rank <= target.trivial_rank:
        raise InputError(f"rank must be an integer from 1 to {target.trivial_rank} for {target.slug}, not {rank!r:.40}")
    if parts["dims"] != list(target.dims):
        raise InputError(f"dims must be {list(target.dims)} for {target.slug}, not {parts['dims']!r:.60}")
    check_effort(target, rank)
    provenance = plain_json("provenance", parts["provenance"])
    if not isinstance(provenance, dict):
        raise InputError(f"provenance must be an object, not {kind_of(parts['provenance'])}")
    factors = check_fields("factors", parts["factors"], ("U", "V", "W"))
    U, V, W = (_factor(f"factors.{name}", factors[name], rank, extent) for name, extent in zip("UVW", target.dims, strict=True))
    family = BorderAlgorithm.make(target, (U, V, W), provenance)
    if not isinstance(parts["id"], str) or not re.fullmatch(r"[0-9a-f]{64}", parts["id"]):
        raise InputError(f"id must be 64 lower-case hexadecimal digits, not {parts['id']!r:.80}")
    if parts["id"] != family.id:
        raise InputError(f"tampered or damaged: the id says {parts['id'][:16]}..., the content is {family.id[:16]}...")
    return family


def dumps(family: BorderAlgorithm) -> str:
    """The document as text, one matrix per line, with a final newline."""
    return json_text.layout(encode(family)) + "\n"


def loads(data: bytes | str) -> BorderAlgorithm:
    """The family in a JSON text, ours or that of a collection (`eps_entries`).

    Raises:
        InputError: one line that names the first fault.
    """
    document = json_text.parse(data)
    if eps_entries.is_plain_family(document):
        return eps_entries.plain_family(document)  # type: ignore[arg-type]
    return decode(document)


def read_family(path: Path) -> BorderAlgorithm:
    """The family in a file: JSON when it begins with a brace, else the text of the fast-matmul collection.

    Raises:
        InputError: an unreadable file, or content that is neither.
    """
    if not os.path.isfile(path):  # noqa: PTH113 (the methods of Path raise on names that are too long)
        raise InputError(f"{path}: {'not a file' if os.path.exists(path) else 'no such file'}")  # noqa: PTH110
    try:
        data = json_text.read_bytes(path)
        reader: Callable[[bytes], BorderAlgorithm] = loads if data.lstrip()[:1] == b"{" else fast_matmul.read
        return reader(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _factor(where: str, value: object, rank: int, extent: int) -> LaurentMatrix:
    parts = check_fields(where, value, ("exponents", "numerators", "denominator"))
    exponents, matrices = parts["exponents"], parts["numerators"]
    if not isinstance(exponents, list) or not 1 <= len(exponents) <= 2 * MAX_EXPONENT + 1:
        raise InputError(f"{where}.exponents must be a list of integers from -{MAX_EXPONENT} to {MAX_EXPONENT}")
    if any(type(exponent) is not int for exponent in exponents) or sorted(set(exponents)) != exponents:
        raise InputError(f"{where}.exponents must be integers in ascending order, each once")
    if not isinstance(matrices, list) or len(matrices) != len(exponents):
        raise InputError(f"{where}.numerators must be a list of {len(exponents)} matrices, one for each exponent")
    checked = {
        exponent: check_rows(f"{where}.numerators[{index}]", matrix, rank, extent, {int}, "integers")
        for index, (exponent, matrix) in enumerate(zip(exponents, matrices, strict=True))
    }
    try:
        return LaurentMatrix.make(checked, parts["denominator"])  # type: ignore[arg-type]
    except InputError as error:
        raise InputError(f"{where}: {error}") from None

"""JSON text: a reader that trusts nothing, and a writer whose output people can diff.

The reader refuses what `json` lets through: NaN and infinities (spelled out or as 1e999), repeated
keys, nesting beyond the recursion limit, integers of thousands of digits, files beyond `MAX_BYTES`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from stlsearch.errors import InputError

MAX_BYTES = 64 * 2**20  # of one file: a <16,16,16> algorithm of rank 2401 with 17-digit floats needs about half
FLAT_WIDTH = 100  # an object without lists stays on one line up to this many characters


def read_bytes(path: Path) -> bytes:
    """The content of a regular file of at most `MAX_BYTES`.

    Raises:
        InputError: not a regular file (a folder, a pipe, a device), or too large.
        OSError: it cannot be read.
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise InputError("not a regular file")
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(f"larger than {MAX_BYTES // 2**20} MiB, the most one algorithm may take")
    return data


def parse(data: bytes | str) -> object:
    """The JSON value in `data`, checked as this module says.

    Raises:
        InputError: anything that is not one strict JSON value, with the place of the first fault.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"larger than {MAX_BYTES // 2**20} MiB, the most one algorithm may take")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        return json.loads(text, object_pairs_hook=_object, parse_float=_finite, parse_constant=_finite)
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text: byte {error.start} is invalid") from None
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise InputError("not a valid document: nested too deeply") from None
    except InputError:
        raise
    except ValueError:  # Python refuses to convert integers of more than 4300 digits
        raise InputError("not a valid document: it holds an integer of thousands of digits") from None


def layout(value: object, indent: str = "") -> str:
    """JSON text with one matrix row (one item of a list of lists or objects) per line.

    Raises:
        InputError: NaN, infinite or non-JSON values.
    """
    inner = indent + "  "
    if isinstance(value, dict) and not _is_flat(value):
        items = [f"{inner}{json.dumps(key, ensure_ascii=False)}: {layout(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
        return "[\n" + ",\n".join(inner + dumps(item) for item in value) + f"\n{indent}]"
    return dumps(value)


def dumps(value: object) -> str:
    """One-line strict JSON; floats are written so that reading them gives the same double.

    Raises:
        InputError: NaN, infinite or non-JSON values.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"not storable as JSON: {error}") from None


def _is_flat(value: dict) -> bool:
    flat = not any(isinstance(item, list) or (isinstance(item, dict) and not _is_flat(item)) for item in value.values())
    return flat and len(dumps(value)) <= FLAT_WIDTH


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InputError(f"not a valid document: the key {repeated!r:.60} is repeated")
    return result


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InputError(f"not a valid document: {text:.40} is not a finite number")
    return number

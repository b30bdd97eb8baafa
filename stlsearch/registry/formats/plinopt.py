"""PLinOpt's three sparse matrices (Dumas, Pernet, Sedoglavic; .sms): NAME_L.sms and NAME_R.sms, rank x dim, NAME_P.sms, dim x rank.

    7 4 R
    1 1 1
    1 4 -1/2
    0 0 0

Rows and columns count from 1; lines that begin with # are comments. A and B are row-major and P gives C, row-major.
"""

from __future__ import annotations

import re
from pathlib import Path

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry.formats.coefficients import Entry, coefficient, factor_of
from stlsearch.registry.formats.layout import check_held, entries
from stlsearch.registry.formats.scheme import Scheme, Source, checked_target, shape_of
from stlsearch.registry.text import read_bytes

NAME = "PLinOpt sparse matrices"
PARTS = ("L", "R", "P")
MAX_SIDE = 2**20
_FILE = re.compile(r"(.*?)([LRP])(\.sms)", re.DOTALL)
_HEADER = re.compile(r"([0-9]{1,7})\s+([0-9]{1,7})\s+[A-Za-z]")

Sparse = tuple[int, int, dict[tuple[int, int], Entry]]  # rows, columns, values


def is_text(text: str) -> bool:
    """Whether a text begins as this format does."""
    lines = (line.strip() for line in text[:20_000].splitlines())
    first = next((line for line in lines if line and not line.startswith(("#", "%"))), "")
    return _HEADER.fullmatch(first) is not None


def paths(path: Path) -> list[Path]:
    """The three files L, R and P of which `path` is one, or the common beginning (`strassen` for strassen_L.sms).

    Raises:
        InputError: a name that ends in none of L.sms, R.sms and P.sms.
    """
    match = _FILE.fullmatch(path.name)
    if match:
        return [path.with_name(f"{match[1]}{part}{match[3]}") for part in PARTS]
    if path.suffix.lower() == ".sms":
        raise InputError("PLinOpt keeps an algorithm in three files: their names must end in L.sms, R.sms and P.sms")
    return [path.with_name(f"{path.name}_{part}.sms") for part in PARTS]


def is_beginning(path: Path) -> bool:
    """Whether a path is no file, but the common beginning of three."""
    try:
        return not path.exists() and path.suffix != ".sms" and paths(path)[0].is_file()
    except OSError:  # a name that is too long
        return False


def read(source: Source) -> list[Scheme]:
    """The algorithm of a file and the two beside it, not yet verified.

    Raises:
        InputError: a file that is missing or no such matrix, or three that do not fit one another.
    """
    parts = []
    for path in paths(source.path):
        try:
            data = source.data if path.name == source.path.name else read_bytes(path)
            parts.append(_matrix(Source(data, path).text))
        except InputError as error:
            raise InputError(f"{path.name}: {error}") from None
        except OSError as error:
            raise InputError(f"{path.name}, which belongs to it, cannot be read: {error.strerror or error}") from None
    (rank, a, left), (rank2, b, right), (c, rank3, product) = parts
    if not rank == rank2 == rank3:
        raise InputError(f"L and R have {rank} and {rank2} rows and P has {rank3} columns: all must be the rank")
    if not min(rank, a, b, c):
        raise InputError("a matrix without rows or columns")
    shape = shape_of((a, b, c))
    checked_target(shape, rank)
    turned = {(j, i): value for (i, j), value in product.items()}
    U, V, W = (
        factor_of(name, _dense(rank, extent, values)) for name, extent, values in zip("UVW", (a, b, c), (left, right, turned), strict=True)
    )
    return [Scheme((U, V, W), provenance={"imported": NAME})]


def write(algorithm: BilinearAlgorithm) -> dict[str, bytes]:
    """The three files, by the ends of their names."""
    check_held(algorithm, "plinopt", "fractions")
    U, V, W = entries(algorithm, "C")
    P = [list(row) for row in zip(*W, strict=True)]
    return {f"_{part}.sms": _text(rows) for part, rows in zip(PARTS, (U, V, P), strict=True)}


def _matrix(text: str) -> Sparse:
    lines = [(count, line.strip()) for count, line in enumerate(text.splitlines(), 1)]
    lines = [(count, line) for count, line in lines if line and not line.startswith(("#", "%"))]
    head = _HEADER.fullmatch(lines[0][1]) if lines else None
    if head is None:
        raise InputError("expected a first line such as '7 4 R': rows, columns and a letter")
    rows, columns = int(head[1]), int(head[2])
    if max(rows, columns) > MAX_SIDE:
        raise InputError(f"a matrix of {rows} x {columns} is too large")
    values: dict[tuple[int, int], Entry] = {}
    for count, line in lines[1:]:
        words = line.split()
        if len(words) != 3 or not re.fullmatch(r"[0-9]{1,7}", words[0]) or not re.fullmatch(r"[0-9]{1,7}", words[1]):
            raise InputError(f"line {count}: expected row, column and value, not {line!r:.40}")
        i, j = int(words[0]), int(words[1])
        if i == j == 0:
            return rows, columns, values
        if not (1 <= i <= rows and 1 <= j <= columns):
            raise InputError(f"line {count}: row {i} and column {j} lie outside {rows} x {columns}")
        if (i - 1, j - 1) in values:
            raise InputError(f"line {count}: row {i} and column {j} are given twice")
        try:
            values[i - 1, j - 1] = coefficient(words[2])
        except InputError as error:
            raise InputError(f"line {count}: {error}") from None
    raise InputError("it ends without the line '0 0 0'")


def _dense(rows: int, columns: int, values: dict[tuple[int, int], Entry]) -> list[list[Entry]]:
    result: list[list[Entry]] = [[0] * columns for _ in range(rows)]
    for (i, j), value in values.items():
        result[i][j] = value
    return result


def _text(rows: list[list[Entry]]) -> bytes:
    lines = [f"{len(rows)} {len(rows[0])} R"]
    lines += [f"{i} {j} {value}" for i, row in enumerate(rows, 1) for j, value in enumerate(row, 1) if value]
    return "\n".join([*lines, "0 0 0", ""]).encode()

"""Launch parameters that were measured on a device, in place of the kernels' rules.

A table says for an operation, a dtype and a class of sizes what to launch. Nothing is ever timed while the operator runs, so the same
table gives the same kernels in every process, under torch.compile and in CUDA graphs: tables are made by `stlsearch.evaluate.tune`,
kept in files, and looked up here. What a table lacks follows the rules beside the kernels.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from stlsearch.errors import InputError

Choice = Mapping[str, int | bool]
Table = Mapping[str, Choice]

FOLDER = Path(__file__).parent / "tuned"
"""Of the tables that come with the package, one a device."""

FORMAT = 1

PARAMETERS = {
    "encode": {"bytes", "warps"},
    "decode": {"bytes", "warps"},
    "correlate": {"bytes", "warps"},
    "encode_fp8": {"bytes", "warps"},
    "multiply": {"vendor", "down", "across", "step", "warps", "stages", "descriptors", "persistent", "team_bytes"},
    "product_decode": {"fused", "down", "across", "step", "warps", "stages", "descriptors", "persistent", "team_bytes"},
}
"""What a table may hold, by operation. A product is the vendor's or has parameters; a fused one has them, and is taken where "fused"."""

_table: Table | None = None  # for all devices, instead of their own


def choice(operation: str, device: torch.device, dtype: torch.dtype, rank: int, *sizes: int) -> Choice:
    """What the table of a device says of an operation at sizes, or nothing."""
    table = _table_of(device) if _table is None else _table
    return table.get(key(operation, dtype, rank, *sizes), {}) if table else {}


def key(operation: str, dtype: torch.dtype, rank: int, *sizes: int) -> str:
    """The class that an operation at some sizes belongs to: each to the nearest power of two, ranks to the next one."""
    near = "x".join(str(2 ** round(math.log2(size))) for size in sizes if size)
    return f"{operation} {str(dtype).removeprefix('torch.')} {max(16, 2 ** (rank - 1).bit_length())} {near}"


@contextmanager
def tuned(table: Table | None) -> Iterator[None]:
    """Within it, all devices take this table; an empty one leaves everything to the rules, None each device its own again.

    For the whole process, as `stlsearch.ops.backend` is.
    """
    global _table
    before, _table = _table, table
    try:
        yield
    finally:
        _table = before


def load_table(path: Path) -> dict[str, dict[str, int | bool]]:
    """The table in a file that `save_table` wrote.

    Raises:
        InputError: a file that cannot be read or holds something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        known = document["stlsearch_tuning"] == FORMAT
        table = {name: dict(parameters) for name, parameters in document["table"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no table of launch parameters: {error}") from error
    if not known:
        raise InputError(f"{path} holds launch parameters of another format than {FORMAT}")
    for name, parameters in table.items():
        valid = PARAMETERS.get(name.partition(" ")[0], set())
        if not valid or not set(parameters) <= valid or not all(type(value) in (int, bool) and value >= 0 for value in parameters.values()):
            raise InputError(f"{path}: {name!r} cannot be {parameters}; valid: {', '.join(sorted(valid)) or 'no such operation'}")
    return table


def save_table(table: Table, path: Path, **about: object) -> None:
    """Write a table, and about it what is given, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"stlsearch_tuning": FORMAT, **about, "table": table}, indent=1) + "\n", encoding="utf-8")


def file_name(device_name: str) -> str:
    """A device's name as that of a JSON file: lower case, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-") + ".json"


def _table_of(device: torch.device) -> Table:
    return _shipped(device.index or 0) if device.type == "cuda" else {}


@cache
def _shipped(index: int) -> Table:
    path = FOLDER / file_name(torch.cuda.get_device_name(index))
    return load_table(path) if path.exists() else {}

"""Targets: the bilinear maps that an algorithm computes, as tensors.

A bilinear map C = T(A, B) of a numbers and b numbers to c numbers is its tensor T of shape
(a, b, c): ``C[k] = sum_ij T[i, j, k] A[i] B[j]``. Matrices are vectorised row-major, and the third
mode is C, not its transpose (the form in which the matrix product shows its cyclic symmetry is a
view, see `stlsearch.constructions.transforms`).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stlsearch.errors import InputError

MAX_MODE = 4096  # entries of one mode; a <64,64,64> product has 4096
MAX_ENTRIES = 2**24  # of the dense tensor: beyond it nothing here is meant to work
MAX_LISTED = 2**18  # non-zero entries of a tensor given by its entries, which are written out wherever it is stored
MAX_DENOMINATOR = 2**20  # real entries with a power of two up to this below them are taken as exact fractions


@dataclass(frozen=True)
class Target:
    """A named bilinear map. Compare and hash by value; `tensor` is computed once.

    >>> Target.matmul(2, 2, 3).dims
    (4, 6, 6)
    """

    kind: str
    params: tuple[tuple[str, object], ...]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"unknown target kind {self.kind!r}; valid: {', '.join(sorted(KINDS))}")
        size = 1
        for extent in self.dims:
            if not 1 <= extent <= MAX_MODE:
                raise InputError(f"target {self.slug} has dims {self.dims}; each must be 1..{MAX_MODE}")
            size *= extent
        if size > MAX_ENTRIES:
            raise InputError(f"target {self.slug} has {size} tensor entries; at most {MAX_ENTRIES} are supported")

    @staticmethod
    def make(kind: str, params: Mapping[str, object]) -> Target:
        """Build a target from its stored form, checking every parameter.

        Raises:
            InputError: unknown kind, or missing, unknown or wrongly typed parameters.
        """
        if not isinstance(kind, str) or kind not in KINDS:
            raise InputError(f"unknown target kind {kind!r}; valid: {', '.join(sorted(KINDS))}")
        if not isinstance(params, Mapping) or set(params) != set(KINDS[kind].fields):
            raise InputError(f"target {kind} needs the parameters {list(KINDS[kind].fields)}, not {params!r:.80}")
        return Target(kind, tuple((name, KINDS[kind].check(name, params[name])) for name in KINDS[kind].fields))

    @staticmethod
    def matmul(n: int, m: int, p: int) -> Target:
        """The product of an n x m by an m x p matrix, <n,m,p>; ||T||^2 = nmp."""
        return Target.make("matmul", {"n": n, "m": m, "p": p})

    @staticmethod
    def explicit(tensor: np.ndarray) -> Target:
        """Any real tensor of shape (a, b, c), kept by its non-zero entries.

        Raises:
            InputError: NaN, infinite or too large entries, or more than `MAX_LISTED` that are not zero.
        """
        places = np.argwhere(tensor)
        if len(places) > MAX_LISTED:
            raise InputError(f"the tensor has {len(places)} non-zero entries; at most {MAX_LISTED} are supported")
        entries = [[*map(int, index), tensor[tuple(index)].item()] for index in places]
        return Target.make("tensor", {"dims": list(tensor.shape), "entries": entries})

    def __getitem__(self, name: str) -> object:
        return dict(self.params)[name]

    @property
    def dims(self) -> tuple[int, int, int]:
        """(a, b, c): the lengths of vec A, vec B and vec C."""
        return KINDS[self.kind].dims(dict(self.params))

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """(n, m, p) for a matrix product, None for every other map."""
        if self.kind != "matmul":
            return None
        n, m, p = (int(value) for _, value in self.params)  # type: ignore[call-overload]
        return n, m, p

    @property
    def slug(self) -> str:
        """A short name fit for file names: 4x4x4, polymul3x2, cyclic5, complex, aat2x3, tensor-1a2b3c4d."""
        return KINDS[self.kind].slug(dict(self.params))

    @cached_property
    def tensor(self) -> np.ndarray:
        """The dense tensor, shape (a, b, c), read-only: int64 where every entry is an integer, else float64."""
        tensor = np.zeros(self.dims)
        KINDS[self.kind].fill(tensor, dict(self.params))
        if (tensor == np.rint(tensor)).all():
            tensor = tensor.astype(np.int64)
        tensor.setflags(write=False)
        return tensor

    @cached_property
    def rational(self) -> tuple[np.ndarray, int] | None:
        """The tensor as int64 numerators over one denominator, a power of two; None when its entries are no such fractions."""
        if self.tensor.dtype == np.int64:
            return self.tensor, 1
        denominator = 2
        while denominator <= MAX_DENOMINATOR:
            scaled = self.tensor * denominator
            if (scaled == np.rint(scaled)).all():
                return scaled.astype(np.int64), denominator
            denominator *= 2
        return None

    @property
    def norm_sq(self) -> float:
        """||T||^2, the squared Frobenius norm (nmp for a matrix product)."""
        return float((self.tensor.astype(np.float64) ** 2).sum())

    @property
    def trivial_rank(self) -> int:
        """A rank that always suffices: one product per (i, j) with a non-zero fibre, or the like by mode."""
        support = self.tensor != 0
        return min(int(support.any(axis=mode).sum()) for mode in range(3))

    def check_rank(self, rank: int) -> int:
        """The rank when it makes sense for this target.

        Raises:
            InputError: below 1 or above the trivial rank (nmp for a matrix product).
        """
        if not isinstance(rank, int) or not 1 <= rank <= self.trivial_rank:
            raise InputError(f"rank {rank} is not valid for {self.slug}: give an integer from 1 to {self.trivial_rank}")
        return rank

    def describe(self) -> dict[str, object]:
        """The stored form: {"kind": ..., "params": {...}} of plain JSON values."""
        return {"kind": self.kind, "params": {name: _plain(value) for name, value in self.params}}

    def variable(self, mode: int, index: int) -> str:
        """The name of one input or output entry in formulas: a12, b21, c11 for matrices, a0, b3 for vectors."""
        letter = "abc"[mode]
        if self.kind in ("aat", "abt"):
            n, m = (int(value) for _, value in self.params)  # type: ignore[call-overload]
            row, column = (int(place) for place in np.transpose(np.triu_indices(n))[index]) if mode == 2 else divmod(index, m)
            wide = max(n, m) > 9
        elif self.shape is not None:
            n, m, p = self.shape
            row, column = divmod(index, (m, p, p)[mode])
            wide = max(n, m, p) > 9
        else:
            return f"{letter}{index}"
        return f"{letter}{row + 1}_{column + 1}" if wide else f"{letter}{row + 1}{column + 1}"


def parse_tile(text: str) -> tuple[int, int, int]:
    """``"4"`` -> (4, 4, 4) and ``"2x3x4"`` -> (2, 3, 4).

    Raises:
        InputError: anything else, or a size outside 1..64.
    """
    match = re.fullmatch(r"([0-9]{1,4})(?:x([0-9]{1,4})x([0-9]{1,4}))?", text.strip())
    if match:
        first = int(match[1])
        sizes = (first, int(match[2] or first), int(match[3] or first))
        if all(1 <= size <= 64 for size in sizes) and np.prod([float(size) ** 2 for size in sizes]) <= MAX_ENTRIES:
            return sizes
    raise InputError(f"tile {text!r} is not valid: give one size such as 4, or three such as 2x3x4 (each at least 1, at most 16x16x16)")


@dataclass(frozen=True)
class _Kind:
    fields: tuple[str, ...]
    dims: Callable[[dict], tuple[int, int, int]]
    fill: Callable[[np.ndarray, dict], None]
    slug: Callable[[dict], str]

    def check(self, name: str, value: object) -> object:
        if name == "dims":
            return tuple(_positive(name, extent) for extent in _sequence(name, value, 3))
        if name == "entries":
            rows = (_sequence(name, row, 4) for row in _sequence(name, value))
            return tuple((*(_integer(name, number) for number in row[:3]), _number(name, row[3])) for row in rows)
        return _positive(name, value)


def _sequence(name: str, value: object, length: int | None = None) -> list | tuple:
    if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
        raise InputError(f"target parameter {name!r} must be a list{f' of {length}' if length else ''}, not {value!r:.60}")
    return value


def _integer(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 2**31:
        raise InputError(f"target parameter {name!r} must be an integer, not {value!r:.60}")
    return value


def _number(name: str, value: object) -> int | float:
    """An integer, or a float that is none: every number in the one form that equal targets share."""
    if not isinstance(value, float):
        return _integer(name, value)
    if not math.isfinite(value) or abs(value) > 2**31:
        raise InputError(f"target parameter {name!r} must hold finite numbers up to 2^31, not {value!r:.60}")
    return int(value) if value.is_integer() else value


def _positive(name: str, value: object) -> int:
    number = _integer(name, value)
    if not 1 <= number <= MAX_MODE:
        raise InputError(f"target parameter {name!r} must be 1..{MAX_MODE}, not {number}")
    return number


def _plain(value: object) -> object:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _fill_matmul(tensor: np.ndarray, params: dict) -> None:
    n, m, p = params["n"], params["m"], params["p"]
    i, j, k = np.indices((n, m, p)).reshape(3, -1)
    tensor[i * m + j, j * p + k, i * p + k] = 1


def _fill_polymul(tensor: np.ndarray, params: dict) -> None:
    i, j = np.indices((params["m"], params["n"])).reshape(2, -1)
    tensor[i, j, i + j] = 1


def _fill_cyclic(tensor: np.ndarray, params: dict) -> None:
    i, j = np.indices((params["n"], params["n"])).reshape(2, -1)
    tensor[i, j, (i + j) % params["n"]] = 1


def _fill_complex(tensor: np.ndarray, params: dict) -> None:
    tensor[[0, 0, 1], [0, 1, 0], [0, 1, 1]] = 1
    tensor[1, 1, 0] = -1


def _fill_abt(tensor: np.ndarray, params: dict) -> None:
    rows, columns = np.triu_indices(params["n"])
    for k in range(params["m"]):
        tensor[rows * params["m"] + k, columns * params["m"] + k, np.arange(len(rows))] = 1


def _fill_aat(tensor: np.ndarray, params: dict) -> None:
    _fill_abt(tensor, params)
    tensor[:] = (tensor + tensor.transpose(1, 0, 2)) / 2


def _fill_entries(tensor: np.ndarray, params: dict) -> None:
    for i, j, k, value in params["entries"]:
        if not (0 <= i < tensor.shape[0] and 0 <= j < tensor.shape[1] and 0 <= k < tensor.shape[2]):
            raise InputError(f"target entry {[i, j, k]} lies outside dims {list(tensor.shape)}")
        tensor[i, j, k] = value


def _entries_slug(params: dict) -> str:
    text = json.dumps({name: _plain(value) for name, value in params.items()}, sort_keys=True)
    return "tensor-" + hashlib.sha256(text.encode()).hexdigest()[:8]


KINDS: dict[str, _Kind] = {
    "matmul": _Kind(
        ("n", "m", "p"),
        lambda q: (q["n"] * q["m"], q["m"] * q["p"], q["n"] * q["p"]),
        _fill_matmul,
        lambda q: f"{q['n']}x{q['m']}x{q['p']}",
    ),
    "polymul": _Kind(  # polynomials with m and n coefficients, lowest degree first
        ("m", "n"),
        lambda q: (q["m"], q["n"], q["m"] + q["n"] - 1),
        _fill_polymul,
        lambda q: f"polymul{q['m']}x{q['n']}",
    ),
    "cyclic": _Kind(  # polynomial product modulo x^n - 1
        ("n",),
        lambda q: (q["n"], q["n"], q["n"]),
        _fill_cyclic,
        lambda q: f"cyclic{q['n']}",
    ),
    "complex": _Kind((), lambda q: (2, 2, 2), _fill_complex, lambda q: "complex"),
    # Both give the upper triangle of A A^T, row by row, when B = A. Both take A and B of n x m.
    "aat": _Kind(  # of (A B^T + B A^T)/2, symmetric in A and B: for numbers, which commute
        ("n", "m"),
        lambda q: (q["n"] * q["m"], q["n"] * q["m"], q["n"] * (q["n"] + 1) // 2),
        _fill_aat,
        lambda q: f"aat{q['n']}x{q['m']}",
    ),
    "abt": _Kind(  # of A B^T: for blocks too
        ("n", "m"),
        lambda q: (q["n"] * q["m"], q["n"] * q["m"], q["n"] * (q["n"] + 1) // 2),
        _fill_abt,
        lambda q: f"abt{q['n']}x{q['m']}",
    ),
    "tensor": _Kind(("dims", "entries"), lambda q: q["dims"], _fill_entries, _entries_slug),
}

"""Targets: the bilinear maps that an algorithm computes, as tensors.

A bilinear map C = T(A, B) of a numbers and b numbers to c numbers is its tensor T of shape
(a, b, c): ``C[k] = sum_ij T[i, j, k] A[i] B[j]``. Matrices are vectorised row-major, and the third
mode is C, not its transpose (the form in which the matrix product shows its cyclic symmetry is a
view, see `stlsearch.constructions.transforms`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stlsearch.errors import InputError

MAX_MODE = 4096  # entries of one mode; a <64,64,64> product has 4096
MAX_ENTRIES = 2**24  # of the dense tensor: beyond it nothing here is meant to work


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
        """Any integer tensor of shape (a, b, c), kept by its non-zero entries."""
        entries = [[*map(int, index), int(tensor[tuple(index)])] for index in np.argwhere(tensor)]
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
        """A short name fit for file names: 4x4x4, polymul3x2, cyclic5, complex, tensor-1a2b3c4d."""
        return KINDS[self.kind].slug(dict(self.params))

    @cached_property
    def tensor(self) -> np.ndarray:
        """The dense integer tensor, shape (a, b, c), read-only int64."""
        tensor = np.zeros(self.dims, dtype=np.int64)
        KINDS[self.kind].fill(tensor, dict(self.params))
        tensor.setflags(write=False)
        return tensor

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
        if self.shape is None:
            return f"{letter}{index}"
        n, m, p = self.shape
        columns = (m, p, p)[mode]
        row, column = divmod(index, columns)
        wide = max(n, m, p) > 9
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
            return tuple(tuple(_integer(name, number) for number in row) for row in rows)
        return _positive(name, value)


def _sequence(name: str, value: object, length: int | None = None) -> list | tuple:
    if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
        raise InputError(f"target parameter {name!r} must be a list{f' of {length}' if length else ''}, not {value!r:.60}")
    return value


def _integer(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 2**31:
        raise InputError(f"target parameter {name!r} must be an integer, not {value!r:.60}")
    return value


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
    "tensor": _Kind(("dims", "entries"), lambda q: q["dims"], _fill_entries, _entries_slug),
}

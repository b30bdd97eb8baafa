"""What becomes of a model's layers, and what that saves and costs: the records that `stlsearch.nn.plan` fills in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.nn.basis import Basis

Algorithm = BilinearAlgorithm | Basis


@dataclass(frozen=True)
class LayerPlan:
    """One layer that multiplies by a matrix.

    Attributes:
        name: in the model; the first one for a layer with several.
        kind: one of `stlsearch.nn.layers.KINDS`, or "attention" for the input products of `torch.nn.MultiheadAttention`.
        inner, outputs: K and N.
        rows: M, of all calls and samples of the example; None without one.
        macs_before, macs_after: of the example, padding counted; None without one.
        parameters_before, parameters_after: with the bias; bases are counted apart.
        error: expected ||y_stl - y||^2/||y||^2, bias aside: measured on the layer's own input, or without an example the basis' e,
            which is that of white inputs.
        algorithm: the one that takes over, None for a layer that stays.
        skipped: why it stays as it is, else empty.
        note: what to know of it, else empty.
    """

    name: str
    kind: str
    inner: int
    outputs: int
    rows: int | None
    macs_before: int | None
    macs_after: int | None
    parameters_before: int
    parameters_after: int
    error: float | None = None
    algorithm: Algorithm | None = field(default=None, repr=False)
    skipped: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, object]:
        """As JSON values; the algorithm by its id, an error that is not finite as None."""
        keys = ("name", "kind", "inner", "outputs", "rows", "macs_before", "macs_after", "parameters_before", "parameters_after")
        return {
            **{key: getattr(self, key) for key in keys},
            "expected_rel_sq_error": self.error if self.error is not None and math.isfinite(self.error) else None,
            "algorithm_id": None if self.algorithm is None else algorithm_id(self.algorithm),
            "skipped": self.skipped or None,
            "note": self.note or None,
        }


@dataclass(frozen=True)
class Plan:
    """All layers that multiply by a matrix, and the totals of the whole model.

    Attributes:
        layers: in the model's order.
        macs_before, macs_after: of the example, attention and whatever else multiplies included; None without one.
        parameters_before, parameters_after: of the model, learned bases included.
        bytes_before, bytes_after: of the model's parameters and buffers, bases included.
        basis_values: U, V and W of all bases, learned or not.
    """

    layers: tuple[LayerPlan, ...]
    macs_before: int | None
    macs_after: int | None
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    basis_values: int
    rows: str
    learn: str
    causal_safe: bool

    @property
    def converted(self) -> tuple[LayerPlan, ...]:
        """The layers that become Strassen-Tile ones."""
        return tuple(layer for layer in self.layers if not layer.skipped)

    def to_dict(self) -> dict[str, object]:
        """As JSON values."""
        totals = ("macs_before", "macs_after", "parameters_before", "parameters_after", "bytes_before", "bytes_after", "basis_values")
        keys = (*totals, "rows", "learn", "causal_safe")
        return {**{key: getattr(self, key) for key in keys}, "layers": [layer.to_dict() for layer in self.layers]}

    def __str__(self) -> str:
        """A table of the layers, one a line, and the totals."""
        header = ("layer", "kind", "K x N", "rows", "MACs", "after", "parameters", "after", "error", "")
        rows = [
            (
                layer.name,
                layer.kind,
                f"{layer.inner} x {layer.outputs}",
                "-" if layer.rows is None else str(layer.rows),
                short(layer.macs_before),
                "" if layer.skipped else short(layer.macs_after),
                short(layer.parameters_before),
                "" if layer.skipped else short(layer.parameters_after),
                "-" if layer.error is None else f"{layer.error:.4f}",
                f"stays: {layer.skipped}" if layer.skipped else layer.note,
            )
            for layer in self.layers
        ]
        total = ("whole model", "", "", "", short(self.macs_before), short(self.macs_after))
        rows.append((*total, short(self.parameters_before), short(self.parameters_after), "", f"bases: {short(self.basis_values)} values"))
        return aligned([header, *rows], right=range(2, 9))


def algorithm_id(algorithm: Algorithm) -> str:
    """The id of an algorithm, or of the one a basis started from."""
    return algorithm.algorithm_id if isinstance(algorithm, Basis) else algorithm.id


def short(count: int | None) -> str:
    """A count in four digits: 812, 1.239M, 17.58G; a dash for None."""
    if count is None:
        return "-"
    size, unit = float(count), ""
    for unit in ("", "k", "M", "G", "T", "P"):
        if abs(size) < 999.95 or unit == "P":
            break
        size /= 1000
    return f"{size:.4g}{unit}"


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows of cells as columns two spaces apart; the columns numbered in `right` are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [
        [cell.rjust(width) if place in right else cell.ljust(width) for place, (cell, width) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    return "\n".join("  ".join(row).rstrip() for row in cells)

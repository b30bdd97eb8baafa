"""Pictures: error against iterations, and the frontier of error against FLOPs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from stlsearch.compare import Outcome
from stlsearch.errors import InputError
from stlsearch.registry.atomic import check_destination, write_atomic
from stlsearch.targets import Target

FORMATS = (".png", ".svg", ".pdf")


def check_picture(path: Path) -> None:
    """Refuse a file that could not be drawn, before the work is done.

    Raises:
        InputError: an extension we do not draw, or a folder that does not exist.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"cannot draw {path}: valid extensions are {', '.join(FORMATS)}")
    check_destination(path)


def draw_comparison(outcomes: Sequence[Outcome], title: str, path: Path) -> None:
    """Error against iterations: one band per strategy from its best to its worst seed, its median as a line.

    Raises:
        InputError: no strategy has a curve.
        RegistryError: the file cannot be written.
    """
    if all(outcome.refused for outcome in outcomes):
        raise InputError("there is nothing to draw: none of the strategies applies")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for outcome in outcomes:
        if outcome.refused:
            continue
        curves = outcome.curves
        (line,) = axes.plot(outcome.iterations, np.median(curves, axis=1), label=outcome.init)
        axes.fill_between(outcome.iterations, curves.min(axis=1), curves.max(axis=1), color=line.get_color(), alpha=0.2, linewidth=0)
    # Starts may lie far outside: the picture shows where the strategies are after their first tenth.
    shown = [outcome.curves[len(outcome.curves) // 10 :] for outcome in outcomes if not outcome.refused]
    low, high = min(curves.min() for curves in shown), max(np.median(curves, axis=1).max() for curves in shown)
    axes.set(
        xlabel="iterations",
        ylabel="relative squared error e",
        title=title,
        ylim=(0.95 * low, 1.05 * high if low > 0.9 else min(1.0, 1.05 * high)),
    )
    axes.grid(alpha=0.3)
    axes.legend()
    _write(figure, path)


@dataclass(frozen=True)
class Point:
    """One basis on a frontier picture: its rank and relative squared error."""

    rank: int
    error: float


def draw_frontier(target: Target, fronts: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Error against the FLOP factor, the products of the definition over r, one line per front.

    Beside it, for matrix products, what keeping r of the nmp products as they are would give.

    Raises:
        RegistryError: the file cannot be written.
    """
    products = target.trivial_rank
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for label, points in fronts.items():
        axes.plot([products / point.rank for point in points], [point.error for point in points], marker="o", markersize=4, label=label)
    ranks = np.arange(max(1, int(min((p.rank for points in fronts.values() for p in points), default=1))), products + 1)
    if target.shape is not None:
        axes.plot(products / ranks, 1 - ranks / products, linestyle="--", color="gray", label=f"keep r of {products} products")
    axes.set(
        xlabel=f"FLOP factor {products}/r (fewer multiplications)",
        ylabel="relative squared error e",
        title=f"bases of {target.slug}",
        ylim=(0, None),
    )
    axes.grid(alpha=0.3)
    axes.legend()
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lower()[1:], dpi=150)
    write_atomic(path, buffer.getvalue())

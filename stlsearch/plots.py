"""Pictures: error against iterations, the frontier of error against FLOPs, and speed against size."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stlsearch.compare import Outcome
from stlsearch.errors import InputError
from stlsearch.evaluate.measurement import Measurement
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


def draw_speedups(measurements: Sequence[Measurement], path: Path) -> None:
    """Speed-up over torch.matmul against the size, one row of panels per dtype, one panel per mode and pass, one colour per algorithm.

    Points are medians with bars between the quartiles, dashed lines the roofline's ideal, and at 1 is torch.matmul. The size of
    (M, K) times (K, N) is the cube root of MKN.

    Raises:
        InputError: nothing to draw.
        RegistryError: the file cannot be written.
    """
    if not measurements:
        raise InputError("there is nothing to draw: no measurement")
    dtypes = list(dict.fromkeys(each.dtype for each in measurements))
    ways = list(dict.fromkeys((each.mode, each.direction) for each in measurements))
    names = list(dict.fromkeys(each.name for each in measurements))
    figure = Figure(figsize=(max(5.0, 3.5 * len(ways)), 0.8 + 3.6 * len(dtypes)), layout="constrained")
    grid = figure.subplots(len(dtypes), len(ways), squeeze=False, sharex=True, sharey=True)
    for (row, dtype), (column, (mode, direction)) in itertools.product(enumerate(dtypes), enumerate(ways)):
        axes = grid[row, column]
        for number, name in enumerate(names):
            line = [each for each in measurements if (each.name, each.dtype, each.mode, each.direction) == (name, dtype, mode, direction)]
            _draw_line(axes, sorted(line, key=_side), f"C{number}")
        axes.axhline(1, color="gray", linewidth=1, label="torch.matmul")
        axes.set(title=f"{dtype}, {mode}, {direction}", xlabel="size", ylabel="speed-up over torch.matmul")
        axes.label_outer()
        axes.grid(alpha=0.3)
    # Panels share their axes: these settings, once everything is drawn, are for all.
    axes.set_ylim(bottom=0)
    axes.set_xscale("log", base=2)
    ticks = {_side(each): "x".join(map(str, dict.fromkeys(each.cost.size))) for each in measurements}
    axes.set_xticks(list(ticks), list(ticks.values()), rotation=45 if len(ticks) > 5 else 0)
    axes.minorticks_off()
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(ways) + 1), fontsize="small")
    _write(figure, path)


def _draw_line(axes: Axes, line: Sequence[Measurement], color: str) -> None:
    """One algorithm in one panel: measured with its quartiles, and the roofline's ideal dashed."""
    if not line:  # Ctrl-C came before it
        return
    at = [_side(each) for each in line]
    median = np.array([each.timing.speedup for each in line])
    bars = [median - [each.timing.low for each in line], [each.timing.high for each in line] - median]
    label = f"rank {line[0].cost.rank} ({line[0].name})"
    axes.errorbar(at, median, yerr=bars, color=color, marker="o", markersize=4, capsize=3, label=label)
    axes.plot(at, [each.ideal.speedup for each in line], color=color, linestyle="--", label=f"rank {line[0].cost.rank}, roofline")


def _side(measurement: Measurement) -> float:
    return float(np.cbrt(np.prod(measurement.cost.size, dtype=float)))


def _write(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lower()[1:], dpi=150)
    write_atomic(path, buffer.getvalue())

"""Pictures: error against iterations, and the frontier of error against FLOPs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from stlsearch.compare import Outcome
from stlsearch.errors import InputError
from stlsearch.registry.atomic import write_atomic

FORMATS = (".png", ".svg", ".pdf")


def check_picture(path: Path) -> None:
    """Refuse a file that could not be drawn, before the work is done.

    Raises:
        InputError: an extension we do not draw, or a folder that does not exist.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"cannot draw {path}: valid extensions are {', '.join(FORMATS)}")
    if not path.resolve().parent.is_dir():
        raise InputError(f"cannot draw {path}: there is no folder {path.resolve().parent}")


def draw_comparison(outcomes: Sequence[Outcome], title: str, path: Path) -> None:
    """Error against iterations: one band per strategy from its best to its worst seed, its median as a line.

    Raises:
        RegistryError: the file cannot be written.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for outcome in outcomes:
        if outcome.refused:
            continue
        curves = outcome.curves
        (line,) = axes.plot(outcome.iterations, np.median(curves, axis=1), label=outcome.init)
        axes.fill_between(outcome.iterations, curves.min(axis=1), curves.max(axis=1), color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel="iterations", ylabel="relative squared error e", title=title, ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lower()[1:], dpi=150)
    write_atomic(path, buffer.getvalue())

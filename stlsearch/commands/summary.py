"""One registered algorithm in short, as the commands show it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import click

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.registry.store import Broken, Entry


def summary(entry: Entry) -> dict[str, object]:
    """What identifies an algorithm and how good it is, for JSON output."""
    algorithm = entry.algorithm
    return {
        "name": algorithm.name,
        "id": algorithm.id,
        "target": algorithm.target.describe(),
        "tile": list(algorithm.target.shape) if algorithm.target.shape else None,
        "rank": algorithm.rank,
        "ring": algorithm.ring,
        "exact": algorithm.is_exact,
        "rel_sq_error": algorithm.error,
        "rel_error": math.sqrt(algorithm.error),
        "missing_products": algorithm.missing_products,
        "amplification": algorithm.amplification,
        "metric": None if algorithm.metric is None else algorithm.metric.source,
        "metric_rel_sq_error": algorithm.metric_error,
        "metric_amplification": algorithm.metric_amplification,
        "where": entry.layer,
        "path": str(entry.path),
    }


def metric_rows(algorithm: BilinearAlgorithm) -> list[tuple[str, str]]:
    """The metric an algorithm was made for and its measures under it, as rows of a table."""
    metric = algorithm.metric
    if metric is None or algorithm.metric_error is None:
        return [("metric", "white")]
    return [
        ("metric", f"{metric.source}{'' if metric.channels is None else ', channels regrouped'}"),
        ("under the metric", f"{algorithm.metric_error:.6g} (e_metric), {algorithm.metric_amplification:.4g} (g_metric)"),
    ]


def missing(algorithm: BilinearAlgorithm, digits: int) -> str:
    """k = ||T||^2 e, which for a matrix product counts scalar products."""
    whole = f"{algorithm.target.norm_sq:g}"
    return f"{algorithm.missing_products:.{digits}g} of {f'{whole} products' if algorithm.target.shape else f'||T||^2 = {whole}'}"


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows of cells as aligned columns two spaces apart; the columns numbered in `right` are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width) for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def report_broken(broken: Sequence[Broken]) -> None:
    """Name every skipped file and why, one line each on stderr."""
    for file in broken:
        click.echo(printable(f"skipped {file.path}: {file.reason}"), err=True)


def printable(text: str) -> str:
    """Control characters escaped: a file from elsewhere must not drive the terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)

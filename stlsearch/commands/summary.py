"""One registered algorithm in short, as the commands show it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import click

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
        "where": entry.layer,
        "path": str(entry.path),
    }


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

"""`stlsearch import`: algorithms from files and folders into the registry."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from stlsearch.bulk import Intake, Row, collect, summary
from stlsearch.commands.options import INTERRUPTED, TileType, emit_json, json_option, registry_option, uninterrupted
from stlsearch.commands.storing import report_equivalent
from stlsearch.commands.summary import printable, table
from stlsearch.identity.duplicates import Stored, add_unless_equivalent
from stlsearch.registry.formats import READERS, Read, read_all
from stlsearch.registry.formats.scheme import ring_name
from stlsearch.registry.store import Registry
from stlsearch.targets import Target

LOG_SECONDS = 5.0


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "format_name", type=click.Choice(list(READERS)), help="By default recognised by ending and content.")
@click.option("--ring", help="To read files of other programs over: Z2, Z, Q, R, ...  By default what they claim, or the smallest.")
@click.option("--tile", type=TileType(), help="The sizes, for files that do not say them.  By default deduced.")
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Folders within folders too.")
@click.option("--keep-equivalent", is_flag=True, help="Also add what is a registered algorithm in another basis, and no better.")
@click.option("--dry-run", is_flag=True, help="Report only; nothing is added.")
@registry_option()
@json_option()
def command(
    files: tuple[Path, ...],
    format_name: str | None,
    ring: str | None,
    tile: Target | None,
    recursive: bool,
    keep_equivalent: bool,
    dry_run: bool,
    registry: Registry,
    as_json: bool,
) -> int:
    """Add algorithms to the registry from FILES, or from all files of a folder.

    Read are what `stlsearch export` writes (json, npz, safetensors), plain JSON (docs/format.md), and the files of AlphaTensor,
    AlphaEvolve, the FMM catalogue, flip graphs, Perminov's catalogue, fast-matmul, PLinOpt and flip-cpd (docs/exchange.md). Of
    PLinOpt's three files name one, or their common beginning.

    Which convention the factors follow (C or its transpose, row- or column-major) is found out and said on stderr, and every
    exact algorithm is verified in exact arithmetic. FILES are all checked before any is added. What is a registered algorithm in
    another basis, with no fewer additions and no lower amplification, is not added: the name printed is that of the registered one.

    A folder, or --dry-run, gives a report instead: every algorithm is new, better (than the registered ranks), duplicate (not
    added), invalid (with the reason) or skipped. Exit code 1 when there were invalid ones.
    """
    ring = None if ring is None else ring_name(ring)
    shape = None if tile is None else tile.shape
    folders = [path for path in files if os.path.isdir(path)]  # noqa: PTH112 (the methods of Path raise on names that are too long)
    if dry_run or folders:
        return _report(collect(files, recursive), Intake(registry, dry_run, format_name, ring, shape, keep_equivalent), folders, as_json)
    found = [(path, read) for path in files for read in read_all(path, format_name, ring, shape)]
    stored: list[Stored] = []
    interrupts: list[bool] = []
    with uninterrupted(lambda: interrupts.append(True)):  # what was added is told
        for _, read in found:
            if interrupts:
                break
            stored.append(add_unless_equivalent(read.algorithm, registry, keep_equivalent))
    del found[len(stored) :]
    for each in stored:
        if not as_json:
            click.echo(each.entry.algorithm.name)
        report_equivalent(each)
    if as_json:
        documents = [_read_document(path, read, each) for (path, read), each in zip(found, stored, strict=True)]
        emit_json({"algorithms": documents})
    for (path, remarks), count in Counter((path, read.remarks) for path, read in found if read.remarks).items():
        several = f" ({count} algorithms)" if count > 1 else ""
        click.echo(printable(f"{path}: read as {'; '.join(remarks)}{several}"), err=True)
    return INTERRUPTED if interrupts else 0


def _report(files: list[Path], intake: Intake, folders: Sequence[Path], as_json: bool) -> int:
    if not intake.dry_run:
        intake.registry.check_writable()
    rows: list[Row] = []
    line = _Progress(len(files))
    interrupted = False
    try:
        for index, path in enumerate(files):
            for row in intake.take(path):
                rows.append(row)
                line(index, rows)
    except KeyboardInterrupt:  # what was added stays: each algorithm is complete
        interrupted = True
    line.close()
    counts = summary(rows)
    if as_json:
        emit_json({"dry_run": intake.dry_run, "interrupted": interrupted, "summary": counts, "rows": [_document(row) for row in rows]})
    else:
        head = ("file", "tile", "rank", "ring", "verdict", "")
        if rows:
            click.echo(table([head, *(_cells(row, folders) for row in rows)], right=(2,)))
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        click.echo(f"{told}{'; nothing was added (--dry-run)' if intake.dry_run else ''}")
    if interrupted:
        click.echo(f"interrupted after {len({row.path for row in rows})} of {len(files)} files", err=True)
        return INTERRUPTED
    return 1 if counts["invalid"] else 0


class _Progress:
    """How far the files are, on stderr: a line rewritten in a terminal, one every few seconds elsewhere."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.terminal = sys.stderr.isatty()
        self.last = time.monotonic()
        self.width = 0

    def __call__(self, done: int, rows: Sequence[Row]) -> None:
        now = time.monotonic()
        if now - self.last < (0.1 if self.terminal else LOG_SECONDS):
            return
        self.last = now
        told = ", ".join(f"{count} {verdict}" for verdict, count in summary(rows).items() if count)
        text = f"file {done + 1} of {self.total}: {told}"
        if not self.terminal:
            click.echo(text, err=True)
            return
        text = text[: shutil.get_terminal_size().columns - 1]
        click.echo("\r" + text.ljust(self.width), nl=False, err=True)
        self.width = len(text)

    def close(self) -> None:
        if self.width:
            click.echo("\r" + " " * self.width + "\r", nl=False, err=True)


def _cells(row: Row, folders: Sequence[Path]) -> tuple[str, ...]:
    name = next((str(row.path.relative_to(folder)) for folder in folders if row.path.is_relative_to(folder)), str(row.path))
    where = printable(f"{name}, {row.label}" if row.label else name)
    if row.algorithm is None:
        return where, "", "", "", row.verdict, printable(row.detail)
    algorithm = row.algorithm
    return where, algorithm.target.slug, str(algorithm.rank), algorithm.ring, row.verdict, printable(row.detail)


def _document(row: Row) -> dict[str, object]:
    algorithm = row.algorithm
    return {
        "file": str(row.path),
        "label": row.label,
        "format": row.format,
        "verdict": row.verdict,
        "detail": row.detail,
        "name": None if algorithm is None else algorithm.name,
        "id": None if algorithm is None else algorithm.id,
        "tile": None if algorithm is None or algorithm.target.shape is None else list(algorithm.target.shape),
        "rank": None if algorithm is None else algorithm.rank,
        "ring": None if algorithm is None else algorithm.ring,
        "remarks": list(row.remarks),
    }


def _read_document(path: Path, read: Read, stored: Stored) -> dict[str, object]:
    row = Row(
        path, read.label, "imported" if stored.is_kept else "duplicate", stored.remark or "", read.format, read.algorithm, read.remarks
    )
    return {**_document(row), "registered": stored.entry.algorithm.name}

"""`stlsearch search`: exact algorithms by a walk on the flip graph, or from random numeric starts."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import click

from stlsearch.commands.options import (
    INTERRUPTED,
    CountType,
    RankType,
    command_line,
    emit_json,
    json_option,
    registry_option,
    seed_option,
    tile_option,
    uninterrupted,
)
from stlsearch.commands.summary import summary, table
from stlsearch.constructions.expression import construct
from stlsearch.constructions.simplify import simplify
from stlsearch.errors import InputError
from stlsearch.registry.store import Entry, Registry
from stlsearch.search.flip_state import RINGS
from stlsearch.search.flips import SYMMETRIES, flip_search
from stlsearch.search.rounding import GRIDS, Discovery, Stats, discover
from stlsearch.targets import Target

PROGRESS_SECONDS = 1.0
METHODS = ("flips", "numeric")
MAX_FLIPS, MAX_STARTS = 1_000_000_000, 100_000


@click.command("search")
@tile_option()
@click.option(
    "--rank", "--target-rank", "target_rank", type=RankType(), required=True, help="Stop when an algorithm of this rank is found."
)
@click.option("--method", default="flips", show_default=True, help=f"{' or '.join(METHODS)}.")
@seed_option("Seed of the walk, or of the starts.")
@click.option("--max-flips", type=CountType("flips"), help=f"Budget of flips: pairs of terms tried.  [default: {MAX_FLIPS}]")
@click.option("--walkers", type=CountType("walkers"), help="Of flips: walks side by side.  [default: one for each CPU]")
@click.option("--symmetry", help=f"Of flips: {' or '.join(SYMMETRIES)}; cyclic for square products.  [default: none]")
@click.option(
    "--plateau", type=CountType("flips"), help="Of flips: tries without a lower rank before a detour.  [default: 500; cyclic: 5000]"
)
@click.option(
    "--patience",
    type=CountType("flips"),
    help="Of flips: tries without a lower rank before a walk begins anew.  [default: 5e7; cyclic: 2e7]",
)
@click.option("--start", help="Of flips: a formula as for construct, or a registered name.  [default: the standard algorithm]")
@click.option("--max-starts", type=CountType("starts"), help=f"Budget of numeric: random starts.  [default: {MAX_STARTS}]")
@click.option("--count", type=CountType("algorithms"), help="For numeric: stop after so many algorithms.  [default: 1]")
@click.option("--ring", help=f"{', '.join(RINGS)} for flips, {' or '.join(GRIDS)} for numeric.  [default: Z]")
@registry_option()
@json_option()
def command(
    tile: Target,
    target_rank: int,
    method: str,
    seed: int,
    max_flips: int | None,
    walkers: int | None,
    symmetry: str | None,
    plateau: int | None,
    patience: int | None,
    start: str | None,
    max_starts: int | None,
    count: int | None,
    ring: str | None,
    registry: Registry,
    as_json: bool,
) -> int:
    """Search an exact algorithm, by flips from the standard algorithm or from random numeric starts.

    \b
    stlsearch search --tile 3 --rank 23 --seed 1
    stlsearch search --tile 4 --rank 49 --symmetry cyclic
    stlsearch search --tile 4 --rank 47 --ring Z2 --max-flips 1000000000000
    stlsearch search --tile 3x3x4 --rank 29 --method numeric

    flips walks over algorithms with coefficients -1, 0, 1 (over Z, or modulo 2 or 3) and keeps the lowest rank it meets. numeric
    fits algorithms of the given rank, moves them to sparse ones, and rounds those. What is found over Z is moved to a basis of
    lower amplification where there is one, verified in exact arithmetic and stored. Ctrl-C keeps it too, and exits with code 130.
    Exit code 1: the budget ended before the goal.
    """
    tile.check_rank(target_rank)
    if method not in METHODS:
        raise InputError(f"unknown method {method!r:.20}; valid: {', '.join(METHODS)}")
    for name, value, owner in (
        ("--max-flips", max_flips, "flips"),
        ("--walkers", walkers, "flips"),
        ("--symmetry", symmetry, "flips"),
        ("--plateau", plateau, "flips"),
        ("--patience", patience, "flips"),
        ("--start", start, "flips"),
        ("--max-starts", max_starts, "numeric"),
        ("--count", count, "numeric"),
    ):
        if value is not None and owner != method:
            raise InputError(f"{name} belongs to --method {owner}, not to {method}")
    registry.check_writable()
    if method == "flips":
        first = None if start is None else construct(start, lambda name: registry.get(name).algorithm)
        team = walkers or os.cpu_count() or 1
        walks = {
            "ring": ring or "Z",
            "symmetry": symmetry or "none",
            "walkers": team,
            "plateau": plateau,
            "patience": patience,
            "start": first,
        }
        return _flips(tile, target_rank, seed, max_flips or MAX_FLIPS, walks, registry, as_json)
    return _numeric(tile, target_rank, seed, count or 1, max_starts or MAX_STARTS, ring or "Z", registry, as_json)


def _flips(tile: Target, target_rank: int, seed: int, max_flips: int, walks: dict[str, Any], registry: Registry, as_json: bool) -> int:
    watch = ProgressWatch()

    def told(flips: int, rank: int, lowest: int) -> bool:
        return watch(f"{flips} flips tried, rank {rank}, lowest {lowest}")

    with uninterrupted(watch.interrupt):  # a walk must not be torn apart inside a flip
        found = flip_search(tile, target_rank, seed, max_flips, told, threads=os.cpu_count() or 1, **walks)
        watch.close()
        if found.rank == (walks["start"].rank if walks["start"] else tile.trivial_rank) and found.rank > target_rank:
            click.echo(f"nothing below rank {found.rank} was found in {found.provenance['flips']} flips; nothing was saved", err=True)
            return INTERRUPTED if watch.interrupted else 1
        better = simplify(found) if found.is_real and tile.shape is not None else found
        team = (
            "" if "--walkers" in command_line() else f" --walkers {walks['walkers']}"
        )  # the result depends on it, the default on the machine
        algorithm = better.with_provenance(**{**found.provenance, "command": command_line() + team})
        registry.add(algorithm)
        entry = registry.get(algorithm.name)
    reached = algorithm.rank <= target_rank
    if as_json:
        emit_json({"algorithm": summary(entry), "target_rank": target_rank, "reached": reached, "flips": found.provenance["flips"]})
    else:
        rows = [
            ("name", algorithm.name),
            ("rank", f"{algorithm.rank}" if reached else f"{algorithm.rank}, above the target {target_rank}"),
            *_measures(entry),
            ("flips", f"{found.provenance['flips']}, {found.provenance['ended']}"),
            ("saved", str(entry.path)),
        ]
        click.echo(table(rows))
    if watch.interrupted:
        return INTERRUPTED
    return 0 if reached else 1


def _numeric(tile: Target, rank: int, seed: int, count: int, max_starts: int, ring: str, registry: Registry, as_json: bool) -> int:
    watch = ProgressWatch()
    with uninterrupted(watch.interrupt):
        found = discover(
            tile, rank, ring=ring, seed=seed, count=count, max_starts=max_starts, callback=lambda stats: watch(progress(stats))
        )
        watch.close()
        entries = []
        for algorithm in found.algorithms:
            better = simplify(algorithm) if tile.shape is not None else algorithm
            better = better.with_provenance(**{**algorithm.provenance, "command": command_line()})
            registry.add(better)
            entries.append(registry.get(better.name))
    reached = found.status == "reached"
    if as_json:
        emit_json({"algorithms": [summary(entry) for entry in entries], "target_rank": rank, "reached": reached, **figures(found)})
    else:
        for entry in entries:
            rows = [("name", entry.algorithm.name), ("rank", str(rank)), *_measures(entry), ("saved", str(entry.path))]
            click.echo(table(rows) + "\n")
        click.echo(progress(found.stats) + f"; {'stopped' if watch.interrupted else found.status}")
    if watch.interrupted:
        return INTERRUPTED
    return 0 if reached else 1


def progress(stats: Stats) -> str:
    """The figures of a search from numeric starts, in one line."""
    each = f", {stats.core_seconds / stats.exact:.3g} s each" if stats.exact else ""
    converged = f"{stats.starts} starts, {stats.converged} converged, {stats.rounds} rounded"
    return f"{converged}, {stats.exact} exact, {stats.core_seconds:.1f} core seconds{each}"


def figures(found: Discovery) -> dict[str, object]:
    """The figures of a search from numeric starts, for JSON output."""
    stats = found.stats
    return {
        "status": found.status,
        "starts": stats.starts,
        "converged": stats.converged,
        "rounded": stats.rounds,
        "exact": stats.exact,
        "core_seconds": stats.core_seconds,
    }


def _measures(entry: Entry) -> list[tuple[str, str]]:
    algorithm = entry.algorithm
    return [
        ("amplification", f"{algorithm.amplification:.6g} (g)"),
        ("ring", f"{algorithm.ring}, exact over {', '.join(algorithm.valid_rings())}"),
    ]


class ProgressWatch:
    """Shows a search's progress on stderr now and then, and asks it to stop after Ctrl-C."""

    def __init__(self) -> None:
        self.interrupted = False
        self.began = self.last = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def interrupt(self) -> None:
        self.interrupted = True

    def __call__(self, text: str) -> bool:
        now = time.monotonic()
        if now - self.last >= (PROGRESS_SECONDS if self.terminal else 5 * PROGRESS_SECONDS):
            self.last = now
            text = f"[{now - self.began:6.1f} s] {text}"
            click.echo(("\r" if self.terminal else "") + text.ljust(90), nl=not self.terminal, err=True)
        return self.interrupted

    def close(self) -> None:
        if self.terminal:
            click.echo("\r" + " " * 90 + "\r", nl=False, err=True)

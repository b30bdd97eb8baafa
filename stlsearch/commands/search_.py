"""`stlsearch search`: exact algorithms by a walk on the flip graph."""

from __future__ import annotations

import sys
import time

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
from stlsearch.constructions.simplify import simplify
from stlsearch.registry.store import Registry
from stlsearch.search.flips import flip_search
from stlsearch.targets import Target

PROGRESS_SECONDS = 1.0


@click.command("search")
@tile_option()
@click.option("--target-rank", type=RankType(), required=True, help="Stop when an algorithm of this rank is found.")
@seed_option("Seed of the walk.")
@click.option("--max-flips", type=CountType("flips"), default=20_000_000, show_default=True, help="Budget: pairs of terms tried.")
@registry_option()
@json_option()
def command(tile: Target, target_rank: int, seed: int, max_flips: int, registry: Registry, as_json: bool) -> int:
    """Search an exact algorithm with coefficients -1, 0, 1 by flips from the standard algorithm.

    \b
    stlsearch search --tile 2x3x3 --target-rank 15 --seed 1

    The lowest rank found is moved to a basis of lower amplification, verified and stored. Ctrl-C keeps it too, and exits
    with code 130. Exit code 1: the budget ended above the target rank.
    """
    tile.check_rank(target_rank)
    registry.check_writable()
    watch = _Watch()
    with uninterrupted(watch.interrupt):  # a walk must not be torn apart inside a flip
        found = flip_search(tile, target_rank, seed, max_flips, watch)
        watch.close()
        if found.rank == tile.trivial_rank and found.rank > target_rank:
            click.echo(f"nothing below rank {found.rank} was found in {found.provenance['flips']} flips; nothing was saved", err=True)
            return INTERRUPTED if watch.interrupted else 1
        algorithm = simplify(found).with_provenance(**{**found.provenance, "command": command_line()})
        registry.add(algorithm)
        entry = registry.get(algorithm.name)
    reached = algorithm.rank <= target_rank
    if as_json:
        emit_json({"algorithm": summary(entry), "target_rank": target_rank, "reached": reached, "flips": found.provenance["flips"]})
    else:
        rows = [
            ("name", algorithm.name),
            ("rank", f"{algorithm.rank}" if reached else f"{algorithm.rank}, above the target {target_rank}"),
            ("amplification", f"{algorithm.amplification:.6g} (g)"),
            ("ring", f"{algorithm.ring}, exact over {', '.join(algorithm.valid_rings())}"),
            ("flips", f"{found.provenance['flips']}, {found.provenance['ended']}"),
            ("saved", str(entry.path)),
        ]
        click.echo(table(rows))
    if watch.interrupted:
        return INTERRUPTED
    return 0 if reached else 1


class _Watch:
    """The walk's callback: progress on stderr, and a stop after Ctrl-C."""

    def __init__(self) -> None:
        self.interrupted = False
        self.began = self.last = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def interrupt(self) -> None:
        self.interrupted = True

    def __call__(self, flips: int, rank: int, lowest: int) -> bool:
        now = time.monotonic()
        if now - self.last >= (PROGRESS_SECONDS if self.terminal else 5 * PROGRESS_SECONDS):
            self.last = now
            text = f"[{now - self.began:6.1f} s] {flips} flips tried, rank {rank}, lowest {lowest}"
            click.echo(("\r" if self.terminal else "") + text.ljust(70), nl=not self.terminal, err=True)
        return self.interrupted

    def close(self) -> None:
        if self.terminal:
            click.echo("\r" + " " * 70 + "\r", nl=False, err=True)

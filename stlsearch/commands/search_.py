"""`stlsearch search`: exact algorithms by a walk on the flip graph, or from random numeric starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands.options import (
    INTERRUPTED,
    CountType,
    RankType,
    command_line,
    emit_json,
    json_option,
    registry_option,
    seed_option,
    target_option,
    uninterrupted,
)
from stlsearch.commands.progress import ProgressWatch
from stlsearch.commands.storing import report_equivalent, saved_row, stored_keys
from stlsearch.commands.summary import summary, table
from stlsearch.constructions.expression import construct
from stlsearch.constructions.simplify import simplify
from stlsearch.errors import InputError
from stlsearch.identity.duplicates import Stored, add_unless_equivalent
from stlsearch.registry.atomic import check_destination
from stlsearch.registry.store import Entry, Registry
from stlsearch.search.climb import Climb, climb, is_start, ordered
from stlsearch.search.flip_state import RINGS
from stlsearch.search.flips import MAX_WALKERS, SYMMETRIES, flip_search
from stlsearch.search.gaussian_rounding import RINGS as ROUNDED
from stlsearch.search.gaussian_rounding import discover_gaussian
from stlsearch.search.rounding import GRIDS, Discovery, Stats, discover
from stlsearch.search.symmetric import default_order, discover_symmetric
from stlsearch.targets import Target

METHODS = ("flips", "sizes", "numeric", "symmetric")
MAX_FLIPS, MAX_STARTS = 1_000_000_000, 100_000
REGISTERED = "registered"


@click.command("search")
@target_option()
@click.option(
    "--rank", "--target-rank", "target_rank", type=RankType(), required=True, help="Stop when an algorithm of this rank is found."
)
@click.option("--method", default="flips", show_default=True, help=f"{', '.join(METHODS)}.")
@seed_option("Seed of the walk, or of the starts.")
@click.option("--max-flips", type=CountType("flips"), help=f"Budget of flips: pairs of terms tried.  [default: {MAX_FLIPS}]")
@click.option("--walkers", type=CountType("walkers"), help="Walks side by side.  [default: one for each CPU]")
@click.option(
    "--symmetry",
    help="Of flips: cyclic, transpose, permutations of indices such as (234) or (12)/()/(345), lists of them.  [default: none]",
)
@click.option(
    "--plateau",
    type=CountType("flips"),
    help="Of walks: tries without a lower rank before a detour.  [default: 500; sizes: 1000; cyclic: 5000; others: 500]",
)
@click.option(
    "--margin",
    type=CountType("ranks"),
    help="Of walks: ranks that detours go up.  [default: 4; small tensors: 2; cyclic: 6; others: twice their order]",
)
@click.option(
    "--patience",
    type=CountType("flips"),
    help="Of flips: tries without a lower rank before a walk begins anew.  [default: 5e7; cyclic: 2e7; others: 2e6]",
)
@click.option(
    "--start",
    multiple=True,
    help="A formula as for construct, or a registered name; for sizes also several, or 'registered'.  [default: the standard algorithm]",
)
@click.option("--every-size", is_flag=True, help="Of sizes: also store what lies lower than the registered ones of its size and ring.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Keep the state of the walks in this file, to go on with --resume.")
@click.option("--resume", type=click.Path(path_type=Path), help="Go on from a checkpoint of the same search, and keep it up to date.")
@click.option("--max-starts", type=CountType("starts"), help=f"Budget of numeric, symmetric: random starts.  [default: {MAX_STARTS}]")
@click.option("--count", type=CountType("algorithms"), help="For numeric, symmetric: stop after so many algorithms.  [default: 1]")
@click.option(
    "--group-order", type=CountType("elements"), help="Of symmetric: order of the groups drawn.  [default: 16 for sizes from 4 on, or 2]"
)
@click.option(
    "--ring",
    help=f"{', '.join(RINGS)} for flips, {', '.join(ROUNDED)} for numeric, the first three for symmetric.  [default: Z; symmetric: Q]",
)
@registry_option()
@json_option()
def command(
    target: Target,
    target_rank: int,
    method: str,
    seed: int,
    max_flips: int | None,
    walkers: int | None,
    symmetry: str | None,
    plateau: int | None,
    margin: int | None,
    patience: int | None,
    start: tuple[str, ...],
    every_size: bool,
    checkpoint: Path | None,
    resume: Path | None,
    max_starts: int | None,
    count: int | None,
    group_order: int | None,
    ring: str | None,
    registry: Registry,
    as_json: bool,
) -> int:
    """Search an exact algorithm, by flips from the standard one or between sizes, or from random numeric starts.

    \b
    stlsearch search --tile 3 --rank 23 --seed 1
    stlsearch search --tile 4 --rank 49 --symmetry cyclic
    stlsearch search --tile 4 --rank 47 --ring Z2 --symmetry "(234),(23)"
    stlsearch search --tile 3x4x5 --rank 48 --method sizes
    stlsearch search --tile 3x3x4 --rank 29 --method numeric
    stlsearch search --target complex --rank 2 --method numeric --ring "Q(i)"
    stlsearch search --tile 4 --rank 48 --method symmetric --seed 1

    flips walks over algorithms with coefficients -1, 0, 1 (over Z, or modulo 2 or 3) and keeps the lowest rank it meets. sizes
    walks on all smaller products too, and starts from what they make of each other. With --checkpoint FILE both can be
    interrupted, and go on with the same options and --resume FILE as if nothing had happened. numeric fits algorithms of the given
    rank, moves them to sparse ones, and rounds those; for Q, Z[i] and Q(i) it fits complex ones, in bases made of their own terms.
    symmetric fits algorithms that random groups of changes of basis leave as they are, which have far fewer unknowns.
    What is found over Z is moved to a basis of lower amplification where there is one, unless it has a --symmetry other than
    cyclic, which it would lose; it is verified in exact arithmetic and stored. Ctrl-C keeps it too, and exits with code 130. Exit
    code 1: the budget ended before the goal.
    """
    target.check_rank(target_rank)
    if method not in METHODS:
        raise InputError(f"unknown method {method!r:.20}; valid: {', '.join(METHODS)}")
    if method != "numeric" and target.shape is None:
        raise InputError(f"--method {method} is for matrix products, not for {target.slug}; valid: --method numeric")
    both = ("flips", "sizes")
    for name, value, owners in (
        ("--max-flips", max_flips, both),
        ("--walkers", walkers, both),
        ("--symmetry", symmetry, ("flips",)),
        ("--plateau", plateau, both),
        ("--margin", margin, both),
        ("--patience", patience, ("flips",)),
        ("--start", start or None, both),
        ("--every-size", every_size or None, ("sizes",)),
        ("--checkpoint", checkpoint, both),
        ("--resume", resume, both),
        ("--max-starts", max_starts, ("numeric", "symmetric")),
        ("--count", count, ("numeric", "symmetric")),
        ("--group-order", group_order, ("symmetric",)),
    ):
        if value is not None and method not in owners:
            raise InputError(f"{name} belongs to --method {' and '.join(owners)}, not to {method}")
    registry.check_writable()
    if method == "symmetric":
        order = group_order or default_order(target)
        search = partial(discover_symmetric, order=order, ring=ring or "Q", threads=os.cpu_count() or 1)
        return _numeric(search, target, target_rank, seed, count, max_starts, {"group_order": order}, registry, as_json)
    ring = "Z" if ring is None else ring
    if method == "numeric":
        search = partial(discover if ring in GRIDS else discover_gaussian, ring=ring)
        return _numeric(search, target, target_rank, seed, count, max_starts, {}, registry, as_json)
    if checkpoint is not None and checkpoint != resume and checkpoint.exists():
        raise InputError(f"{checkpoint} exists: go on from it with --resume, or remove it")
    kept = checkpoint or resume
    if kept is not None:
        check_destination(kept)
    walks: dict[str, Any] = {
        "ring": ring,
        "walkers": walkers or min(os.cpu_count() or 1, MAX_WALKERS),
        "checkpoint": kept,
        "resume": resume,
    }
    walks |= {name: value for name, value in (("plateau", plateau), ("margin", margin)) if value is not None}
    if method == "sizes":
        return _sizes(target, target_rank, seed, max_flips or MAX_FLIPS, start, every_size, walks, registry, as_json)
    if len(start) > 1 or REGISTERED in start:
        raise InputError("walks of --method flips have one --start, a formula or a name; several, or 'registered', are for --method sizes")
    walks |= {
        "symmetry": "none" if symmetry is None else symmetry,
        "patience": patience,
        "start": _started(start[0], registry) if start else None,
    }
    return _flips(target, target_rank, seed, max_flips or MAX_FLIPS, walks, registry, as_json)


def _started(text: str, registry: Registry) -> BilinearAlgorithm:
    return construct(text, lambda name: registry.get(name).algorithm)


def _flips(tile: Target, target_rank: int, seed: int, max_flips: int, walks: dict[str, Any], registry: Registry, as_json: bool) -> int:
    watch = ProgressWatch()

    def told(flips: int, rank: int, lowest: int) -> bool:
        return watch(f"{flips} flips tried, rank {rank}, lowest {lowest}")

    with uninterrupted(watch.interrupt):  # a walk must not be torn apart inside a flip
        found = flip_search(tile, target_rank, seed, max_flips, told, threads=os.cpu_count() or 1, **walks)
        first = walks["start"].rank if walks["start"] else tile.trivial_rank
        if walks["symmetry"] in SYMMETRIES:  # others belong to the basis: in another one no walk with them could start from it
            found = _simplified(found)
        return _kept(found, first, target_rank, watch, {"walkers": walks["walkers"]}, registry, as_json)


def _sizes(
    tile: Target,
    target_rank: int,
    seed: int,
    max_flips: int,
    start: tuple[str, ...],
    every_size: bool,
    walks: dict[str, Any],
    registry: Registry,
    as_json: bool,
) -> int:
    watch = ProgressWatch()
    names = [name for text in start for name in (_registered(tile, walks["ring"], registry) if text == REGISTERED else [text])]
    starts = [_started(text, registry) for text in names]

    pools: dict[tuple[int, int, int], list[BilinearAlgorithm]] = {}

    def told(state: Climb) -> bool:
        pools.update(state.pools)
        place = "x".join(map(str, state.walked))
        return watch(f"{state.flips} flips tried, {place} at {state.pools[state.walked][0].rank}, lowest {state.best.rank}")

    with uninterrupted(watch.interrupt):
        found = climb(tile, target_rank, seed, max_flips, told, threads=os.cpu_count() or 1, starts=starts, **walks)
        first = min([tile.trivial_rank, *(each.rank for each in starts if each.target == tile)])
        recorded = {"walkers": walks["walkers"], **({"start": tuple(names)} if start else {})}
        others = [pool[-1] for size, pool in pools.items() if every_size and size != ordered(tile.shape)]  # type: ignore[arg-type]
        for other in others:
            known = [
                each.algorithm.rank for each in registry.find(other.target, exact=True)[0] if other.ring in each.algorithm.valid_rings()
            ]
            if other.rank < min([other.target.trivial_rank, *known]):
                kept = _store(_simplified(replace(other, provenance=found.provenance)), recorded, registry)
                click.echo(f"also saved {kept.entry.algorithm.name}", err=True)
        return _kept(_simplified(found), first, target_rank, watch, recorded, registry, as_json)


def _registered(tile: Target, ring: str, registry: Registry) -> list[str]:
    """The names of the registered algorithms that a search between sizes can start from, the lowest ranks of each size."""
    assert tile.shape is not None
    found: dict[tuple[int, ...], list[BilinearAlgorithm]] = {}
    for entry in registry.find(exact=True)[0]:
        algorithm = entry.algorithm
        shape = algorithm.target.shape
        if shape is not None and is_start(shape, tile.shape) and ring in algorithm.valid_rings() and (ring != "Z" or algorithm.is_ternary):
            found.setdefault(ordered(shape), []).append(algorithm)
    lowest = {shape: min(each.rank for each in several) for shape, several in found.items()}
    return [each.name for shape, several in found.items() for each in several if each.rank == lowest[shape]]


def _kept(
    found: BilinearAlgorithm,
    first: int,
    target_rank: int,
    watch: ProgressWatch,
    recorded: dict[str, Any],
    registry: Registry,
    as_json: bool,
) -> int:
    """Store what walks found, with the options that decided it, and tell."""
    watch.close()
    if found.rank == first and found.rank > target_rank:
        click.echo(f"nothing below rank {found.rank} was found in {found.provenance['flips']} flips; nothing was saved", err=True)
        if as_json:
            emit_json(
                {"algorithm": None, **stored_keys(None), "target_rank": target_rank, "reached": False, "flips": found.provenance["flips"]}
            )
        return INTERRUPTED if watch.interrupted else 1
    stored = _store(found, recorded, registry)
    report_equivalent(stored)
    entry = stored.entry
    algorithm = entry.algorithm
    reached = algorithm.rank <= target_rank
    if as_json:
        told = {"target_rank": target_rank, "reached": reached, "flips": found.provenance["flips"]}
        emit_json({"algorithm": summary(entry), **stored_keys(stored), **told})
    else:
        rows = [
            ("name", algorithm.name),
            ("rank", f"{algorithm.rank}" if reached else f"{algorithm.rank}, above the target {target_rank}"),
            *_measures(entry),
            ("flips", f"{found.provenance['flips']}, {found.provenance['ended']}"),
            saved_row(stored),
        ]
        click.echo(table(rows))
    if watch.interrupted:
        return INTERRUPTED
    return 0 if reached else 1


def _store(found: BilinearAlgorithm, recorded: dict[str, Any], registry: Registry) -> Stored:
    return add_unless_equivalent(found.with_provenance(command=command_line(**recorded)), registry)


def _simplified(found: BilinearAlgorithm) -> BilinearAlgorithm:
    """In a basis of lower amplification, over the reals; made as it was."""
    return simplify(found).with_provenance(**found.provenance) if found.is_real and found.target.shape is not None else found


def _numeric(
    search: Callable[..., Discovery],
    target: Target,
    rank: int,
    seed: int,
    count: int | None,
    max_starts: int | None,
    recorded: dict[str, Any],
    registry: Registry,
    as_json: bool,
) -> int:
    watch = ProgressWatch()
    with uninterrupted(watch.interrupt):
        found = search(
            target, rank, seed=seed, count=count or 1, max_starts=max_starts or MAX_STARTS, callback=lambda stats: watch(progress(stats))
        )
        watch.close()
        kept: dict[str, Stored] = {}  # what is found twice, in two bases, is named once
        for algorithm in found.algorithms:
            stored = _store(_simplified(algorithm), recorded, registry)
            report_equivalent(stored)
            kept.setdefault(stored.entry.algorithm.name, stored)
    reached = found.status == "reached"
    if as_json:
        algorithms = [{**summary(each.entry), **stored_keys(each)} for each in kept.values()]
        emit_json({"algorithms": algorithms, "target_rank": rank, "reached": reached, **figures(found)})
    else:
        for each in kept.values():
            rows = [("name", each.entry.algorithm.name), ("rank", str(each.entry.algorithm.rank)), *_measures(each.entry), saved_row(each)]
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

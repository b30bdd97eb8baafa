"""`stlsearch table`: the best exact algorithm of every size beside the records."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import click

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands.options import CountType, emit_json, json_option, registry_option, seed_option, tile_option
from stlsearch.commands.summary import report_broken, table
from stlsearch.errors import InputError
from stlsearch.records import MAX_SIZE, Record, Source, as_of
from stlsearch.registry.store import Registry
from stlsearch.standings import Additions, Standing, naive_additions, sorted_shapes, standings
from stlsearch.targets import Target

RINGS = ("Z", "Z2", "Z3", "Q")
COLUMNS = 120  # of a terminal
HEADER = ("size", "ring", "rank", "record", "", "ω", "adds", "growth", "g", "algorithm")


@click.command("table")
@click.option("--max", "largest", type=click.IntRange(1, MAX_SIZE), help=f"Largest n, m and p.  [default: {MAX_SIZE}]")
@tile_option(required=False)
@click.option("--ring", type=click.Choice([*RINGS, "all"]), default="all", show_default=True, help="Where the coefficients live.")
@click.option("--format", "layout", type=click.Choice(["text", "markdown"]), default="text", show_default=True)
@click.option(
    "--additions",
    "restarts",
    type=CountType("restarts"),
    help="Also count additions with common sums shared, by this many restarts of the elimination; slow.",
)
@seed_option("Of the elimination.")
@registry_option()
@json_option()
def command(
    largest: int | None, tile: Target | None, ring: str, layout: str, restarts: int | None, seed: int, registry: Registry, as_json: bool
) -> None:
    """Show the best exact algorithm of every size beside the records.

    \b
    stlsearch table
    stlsearch table --tile 3x4x5 --ring Z2
    stlsearch table --additions 100
    stlsearch table --format markdown

    For every n <= m <= p (other orders have the same rank) the best of the registry and of what follows from it by permutations,
    direct sums and Kronecker products: a registered name, or an expression for `stlsearch construct`. Beside it the least known
    rank over the ring and how far ours is from it: = when matched, +2 above, -1 below.

    ω = 3 log(rank)/log(nmp) is the exponent that the algorithm alone gives. adds are the additions of the three linear maps as
    they are written, shared what is left of them when common sums are computed once (--additions); growth is the sum over terms
    of |u| |v| |w|, g the amplification of rounding.
    """
    if tile is not None and largest is not None:
        raise InputError("give --tile or --max, not both")
    if as_json and layout != "text":
        raise InputError("give --json or --format markdown, not both")
    shapes = sorted_shapes(largest or MAX_SIZE) if tile is None else [tile.shape or (0, 0, 0)]
    entries, broken = registry.find(exact=True)
    report_broken(broken)
    rings = RINGS if ring == "all" else [ring]
    shared: dict[str, int] = {}
    additions = naive_additions if restarts is None else _elimination(restarts, seed, shared)
    found = standings([entry.algorithm for entry in entries], rings, shapes, additions)
    if restarts is not None:
        for standing in found:
            additions(standing.algorithm)
    if as_json:
        emit_json({"as_of": as_of(), "sources": _sources(found), "table": [_document(standing, shared) for standing in found]})
    elif layout == "markdown":
        click.echo(markdown(found, shared))
    else:
        header = _with_shared(HEADER, "shared", bool(shared))
        lines = [header, *(cells for _, cells in rows(found, shared))]
        click.echo(table(list(_wrapped(lines)), range(2, len(header) - 1)))
        click.echo("\n" + totals(found))
        if tile is not None:
            for held in dict.fromkeys(standing.record for standing in found):
                click.echo(f"record over {held.ring}: {held.rank}, {_reference(held.source)}")


def _elimination(restarts: int, seed: int, shared: dict[str, int]) -> Additions:
    """Counts additions with common sums shared, keeps them in `shared` by id and tells them on stderr."""
    from stlsearch.additions import count  # compiled code: slow to load, and seldom wanted

    def additions(algorithm: BilinearAlgorithm) -> int:
        if algorithm.id not in shared:
            shared[algorithm.id] = count(algorithm, restarts, seed).total
            click.echo(f"{algorithm.name}: {shared[algorithm.id]} additions, {algorithm.additions} as written", err=True)
        return shared[algorithm.id]

    return additions


def rows(found: Iterable[Standing], shared: Mapping[str, int] | None = None) -> Iterator[tuple[Record, tuple[str, ...]]]:
    """One row of cells for every size and algorithm, rings of one algorithm and one record together, with the record.

    Args:
        shared: additions with common sums shared, by id; a column of their own unless there are none.
    """
    for shape, here in groupby(found, key=lambda standing: standing.shape):
        together: dict[tuple[str, Record], list[Standing]] = {}
        for standing in here:
            together.setdefault((standing.expression, standing.record), []).append(standing)
        for same in together.values():
            first, algorithm = same[0], same[0].algorithm
            cells = (
                "x".join(map(str, shape)),
                " ".join(standing.ring for standing in same),
                str(algorithm.rank),
                str(first.record.rank),
                f"{first.gap:+d}" if first.gap else "=",
                "-" if first.exponent is None else f"{first.exponent:.4f}",
                str(algorithm.additions),
                "-" if first.growth_factor is None else f"{first.growth_factor:.1f}",
                f"{algorithm.amplification:.2f}" if algorithm.is_real else "-",
                first.expression,
            )
            yield first.record, _with_shared(cells, str((shared or {}).get(algorithm.id)), bool(shared))


def _with_shared(cells: tuple[str, ...], cell: str, wanted: bool) -> tuple[str, ...]:
    """The cells of a row, with one more after the additions."""
    after = HEADER.index("adds") + 1
    return (*cells[:after], cell, *cells[after:]) if wanted else cells


def _wrapped(lines: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Long expressions go on in lines of their own, so that the table fits a terminal of `COLUMNS`."""
    before = sum(max(map(len, column)) + 2 for column in list(zip(*lines, strict=True))[:-1])
    for *others, expression in lines:
        pieces = textwrap.wrap(expression, COLUMNS - before, break_long_words=False, break_on_hyphens=False)
        yield (*others, pieces[0])
        yield from ((*[""] * len(others), piece) for piece in pieces[1:])


def markdown(found: Sequence[Standing], shared: Mapping[str, int] | None = None) -> str:
    """The table with a column for the records' sources, which are listed under it, and the totals; `shared` as for `rows`."""
    header = _with_shared(HEADER, "shared", bool(shared))
    lines = ["| " + " | ".join([*header[:5], "record of", *header[5:]]) + " |"]
    lines.append("|---|---|--:|--:|:-:|---|" + "--:|" * (len(header) - 6) + "---|")
    for held, (*cells, expression) in rows(found, shared):
        lines.append("| " + " | ".join([*cells[:5], f"[{held.source.key}]", *cells[5:], f"`{expression}`"]) + " |")
    sources = dict.fromkeys(standing.record.source for standing in found)
    return "\n".join([*lines, "", totals(found), "", *(f"- [{source.key}] {_reference(source)}" for source in sources)])


def totals(found: Iterable[Standing]) -> str:
    """How many records are matched and beaten over each ring; products with a size of 1, where nmp is optimal, are left out."""
    counts: dict[str, list[int]] = {}
    for standing in found:
        if min(standing.shape) > 1:
            counts.setdefault(standing.ring, []).append(standing.gap)
    if not counts:
        return "No records to match: with a size of 1 the standard algorithm is optimal."
    matched = ", ".join(f"{ring} {sum(gap == 0 for gap in gaps)}/{len(gaps)}" for ring, gaps in counts.items())
    beaten = ", ".join(f"{ring} {sum(gap < 0 for gap in gaps)}" for ring, gaps in counts.items() if min(gaps) < 0)
    return f"Records of {as_of()} for sizes of 2 and more, matched: {matched}; beaten: {beaten or 'none'}."


def _document(standing: Standing, shared: Mapping[str, int]) -> dict[str, object]:
    algorithm = standing.algorithm
    return {
        "tile": list(standing.shape),
        "ring": standing.ring,
        "rank": algorithm.rank,
        "record": {"rank": standing.record.rank, "ring": standing.record.ring, "source": standing.record.source.key},
        "above_record": standing.gap,
        "exponent": standing.exponent,
        "additions": algorithm.additions,
        "additions_shared": shared.get(algorithm.id),
        "growth_factor": standing.growth_factor,
        "amplification": algorithm.amplification if algorithm.is_real else None,
        "algorithm": {
            "expression": standing.expression,
            "registered": standing.registered,
            "name": algorithm.name,
            "id": algorithm.id,
            "ring": algorithm.ring,
        },
    }


def _sources(found: Iterable[Standing]) -> dict[str, object]:
    used = dict.fromkeys(standing.record.source for standing in found)
    return {source.key: {"text": source.text, "url": source.url} for source in used}


def _reference(source: Source) -> str:
    return source.text if source.url is None else f"{source.text} {source.url}"

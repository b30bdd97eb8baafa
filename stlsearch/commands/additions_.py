"""`stlsearch additions`: additions with shared sums, straight-line programs as code, and equivalent algorithms that take fewer."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from stlsearch.additions import Additions, count
from stlsearch.additions.eliminate import RESTARTS
from stlsearch.additions.emit import LANGUAGES, emit
from stlsearch.additions.exchange import MOVES, Exchange, exchange
from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands.options import (
    INTERRUPTED,
    CountType,
    emit_json,
    json_option,
    registry_option,
    seed_option,
    uninterrupted,
)
from stlsearch.commands.progress import ProgressWatch
from stlsearch.commands.summary import summary, table
from stlsearch.constructions.expression import construct
from stlsearch.errors import InputError
from stlsearch.registry.atomic import check_destination, write_atomic
from stlsearch.registry.store import Registry

EXCHANGE_RESTARTS = 1000
MAPS = ("U vec A", "V vec B", "W^T products")


@click.command("additions")
@click.argument("expression")
@click.option(
    "--restarts",
    type=CountType("restarts"),
    help=f"Eliminations for each of the three maps.  [default: {RESTARTS}; with --exchange {EXCHANGE_RESTARTS}]",
)
@click.option(
    "--exchange", "exchanged", is_flag=True, help="Look for an equivalent or neighbouring algorithm that takes fewer, and store it."
)
@click.option("--walk", type=CountType("moves"), help=f"Of --exchange: budget of flips and changes of basis.  [default: {MOVES}]")
@seed_option("Seed of the eliminations and of the walk.")
@click.option("--emit", "language", help=f"Write a program with shared sums: {', '.join(LANGUAGES)}.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Of --emit: the file to write, instead of stdout.")
@registry_option()
@json_option()
def command(
    expression: str,
    restarts: int | None,
    exchanged: bool,
    walk: int | None,
    seed: int,
    language: str | None,
    out: Path | None,
    registry: Registry,
    as_json: bool,
) -> int:
    """Count additions, and write straight-line programs with shared sums.

    \b
    stlsearch additions "winograd*winograd"
    stlsearch additions strassen --exchange
    stlsearch additions laderman --emit python --out laderman.py

    EXPRESSION is a registered name or a formula as for construct. Sums that several products or entries of C have in common are computed
    once. With --exchange a walk over algorithms of the same rank looks for one that takes fewer; it is verified and stored. Ctrl-C keeps
    the best so far, and exits with code 130.
    """
    if walk is not None and not exchanged:
        raise InputError("--walk belongs to --exchange")
    if out is not None and language is None:
        raise InputError(f"--out belongs to --emit, one of {', '.join(LANGUAGES)}")
    if language is not None and language not in LANGUAGES:
        raise InputError(f"unknown language {language!r:.20}; valid: {', '.join(LANGUAGES)}")
    if language is not None and out is None and as_json:
        raise InputError("--json and --emit both write to stdout: name a file with --out")
    if out is not None:
        check_destination(out)
    algorithm = construct(expression, lambda name: registry.get(name).algorithm)
    document: dict[str, object] = {}
    interrupted = False
    if exchanged:
        registry.check_writable()
        start = algorithm
        walk, restarts = walk or MOVES, restarts or EXCHANGE_RESTARTS
        written = f"stlsearch additions {shlex.quote(expression)} --exchange --walk {walk} --restarts {restarts} --seed {seed}"
        found, interrupted = _exchange(start, walk, restarts, seed)
        algorithm, additions = found.algorithm, found.additions
        document["exchange"] = {"start": start.name, "moves": found.moves, "ended": found.ended, "better": algorithm is not start}
        if algorithm is not start:
            algorithm = algorithm.with_provenance(command=written, additions=additions.total)
            registry.add(algorithm)
            document["algorithm"] = summary(registry.get(algorithm.name))
    else:
        additions = count(algorithm, restarts or RESTARTS, seed)
    text = None if language is None else emit(algorithm, additions, language)
    if text is not None and out is not None:
        write_atomic(out, text.encode())
        click.echo(f"wrote {out}", err=True)
    elif text is not None:
        click.echo(text, nl=False)
        return INTERRUPTED if interrupted else 0
    if as_json:
        emit_json({"name": algorithm.name, "rank": algorithm.rank, **_figures(additions), **document})
    else:
        click.echo(algorithm.name)
        click.echo(_table(additions))
        if exchanged:
            saved = (
                f"saved {registry.get(algorithm.name).path}" if algorithm is not start else "nothing better was found; nothing was saved"
            )
            click.echo(f"{found.moves} moves, {found.ended}; {saved}")
    return INTERRUPTED if interrupted else 0


def _exchange(start: BilinearAlgorithm, moves: int, restarts: int, seed: int) -> tuple[Exchange, bool]:
    watch = ProgressWatch()
    with uninterrupted(watch.interrupt):
        found = exchange(start, moves, restarts, seed, lambda made, fewest: watch(f"{made} moves, at most {fewest} additions"))
        watch.close()
    return found, watch.interrupted


def _figures(additions: Additions) -> dict[str, object]:
    return {
        "naive": {
            "encode_a": additions.naive[0],
            "encode_b": additions.naive[1],
            "decode": additions.naive[2],
            "total": sum(additions.naive),
        },
        "additions": {"encode_a": additions.encode_a, "encode_b": additions.encode_b, "decode": additions.decode, "total": additions.total},
        "scalings": additions.scalings,
    }


def _table(additions: Additions) -> str:
    rows = [("", "as written", "shared", "scalings")]
    for name, naive, program in zip(MAPS, additions.naive, additions.programs, strict=True):
        rows.append((name, str(naive), str(program.additions), str(program.scalings)))
    rows.append(("additions", str(sum(additions.naive)), str(additions.total), str(additions.scalings)))
    return table(rows, right=(1, 2, 3))

"""`stlsearch sparsify`: an exact algorithm as a sparse core between changes of basis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import click

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
from stlsearch.commands.summary import table
from stlsearch.exact import ExactMatrix
from stlsearch.registry.atomic import check_destination, write_atomic
from stlsearch.registry.store import Registry

if TYPE_CHECKING:
    from stlsearch.additions.alternative_basis import AlternativeBasis


@click.command("sparsify")
@click.argument("name")
@click.option(
    "--effort",
    type=CountType("the effort"),
    default="20000000",
    show_default=True,
    help="Nodes of the enumeration of sparse vectors, for each of U, V, W; more may find a sparser core, or tell that there is none.",
)
@click.option(
    "--walk", type=CountType("the walk"), help="Steps of a walk over the flip graph to a scheme with a sparser core, which is registered."
)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the core and the bases, every coefficient exact.")
@seed_option()
@registry_option()
@json_option()
def command(name: str, effort: int, walk: int | None, out: Path | None, seed: int, registry: Registry, as_json: bool) -> int:
    """Rewrite an exact algorithm as a sparse core between changes of basis.

    NAME is a name, the beginning of one, the beginning of an id, or a .json file. U = U' F, V = V' G, W = W' H: the recursion runs
    on the core U', V', W' alone, whose additions make up the leading coefficient; F and G are applied to the matrices once before
    it, H^T to the result once after. With --walk, other schemes of the same rank are tried; Ctrl-C keeps the best so far.
    """
    if out is not None:
        check_destination(out)
    algorithm = registry.get(name).algorithm
    # Only now: Numba takes a second to load, and --help and mistyped names should not wait for it.
    from stlsearch.additions.alternative_basis import sparsify

    interrupted = False
    if walk is not None:
        algorithm, interrupted = _walked(algorithm, walk, seed, registry)
    form = sparsify(algorithm, budget=effort, seed=seed, progress=lambda line: click.echo(line, err=True))
    document = form.to_dict()
    if out is not None:
        write_atomic(out, (json.dumps({"version": 1, **document}) + "\n").encode())
        click.echo(f"wrote {out}", err=True)
    if as_json:
        emit_json(document)
    else:
        click.echo(_report(form, document))
    return INTERRUPTED if interrupted else 0


def _walked(algorithm: BilinearAlgorithm, steps: int, seed: int, registry: Registry) -> tuple[BilinearAlgorithm, bool]:
    """The scheme of the smallest core that a walk meets, registered when it is a new one; and whether Ctrl-C ended the walk."""
    from stlsearch.additions.core_walk import sparser_core

    registry.check_writable()
    watch = ProgressWatch()

    def told(step: int, best: AlternativeBasis) -> bool:
        return watch(f"step {step} of {steps}, {sum(best.additions)} additions, {sum(best.scalings)} scalings in the core")

    with uninterrupted(watch.interrupt):
        found = sparser_core(algorithm, steps, seed=seed, progress=told)
        watch.close()
        if found.id == algorithm.id:
            click.echo(f"no smaller core was found than that of {algorithm.name}", err=True)
        else:
            found = found.with_provenance(command=f"stlsearch sparsify {algorithm.name} --walk {steps} --seed {seed}")
            click.echo(f"saved {registry.add(found)}", err=True)
    return found, watch.interrupted


def _report(form: AlternativeBasis, document: dict) -> str:
    shared, naive, scalings = (document[key] for key in ("additions", "naive_additions", "scalings"))
    header = ("", "U", "V", "W", "total", "leading coefficient")
    rows = [
        ("additions", *_counts(shared["original"]), _coefficient(document["leading_coefficient"]["original"])),
        ("  each sum by itself", *_counts(naive["original"]), ""),
        ("additions of the core", *_counts(shared["core"]), _coefficient(document["leading_coefficient"]["core"])),
        ("  each sum by itself", *_counts(naive["core"]), ""),
        ("additions of the bases, once", *_counts(shared["bases"]), ""),
        *((f"scalings{of}", *_counts(scalings[key]), "") for key, of in _SCALED.items() if any(scalings[key])),
        ("non-zeros of the core", *_counts(form.nonzeros), ""),
        ("  least possible", *_counts(form.least_nonzeros), ""),
    ]
    complete = form.nonzeros == form.least_nonzeros
    notes = [
        "no bases give a sparser core: all sparser vectors were enumerated"
        if complete
        else "a sparser core may exist: more --effort would tell",
        f"core and bases over {form.ring}, inverses of the bases over {form.inverse_ring}",
    ]
    matrices = [f"{name} =\n{_matrix(basis)}" for name, basis in zip("FGH", form.bases, strict=True)]
    head = f"{form.algorithm.name}: U = U' F, V = V' G, W = W' H, verified exactly"
    return "\n\n".join(["\n".join([head, table([header, *rows], right=range(1, len(header))), *notes]), *matrices])


_SCALED = {"original": "", "core": " of the core", "bases": " of the bases"}


def _counts(counts: Sequence[int]) -> list[str]:
    return [*map(str, counts), str(sum(counts))]


def _coefficient(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _matrix(matrix: ExactMatrix) -> str:
    rows = [[str(Fraction(value, matrix.denominator)) if value else "." for value in row] for row in matrix.real.tolist()]
    return table(rows, right=range(len(rows[0])))

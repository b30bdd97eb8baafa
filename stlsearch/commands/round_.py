"""`stlsearch round`: an exact algorithm from a numeric one."""

from __future__ import annotations

import shlex

import click

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
from stlsearch.commands.search_ import figures, progress
from stlsearch.commands.summary import summary, table
from stlsearch.registry.store import Registry
from stlsearch.search.gaussian_rounding import RINGS
from stlsearch.search.round_one import round_algorithm


@click.command("round")
@click.argument("name")
@click.option("--ring", default="Z", show_default=True, help=f"Where the coefficients may lie: {', '.join(RINGS)}.")
@seed_option("Seed of the changes of basis.")
@click.option(
    "--rounds", type=CountType("rounds"), default=8, show_default=True, help="Budget: rounds of pulling to a grid, and of pinning."
)
@registry_option()
@json_option()
def command(name: str, ring: str, seed: int, rounds: int, registry: Registry, as_json: bool) -> int:
    """Round a numeric algorithm that is nearly exact to an exact one, and store that.

    \b
    stlsearch round 3x3x3_r23_R_1a2b3c4d
    stlsearch round 4x4x4_r48_C_1a2b3c4d --ring "Q(i)"

    It is moved along its solutions (changes of basis and free parameters) to a sparse one, pulled to a grid or pinned to round
    values, and verified in exact arithmetic. A complex one that is equivalent to a real one is found to be so. Z[i]: Gaussian
    integers. Exit code 1: no exact algorithm was found.
    """
    algorithm = registry.get(name).algorithm
    registry.check_writable()
    watch = ProgressWatch()
    with uninterrupted(watch.interrupt):
        found = round_algorithm(algorithm, ring, seed=seed, rounds=rounds, callback=lambda stats: watch(progress(stats)))
        watch.close()
        entry = None
        if found.algorithms:
            command_line = f"stlsearch round {algorithm.name} --ring {shlex.quote(ring)} --seed {seed} --rounds {rounds}"
            exact = found.algorithms[0].with_provenance(command=command_line)
            registry.add(exact)
            entry = registry.get(exact.name)
    if as_json:
        emit_json({"algorithm": summary(entry) if entry else None, "parent": algorithm.name, **figures(found)})
    elif entry is None:
        click.echo(f"no exact algorithm over {ring} was found from {algorithm.name}: {progress(found.stats)}", err=True)
    else:
        rows = [
            ("name", entry.algorithm.name),
            ("rounded from", algorithm.name),
            ("amplification", f"{entry.algorithm.amplification:.6g} (g)"),
            ("ring", f"{entry.algorithm.ring}, exact over {', '.join(entry.algorithm.valid_rings())}"),
            ("saved", str(entry.path)),
        ]
        click.echo(table(rows))
    if entry is None:
        return INTERRUPTED if watch.interrupted else 1
    return 0

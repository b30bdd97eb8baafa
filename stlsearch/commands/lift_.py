"""`stlsearch lift`: an algorithm over the integers or fractions from one modulo a prime."""

from __future__ import annotations

from math import lcm

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
from stlsearch.commands.storing import report_equivalent, saved_row, stored_keys
from stlsearch.commands.summary import summary, table
from stlsearch.identity.duplicates import Stored, add_unless_equivalent
from stlsearch.registry.store import Registry
from stlsearch.search.lifting import ATTEMPTS, ENOUGH, MAX_STEPS, NO_LIFT, Lifting, lift


@click.command("lift")
@click.argument("name")
@click.option(
    "--steps",
    type=click.IntRange(2, MAX_STEPS),
    help=f"Solve up to modulo p^STEPS: enough for fractions of numbers up to sqrt(p^STEPS/2).  [default: p^STEPS >= {ENOUGH}]",
)
@seed_option("Seed of the choices after the first attempt.")
@click.option("--attempts", type=CountType("attempts"), default=ATTEMPTS, show_default=True, help="Lifts to try; the simplest is kept.")
@registry_option()
@json_option()
def command(name: str, steps: int | None, seed: int, attempts: int, registry: Registry, as_json: bool) -> int:
    """Lift an algorithm over Z2, Z3, ... Zp to one over Z or fractions with the same terms modulo p, and store that.

    \b
    stlsearch lift 3x3x3_r23_Z2_1a2b3c4d
    stlsearch lift 4x4x4_r49_Z3_1a2b3c4d --attempts 30 --seed 1

    NAME is a name, the beginning of one, the beginning of an id, or a .json file. The equations are solved modulo p^2, p^3 and so
    on, the coefficients read as fractions and verified in exact arithmetic. Exit code 1: it does not lift, which is proved, or no
    lift was found, which proves nothing; the output says which. Ctrl-C keeps the simplest lift so far, and exits with code 130.
    """
    algorithm = registry.get(name).algorithm
    registry.check_writable()
    watch = ProgressWatch()

    def told(attempt: int, exponent: int, best: BilinearAlgorithm | None) -> bool:
        return watch(f"attempt {attempt}, solved modulo p^{exponent}{'' if best is None else f', lifted to {best.ring}'}")

    with uninterrupted(watch.interrupt):
        found = lift(algorithm, steps=steps, seed=seed, attempts=attempts, callback=told)
        watch.close()
        stored = None
        if found.algorithm is not None:
            used = found.algorithm.provenance["steps"]
            line = f"stlsearch lift {algorithm.name} --steps {used} --seed {seed} --attempts {attempts}"
            lifted = found.algorithm.with_provenance(command=line)
            stored = add_unless_equivalent(lifted, registry)
            report_equivalent(stored)
    if as_json:
        emit_json(_document(algorithm, found, stored))
    elif stored is None:
        click.echo(f"{algorithm.name} {found.message}" if found.status == NO_LIFT else f"{algorithm.name}: {found.message}")
    else:
        click.echo(table(_rows(algorithm, found, stored)))
    if found.stopped:
        return INTERRUPTED
    return 0 if stored is not None else 1


def _document(algorithm: BilinearAlgorithm, found: Lifting, stored: Stored | None) -> dict[str, object]:
    proof = found.obstruction
    return {
        "algorithm": None if stored is None else summary(stored.entry),
        **stored_keys(stored),
        "parent": algorithm.name,
        "status": found.status,
        "prime": found.prime,
        "exponent": found.exponent,
        "attempts": found.attempts,
        "ternary_excluded": found.ternary_excluded,
        "message": found.message,
        "certificate": None if proof is None else {"equations": [list(term) for term in proof.equations], "value": proof.value},
    }


def _rows(algorithm: BilinearAlgorithm, found: Lifting, stored: Stored) -> list[tuple[str, str]]:
    lifted = stored.entry.algorithm
    assert lifted.exact is not None
    largest = max(float(abs(factor).max()) for factor in (lifted.U, lifted.V, lifted.W))
    below = lcm(*(factor.denominator for factor in lifted.exact))
    size = "-1, 0, 1" if lifted.is_ternary else f"up to {largest:g} in size{'' if below == 1 else f', denominators dividing {below}'}"
    tried = f"modulo {found.prime}^{found.exponent}, {found.attempts} attempt{'' if found.attempts == 1 else 's'}"
    if found.ternary_excluded and stored.is_kept:
        size += "; no lift has -1, 0, 1 alone"
    return [
        ("name", lifted.name),
        ("lifted from" if stored.is_kept else "the lift of", algorithm.name if stored.is_kept else f"{algorithm.name}, in another basis"),
        ("ring", f"{lifted.ring}, exact over {', '.join(lifted.valid_rings())}"),
        ("coefficients", size),
        ("amplification", f"{lifted.amplification:.6g} (g)"),
        ("solved", tried if found.attempts else "nothing: it is exact over Z as it stands"),
        saved_row(stored),
    ]

"""`stlsearch verify`: the check in exact arithmetic."""

from __future__ import annotations

import click

from stlsearch.commands.options import emit_json, json_option, registry_option
from stlsearch.errors import InputError
from stlsearch.registry.store import Registry


@click.command("verify")
@click.argument("name")
@registry_option()
@json_option()
def command(name: str, registry: Registry, as_json: bool) -> int:
    """Verify an algorithm in exact arithmetic: every coefficient of its tensor, and its id.

    NAME is a name, the beginning of one, the beginning of an id, or a .json file. Exit code 0 when it is exact, 1 when it
    is not (inexact, wrong, tampered with or unreadable: the output says which), 2 for an unknown name.
    """
    path, _ = registry.locate(name)
    rings: list[str] = []
    try:
        algorithm = registry.get(name).algorithm
        rings = algorithm.valid_rings()
        a, b, c = algorithm.target.dims
        if rings:
            message = f"{algorithm.name} is exact over {', '.join(rings)}: all {a * b * c} coefficients checked, id matches"
        else:
            message = f"{algorithm.name} is not exact: ring {algorithm.ring}, rel_sq_error {algorithm.error:.6g}"
    except InputError as error:
        message = str(error)
    if as_json:
        emit_json({"path": str(path), "exact": bool(rings), "exact_over": rings, "message": message})
    else:
        click.echo(message)
    return 0 if rings else 1

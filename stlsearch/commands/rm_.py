"""`stlsearch rm`: an algorithm out of the user's registry."""

from __future__ import annotations

import click

from stlsearch.commands.options import registry_option
from stlsearch.registry.store import Registry


@click.command("rm")
@click.argument("name")
@registry_option()
def command(name: str, registry: Registry) -> None:
    """Remove an algorithm, or a broken file, from your own registry; shipped ones stay.

    NAME is a name, or the beginning of one or of an id that is not ambiguous.
    """
    click.echo(f"removed {registry.remove(name)}")

"""`stlsearch import`: algorithms from files into the registry."""

from __future__ import annotations

from pathlib import Path

import click

from stlsearch.commands.options import registry_option
from stlsearch.commands.summary import printable
from stlsearch.registry.formats import IMPORTERS, read_file
from stlsearch.registry.store import Registry


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "format_name", type=click.Choice(list(IMPORTERS)), help="By default what each file ends with.")
@registry_option()
def command(files: tuple[Path, ...], format_name: str | None, registry: Registry) -> None:
    """Add algorithms to the registry from FILES that `stlsearch export` wrote as json, npz or safetensors.

    Plain JSON of other collections is read too, an object with n (the sizes), U, V and W, fractions as text: docs/format.md.
    Which convention its factors follow (C or its transpose) is found out and said on stderr. All files are checked, exact
    algorithms in exact arithmetic, before any is added.
    """
    for path, algorithm in [(path, read_file(path, format_name)) for path in files]:
        registry.add(algorithm)
        click.echo(algorithm.name)
        if "convention" in algorithm.provenance:
            click.echo(printable(f"{path}: read as {algorithm.provenance['convention']}"), err=True)

"""`stlsearch export`: an algorithm in another program's format."""

from __future__ import annotations

from pathlib import Path

import click

from stlsearch.commands.options import registry_option
from stlsearch.errors import InputError
from stlsearch.registry.atomic import write_atomic
from stlsearch.registry.formats import EXPORTERS, exporter, format_of
from stlsearch.registry.store import Registry


@click.command("export")
@click.argument("name")
@click.option("--format", "format_name", type=click.Choice(list(EXPORTERS)), help="By default what --out ends with, else json.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write; text formats go to stdout without it.")
@registry_option()
def command(name: str, format_name: str | None, out: Path | None, registry: Registry) -> None:
    """Write an algorithm as JSON, npz, safetensors, a Python module or LaTeX.

    NAME is a name, the beginning of one, the beginning of an id, or a .json file. json, npz and safetensors hold every
    digit and can be imported again; docs/format.md describes them.
    """
    if format_name is None and out is not None and format_of(out) is None:
        raise InputError(f"--out {out} names no format by its ending: give --format, one of {', '.join(EXPORTERS)}")
    format_name = format_name or (format_of(out) if out else None) or "json"
    chosen = exporter(format_name)
    if out is None and not chosen.is_text:
        raise InputError(f"{format_name} is binary: name a file with --out")
    data = chosen.write(registry.get(name).algorithm)
    if out is None:
        click.echo(data, nl=False)
    else:
        write_atomic(out, data)
        click.echo(f"wrote {out}", err=True)

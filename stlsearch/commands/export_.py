"""`stlsearch export`: an algorithm in another program's format."""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from stlsearch.commands.options import registry_option
from stlsearch.errors import InputError, RegistryError
from stlsearch.registry.atomic import check_destination, write_atomic
from stlsearch.registry.formats import EXPORTERS, exporter, format_of
from stlsearch.registry.store import Registry


@click.command("export")
@click.argument("name")
@click.option("--format", "format_name", type=click.Choice(list(EXPORTERS)), help="By default what --out ends with, else json.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write; text formats go to stdout without it.")
@registry_option()
def command(name: str, format_name: str | None, out: Path | None, registry: Registry) -> None:
    """Write an algorithm in a format of ours, as code or formulas, or in the format of another program.

    NAME is a name, the beginning of one, the beginning of an id, or a .json file. json, npz and safetensors hold every
    algorithm and every digit (docs/format.md); python and latex are to be used and read. The others are for matrix products
    with coefficients that they can hold, W in the convention of the format (docs/exchange.md), and can be imported again.
    plinopt writes three files, OUT_L.sms, OUT_R.sms and OUT_P.sms.
    """
    if format_name is None and out is not None and format_of(out) is None:
        raise InputError(f"--out {out} names no format by its ending: give --format, one of {', '.join(EXPORTERS)}")
    format_name = format_name or (format_of(out) if out else None) or "json"
    chosen = exporter(format_name)
    if out is None and not chosen.is_text:
        what = "three files: name their common beginning" if format_name == "plinopt" else "binary: name a file"
        raise InputError(f"{format_name} is {what} with --out")
    data = chosen.write(registry.get(name).algorithm)
    if out is None:
        click.echo(data, nl=False)
    elif isinstance(data, dict):
        stem = out.name.removesuffix(".sms").removesuffix("_L")
        files = {out.with_name(f"{stem}{ending}"): content for ending, content in data.items()}
        _write_together(files)
        click.echo(f"wrote {', '.join(map(str, files))}", err=True)
    else:
        write_atomic(out, data)
        click.echo(f"wrote {out}", err=True)


def _write_together(files: dict[Path, bytes]) -> None:
    """Write every file beside its place, then rename them all: what can fail, fails before the first old one is gone."""
    for path in files:
        check_destination(path)
    staged = {path: path.with_name(f".{path.name}.{secrets.token_hex(8)}.part") for path in files}
    try:
        for path, temporary in staged.items():
            write_atomic(temporary, files[path])
        for path, temporary in staged.items():
            temporary.replace(path)
    except OSError as error:
        raise RegistryError(f"cannot write {', '.join(map(str, files))}: {error.strerror or error}") from None
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)

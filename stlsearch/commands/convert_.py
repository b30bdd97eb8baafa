"""`stlsearch convert`: a model's layers as Strassen-Tile ones."""

from __future__ import annotations

from pathlib import Path

import click

from stlsearch.commands.options import CountType, RankType, TileType, emit_json, json_option, registry_option
from stlsearch.errors import InputError, RegistryError
from stlsearch.registry.store import Registry
from stlsearch.targets import Target

ROWS = ("tokens", "blocks", "batch")


@click.command("convert")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Folder to write; required unless --dry-run.")
@click.option("--rank", type=RankType(), default="24", show_default=True, help="Of the best registered basis of the tile.")
@click.option("--tile", type=TileType(), default="4", show_default=True, help="Tile size: 4 for 4x4x4, or 2x3x4.")
@click.option("--basis", help="A registered algorithm, or a .json file, instead of the best one.")
@click.option("--include", multiple=True, help="Pattern of layers to convert, such as 'blocks.*.mlp.*'; by default all. Repeatable.")
@click.option("--exclude", multiple=True, help="Pattern of layers to leave, instead of heads and embeddings. Repeatable.")
@click.option(
    "--rows", type=click.Choice(ROWS), default="tokens", show_default=True, help="Which rows share a tile: causal models need batch."
)
@click.option(
    "--batch", type=CountType("the batch"), help="Samples of the example; by default 1, with --rows batch as many as a tile has rows."
)
@click.option("--tokens", type=CountType("tokens"), default="128", show_default=True, help="Tokens of a sample, for text.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and write nothing.")
@click.option("--force", is_flag=True, help="Write to a folder that is not empty, replacing the model there.")
@registry_option()
@json_option()
def command(
    model: Path,
    output: Path | None,
    rank: int,
    tile: Target,
    basis: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    rows: str,
    batch: int | None,
    tokens: int,
    dry_run: bool,
    force: bool,
    registry: Registry,
    as_json: bool,
) -> None:
    """Replace a model's layers by Strassen-Tile ones, and write the model that results.

    MODEL is a folder with config.json and model.safetensors, of transformers, of timm, or written by stlsearch.nn.save; or a
    single .safetensors file, whose matrices are taken for linear layers. Nothing is unpickled and no code of the folder is run.
    stlsearch.nn.load(model, FOLDER) puts the result into the dense model.

    The errors are those of each layer alone on what random inputs of the model feed it, without the model's library those of white inputs.
    """
    check_output(output, dry_run, force)
    given = registry.get(basis).algorithm if basis else None
    # Only now: torch takes seconds to load, and --help and mistyped names should not wait for it.
    from stlsearch.nn.convert import convert
    from stlsearch.nn.folder import save
    from stlsearch.nn.skeleton import seen_of
    from stlsearch.nn.sources import Source, refusals
    from stlsearch.nn.state import is_converted
    from stlsearch.nn.survey import DEFAULT_EXCLUDE, best_registered, plan

    algorithm = given or best_registered(rank, tile, registry)
    source = Source.of(model)
    if is_converted(model):
        raise InputError(f"{model} is converted already")
    network = source.open()
    samples = batch or ((algorithm.target.shape or (1,))[0] if rows == "batch" else 1)
    choices: dict = {"basis": algorithm, "rows": rows, "include": include or ("*",), "exclude": exclude or DEFAULT_EXCLUDE}
    if source.runs:
        choices["example"] = source.example(network, samples, tokens)
    else:
        choices["seen"] = seen_of(source.table(network.state_dict()), samples, tokens)
    with refusals(model):
        found = (plan if dry_run else convert)(network, **choices)
    if not found.converted:
        reasons = "; ".join(sorted({layer.skipped for layer in found.layers}))
        raise InputError(f"{model}: no layer can be converted: {reasons or 'there is none that multiplies by a matrix'}")
    if output is not None and not dry_run:
        save(network, output, config=source.config or None)
    if as_json:
        where = None if dry_run else str(output)
        emit_json({"model": str(model), "kind": source.kind, "basis": algorithm.name, "output": where, **found.to_dict()})
    else:
        click.echo(f"basis {algorithm.name}, rows {rows}\n{found}")
        if not dry_run:
            click.echo(f"wrote {output}", err=True)


def check_output(output: Path | None, dry_run: bool, force: bool) -> None:
    """Refuse an output that could not be written, before the work whose result it is to hold."""
    if dry_run:
        return
    if output is None:
        raise click.UsageError("missing option '--output': the folder to write, or give --dry-run")
    try:
        taken = output.exists() and (not output.is_dir() or any(output.iterdir()))
    except OSError as error:
        raise RegistryError(f"cannot read {output}: {error.strerror or error}") from None
    if taken and not (force and output.is_dir()):
        raise InputError(f"{output} is {'not empty: give --force to replace the model there' if output.is_dir() else 'no folder'}")

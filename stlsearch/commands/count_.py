"""`stlsearch count`: what a model computes and holds, dense and with Strassen-Tile layers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stlsearch.commands.options import CountType, RanksType, TileType, emit_json, json_option, registry_option
from stlsearch.registry.store import Registry
from stlsearch.targets import Target

if TYPE_CHECKING:
    from stlsearch.nn.plan import LayerPlan, Plan


@click.command("count")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--rank", "ranks", type=RanksType(), default="24", show_default=True, help="One or several: 24, 16-32 or 16,24,32.")
@click.option("--tile", type=TileType(), default="4", show_default=True, help="Tile size: 4 for 4x4x4, or 2x3x4.")
@click.option("--include", multiple=True, help="Pattern of layers to convert, such as 'blocks.*.mlp.*'; by default all. Repeatable.")
@click.option("--exclude", multiple=True, help="Pattern of layers to leave, instead of heads and embeddings. Repeatable.")
@click.option("--batch", type=CountType("the batch"), default="1", show_default=True, help="Samples.")
@click.option("--tokens", type=CountType("tokens"), default="128", show_default=True, help="Tokens of a sample, for text.")
@registry_option()
@json_option()
def command(
    model: Path,
    ranks: list[int],
    tile: Target,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    batch: int,
    tokens: int,
    registry: Registry,
    as_json: bool,
) -> None:
    """Count a model's multiply-accumulates, parameters and bytes, dense and with Strassen-Tile layers of one or several ranks.

    MODEL is as for `stlsearch convert`; of a model of transformers or timm only config.json is read, and nothing is computed.
    Padding is counted. For a model of neither, only the layers that multiply by a matrix count, no attention.
    """
    from stlsearch.nn.skeleton import seen_of
    from stlsearch.nn.sources import Source, refusals, without_memory
    from stlsearch.nn.survey import DEFAULT_EXCLUDE, best_registered, plan

    algorithms = {rank: best_registered(rank, tile, registry) for rank in ranks}
    source = Source.of(model)
    # Counting leaks nothing: whatever rows share a tile, the sizes are the same up to padding.
    choices: dict = {"include": include or ("*",), "exclude": exclude or DEFAULT_EXCLUDE, "causal_safe": False}
    plans: dict[int, Plan] = {}
    if source.runs:
        with refusals(model), without_memory(source) as network:
            example = source.example(network, batch, tokens)
            for rank, algorithm in algorithms.items():
                plans[rank] = plan(network, basis=algorithm, example=example, **choices)
    else:
        network = source.open()
        seen = seen_of(source.table(network.state_dict()), batch, tokens)
        plans = {rank: plan(network, basis=algorithm, seen=seen, **choices) for rank, algorithm in algorithms.items()}
    if as_json:
        counts = [{"rank": rank, "basis": algorithms[rank].name, **found.to_dict()} for rank, found in plans.items()]
        emit_json({"model": str(model), "kind": source.kind, "batch": batch, "counts": counts})
    else:
        click.echo(_table(plans))


def _table(plans: dict[int, Plan]) -> str:
    """Layers of the same kind and sizes in one line, numbers in their names being stars; then the whole model."""
    from stlsearch.nn.plan import aligned, short

    first = next(iter(plans.values()))
    groups: dict[tuple, list[int]] = {}
    for place, layer in enumerate(first.layers):
        name = re.sub(r"(?<![^.])\d+(?![^.])", "*", layer.name)
        groups.setdefault((name, layer.kind, layer.inner, layer.outputs, layer.rows, layer.skipped), []).append(place)
    ranks = [f"rank {rank}" for rank in plans]
    rows = [("layers", "", "K x N", "rows", "MACs", *ranks, "parameters", *ranks, "")]
    for (name, _, inner, outputs, height, skipped), places in groups.items():

        def cells(key: str, places: list[int] = places, skipped: str = skipped) -> list[str]:
            before = [short(_sum([first.layers[place] for place in places], f"{key}_before"))]
            after = [short(_sum([found.layers[place] for place in places], f"{key}_after")) for found in plans.values()]
            return before + ["" for _ in after] if skipped else before + after

        sizes = (f"{inner} x {outputs}", "-" if height is None else str(height))
        note = f"stays: {skipped}" if skipped else ""
        rows.append((name, f"{len(places)} x", *sizes, *cells("macs"), *cells("parameters"), note))
    total = [[getattr(found, key) for found in plans.values()] for key in ("macs_after", "parameters_after")]
    macs, parameters = (
        [short(count) for count in (before, *after)]
        for before, after in zip((first.macs_before, first.parameters_before), total, strict=True)
    )
    rows.append(("whole model", "", "", "", *macs, *parameters, ""))
    lines = [aligned(rows, right=range(2, len(rows[0]) - 1))]
    for rank, found in plans.items():
        parts = [] if not found.macs_after or not found.macs_before else [f"MACs {found.macs_after / found.macs_before:.3f} of dense"]
        parts.append(f"parameters {found.parameters_after / max(1, found.parameters_before):.3f}")
        parts.append(f"bytes {found.bytes_after / 1e6:.4g} MB (dense {found.bytes_before / 1e6:.4g})")
        lines.append(f"rank {rank}: {', '.join(parts)}")
    return "\n".join(lines)


def _sum(layers: list[LayerPlan], key: str) -> int | None:
    counts = [getattr(layer, key) for layer in layers]
    return None if None in counts else sum(counts)

"""`stlsearch bench`: the operator's speed beside torch.matmul, and what the roofline would allow."""

from __future__ import annotations

import datetime
import json
import math
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import click

import stlsearch
from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands.options import (
    INTERRUPTED,
    JSON_VERSION,
    CountType,
    PositiveType,
    RanksType,
    TileType,
    device_option,
    emit_json,
    json_option,
    parse_size,
    registry_option,
    seed_option,
)
from stlsearch.commands.summary import table
from stlsearch.errors import InputError
from stlsearch.registry.atomic import check_destination, write_atomic
from stlsearch.registry.store import Registry
from stlsearch.targets import Target

if TYPE_CHECKING:
    from stlsearch.evaluate.measurement import Measurement

RANKS = [16, 24, 32]
TILE = 4

STAGES = {
    "encode_activations": "encode activations",
    "multiply": "batched products",
    "decode": "decode",
    "encode_gradient": "encode gradient",
    "multiply_activations": "products for activations",
    "multiply_weights": "products for weights",
    "decode_gradient": "decode gradient",
    "rest": "rest",
}


@click.command("bench")
@click.argument("names", nargs=-1)
@click.option("--sizes", default="1024,2048,4096", show_default=True, help="Comma-separated: 4096, or 512x1024x768 for (M,K) times (K,N).")
@click.option("--ranks", type=RanksType(), help="Without NAMES: the best registered basis at each, such as 24 or 16,24,30-32.  [16,24,32]")
@click.option("--tile", type=TileType(), help="Without NAMES: tile size, 4 for 4x4x4, or 2x3x4.  [4]")
@click.option("--dtype", "dtypes", default="float32,bfloat16", show_default=True, help="Comma-separated.")
@device_option()
@click.option(
    "--mode", "modes", help="Of eager, plain (PyTorch), compiled (torch.compile) and, on CUDA, triton.  [eager; on CUDA eager,triton]"
)
@click.option("--pass", "passes", default="forward", show_default=True, help="Of forward and backward, which is forward and gradients.")
@click.option("--repeats", type=CountType("repeats"), default=15, show_default=True, help="Timed pairs each, fewer once the time is over.")
@click.option("--time-limit", type=PositiveType(), default=10.0, show_default=True, help="Seconds for the timed pairs of each measurement.")
@click.option("--threads", type=int, help="CPU threads; by default PyTorch's choice.")
@seed_option("Of the random matrices.")
@click.option("--stages", is_flag=True, help="Below each line, the time of every stage beside its roofline.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the speed-up against the size to this .png, .svg or .pdf."
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write what --json prints to this file.")
@registry_option()
@json_option()
def command(
    names: tuple[str, ...],
    sizes: str,
    ranks: list[int] | None,
    tile: Target | None,
    dtypes: str,
    device: str,
    modes: str | None,
    passes: str,
    repeats: int,
    time_limit: float,
    threads: int | None,
    seed: int,
    stages: bool,
    plot: Path | None,
    output: Path | None,
    registry: Registry,
    as_json: bool,
) -> int:
    """Measure the operator's speed beside torch.matmul, and what the roofline would allow.

    \b
    stlsearch bench --sizes 1024,2048 --ranks 16,24 --plot speed.png
    stlsearch bench 4x4x4_r24_R_2deba9dc --pass forward,backward --mode eager,compiled --stages

    NAMES are names, beginnings of names or ids, or .json files. Weights are encoded beforehand. "ideal" is the speed-up if every
    stage did its arithmetic as fast as the ordinary product of that size, or moved its values as fast as a large copy, whichever
    takes longer; "of ideal" is the measured speed-up over it. Some CPUs multiply faster by the operator's own kernel than by
    torch.matmul: "same kernel" is the speed-up over an ordinary product by that one. Ctrl-C prints what is finished.
    """
    shapes = list(dict.fromkeys(parse_size(size) for size in sizes.split(",")))
    if output is not None:
        check_destination(output)
        if plot is not None and plot.resolve() == output.resolve():
            raise InputError(f"--plot and --output both name {output}: the second would replace the first")
    algorithms = _algorithms(names, tile, ranks, registry)
    # Only now: torch takes seconds to load, and --help and mistyped names should not wait for it.
    from stlsearch.devices import describe_device, resolve_device, set_threads
    from stlsearch.evaluate.bench import bench
    from stlsearch.evaluate.measurement import has_triton
    from stlsearch.plots import check_picture, draw_speedups

    if plot is not None:
        check_picture(plot)
    where = resolve_device(device)
    set_threads(threads)
    if modes is None:
        modes = "eager,triton" if has_triton(where) else "eager"
    found: list[Measurement] = []
    interrupted = False
    try:
        bench(
            algorithms,
            shapes,
            dtypes=_split(dtypes),
            device=where,
            modes=_split(modes),
            passes=_split(passes),
            repeats=repeats,
            time_limit=time_limit,
            seed=seed,
            progress=lambda line: click.echo(line, err=True),
            on_measurement=found.append,
        )
    except KeyboardInterrupt:
        interrupted = True
    machine = describe_device(where)
    document = {**_run(machine), "seed": seed, "interrupted": interrupted, "measurements": [each.to_dict() for each in found]}
    if as_json:
        emit_json(document)
    elif found:
        click.echo(_text(found, machine, stages))
    if interrupted:
        finished = f"{len(found)} measurement{'s' if len(found) > 1 else ''}" if found else "nothing"
        click.echo(f"interrupted: {finished} finished", err=True)
    if output is not None and found:
        write_atomic(output, (json.dumps({"version": JSON_VERSION, **document}, indent=2, allow_nan=False) + "\n").encode())
    if plot is not None and found:
        draw_speedups(found, plot)
    return INTERRUPTED if interrupted else 0


def _split(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",")))


def _algorithms(names: Sequence[str], tile: Target | None, ranks: list[int] | None, registry: Registry) -> list[BilinearAlgorithm]:
    """Those named, or the best registered one at every rank."""
    if names:
        if tile is not None or ranks is not None:
            raise InputError("give names, or --tile and --ranks, not both")
        named = [registry.get(name).algorithm for name in names]
        return list({algorithm.id: algorithm for algorithm in named}.values())
    tile = tile or Target.matmul(TILE, TILE, TILE)
    found = []
    for rank in ranks or RANKS:
        best = registry.best(tile, rank)
        if best is None:
            raise InputError(f"no basis of {tile.slug} at rank {rank} is registered: give --ranks, or fit one with `stlsearch fit`")
        found.append(best.algorithm)
    return found


def _run(machine: dict[str, object]) -> dict[str, object]:
    """When, where and with what was measured."""
    packages = {"stlsearch": stlsearch.__version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "triton"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:  # Triton is optional
            continue
    return {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "machine": machine, "packages": packages}


def _text(found: Sequence[Measurement], machine: dict[str, object], stages: bool) -> str:
    where = f"GPU {machine['name']}" if machine["type"] == "cuda" else f"CPU {machine['name']} (threads: {machine['threads']})"
    head = f"stl_matmul beside torch.matmul on {where}, PyTorch {machine['torch']}"
    header = (
        *("size", "rank", "dtype", "mode", "pass", "speed-up", "quartiles", "ideal", "of ideal", "same kernel"),
        *("stl ms", "dense ms", "error", "extra MB", "dense MB", "bound MB", "furthest above its roofline"),
    )
    lines = table([header, *map(_row, found)], right=(1, *range(5, 16))).splitlines()
    body = [lines[0]]
    for line, each in zip(lines[1:], found, strict=True):
        body.append(line)
        if stages:
            body += [f"    {row}".rstrip() for row in _stages(each)]
    named: dict[int, list[str]] = {}
    for each in found:
        if each.name not in named.setdefault(each.cost.rank, []):
            named[each.cost.rank].append(each.name)
    bases = ", ".join(f"{', '.join(each)} (rank {rank})" for rank, each in named.items())
    notes = (
        "speed-up: median of interleaved pairs, weights encoded beforehand; ideal: every stage at the rate of a large product or copy\n"
        "same kernel: over an ordinary product by the operator's own kernel, where that multiplies\n"
        "error: ||Y - XB||/||XB|| against float64 on Gaussian matrices; extra: peak memory beyond the inputs, dense: of torch.matmul,\n"
        "bound: of the tensors every stage makes"
    )
    return "\n".join([head, f"bases: {bases}", "", "\n".join(body).rstrip(), "", notes])


def _row(each: Measurement) -> tuple[str, ...]:
    rows, inner, columns = each.cost.size
    return (
        str(rows) if rows == inner == columns else f"{rows}x{inner}x{columns}",
        str(each.cost.rank),
        each.dtype,
        each.mode,
        each.direction,
        f"{each.timing.speedup:.3f}",
        f"{each.timing.low:.3f}..{each.timing.high:.3f}",
        f"{each.ideal.speedup:.3f}",
        f"{each.of_ideal:.2f}",
        f"{each.same_kernel:.3f}",
        f"{each.timing.candidate * 1e3:.3f}",
        f"{each.timing.baseline * 1e3:.3f}",
        "-" if each.rel_error is None or math.isnan(each.rel_error) else f"{each.rel_error:.3g}",
        "-" if each.extra_bytes is None else f"{each.extra_bytes / 1e6:.4g}",
        f"{each.dense_extra_bytes / 1e6:.4g}",
        f"{each.bound_bytes / 1e6:.4g}",
        _worst(each),
    )


def _worst(each: Measurement) -> str:
    """The stage that loses most time against its roofline, and how much."""
    if max(each.excess.values(), default=0.0) <= 0:
        return "-"
    stage = max(each.excess, key=lambda name: each.excess[name])
    times = f", {each.stages[stage] / each.ideal.stages[stage]:.1f}x" if stage in each.stages else ""
    return f"{STAGES[stage]} {each.excess[stage] * 1e3:+.2f} ms{times}"


def _stages(each: Measurement) -> list[str]:
    """One line a stage: measured, ideal, how many times, and how much more; then the whole and torch.matmul."""
    if each.alone is None or each.dense_alone is None:
        return ["stages are timed in eager mode only"]
    header = ("stage", "ms", "roofline ms", "times", "above ms", "limited by")
    rows = [
        (
            STAGES[stage],
            *_beside(seconds, each.ideal.stages[stage]),
            each.ideal.bounds[stage],
        )
        for stage, seconds in each.stages.items()
    ]
    rows.append((STAGES["rest"], "", "", "", f"{each.excess['rest'] * 1e3:.3f}", ""))
    rows.append(("stl_matmul", *_beside(each.alone, each.ideal.seconds), ""))
    rows.append(("torch.matmul", *_beside(each.dense_alone, each.ideal.dense), ""))
    rates = f"{each.machine.flops / 1e9:.4g} GFLOP/s, {each.machine.bandwidth / 1e9:.4g} GB/s"
    return [*table([header, *rows], right=(1, 2, 3, 4)).splitlines(), f"fastest calls; roofline of {rates}", ""]


def _beside(seconds: float, ideal: float) -> tuple[str, str, str, str]:
    return f"{seconds * 1e3:.3f}", f"{ideal * 1e3:.3f}", f"{seconds / ideal:.2f}", f"{(seconds - ideal) * 1e3:.3f}"

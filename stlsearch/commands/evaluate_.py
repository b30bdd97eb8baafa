"""`stlsearch evaluate`: error, cost and wall clock of an algorithm as an operator."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from stlsearch.commands.options import emit_json, json_option, parse_size, registry_option
from stlsearch.commands.summary import table
from stlsearch.registry.store import Registry

if TYPE_CHECKING:
    from stlsearch.evaluate import Evaluation
    from stlsearch.evaluate.stability import ForwardError, Stability


@click.command("evaluate")
@click.argument("name")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--dtype", "dtypes", help="Comma-separated; by default float32,bfloat16 and, on CUDA, float16 (slow on many CPUs).")
@click.option("--size", default="1024", show_default=True, help="Matrix size: 4096, or 512x1024x768 for (M,K) times (K,N).")
@click.option("--threads", type=int, help="CPU threads; by default PyTorch's choice.")
@click.option("--repeats", type=click.IntRange(1), default=15, show_default=True, help="Timed pairs per dtype, fewer once 10 s are over.")
@click.option("--no-timing", is_flag=True, help="Errors and costs only.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the random matrices.")
@registry_option()
@json_option()
def command(
    name: str,
    device: str,
    dtypes: str | None,
    size: str,
    threads: int | None,
    repeats: int,
    no_timing: bool,
    seed: int,
    registry: Registry,
    as_json: bool,
) -> None:
    """Measure error, cost and wall clock of an algorithm as an operator.

    NAME is a name, the beginning of one, the beginning of an id, or a .json file. Gaussian matrices are multiplied by the
    algorithm and by torch.matmul, on one device in alternation; errors are against a float64 product. Exact algorithms also get
    growth factor, e_max and forward-error bounds of their recursion, beside errors measured on the CPU.
    """
    shape = parse_size(size)
    algorithm = registry.get(name).algorithm
    # Only now: torch takes seconds to load, and --help and mistyped names should not wait for it.
    from stlsearch.devices import resolve_device, set_threads
    from stlsearch.evaluate import evaluate
    from stlsearch.evaluate.stability import forward_errors, stability

    chosen = resolve_device(device)
    set_threads(threads)
    default = "float32,bfloat16,float16" if chosen.type == "cuda" else "float32,bfloat16"
    found = evaluate(
        algorithm,
        size=shape,
        dtypes=[dtype.strip() for dtype in (default if dtypes is None else dtypes).split(",")],
        device=chosen,
        repeats=repeats,
        seed=seed,
        timing=not no_timing,
        progress=lambda line: click.echo(line, err=True),
    )
    figures = stability(algorithm) if algorithm.is_exact else None
    forward = [] if figures is None else forward_errors(algorithm, dtypes=[error.dtype for error in found.errors], seed=seed)
    if as_json:
        measured = {"errors": [error.to_dict() for error in forward]}
        emit_json({**found.to_dict(), "stability": None if figures is None else {**figures.to_dict(), **measured}})
    else:
        parts = [_head(found), _errors(found), *([] if figures is None else [_stability(figures, forward)]), _costs(found)]
        click.echo("\n\n".join([*parts, *([_timings(found)] if found.measurements else [])]))


def _head(found: Evaluation) -> str:
    device = found.device
    where = f"GPU {device['name']}" if device["type"] == "cuda" else f"CPU {device['name']} (threads: {device['threads']})"
    rows, inner, columns = found.cost.size
    return (
        f"{found.name}  rel_sq_error e = {found.rel_sq_error:.6g} (root {math.sqrt(found.rel_sq_error):.4g}), "
        f"amplification g = {found.amplification:.6g}\n"
        f"({rows}, {inner}) times ({inner}, {columns}) on {where}, PyTorch {device['torch']}"
    )


def _errors(found: Evaluation) -> str:
    header = ("error", "predicted e + g u^2", "rel_sq_error", "root", "torch.matmul rel_sq_error", "beside float64")
    rows = [
        (
            error.dtype,
            f"{error.predicted:.4g}",
            f"{error.measured:.4g}",
            f"{math.sqrt(error.measured):.4g}",
            f"{error.dense:.4g}",
            f"{math.sqrt(error.oracle):.3g}",
        )
        for error in found.errors
    ]
    note = (
        "predicted: of stored values alone; float32 and float64 accumulate in their own precision, which adds to small errors\n"
        "beside float64: ||Y - Y64||/||Y64|| (not squared) of the same operator, rounding alone"
    )
    return f"{table([header, *rows], right=range(1, len(header)))}\n{note}"


def _stability(figures: Stability, errors: list[ForwardError]) -> str:
    lines = [f"stability: growth factor {figures.growth:.6g}, e_max {figures.emax}, prefactor {figures.prefactor}"]
    if errors:
        header = ("forward error", "levels", "largest entry", "bound", "Frobenius", "bound")
        rows = [
            (
                error.dtype,
                str(error.levels),
                f"{error.largest:.4g}",
                f"{error.largest_bound:.4g}",
                f"{error.frobenius:.4g}",
                f"{error.frobenius_bound:.4g}",
            )
            for error in errors
        ]
        size = errors[0].size
        lines.append(table([header, *rows], right=range(1, len(header))))
        lines.append(f"in units of u |A| |B|, {size[:2]} times {size[1:]}; level 0 is the ordinary product (docs/stability.md)")
    return "\n".join(lines)


def _costs(found: Evaluation) -> str:
    cost = found.cost
    macs, sparse, moved = cost.macs.to_dict(), cost.sparse_macs.to_dict(), cost.values_moved.to_dict()
    labels = {
        "encode_activations": "encode activations",
        "encode_weights": "encode weights",
        "multiply": "batched GEMMs",
        "decode": "decode",
        "pre_encoded": "total, weights pre-encoded",
        "total": "total, weights encoded too",
    }
    header = ("cost", "MACs", "of dense", "FLOPs", "MACs, non-zeros", "values moved", "of dense")

    def row(label: str, count: int, nonzero: int, values: int) -> tuple[str, ...]:
        of_macs, of_values = count / cost.dense_macs, values / cost.dense_values_moved
        return label, f"{count:.4g}", f"{of_macs:.4f}", f"{2 * count:.4g}", f"{nonzero:.4g}", f"{values:.4g}", f"{of_values:.2f}"

    rows = [row(label, macs[stage], sparse[stage], moved[stage]) for stage, label in labels.items()]
    rows.append(row("dense product", cost.dense_macs, cost.dense_macs, cost.dense_values_moved))
    n, m, p = cost.tile
    stored = cost.weight_parameters / cost.dense_weight_parameters
    traffic = {error.dtype: cost.bytes_moved(error.dtype) for error in found.errors}
    megabytes = ", ".join(
        f"{dtype} {each['pre_encoded'] / 1e6:.4g} MB (dense {each['dense'] / 1e6:.4g})" for dtype, each in traffic.items()
    )
    return (
        f"{table([header, *rows], right=range(1, len(header)))}\n"
        f"multiplications {cost.rank}/{n * m * p} = {cost.multiplication_ratio:.4f}; MACs {_times(cost.speedup)} "
        f"with weights pre-encoded, {_times(cost.speedup_on_the_fly)} with weights encoded too\n"
        f"parameters: encoded weight {cost.weight_parameters} = {stored:.3f} of dense; bases {cost.basis_parameters}\n"
        f"bytes moved, weights pre-encoded: {megabytes}"
    )


def _timings(found: Evaluation) -> str:
    unit = "GPU" if found.device["type"] == "cuda" else "CPU"
    header = (
        *(f"{unit} time", "stl_matmul ms", "torch.matmul ms", "speed-up", "quartiles", "pairs"),
        *("ideal", "of ideal", "same kernel", "extra MB"),
    )
    rows = [
        (
            dtype,
            f"{each.timing.candidate * 1e3:.3f}",
            f"{each.timing.baseline * 1e3:.3f}",
            f"{each.timing.speedup:.3f}",
            f"{each.timing.low:.3f}..{each.timing.high:.3f}",
            str(each.timing.repeats),
            f"{each.ideal.speedup:.3f}",
            f"{each.of_ideal:.2f}",
            f"{each.same_kernel:.3f}",
            "-" if each.extra_bytes is None else f"{each.extra_bytes / 1e6:.4g}",
        )
        for dtype, each in found.measurements.items()
    ]
    return (
        f"{table([header, *rows], right=range(1, len(header)))}\n"
        "medians of interleaved pairs, weights pre-encoded; ideal: what the roofline allows (`stlsearch bench` has more);\n"
        "same kernel: over an ordinary product by the operator's own kernel, where that multiplies;\n"
        "extra: peak memory beyond inputs and encoded weight"
    )


def _times(speedup: float) -> str:
    """A ratio of work in words: 2.37 times fewer, 1.05 times more."""
    return f"{speedup:.3f} times fewer" if speedup >= 1 else f"{1 / speedup:.3f} times more"

"""The operator on a CUDA device beside torch.matmul: is it right, how fast is it, and what limits each stage.

    python benchmarks/gpu.py [--sizes 4096,8192,16384] [--ranks 16,24,32] [--dtype bfloat16] [--graphs] [--output PATH]

Three ways to compute the 4 x 4 tile product are compared, in one run and in pairs with torch.matmul: "plain" PyTorch, the "triton"
kernels around a batched product, and "fused", encoding followed by `stlsearch.ops.triton_fused.product_decode` (forward only).
Beside each measured ratio stands the roofline of the unfused operator (`stlsearch.evaluate.roofline`), from the FLOP/s of
torch.matmul at that size and the bandwidth of a copy, measured in the same run. --graphs replays CUDA graphs, on both sides, which
takes the time to launch kernels out. Results are saved after every rank. Exit code 1: a path or its gradients are wrong; 2: no CUDA
device.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import stlsearch
from stlsearch.algorithm import UNIT_ROUNDOFF, BilinearAlgorithm
from stlsearch.devices import describe_device
from stlsearch.evaluate.cost import ITEM_BYTES, PASSES, Cost, Work, count_cost
from stlsearch.evaluate.error import gaussian_pair
from stlsearch.evaluate.roofline import Machine, ideal, measure_machine
from stlsearch.evaluate.stages import time_stages
from stlsearch.evaluate.timing import compare_times, time_alone
from stlsearch.ops import (
    DTYPES,
    Bases,
    EncodedWeight,
    Layout,
    backend,
    encode_activations,
    encode_weights,
    plain,
    reference_matmul,
    stl_matmul,
    tile_of,
)
from stlsearch.registry.atomic import write_atomic
from stlsearch.registry.store import open_registry
from stlsearch.targets import Target

PATHS = {"plain": PASSES, "triton": PASSES, "fused": ("forward",)}
"""The passes that every path has."""

CHECKED = ((64, 64, 64), (130, 75, 198))
"""Sizes (M, K, N) at which every path is checked."""


def backend_of(path: str) -> AbstractContextManager[None]:
    """What a path runs on, to be entered around its gradients too."""
    return backend("plain" if path in ("plain", "exact") else "auto")


def product(path: str, x: Tensor, encoded: EncodedWeight, bases: Bases) -> Tensor:
    """The operator by a path, within `backend_of` it."""
    if path == "fused":
        return product_decode(encode_activations(x, bases, layout=encoded.layout), encoded, bases, len(x))
    return stl_matmul(x, encoded, bases)


def product_decode(planes: Tensor, encoded: EncodedWeight, bases: Bases, rows: int) -> Tensor:
    """The fused kernel on encoded activations."""
    from stlsearch.ops import triton_fused  # needs Triton, which not every machine has

    n, _, p = bases.shape
    return triton_fused.product_decode(planes, encoded.tensor, bases.W, n, p, 1, rows, encoded.shape[1], False, False)[0]


def check(path: str, algorithm: BilinearAlgorithm, size: tuple[int, int, int], dtype: str, device: torch.device) -> list[dict[str, object]]:
    """Relative Frobenius errors of a path's result and gradients against float64, each with what rounding explains.

    The result is held against the oracle, the gradients of x and of the encoded weight against autograd's own through PyTorch's own
    operations, which share no derivative with the path.
    """
    rows, inner, columns = size
    x, weight = (matrix.to(DTYPES[dtype]) for matrix in gaussian_pair(size, seed=0))
    gradient = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    found = _result_and_gradients(path, *(tensor.to(device) for tensor in (x, weight, gradient)), algorithm)
    expected = _result_and_gradients("exact", x.double(), weight.double(), gradient.double(), algorithm)
    expected["result"] = torch.from_numpy(reference_matmul(x.double().numpy(), weight.double().numpy(), algorithm, Layout()))
    # Rounding adds about g u^2 to the squared error of the product, which the expected result may be smaller than by 1 - e; the
    # gradient of x is the same trilinear form of the other two factors. Nothing cancels in the encoded weight's: encoded x and encoded
    # gradient are rounded, the factors that encode them are, and the result is. A sum of T terms in the dtype itself, a random walk,
    # adds T/2 times what rounding it once does.
    u = UNIT_ROUNDOFF[dtype]
    of_form = (2 + algorithm.amplification) / max(0.05, 1 - algorithm.error)
    n, m, p = tile_of(algorithm)
    allowed = {}
    for name, rounded, terms in (
        ("result", of_form, inner / m),
        ("gradient of x", of_form, columns / p),
        ("gradient of the encoded weight", 5.0, rows / n),
    ):
        allowed[name] = 4 * u * (rounded * (1 + (terms / 2 if dtype == "float32" else 0))) ** 0.5
    checked = []
    for name, tensor in found.items():
        error = float((tensor.double().cpu() - expected[name]).norm() / expected[name].norm())
        bound = allowed[name]
        about = {"path": path, "rank": algorithm.rank, "size": list(size), "tensor": name}
        checked.append({**about, "rel_error": error, "bound": bound, "right": error <= bound})
    return checked


def _result_and_gradients(path: str, x: Tensor, weight: Tensor, gradient: Tensor, algorithm: BilinearAlgorithm) -> dict[str, Tensor]:
    """By name, of a path or of "exact", PyTorch's own operations on the CPU; the result alone of a path that has no backward pass."""
    bases = Bases.prepare(algorithm, dtype=x.dtype, device=x.device)
    with backend_of(path):
        encoded = encode_weights(weight, bases, layout=Layout())
        inputs = tuple(tensor.detach().requires_grad_("backward" in PATHS.get(path, PASSES)) for tensor in (x, encoded.tensor))
        x, encoded = inputs[0], replace(encoded, tensor=inputs[1])
        if path == "exact":
            n, m, p = bases.shape
            planes = plain.encode(x[None], bases.U, n, m, False, False)
            result = plain.decode(planes @ encoded.tensor, bases.W, n, p, 1, *gradient.shape, False, False)[0]
        else:
            result = product(path, x, encoded, bases)
        if not result.requires_grad:
            return {"result": result}
        of_x, of_encoded = torch.autograd.grad(result, inputs, gradient)
    return {"result": result.detach(), "gradient of x": of_x, "gradient of the encoded weight": of_encoded}


def timed(
    path: str,
    direction: str,
    x: Tensor,
    weight: Tensor,
    bases: Bases,
    *,
    graphs: bool = False,
    repeats: int = 15,
) -> dict[str, object]:
    """A path and torch.matmul in alternation: medians, the ratio and its quartiles."""
    backward = direction == "backward"
    with backend_of(path), torch.set_grad_enabled(backward):
        encoded = encode_weights(weight, bases, layout=Layout())
        x, weight, planes = (tensor.detach().requires_grad_(backward) for tensor in (x, weight, encoded.tensor))
        candidate: Callable[[], Any] = partial(product, path, x, replace(encoded, tensor=planes), bases)
        baseline: Callable[[], Any] = partial(torch.matmul, x, weight)
        if backward:
            gradient = torch.randn(len(x), weight.shape[1], dtype=x.dtype, device=x.device)
            candidate, baseline = _with_gradients(candidate, (x, planes), gradient), _with_gradients(baseline, (x, weight), gradient)
        if graphs:
            candidate, baseline = captured(candidate), captured(baseline)
        return compare_times(candidate, baseline, device=x.device, repeats=repeats).to_dict()


def _with_gradients(function: Callable[[], Tensor], inputs: tuple[Tensor, Tensor], gradient: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(function(), inputs, gradient)


def captured(function: Callable[[], object]) -> Callable[[], None]:
    """The function's kernels as a CUDA graph to replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles kernels and allocates, neither of which can be captured
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def stage_rows(x: Tensor, weight: Tensor, bases: Bases, cost: Cost, dtype: str) -> list[dict[str, object]]:
    """Every stage alone, the fastest of some calls, with the operations and bytes per second it reaches.

    For the fused kernel the bytes are those of the two stages it replaces; fewer of them cross memory.
    """
    with torch.no_grad():
        encoded = encode_weights(weight, bases, layout=Layout())
    work = cost.work("backward")
    work["multiply+decode"] = Work(*map(sum, zip(work["multiply"], work["decode"], strict=True)))
    found = []
    for path in PATHS:
        with backend_of(path):
            if path == "fused":
                with torch.inference_mode():
                    planes = encode_activations(x, bases, layout=encoded.layout)
                    fused = partial(product_decode, planes, encoded, bases, len(x))
                    seconds_by_stage = {"multiply+decode": time_alone(fused, device=x.device)}
            else:
                seconds_by_stage = time_stages(x, encoded, bases, "backward")
        for stage, seconds in seconds_by_stage.items():
            rates = {"bytes_per_s": ITEM_BYTES[dtype] * work[stage].values / seconds, "flops_per_s": 2 * work[stage].macs / seconds}
            found.append({"stage": stage, "path": path, "seconds": seconds, **rates})
    return found


def measurements(
    algorithm: BilinearAlgorithm, x: Tensor, weight: Tensor, machine: Machine, dtype: str, *, graphs: bool, repeats: int
) -> Iterator[dict[str, object]]:
    """Every path and pass of one algorithm at one size."""
    cost = count_cost(algorithm, *x.shape, weight.shape[1])
    bases = Bases.prepare(algorithm, dtype=x.dtype, device=x.device)
    for direction in PASSES:
        allowed = ideal(cost, machine, dtype, direction).speedup
        for path, directions in PATHS.items():
            if direction in directions:
                for with_graphs in (False, True) if graphs else (False,):
                    timing = timed(path, direction, x, weight, bases, graphs=with_graphs, repeats=repeats)
                    yield {
                        "size": x.shape[0],
                        "rank": algorithm.rank,
                        "algorithm": algorithm.name,
                        "dtype": dtype,
                        "pass": direction,
                        "path": path,
                        "graph": with_graphs,
                        **timing,
                        "ideal_unfused": allowed,
                    }


HEADER = "  size rank pass     path   graph       ms    dense  ratio     quartiles  ideal"


def line(row: dict) -> str:
    """One measurement as a line under `HEADER`."""
    low, high = row["speedup_quartiles"]
    return (
        f"{row['size']:6d} {row['rank']:4d} {row['pass']:8s} {row['path']:6s} {'yes' if row['graph'] else 'no':5s}"
        f" {row['candidate_s'] * 1e3:8.3f} {row['baseline_s'] * 1e3:8.3f} {row['speedup']:6.2f} {low:6.2f}-{high:6.2f}"
        f" {row['ideal_unfused']:6.2f}"
    )


def stage_line(row: dict) -> str:
    """One stage alone as a line."""
    return (
        f"       {row['stage']:20s} {row['path']:6s} {row['seconds'] * 1e3:8.3f} ms"
        f" {row['bytes_per_s'] / 1e9:8.0f} GB/s {row['flops_per_s'] / 1e12:7.1f} TFLOP/s"
    )


def slug(name: str) -> str:
    """A device's name as a file's: lower case, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def save(document: dict, path: Path) -> None:
    """Write JSON into a folder that need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(document, indent=1) + "\n").encode())


def integers(text: str) -> list[int]:
    """Positive integers separated by commas."""
    found = [int(part) for part in text.split(",")]
    if min(found) < 1:
        raise ValueError
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=integers, default="4096,8192,16384", help="of square matrices (default: %(default)s)")
    parser.add_argument("--ranks", type=integers, default="16,24,32", help="of the 4 x 4 tile's bases (default: %(default)s)")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=15, help="timed pairs (default: %(default)s)")
    parser.add_argument("--graphs", action="store_true", help="measure CUDA graphs too")
    parser.add_argument("--output", type=Path, help="JSON file (default: results/DEVICE.json beside this script)")
    options = parser.parse_args()
    if not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        missing = "Triton" if torch.cuda.is_available() else "a CUDA device"
        print(f"gpu.py: needs {missing}, and there is none", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    about = describe_device(device)
    output = options.output or Path(__file__).parent / "results" / f"{slug(str(about['name']))}.json"
    registry = open_registry()
    entries = {rank: registry.best(Target.matmul(4, 4, 4), rank) for rank in options.ranks}
    if absent := [rank for rank, entry in entries.items() if entry is None]:
        print(f"gpu.py: no 4 x 4 basis of rank {absent[0]} is registered", file=sys.stderr)
        return 2
    algorithms = [entry.algorithm for entry in entries.values() if entry is not None]
    document: dict = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": about,
        "versions": {
            "stlsearch": stlsearch.__version__,
            "torch": torch.__version__,
            "triton": importlib.metadata.version("triton"),
            "cuda": torch.version.cuda,
        },
        "dtype": options.dtype,
        "checks": [],
        "machines": {},
        "measurements": [],
        "stages": [],
    }

    print(f"{about['name']}, PyTorch {torch.__version__}, {options.dtype}\n\npath   rank           size     error     bound")
    for algorithm in algorithms:
        for path in PATHS:
            for size in CHECKED:
                for row in check(path, algorithm, size, options.dtype, device):
                    document["checks"].append(row)
                    verdict = "" if row["right"] else "  WRONG"
                    errors = f"{row['rel_error']:9.2e} {row['bound']:9.2e}"
                    print(f"{path:6s} {algorithm.rank:4d} {'x'.join(map(str, size)):>14s} {errors}  {row['tensor']}{verdict}")
    save(document, output)
    if not all(row["right"] for row in document["checks"]):
        print("gpu.py: a path computes something else; nothing was timed", file=sys.stderr)
        return 1

    print(f"\n{HEADER}")
    for size in options.sizes:
        generator = torch.Generator(device).manual_seed(0)
        x, weight = (torch.randn(size, size, generator=generator, dtype=DTYPES[options.dtype], device=device) for _ in range(2))
        machine = measure_machine(x, weight)
        document["machines"][size] = machine.to_dict()
        print(f"{size:6d} torch.matmul {machine.flops / 1e12:.0f} TFLOP/s, copy {machine.bandwidth / 1e9:.0f} GB/s", flush=True)
        for algorithm in algorithms:
            for row in measurements(algorithm, x, weight, machine, options.dtype, graphs=options.graphs, repeats=options.repeats):
                document["measurements"].append(row)
                print(line(row), flush=True)
            bases = Bases.prepare(algorithm, dtype=x.dtype, device=device)
            for row in stage_rows(x, weight, bases, count_cost(algorithm, size, size, size), options.dtype):
                document["stages"].append({"size": size, "rank": algorithm.rank, **row})
                print(stage_line(row), flush=True)
            save(document, output)
            torch.cuda.empty_cache()  # graphs keep their memory until then
    print(f"\n{output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

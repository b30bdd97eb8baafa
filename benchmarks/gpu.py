"""The operator on a CUDA device beside torch.matmul: is it right, how fast is it, and what limits each stage.

    python benchmarks/gpu.py [--sizes 4096,8192,16384] [--ranks 16,24,32] [--dtype bfloat16] [--graphs] [--output PATH]

Three ways to compute the 4 x 4 tile product are compared, in one run and in pairs with torch.matmul: "plain" PyTorch, the "triton"
kernels around a batched product, and "fused", encoding followed by `stlsearch.ops.triton_fused.product_decode` (forward only).
Beside each measured ratio stands the roofline of the unfused operator (`stlsearch.evaluate.roofline`), from the FLOP/s of
torch.matmul at that size and the bandwidth of a copy, measured in the same run. --graphs replays CUDA graphs, on both sides, which
takes the time to launch kernels out. Results are saved after every rank. Exit code 1: a path is wrong; 2: no CUDA device.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import stlsearch
from stlsearch.algorithm import UNIT_ROUNDOFF, BilinearAlgorithm
from stlsearch.devices import describe_device
from stlsearch.evaluate.cost import ITEM_BYTES, PASSES, Cost, count_cost
from stlsearch.evaluate.roofline import Machine, ideal, measure_machine
from stlsearch.evaluate.timing import compare_times, time_alone
from stlsearch.ops import (
    DTYPES,
    Bases,
    EncodedWeight,
    backend,
    decode,
    encode_activations,
    encode_weights,
    multiply,
    reference_matmul,
    stl_matmul,
)
from stlsearch.registry.store import open_registry
from stlsearch.targets import Target

PATHS = {"plain": PASSES, "triton": PASSES, "fused": ("forward",)}
"""The passes that every path has."""

CHECKED = ((64, 64, 64), (130, 75, 198))
"""Sizes (M, K, N) at which every path is compared with the oracle."""


def product(path: str, x: Tensor, encoded: EncodedWeight, bases: Bases) -> Tensor:
    """The operator by a path."""
    if path == "fused":
        return product_decode(encode_activations(x, bases), encoded, bases, len(x))
    with backend("plain" if path == "plain" else "auto"):
        return stl_matmul(x, encoded, bases)


def product_decode(planes: Tensor, encoded: EncodedWeight, bases: Bases, rows: int) -> Tensor:
    """The fused kernel on encoded activations."""
    from stlsearch.ops import triton_fused  # needs Triton, which not every machine has

    n, _, p = bases.shape
    return triton_fused.product_decode(planes, encoded.tensor, bases.W, n, p, 1, rows, encoded.shape[1], False, False)[0]


def check(path: str, algorithm: BilinearAlgorithm, size: tuple[int, int, int], dtype: str, device: torch.device) -> dict[str, object]:
    """Relative Frobenius error of a path against the oracle in float64, and what rounding explains."""
    rows, inner, columns = size
    bases = Bases.prepare(algorithm, dtype=DTYPES[dtype], device=device)
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator).to(device, DTYPES[dtype]) for shape in ((rows, inner), (inner, columns)))
    result = product(path, x, encode_weights(weight, bases), bases).double().cpu()
    expected = torch.from_numpy(reference_matmul(x.double().cpu().numpy(), weight.double().cpu().numpy(), algorithm))
    error = float((result - expected).norm() / expected.norm())
    # Rounding adds about g u^2 to the squared error of the product, which the expected result may be smaller than by 1 - e.
    bound = 4 * UNIT_ROUNDOFF[dtype] * ((2 + algorithm.amplification) / max(0.05, 1 - algorithm.error)) ** 0.5
    return {"path": path, "rank": algorithm.rank, "size": list(size), "rel_error": error, "bound": bound, "right": error <= bound}


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
    with torch.no_grad():
        encoded = encode_weights(weight, bases)
    if direction == "forward":
        candidate, baseline = partial(product, path, x, encoded, bases), partial(torch.matmul, x, weight)
    else:
        x, weight, planes = (tensor.detach().requires_grad_() for tensor in (x, weight, encoded.tensor))
        encoded = replace(encoded, tensor=planes)
        gradient = torch.randn(len(x), weight.shape[1], dtype=x.dtype, device=x.device)
        candidate = partial(_gradients, partial(product, path, x, encoded, bases), (x, planes), gradient)
        baseline = partial(_gradients, partial(torch.matmul, x, weight), (x, weight), gradient)
    with torch.set_grad_enabled(direction != "forward"):
        if graphs:
            candidate, baseline = captured(candidate), captured(baseline)
        return compare_times(candidate, baseline, device=x.device, repeats=repeats).to_dict()


def _gradients(function: Callable[[], Tensor], inputs: tuple[Tensor, Tensor], gradient: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(function(), inputs, gradient)


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
    with torch.inference_mode():
        encoded = encode_weights(weight, bases)
        planes = encode_activations(x, bases)
        products = multiply(planes, encoded)
        rows, _, columns = cost.size
        stages: tuple[tuple[tuple[str, ...], tuple[str, ...], Callable[[], object]], ...] = (
            (("encode_activations",), ("plain", "triton"), lambda: encode_activations(x, bases)),
            (("multiply",), ("cublas",), lambda: multiply(planes, encoded)),
            (("decode",), ("plain", "triton"), lambda: decode(products, bases, rows, columns)),
            (("multiply", "decode"), ("fused",), lambda: product_decode(planes, encoded, bases, rows)),
        )
        found = []
        for names, paths, function in stages:
            work = [cost.work("forward")[name] for name in names]
            moved, operations = ITEM_BYTES[dtype] * sum(part.values for part in work), 2 * sum(part.macs for part in work)
            for path in paths:
                with backend("plain" if path == "plain" else "auto"):
                    seconds = time_alone(function, device=x.device)
                rates = {"bytes_per_s": moved / seconds, "flops_per_s": operations / seconds}
                found.append({"stage": "+".join(names), "path": path, "seconds": seconds, **rates})
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
        f"       {row['stage']:18s} {row['path']:6s} {row['seconds'] * 1e3:8.3f} ms"
        f" {row['bytes_per_s'] / 1e9:8.0f} GB/s {row['flops_per_s'] / 1e12:7.1f} TFLOP/s"
    )


def slug(name: str) -> str:
    """A device's name as a file's: lower case, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def save(document: dict, path: Path) -> None:
    """Write JSON; the file is the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(path)


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
                row = check(path, algorithm, size, options.dtype, device)
                document["checks"].append(row)
                verdict = "" if row["right"] else "  WRONG"
                print(f"{path:6s} {algorithm.rank:4d} {'x'.join(map(str, size)):>14s} {row['rel_error']:9.2e} {row['bound']:9.2e}{verdict}")
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

"""The operator on a CUDA device beside torch.matmul: is it right, what is the fastest way to launch it, how fast is it, and what limits it.

    python benchmarks/gpu.py [--sizes 4096,8192,16384] [--ranks 24,16,32] [--tune] [--time-limit SECONDS] [--output PATH]
    python benchmarks/gpu.py --estimate 790e12,4.3e12     the roofline of an H200, without one

Paths of the 4 x 4 tile product, each in pairs with torch.matmul in the same run:

    plain     PyTorch's own operations
    unfused   Triton kernels around the vendor's batched product, launched by their rules
    fused     encoding, and one kernel that multiplies and decodes, by the rules (--tune: with what was measured)
    tuned     what the operator itself does: with the device's table, or the one that --tune has just measured
    fp8       the same with a quantised weight, held against torch.matmul and against a dense product in fp8, torch._scaled_mm with
              scales of rows and columns and with both of its factors quantised beforehand

Times are those of CUDA graphs of a few calls, replayed, which takes the time to launch kernels out on both sides; rows without a graph
are single calls as PyTorch makes them. Beside each ratio stands the roofline of the unfused operator in that dtype
(`stlsearch.evaluate.roofline`), from what the dense product reaches at that size and the bandwidth of a copy, measured in the same run.

First every path and its gradients are checked against float64. --tune measures candidates of launch parameters (`stlsearch.evaluate.tune`)
for rank 24 and writes the table that the package loads for this device. Everything measured is saved after each entry, and a run that finds
results of the same code, versions and device goes on after them. Exit code 0: complete; 1: something is wrong and nothing was timed; 2: no
CUDA device; 3: the time limit ended it, run it again.

With TRITON_INTERPRET=1 and no device everything but graphs runs on a CPU, very slowly: that is for tests, and its times mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch
from gpu_paths import CHECKED, PATHS, calls_of, check, dense_fp8, graph_seconds, paths_on, stage_rows, timed
from torch import Tensor

import stlsearch
from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.devices import describe_device
from stlsearch.evaluate.cost import ITEM_BYTES, Cost, count_cost
from stlsearch.evaluate.roofline import Machine, ideal, measure_bandwidth
from stlsearch.evaluate.tune import tune
from stlsearch.ops import DTYPES, Bases, Layout, encode_weights
from stlsearch.ops.library import triton_path
from stlsearch.ops.tuning import FOLDER, Table, file_name, load_table, save_table
from stlsearch.registry.atomic import write_atomic
from stlsearch.registry.store import open_registry
from stlsearch.targets import Target

TUNED_RANK = 24
MOST_AMPLIFIED = 30.0
"""Of bases for fp8, whose rounding g magnifies."""


def ideal_fp8(cost: Cost, machine: Machine, flops: float, dtype: str) -> float:
    """Roofline seconds of the unfused operator in fp8: planes at one byte a value, products and results in the dtype."""
    work, item = cost.work("forward"), ITEM_BYTES[dtype]
    rows, inner, columns = cost.size
    n, _, p = cost.tile
    planes, products = work["encode_activations"].values - rows * inner, cost.rank * -(-rows // n) * -(-columns // p)
    multiply = planes + cost.weight_parameters + item * products
    encoding, decoding = item * rows * inner + planes, item * work["decode"].values
    return (encoding + decoding) / machine.bandwidth + max(2 * work["multiply"].macs / flops, multiply / machine.bandwidth)


def estimate(size: int, algorithm: BilinearAlgorithm, machine: Machine) -> str:
    """Speed-ups that a bfloat16 roofline allows, as a line of a table: twice the rate in fp8, and decoding hidden where it is fused."""
    cost = count_cost(algorithm, size, size, size)
    forward = ideal(cost, machine, "bfloat16", "forward")
    fused = forward.dense / (forward.seconds - forward.stages["decode"])
    eighth = forward.dense / ideal_fp8(cost, machine, 2 * machine.flops, "bfloat16")
    backward = ideal(cost, machine, "bfloat16", "backward").speedup
    ratios = " | ".join(f"{ratio:5.2f}" for ratio in (forward.speedup, fused, eighth, eighth / 2, backward))
    return f"| {size:5d} | {algorithm.rank:4d} | {ratios} |"


HEADER = "  size rank pass     path    against   graph       ms    dense  ratio     quartiles  ideal"


def line(row: dict) -> str:
    """One measurement as a line under `HEADER`."""
    low, high = row["speedup_quartiles"]
    return (
        f"{row['size']:6d} {row['rank']:4d} {row['pass']:8s} {row['path']:7s} {row['baseline']:9s} {'yes' if row['graph'] else 'no':5s}"
        f" {row['candidate_s'] * 1e3:8.3f} {row['baseline_s'] * 1e3:8.3f} {row['speedup']:6.2f} {low:6.2f}-{high:6.2f}"
        f" {row['ideal']:6.2f}"
    )


def stage_line(row: dict) -> str:
    """One stage alone as a line."""
    return (
        f"       {row['stage']:15s} {row['path']:7s} {row['seconds'] * 1e3:8.3f} ms"
        f" {row['bytes_per_s'] / 1e9:8.0f} GB/s {row['flops_per_s'] / 1e12:7.1f} TFLOP/s"
    )


def code() -> str:
    """A hash of what is measured: this script and the operator."""
    folder = Path(stlsearch.__file__).parent
    files = [*sorted(Path(__file__).parent.glob("gpu*.py")), *sorted(folder.glob("ops/*.py")), *sorted(folder.glob("evaluate/*.py"))]
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


class Results:
    """What has been measured, saved after each entry."""

    def __init__(self, path: Path | None, about: dict) -> None:
        """Go on from the file at `path` if it is about the same; without a path nothing is saved."""
        self.path = path
        self.document: dict = {**about, "checks": [], "machines": {}, "table": {}, "tuning": {}, "measurements": [], "stages": []}
        if path is not None and path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            if all(before.get(name) == about[name] for name in about if name != "date"):
                self.document = {**before, "date": about["date"]}

    def add(self, name: str, **entry: object) -> None:
        """Append an entry to a list, or update a mapping."""
        if isinstance(self.document[name], dict):
            self.document[name].update(entry)
        else:
            self.document[name].append(entry)
        self.save()

    def has(self, name: str, **entry: object) -> bool:
        """Whether a list holds an entry with these values."""
        return any(all(row.get(key) == value for key, value in entry.items()) for row in self.document[name])

    def save(self) -> None:
        """Write the file, whole."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, (json.dumps(self.document, indent=1) + "\n").encode())


def integers(text: str) -> list[int]:
    """Positive integers separated by commas."""
    found = [int(part) for part in text.split(",")]
    if min(found) < 1:
        raise ValueError
    return found


def rates(text: str) -> Machine:
    """A device of so many operations and bytes per second."""
    flops, bandwidth = map(float, text.split(","))
    return Machine(flops, bandwidth)


class OutOfTime(Exception):
    """The time limit has passed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=integers, default="4096,8192,16384", help="of square matrices (default: %(default)s)")
    parser.add_argument("--ranks", type=integers, default="24,16,32", help="of the 4 x 4 tile's bases (default: %(default)s)")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=15, help="timed pairs (default: %(default)s)")
    parser.add_argument("--tune", action=argparse.BooleanOptionalAction, default=True, help="measure launch parameters first (default)")
    parser.add_argument("--table", type=Path, help="file for what --tune chose, or to take without it (default: the package's)")
    parser.add_argument("--time-limit", type=float, default=540, help="seconds after which nothing new begins (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file (default: results/DEVICE.json beside this script)")
    parser.add_argument(
        "--estimate", metavar="FLOPS,BYTES", type=rates,
        help="only print the roofline of a device of so many bfloat16 operations and bytes per second, such as 790e12,4.3e12",
    )  # fmt: skip
    options = parser.parse_args()
    if options.estimate:
        print("|     n | rank | unfused | fused | fp8 over bfloat16 | fp8 over fp8 | forward and backward |\n|---|---|---|---|---|---|---|")
        for size, rank in itertools.product(options.sizes, options.ranks):
            entry = open_registry().best(Target.matmul(4, 4, 4), rank)
            if entry is not None:
                print(estimate(size, entry.algorithm, options.estimate))
        return 0
    if triton_path() is None:
        missing = "Triton and compute capability 8.0 or later" if torch.cuda.is_available() else "a CUDA device"
        print(f"gpu.py: needs {missing}, and there is none", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    about = describe_device(device)
    if device.type == "cuda":
        options.output = options.output or Path(__file__).parent / "results" / file_name(str(about["name"]))
        options.table = options.table or FOLDER / file_name(str(about["name"]))
    registry = open_registry()
    algorithms = {}
    for rank in options.ranks:
        entry, mild = (registry.best(Target.matmul(4, 4, 4), rank, max_amplification=most) for most in (None, MOST_AMPLIFIED))
        if entry is None:
            print(f"gpu.py: no 4 x 4 basis of rank {rank} is registered", file=sys.stderr)
            return 2
        algorithms[rank] = {path: (mild or entry if path == "fp8" else entry).algorithm for path in PATHS}
    versions = {"stlsearch": stlsearch.__version__, "torch": torch.__version__, "triton": importlib.metadata.version("triton")}
    results = Results(
        options.output,
        {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": about,
            "versions": {**versions, "cuda": torch.version.cuda},
            "dtype": options.dtype,
            "code": code(),
        },
    )
    print(f"{about['name']}, PyTorch {torch.__version__}, Triton {versions['triton']}, {options.dtype}\n")
    started = time.monotonic()

    def in_time() -> None:
        if time.monotonic() - started > options.time_limit:
            raise OutOfTime

    try:
        if not checked(algorithms, options, device, results, in_time):
            print("gpu.py: a path computes something else; nothing was timed", file=sys.stderr)
            return 1
        print(f"\n{HEADER}")
        for rank in options.ranks:
            for size in options.sizes:
                measure(size, algorithms[rank], options, device, results, in_time)
                if device.type == "cuda":
                    torch.cuda.empty_cache()  # graphs keep their memory until then
    except OutOfTime:
        print(f"gpu.py: {options.time_limit:.0f} s have passed; run it again to go on", file=sys.stderr)
        return 3
    print(f"\n{options.output or 'nothing was saved'}")
    return 0


def checked(algorithms: dict, options: argparse.Namespace, device: torch.device, results: Results, in_time: Callable[[], None]) -> bool:
    """Whether every path computes what it should."""
    print("path    rank           size     error     bound")
    for rank, by_path in algorithms.items():
        for path in paths_on(device):
            for size in CHECKED:
                if results.has("checks", rank=rank, path=path, size=list(size)):
                    continue
                in_time()
                for row in check(path, by_path[path], size, options.dtype, device):
                    results.add("checks", **row)
                    verdict = "" if row["right"] else "  WRONG"
                    errors = f"{row['rel_error']:9.2e} {row['bound']:9.2e}"
                    print(f"{path:7s} {rank:4d} {'x'.join(map(str, size)):>14s} {errors}  {row['tensor']}{verdict}", flush=True)
    return all(row["right"] for row in results.document["checks"])


def measure(
    size: int, by_path: dict, options: argparse.Namespace, device: torch.device, results: Results, in_time: Callable[[], None]
) -> None:
    """Tune one size, and time every path and pass of one rank at it."""
    generator = torch.Generator(device).manual_seed(0)
    x, weight = (torch.randn(size, size, generator=generator, dtype=DTYPES[options.dtype], device=device) for _ in range(2))
    in_time()
    matmul = graph_seconds(partial(torch.matmul, x, weight), device)
    machine = Machine(2 * size**3 / matmul, measure_bandwidth(device, x.dtype))
    eighth = dense_fp8(x, weight) if options.dtype == "bfloat16" and "fp8" in paths_on(device) else None
    fp8_flops = 2 * size**3 / graph_seconds(eighth, device) if eighth else 2 * machine.flops
    results.add("machines", **{str(size): {**machine.to_dict(), "fp8_flops_per_s": fp8_flops}})
    reached = f"torch.matmul {machine.flops / 1e12:.0f} TFLOP/s, fp8 {fp8_flops / 1e12:.0f}, copy {machine.bandwidth / 1e9:.0f} GB/s"
    print(f"{size:6d} {reached}", flush=True)
    rank = by_path["tuned"].rank
    table = tuned_table(size, x, weight, by_path, options, results, in_time)
    calls = calls_of(size, device)
    for path, directions in paths_on(device).items():
        algorithm = by_path[path]
        bases = Bases.prepare(algorithm, dtype=x.dtype, device=device)
        cost = count_cost(algorithm, size, size, size)
        for direction in directions:
            for baseline in ("dense", "fp8") if path == "fp8" and eighth else ("dense",):
                for graph in (True, False) if path == "tuned" and calls else (bool(calls),):
                    about = {"size": size, "rank": rank, "pass": direction, "path": path, "baseline": baseline, "graph": graph}
                    if results.has("measurements", **about):
                        continue
                    in_time()
                    dense = eighth if baseline == "fp8" else None
                    graphs = calls if graph else 0
                    timing = timed(path, direction, x, weight, bases, table, dense=dense, calls=graphs, repeats=options.repeats)
                    allowed = ideal(cost, machine, options.dtype, direction).speedup
                    if path == "fp8":
                        flops = fp8_flops if baseline == "fp8" else machine.flops
                        allowed = 2 * size**3 / flops / ideal_fp8(cost, machine, fp8_flops, options.dtype)
                    row = {**about, "algorithm": algorithm.name, "dtype": options.dtype, **timing, "ideal": allowed}
                    results.add("measurements", **row)
                    print(line(row), flush=True)
    if not results.has("stages", size=size, rank=rank):
        in_time()
        bases = Bases.prepare(by_path["fp8"], dtype=x.dtype, device=device)
        for row in stage_rows(x, weight, bases, table, options.dtype):
            results.add("stages", size=size, rank=rank, **row)
            print(stage_line(row), flush=True)


def tuned_table(
    size: int, x: Tensor, weight: Tensor, by_path: dict, options: argparse.Namespace, results: Results, in_time: Callable[[], None]
) -> Table | None:
    """What the paths that are tuned take: what was measured, with --tune of this size at `TUNED_RANK`, or the table of a file."""
    if not options.tune:
        return load_table(options.table) if options.table and options.table.exists() else None
    algorithm = by_path["fp8"]
    for fp8 in (False, True) if "fp8" in paths_on(x.device) else (False,):
        name = f"{size} {'fp8' if fp8 else options.dtype}"
        if algorithm.rank != TUNED_RANK or name in results.document["tuning"]:
            continue
        in_time()
        bases = Bases.prepare(algorithm, dtype=x.dtype, device=x.device)
        began = time.monotonic()
        found = tune(x, encode_weights(weight, bases, layout=Layout()), bases, fp8=fp8, timer=graph_seconds)
        results.add("table", **found.table)
        results.add("tuning", **{name: {"seconds": found.seconds, "refused": found.refused}})
        print(f"{size:6d} tuned {'fp8' if fp8 else options.dtype} in {time.monotonic() - began:.0f} s, {len(found.refused)} refused")
        for operation, seconds in found.seconds.items():
            print(f"       {operation:50s} {' '.join(f'{which} {value * 1e3:.3f} ms' for which, value in seconds.items())}", flush=True)
        if options.table:
            save_table(results.document["table"], options.table, device=results.document["device"], date=results.document["date"])
    return results.document["table"]


if __name__ == "__main__":
    sys.exit(main())

"""The Triton kernels: through Triton's interpreter and its compiler on a CPU, and as they are on a CUDA device.

Each in a process of its own, since Triton chooses between interpreter and compiler once for all, when it is imported.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stlsearch.evaluate.cost import count_cost
from stlsearch.evaluate.stages import time_stages
from stlsearch.ops import Bases, backend, encode_weights, stl_matmul
from stlsearch.registry.store import open_registry
from stlsearch.targets import Target

pytest.importorskip("triton")

HERE = Path(__file__).parent
CHECKS = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "triton_checks.py")]

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def run(arguments: list[str], cache: Path, interpret: bool) -> None:
    environment = os.environ | {"TRITON_INTERPRET": str(int(interpret)), "TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kernels_through_the_interpreter(tmp_path):
    run(CHECKS, tmp_path, interpret=True)


def test_kernels_compile_for_compute_capability_9(tmp_path):
    run([str(HERE / "triton_compile.py")], tmp_path, interpret=False)


@pytest.fixture(scope="module")
def benchmark_script():
    path = HERE.parent / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("gpu_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_refuses_to_run_without_a_gpu(benchmark_script, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert benchmark_script.main() == 2
    assert capsys.readouterr().err == "gpu.py: needs a CUDA device, and there is none\n"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_benchmark_checks_the_result_and_the_gradients(benchmark_script, monkeypatch, dtype):
    arguments = open_registry().best(Target.matmul(4, 4, 4), rank=49).algorithm, (50, 37, 45), dtype, torch.device("cpu")
    rows = benchmark_script.check("plain", *arguments)
    assert [row["tensor"] for row in rows] == ["result", "gradient of x", "gradient of the encoded weight"]
    assert all(row["right"] for row in rows)
    assert all(0.02 * row["bound"] < row["rel_error"] < 0.5 * row["bound"] for row in rows)

    class Slipped(torch.autograd.Function):
        """The same number with a gradient that is a little off."""

        @staticmethod
        def forward(ctx, tensor):
            return tensor.view_as(tensor)

        @staticmethod
        def backward(ctx, grad):
            return 1.1 * grad

    right = benchmark_script.product
    monkeypatch.setattr(benchmark_script, "product", lambda path, x, *rest: right(path, Slipped.apply(x), *rest))
    assert [row["right"] for row in benchmark_script.check("plain", *arguments)] == [True, False, True]
    monkeypatch.setattr(benchmark_script, "product", lambda *rest: right(*rest).detach() * float("nan"))
    assert [row["right"] for row in benchmark_script.check("plain", *arguments)] == [False]


def test_the_benchmark_times_every_pass_and_stage(benchmark_script, monkeypatch):
    """On the CPU, where "triton" is the compiled operator and "fused" does not exist."""
    monkeypatch.setattr(benchmark_script, "PATHS", dict.fromkeys(("plain", "triton"), benchmark_script.PASSES))
    monkeypatch.setattr(benchmark_script, "time_stages", functools.partial(time_stages, time_limit=0))
    algorithm = open_registry().best(Target.matmul(4, 4, 4), rank=24).algorithm
    x, weight = torch.randn(16, 16), torch.randn(16, 16)
    machine = benchmark_script.Machine(flops=1e12, bandwidth=1e11)
    rows = list(benchmark_script.measurements(algorithm, x, weight, machine, "float32", graphs=False, repeats=1))
    assert [(row["pass"], row["path"]) for row in rows] == [
        (direction, path) for direction in ("forward", "backward") for path in ("plain", "triton")
    ]
    assert all(row["speedup"] > 0 for row in rows)
    cost = count_cost(algorithm, 16, 16, 16)
    stages = benchmark_script.stage_rows(x, weight, Bases.prepare(algorithm), cost, "float32")
    assert [(row["path"], row["stage"]) for row in stages] == [
        (path, stage) for path in ("plain", "triton") for stage in cost.work("backward")
    ]
    assert len({len(benchmark_script.stage_line({**row, "bytes_per_s": 1e12, "flops_per_s": 1e14})) for row in stages}) == 1
    assert not x.requires_grad


def test_what_the_benchmark_prints_and_saves(benchmark_script, monkeypatch, tmp_path):
    algorithm = open_registry().best(Target.matmul(4, 4, 4), rank=24).algorithm
    timing = {"candidate_s": 1e-3, "baseline_s": 2e-3, "speedup": 2.0, "speedup_quartiles": [1.9, 2.1], "repeats": 3}
    monkeypatch.setattr(benchmark_script, "timed", lambda *arguments, **options: timing)
    machine = benchmark_script.Machine(flops=1e12, bandwidth=1e11)
    x, weight = torch.randn(64, 64), torch.randn(64, 64)
    rows = list(benchmark_script.measurements(algorithm, x, weight, machine, "float32", graphs=False, repeats=3))
    assert [(row["path"], row["pass"]) for row in rows] == [
        *((path, "forward") for path in ("plain", "triton", "fused")),
        *((path, "backward") for path in ("plain", "triton")),
    ]
    assert len(benchmark_script.line(rows[0])) == len(benchmark_script.HEADER)
    benchmark_script.save({"measurements": rows}, tmp_path / "results" / f"{benchmark_script.slug('NVIDIA H200 (SXM)')}.json")
    (file,) = (tmp_path / "results").iterdir()
    assert file.name == "nvidia-h200-sxm.json"
    assert json.loads(file.read_text())["measurements"] == rows


@pytest.mark.gpu
@on_gpu
def test_kernels_on_a_gpu(tmp_path):
    run(CHECKS, tmp_path, interpret=False)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operator_on_a_gpu_is_that_of_plain_pytorch(dtype):
    algorithm = open_registry().best(Target.matmul(4, 4, 4), rank=24).algorithm
    bases = Bases.prepare(algorithm, dtype=dtype, device="cuda")
    x = torch.randn(250, 322, dtype=dtype, device="cuda", requires_grad=True)
    weight = torch.randn(322, 198, dtype=dtype, device="cuda", requires_grad=True)
    found = {}
    for name in ("auto", "plain"):
        with backend(name):
            result = stl_matmul(x, encode_weights(weight, bases), bases)
            found[name] = [result, *torch.autograd.grad(result.square().sum(), [x, weight])]
    for fast, plain in zip(found["auto"], found["plain"], strict=True):
        assert (fast - plain).norm() < (1e-4 if dtype == torch.float32 else 0.1) * plain.norm()


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("name", ["auto", "plain"])
def test_a_cuda_graph_replays_the_operator(name):
    algorithm = open_registry().best(Target.matmul(4, 4, 4), rank=24).algorithm
    bases = Bases.prepare(algorithm, device="cuda")
    encoded = encode_weights(torch.randn(64, 48, device="cuda"), bases)
    x = torch.randn(32, 64, device="cuda")
    with backend(name), torch.inference_mode():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            stl_matmul(x, encoded, bases)  # kernels are compiled before the capture
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = stl_matmul(x, encoded, bases)
        x.copy_(torch.randn(32, 64))
        graph.replay()
        torch.testing.assert_close(result, stl_matmul(x, encoded, bases))

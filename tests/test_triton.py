"""The Triton kernels: through Triton's interpreter and its compiler on a CPU, and as they are on a CUDA device.

Each in a process of its own, since Triton chooses between interpreter and compiler once for all, when it is imported.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stlsearch.ops import Bases, backend, encode_weights, quantise, stl_matmul
from stlsearch.registry.store import open_registry
from stlsearch.targets import Target

pytest.importorskip("triton")

HERE = Path(__file__).parent
CHECKS = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "triton_checks.py")]

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def run(arguments: list[str], cache: Path, interpret: bool) -> None:
    environment = os.environ | {"TRITON_INTERPRET": str(int(interpret)), "TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kernels_through_the_interpreter(tmp_path):
    run(CHECKS, tmp_path, interpret=True)


def test_kernels_compile_for_compute_capability_9(tmp_path):
    run([str(HERE / "triton_compile.py")], tmp_path, interpret=False)


@pytest.mark.slow
def test_everything_compiles_for_compute_capability_9(tmp_path):
    run([str(HERE / "triton_compile.py"), "--all"], tmp_path, interpret=False)


@pytest.mark.gpu
@on_gpu
def test_kernels_on_a_gpu(tmp_path):
    together = ["-n", "8"] if importlib.util.find_spec("xdist") else []  # compiling takes longer than running
    run([*CHECKS, *together], tmp_path, interpret=False)


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
@pytest.mark.parametrize("eighth", [False, True])
@pytest.mark.parametrize("name", ["auto", "plain", "fused"])
def test_a_cuda_graph_replays_the_operator(name, eighth):
    algorithm = open_registry().best(Target.matmul(4, 4, 4), rank=24).algorithm
    bases = Bases.prepare(algorithm, device="cuda")
    encoded = encode_weights(torch.randn(64, 48, device="cuda"), bases)
    encoded = quantise(encoded) if eighth else encoded
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

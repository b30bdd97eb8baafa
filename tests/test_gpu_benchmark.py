"""benchmarks/gpu.py without a GPU: its checks, its bookkeeping, and all of it through Triton's interpreter."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stlsearch.registry.store import open_registry
from stlsearch.targets import Target

pytest.importorskip("triton")

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("gpu")
    for name in ("gpu", "gpu_paths"):
        sys.modules.pop(name)


def test_it_refuses_to_run_without_a_gpu(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "triton_path", lambda: None)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    for available, missing in ((False, "a CUDA device"), (True, "Triton and compute capability 8.0 or later")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert script.main() == 2
        assert capsys.readouterr().err == f"gpu.py: needs {missing}, and there is none\n"


def test_fp8_is_left_out_where_it_has_no_kernels(script, monkeypatch):
    paths_on = sys.modules["gpu_paths"].paths_on
    found = []
    for capability in ((8, 0), (8, 9), (9, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        found.append("fp8" in paths_on(torch.device("cuda", 0)))
    assert found == [False, True, True]


def test_it_estimates_without_a_gpu(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--estimate", "790e12,4.3e12", "--sizes", "8192", "--ranks", "24"])
    assert script.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "|  8192 |   24 |  2.05 |  2.32 |  3.54 |  1.77 |  2.22 |"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_it_checks_the_result_and_the_gradients(script, monkeypatch, dtype):
    paths = sys.modules["gpu_paths"]
    arguments = open_registry().best(Target.matmul(4, 4, 4), rank=49).algorithm, (50, 37, 45), dtype, torch.device("cpu")
    rows = paths.check("plain", *arguments)
    assert [row["tensor"] for row in rows] == ["result", "gradient of x", "gradient of the encoded weight"]
    assert all(row["right"] for row in rows)
    assert all(0.02 * row["bound"] < row["rel_error"] < 0.5 * row["bound"] for row in rows)
    (eighth,) = paths.check("fp8", *arguments)
    assert eighth["right"]
    assert eighth["rel_error"] < 0.5 * eighth["bound"] < 0.1

    class Slipped(torch.autograd.Function):
        """The same number with a gradient that is a little off."""

        @staticmethod
        def forward(ctx, tensor):
            return tensor.view_as(tensor)

        @staticmethod
        def backward(ctx, grad):
            return 1.1 * grad

    right = paths.stl_matmul
    monkeypatch.setattr(paths, "stl_matmul", lambda x, *rest: right(Slipped.apply(x), *rest))
    assert [row["right"] for row in paths.check("plain", *arguments)] == [True, False, True]
    monkeypatch.setattr(paths, "stl_matmul", lambda *rest: right(*rest).detach() * float("nan"))
    assert [row["right"] for row in paths.check("plain", *arguments)] == [False]


def run(arguments, tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / "gpu.py"), "--sizes", "16", "--ranks", "7", "--repeats", "1", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr


def test_it_runs_through_the_interpreter_and_goes_on_where_it_was_ended(tmp_path):
    output = tmp_path / "results" / "cpu.json"
    code, printed = run(["--output", str(output)], tmp_path)
    assert code == 0, printed
    document = json.loads(output.read_text())
    assert {row["path"] for row in document["checks"]} == {"plain", "unfused", "fused", "tuned", "fp8"}
    assert [(row["path"], row["pass"], row["baseline"]) for row in document["measurements"]] == [
        ("plain", "forward", "dense"),
        ("plain", "backward", "dense"),
        ("unfused", "forward", "dense"),
        ("unfused", "backward", "dense"),
        ("fused", "forward", "dense"),
        ("tuned", "forward", "dense"),
        ("tuned", "backward", "dense"),
        ("fp8", "forward", "dense"),
        ("fp8", "forward", "fp8"),
    ]
    assert all(row["candidate_s"] > 0 and row["ideal"] > 0 for row in document["measurements"])
    assert {row["stage"] for row in document["stages"]} == {"encode", "multiply", "decode", "multiply+decode"}
    header = next(line for line in printed.splitlines() if line.endswith("ideal"))
    assert all(len(line) == len(header) for line in printed.splitlines() if "forward" in line or "backward" in line)
    output.write_text(json.dumps({**document, "measurements": document["measurements"][:-1], "stages": []}))
    code, again = run(["--output", str(output), "--time-limit", "0"], tmp_path)
    assert (code, "run it again" in again) == (3, True), again
    assert "gradient of x" not in again  # nothing is checked again
    assert "forward" not in again
    assert json.loads(output.read_text())["checks"] == document["checks"]


def test_results_of_something_else_are_not_gone_on_with(script, tmp_path):
    about, output = {"date": "today", "code": "a"}, tmp_path / "results" / "device.json"
    results = script.Results(output, about)
    results.add("measurements", size=16, path="plain", candidate_s=1.0)
    results.add("table", encode={"warps": 2})
    again = script.Results(output, {**about, "date": "tomorrow"})
    assert again.has("measurements", size=16, path="plain")
    assert not again.has("measurements", size=32, path="plain")
    assert (again.document["table"], again.document["date"]) == ({"encode": {"warps": 2}}, "tomorrow")
    assert not script.Results(output, {**about, "code": "b"}).has("measurements", size=16)

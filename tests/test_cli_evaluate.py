"""`stlsearch evaluate` from the command line: its table, its JSON and every way to call it wrongly."""

import json

import pytest
import torch
from test_ops import STRASSEN

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands import main
from stlsearch.registry.store import Registry
from stlsearch.targets import Target


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    algorithm = BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), *STRASSEN)
    Registry(folder).add(algorithm)
    return folder, algorithm


@pytest.fixture
def run(registry, capsys):
    """Evaluate the registered Strassen with further arguments: exit code, stdout, stderr."""
    folder, algorithm = registry

    def call(*arguments, name=algorithm.name):
        code = main(["evaluate", name, "--registry", str(folder), "--device", "cpu", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_the_table(run, registry):
    code, out, err = run("--size", "64", "--repeats", "2", "--dtype", "float32, bfloat16")
    assert code == 0
    assert out.startswith(registry[1].name)
    assert "(64, 64) times (64, 64) on CPU" in out
    assert "GPU" not in out
    for label in (
        "predicted e + g u^2",
        "batched GEMMs",
        "total, weights pre-encoded",
        "7/8 = 0.8750",
        "CPU time",
        "speed-up",
        "of ideal",
        "extra MB",
    ):
        assert label in out
    assert "bfloat16: 2 timed pairs" in err


def test_without_timing(run):
    code, out, err = run("--size", "64", "--no-timing")
    assert code == 0
    assert "CPU time" not in out
    assert "timed" not in err


def test_json(run, registry):
    code, out, _ = run("--size", "8x6x10", "--repeats", "1", "--seed", "3", "--dtype", "float64", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["version"] == 1
    assert found["id"] == registry[1].id
    assert found["cost"]["macs"]["multiply"] == 7 * 4 * 3 * 5
    assert found["seed"] == 3
    assert found["device"]["type"] == "cpu"
    assert found["errors"][0]["rel_sq_error"] < 1e-28
    timing = found["timings"]["float64"]
    assert timing["repeats"] == 1
    assert timing["ideal_speedup"] > 0
    assert timing["of_ideal"] == pytest.approx(timing["speedup"] / timing["ideal_speedup"])
    assert timing["dense_extra_bytes"] == 8 * 8 * 10
    assert timing["extra_bytes"] >= 8 * 8 * 10


def test_threads(run):
    before = torch.get_num_threads()
    try:
        code, out, _ = run("--size", "32", "--no-timing", "--threads", "1", "--json")
        assert code == 0
        assert json.loads(out)["device"]["threads"] == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtype", "int8"], "unknown dtype 'int8'; valid: float64, float32, bfloat16, float16"),
        (["--dtype", "float32,"], "unknown dtype ''; valid: float64"),
        (["--device", "tpu"], "unknown device 'tpu'; valid: auto, cpu, cuda"),
        (["--size", "0"], "sizes must be at least 1"),
        (["--size", "4x4"], "size '4x4' is not valid"),
        (["--size", "-3"], "size '-3' is not valid"),
        (["--size", "999999999"], "at most 131072"),
        (["--threads", "0"], "threads must be 1..1024, not 0"),
        (["--threads", "many"], "'many' is not a valid integer"),
        (["--repeats", "0"], "0 is not in the range x>=1"),
        (["--seed", "-1"], "-1 is not in the range"),
        (["--speed"], "No such option"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_cuda_without_cuda(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = run("--device", "cuda")
    assert code == 2
    assert "device 'cuda' is not available" in err
    assert len(err.splitlines()) == 1


def test_an_unknown_name(run):
    code, _, err = run(name="9x9x9_r1_Z_00000000")
    assert code == 2
    assert len(err.splitlines()) == 1


def test_only_matrix_products_over_the_reals(run, tmp_path):
    algorithm = BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), *STRASSEN, ring="Z2")
    path = Registry(tmp_path).add(algorithm)
    code, _, err = run("--size", "8", name=str(path))
    assert code == 2
    assert "lies over Z2" in err
    assert len(err.splitlines()) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_table_on_cuda(run):
    code, out, _ = run("--size", "256", "--repeats", "2", "--device", "cuda")
    assert code == 0
    assert "on GPU" in out
    assert "GPU time" in out
    assert "float16" in out


def test_help(capsys):
    assert main(["evaluate", "--help"]) == 0
    assert "--no-timing" in capsys.readouterr().out

"""benchmarks/restarts.py without a GPU: its rows, its file, and that it notices sweeps that compute something else."""

import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("restarts")
    monkeypatch.setattr(module, "SIZES", (((2, 2, 2), 7),))
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: False)
    yield module
    sys.modules.pop("restarts")


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["restarts.py", "--batches", "3,8", "--seconds", "0.01", *arguments])
    return script.main()


def test_rows_and_file_without_a_gpu(script, monkeypatch, capsys, tmp_path):
    assert run(script, monkeypatch, "--json", str(tmp_path / "new" / "restarts.json")) == 0
    printed = capsys.readouterr().out
    assert "no CUDA device" in printed
    document = json.loads((tmp_path / "new" / "restarts.json").read_text(encoding="utf-8"))
    rows = document["restarts_per_second"]
    assert [(row["dtype"], row["batch"]) for row in rows] == [("float64", 3), ("float64", 8), ("float32", 3), ("float32", 8)]
    assert all(row["compiled"] > 0 and row["operations"] > 0 and row["operations_agree"] == 1 and row["cuda"] is None for row in rows)
    assert set(document["devices"]) == {"cpu"}
    assert document["sweeps"] == 200


def test_sweeps_that_compute_something_else_are_noticed(script, monkeypatch, capsys):
    sweep = script.als.sweep
    monkeypatch.setattr(script.als, "sweep", lambda problem, factors, penalty: sweep(problem, factors, 100 * penalty))
    assert run(script, monkeypatch) == 1
    captured = capsys.readouterr()
    assert captured.out.count("WRONG") == 4
    assert captured.err == "restarts.py: a path comes to other errors than the compiled sweeps\n"


def test_what_does_not_fit_is_left_out(script, monkeypatch, capsys):
    monkeypatch.setattr("stlsearch.fit.available_memory", lambda device: 1000)
    assert run(script, monkeypatch) == 0
    assert capsys.readouterr().out.count("|          -       -      - |") == 4

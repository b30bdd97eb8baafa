"""examples/claims: intervals, counted costs, the small layer, resumable results, and the three commands end to end."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("sklearn")
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "claims"
MODULES = ("accuracy", "bases", "command", "intervals", "networks", "rates", "starts", "tasks", "training")


@pytest.fixture
def claims(monkeypatch):
    """The folder on the path, its modules forgotten afterwards: their names are short."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def call(monkeypatch, folder, command, *arguments):
    """The command in this process, in a folder; its exit code."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("STLSEARCH_HOME", str(folder / "registry"))
    monkeypatch.setattr(sys, "argv", [f"{command}.py", *arguments])
    module = __import__(command)
    from command import run

    threads = torch.get_num_threads()
    try:
        run(module.main)
    except SystemExit as stopped:
        return stopped.code
    finally:
        torch.set_num_threads(threads)
    return 0


def test_interval_is_that_of_scipy(claims):
    from intervals import interval, paired

    values = np.random.default_rng(0).normal(60, 3, 5)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = interval(values)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    others = values + np.array([0.3, -1, 0.2, 2, 0.1])
    low, high = stats.ttest_rel(values, others).confidence_interval(0.95)
    found = paired(values, others)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))


def test_interval_of_what_is_missing(claims):
    from intervals import interval, paired

    assert interval([1.0, None]).show() == "-"
    assert paired([1.0], [None]).sign == 0
    assert interval([3.0]).show() == "3.00 ± ?"
    assert interval([3.0]).sign == 0
    assert (interval([1.0, 1.01, 0.99]).sign, interval([-1.0, -1.01]).sign) == (1, -1)


def test_costs_are_those_of_the_layers(claims):
    from networks import Network, SmallSTL, backbone_macs, backbone_weights, equal_width, layer_macs
    from starts import basis_named
    from tasks import photos

    assert layer_macs(16, 64, 128, None) == 16 * 64 * 128
    tiles, inner, outputs = 16 // 4, 64 // 4, 128 // 4  # encode and decode each cost 16 r a tile
    assert layer_macs(16, 64, 128, 24) == 24 * (16 * tiles * inner + tiles * inner * outputs + 16 * tiles * outputs)
    basis = basis_named("front", 24, 0)
    task = photos(0)
    dense, fast = Network(task, 32, 2), Network(task, 32, 2, lambda inner, outputs: SmallSTL(inner, outputs, basis))
    assert backbone_weights(32, 2, None) == sum(p.numel() for p in dense.blocks.parameters() if p.ndim == 2)
    assert backbone_weights(32, 2, 24) == sum(p.numel() for p in fast.blocks.parameters() if p.ndim == 3)
    flops = FlopCounterMode(display=False)
    with flops, sdpa_kernel(SDPBackend.MATH):
        dense(torch.randn(1, 16, 48))
    outside = 16 * 48 * 32 * 2
    assert backbone_macs(32, 2, None) == flops.get_total_flops() / 2 - outside
    assert equal_width(backbone_weights, 64, 2, 64) == 128
    assert equal_width(backbone_macs, 64, 2, 16) < 64


def test_small_layer_is_the_operator(claims):
    from networks import SmallSTL
    from starts import basis_named

    from stlsearch.nn import STLLinear

    small = SmallSTL(24, 40, basis_named("calm", 16, 0), learn="UW")
    layer = STLLinear(24, 40, basis_named("calm", 16, 0), learn="UW")
    layer.load_state_dict(small.state_dict())
    x = torch.randn(3, 16, 24)
    results = []
    for module in (small, layer):
        y = module(x)
        y.square().sum().backward()
        results.append((y.detach(), {name: parameter.grad for name, parameter in module.named_parameters()}))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-3)


def test_steady_rate_moves_the_result_as_a_dense_step_does(claims):
    from starts import basis_named

    from stlsearch.nn import Basis, STLLinear, steady_rate

    torch.manual_seed(0)
    for name in ("front", "calm", "gaussian"):
        layer = STLLinear(64, 64, basis_named(name, 24, 0), bias=False)
        x = torch.randn(512, 4, 64)
        with torch.no_grad():
            layer.weight.copy_(steady_rate(Basis(basis_named(name, 24, 0))) * torch.randn(layer.weight.shape).sign())
            assert float(layer(x).square().mean()) == pytest.approx(64, rel=0.15)  # K for a dense step of 1


def test_gaussian_basis_and_unknown_names(claims):
    from starts import basis_named

    from stlsearch.errors import InputError

    assert basis_named("gaussian", 16, 3).amplification == pytest.approx(1)
    assert basis_named("gaussian", 16, 3) is not basis_named("gaussian", 16, 4)
    with pytest.raises(InputError, match="unknown basis"):
        basis_named("magic", 16, 0)


def test_equal_runs_are_equal_and_kept(claims, tmp_path):
    from training import Results, Run, perform, tuned

    from stlsearch.errors import InputError

    run = tuned("photos", 16, 3, "front", 16, "UW", "dense", 1e-3)
    first, again = perform(run), perform(run)
    assert first["score"] == again["score"]
    results = Results(tmp_path / "runs.json", "a command")
    results.complete([run, run.of_seed(1)])
    assert results.of(run)["score"] == first["score"]
    before = (tmp_path / "runs.json").stat().st_mtime_ns
    Results(tmp_path / "runs.json", "a command").complete([run, run.of_seed(1)])
    assert (tmp_path / "runs.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="lacks 1 of the runs"):
        Results(tmp_path / "runs.json", "", readonly=True).complete([replace(run, steps=4)])
    assert perform(Run("photos", 16, 0, 3, 1e12))["score"] is None  # diverged: kept as such


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("accuracy", ["--widths", "16", "--ranks", "16"]), ("bases", ["--bases", "front,gaussian", "--starts", "encoded"])],
)
def test_commands_end_to_end(claims, tmp_path, monkeypatch, capsys, command, arguments):
    small = ["--quick", "--tasks", "digits", "--plot", "picture.png", *arguments]
    assert call(monkeypatch, tmp_path, command, *small, "--json") == 0
    out, error = capsys.readouterr()
    rows = json.loads(out)
    assert {len(row["scores"]) for row in rows} == {2}
    kept = json.loads((tmp_path / f"claims-{command}.json").read_text())
    assert kept["commands"][0].startswith(f"python examples/claims/{command}.py --quick")
    assert f"{len(kept['runs'])}/{len(kept['runs'])}" in error
    assert (tmp_path / "picture.png").exists()
    assert call(monkeypatch, tmp_path, command, "--from", f"claims-{command}.json", "--quick", "--tasks", "digits", *arguments) == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert out.count("±") > len(rows)


@pytest.mark.parametrize("command", ["rates", "accuracy", "bases"])
def test_shipped_results_give_the_tables_of_the_page(claims, tmp_path, monkeypatch, capsys, command):
    assert call(monkeypatch, tmp_path, command, "--from", str(ROOT / f"benchmarks/results/claims-{command}.json")) == 0
    page = (ROOT / "docs" / "claims.md").read_text()
    for line in capsys.readouterr().out.splitlines():
        assert line in page


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("accuracy", ["--tasks", "cifar"], "unknown task 'cifar'; valid: digits, photos"),
        ("accuracy", ["--widths", "30"], "--widths takes positive multiples of 4 separated by commas, not '30'"),
        ("accuracy", ["--bases", "both"], "unknown bases 'both'; valid: fixed, learned"),
        ("bases", ["--starts", "cold"], "unknown name 'cold'; valid: encoded, independent, dense"),
        ("bases", ["--seeds", "0"], "--seeds and --steps are at least 1"),
        ("bases", ["--ranks", "5"], "no basis of rank 5 with g <= 1000 is registered"),
        ("rates", ["--from", "nothing.json"], "cannot read nothing.json: No such file or directory"),
        ("rates", ["--plot", "nowhere/a.png"], "cannot write nowhere/a.png: there is no folder"),
    ],
)
def test_bad_options_are_one_line(claims, tmp_path, monkeypatch, capsys, command, arguments, message):
    assert call(monkeypatch, tmp_path, command, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_ctrl_c_keeps_what_is_finished(claims, tmp_path, monkeypatch, capsys):
    import training

    performed = []

    def perform(run):
        if len(performed) == 3:
            raise KeyboardInterrupt
        performed.append(run)
        return {"run": asdict(run), "score": 1.0, "seconds": 0}

    monkeypatch.setattr(training, "perform", perform)
    assert call(monkeypatch, tmp_path, "rates", "--quick") == 130
    assert "the same command continues" in capsys.readouterr().err
    kept = training.Results(tmp_path / "claims-rates.json", "")
    assert len(kept.rows) == 3
    assert all(run in kept for run in performed)

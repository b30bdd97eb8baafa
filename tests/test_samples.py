"""Samples: axis order, tiles, held-out parts, grouping of channels, and files that cannot be used."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from samples import noisy

from stlsearch.commands import main
from stlsearch.errors import InputError
from stlsearch.evaluate.data import beside_baselines, measured_error
from stlsearch.grouping import group_channels
from stlsearch.registry.codec import loads
from stlsearch.samples import Samples, activation_tiles, load_samples
from stlsearch.targets import Target

TWO = Target.matmul(2, 2, 2)
QUICK = ["--init", "random", "--restarts", "2", "--iterations", "30"]


def correlated(count=40, tokens=6, channels=8, seed=0):
    """Channels 0 and 4, 1 and 5, ... nearly alike; the even ones strong."""
    random = np.random.default_rng(seed)
    half = random.normal(size=(count, tokens, channels // 2)) * np.where(np.arange(channels // 2) % 2, 0.2, 3.0)
    return np.concatenate([half, half + 0.1 * random.normal(size=half.shape)], axis=2)


def test_tiles_hold_neighbouring_tokens_of_one_sample_token_by_token():
    x = np.arange(2 * 5 * 4, dtype=float).reshape(2, 5, 4)  # sample, token, channel
    tiles = activation_tiles(x, 2, 2)
    assert len(tiles) == 2 * 2 * 2  # the fifth token of each sample fills no tile
    assert tiles[0].tolist() == [x[0, 0, 0], x[0, 0, 1], x[0, 1, 0], x[0, 1, 1]]
    assert tiles[1].tolist() == [x[0, 0, 2], x[0, 0, 3], x[0, 1, 2], x[0, 1, 3]]
    assert tiles[4].tolist() == [x[1, 0, 0], x[1, 0, 1], x[1, 1, 0], x[1, 1, 1]]


def test_moments_are_uncentred_and_leading_axes_are_samples():
    x = np.random.default_rng(0).normal(size=(3, 7, 4, 6)) + 2
    metric = Samples.of(x).metric(Target.matmul(2, 3, 2))
    by_hand = np.zeros((6, 6))
    for sample in x.reshape(21, 4, 6):
        for token in (0, 2):
            for channel in (0, 3):
                tile = sample[token : token + 2, channel : channel + 3].ravel()
                by_hand += np.outer(tile, tile) / 84
    assert np.allclose(metric.activation, by_hand)
    assert np.array_equal(metric.weight, np.eye(6))


def test_permuting_channels_everywhere_changes_nothing():
    random = np.random.default_rng(0)
    x, w, order = correlated(), random.normal(size=(8, 10)), random.permutation(8)
    plain, moved = Samples.of(x, w), Samples.of(x[:, :, order], w[order])
    back = np.argsort(order)
    first, second = plain.metric(TWO), moved.metric(TWO, back)
    assert np.allclose(first.activation, second.activation)
    assert np.allclose(first.weight, second.weight)
    assert second.channels.tolist() == back.tolist()
    basis = noisy()
    assert measured_error(basis, moved, back) == pytest.approx(measured_error(basis, plain))


def test_the_measured_error_is_the_modelled_one_for_independent_tiles():
    random = np.random.default_rng(0)
    samples = Samples.of(random.normal(size=(500, 4, 2)) @ np.array([[1, 0.8], [0, 0.6]]), random.normal(size=(2, 400)))
    basis = noisy()
    assert measured_error(basis, samples) == pytest.approx(samples.metric(TWO).error(basis), rel=0.02)


def test_the_measured_error_of_a_zero_product_is_undefined():
    x = np.zeros((8, 4, 2))
    x[:, :, 0] = np.random.default_rng(0).normal(size=(8, 4))
    samples = Samples.of(x, np.array([[0.0, 0.0], [1.0, 2.0]]))
    assert measured_error(noisy(), samples) is None
    lines = beside_baselines(noisy(), None, samples.metric(TWO, enough=False), samples)
    assert [line.to_dict()["measured_rel_sq_error"] for line in lines] == [None, None]


def test_held_out_samples_are_every_fourth_or_the_last_tokens():
    x = np.arange(10 * 2 * 3, dtype=float).reshape(10, 2, 3)
    fitted, held_out = Samples.of(x).split(2)
    assert np.array_equal(held_out.activations, x[[3, 7]])
    assert len(fitted.activations) == 8
    fitted, held_out = Samples.of(x.reshape(20, 3)).split(4)  # one sample: no tile is torn
    assert fitted.activations.shape == (1, 12, 3)
    assert np.array_equal(held_out.activations[0], x.reshape(20, 3)[12:])
    with pytest.raises(InputError, match="too few"):
        Samples.of(x[:1]).split(2)


def test_grouping_channels_keeps_more_in_the_leading_modes():
    samples = Samples.of(correlated()[:, :, [0, 2, 4, 6, 1, 3, 5, 7]])  # as they stand, strong channels meet strong ones
    order = group_channels(samples, TWO, 4)
    assert sorted(order) == list(range(8))
    kept = [np.linalg.eigvalsh(samples.metric(TWO, chosen).activation)[-2:].sum() for chosen in (None, order)]
    assert kept[1] > 1.2 * kept[0]
    assert np.array_equal(order, group_channels(samples, TWO, 4))
    assert sorted(group_channels(Samples.of(correlated()[:, :, :7]), TWO, 4)) == list(range(7))


def test_grouping_leaves_channels_that_are_all_alike_as_they_are():
    x = np.zeros((4, 2, 4))
    x[0, 0], x[1, 0], x[2, 1], x[3, 1] = 1, -1, 1, -1
    assert group_channels(Samples.of(x), TWO, 4).tolist() == [0, 1, 2, 3]


def test_grouping_refuses_what_does_not_fit_in_memory():
    samples = Samples.of(np.ones((1, 16, 1024)))
    with pytest.raises(InputError, match="up to 512, not 1024"):
        group_channels(samples, Target.matmul(16, 2, 2), 4)
    with pytest.raises(InputError, match="up to 512, not 1024"):
        group_channels(samples, Target.matmul(2, 16, 2), 4)


@pytest.fixture
def files(tmp_path):
    x = correlated()
    np.save(tmp_path / "acts.npy", x)
    np.save(tmp_path / "flat.npy", x[0, 0])
    np.save(tmp_path / "nan.npy", np.where(x > 4, np.nan, x))
    np.save(tmp_path / "words.npy", np.array([["a", "b"]]))
    np.save(tmp_path / "few.npy", x[:4, :2, :2])
    np.save(tmp_path / "w.npy", np.random.default_rng(0).normal(size=(8, 6)))
    np.save(tmp_path / "wide.npy", np.zeros((6, 8)) + 1)
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "overflow.npy", np.where(x > 4, 1e200, x))
    good = (tmp_path / "acts.npy").read_bytes()
    (tmp_path / "header.npy").write_bytes(good.replace(b"(40, 6, 8), }", b"(40, 6, 8(, "))
    (tmp_path / "shape.npy").write_bytes(good.replace(b"(40, 6, 8), }          ", b"(40, 6, 9999999999999)}"))
    (tmp_path / "broken.npy").write_bytes(b"no numbers here")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors here")
    w = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    save_file({"first": w, "second": 2 * w.bfloat16()}, tmp_path / "two.safetensors")
    save_file({"only": w}, tmp_path / "one.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("activations", "weights", "problem"),
    [
        ("missing.npy", None, "No such file"),
        ("broken.npy", None, "not a NumPy file"),
        ("objects.npy", None, "pickled objects"),
        ("words.npy", None, "real numbers"),
        ("flat.npy", None, "tokens, channels"),
        ("nan.npy", None, "NaN"),
        ("overflow.npy", None, "a value of 1e\\+200"),
        ("header.npy", None, "it is damaged"),
        ("shape.npy", None, "more than fits in memory"),
        ("x" * 300 + ".npy", None, "File name too long"),
        ("few.npy", None, "at least 4 are needed"),
        ("acts.npy", "missing.npy", "No such file"),
        ("acts.npy", "missing.safetensors", "no such file"),
        ("acts.npy", "x" * 300 + ".safetensors", "no such file"),
        ("acts.npy", "broken.safetensors", "cannot be used"),
        ("acts.npy", "two.safetensors", r"name one as .*two.safetensors:NAME, valid: first, second"),
        ("acts.npy", "two.safetensors:third", "no tensor 'third'; valid: first, second"),
        ("acts.npy", "w.npy:first", "without a name"),
        ("acts.npy", "wide.npy", "transpose it"),
        ("acts.npy", "flat.npy", r"\(channels, outputs\)"),
    ],
)
def test_unusable_files_are_one_clear_line_and_exit_code_2(files, capsys, activations, weights, problem):
    options = ["--metric", "data", "--activations", str(files / activations)]
    options += ["--weights", str(files / weights)] if weights else []
    code = main(["fit", "--tile", "2", "--rank", "4", *QUICK, *options, "--registry", str(files / "registry")])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.count("\n") == 1
    assert re.search(problem, captured.err), captured.err
    assert not captured.out


@pytest.mark.parametrize(
    "options",
    [
        ["--metric", "data"],
        ["--metric", "gauss"],
        ["--metric", "ar1:2,0"],
        ["--activations", "acts.npy"],
        ["--metric", "ar1:0.7,0.3", "--weights", "w.npy"],
        ["--channels", "grouped"],
    ],
)
def test_options_that_do_not_go_together_are_refused(options, capsys):
    assert main(["fit", "--tile", "2", "--rank", "4", *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_fit_on_samples_stands_beside_its_baselines_modelled_and_measured(files, capsys):
    options = ["--metric", "data", "--activations", str(files / "acts.npy"), "--weights", f"{files / 'two.safetensors'}:second"]
    command = ["fit", "--tile", "2", "--rank", "4", *QUICK, *options, "--channels", "grouped", "--registry", str(files / "registry")]
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    fitted, isotropic, rotated, truncated = document["under_the_metric"]
    assert fitted["metric_rel_sq_error"] == document["algorithm"]["metric_rel_sq_error"] <= truncated["metric_rel_sq_error"] + 1e-6
    assert rotated["metric_rel_sq_error"] <= isotropic["metric_rel_sq_error"]
    for line in document["under_the_metric"]:
        assert 0 < line["measured_rel_sq_error"] < 2
        assert 0 < line["held_out_rel_sq_error"] < 2
    stored = loads(Path(document["algorithm"]["path"]).read_text())
    assert sorted(stored.metric.channels) == list(range(8))
    assert stored.metric.source == "data: acts.npy, two.safetensors:second"
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "its best rotation" in printed
    assert "weights of zero mean" in printed
    # replayed from what it recorded
    replay = [*stored.provenance["command"].split()[1:], "--registry", str(files / "other"), "--json"]
    assert main(replay) == 0
    assert json.loads(capsys.readouterr().out)["algorithm"]["id"] == stored.id


def test_a_metric_fit_is_listed_shown_and_best_under_its_metric(tmp_path, capsys):
    place = ["--registry", str(tmp_path)]
    assert main(["fit", "--tile", "2", "--rank", "5", *QUICK, "--metric", "ar1:0.9,0.5", "--json", *place]) == 0
    name = json.loads(capsys.readouterr().out)["algorithm"]["name"]
    assert main(["best", "--tile", "2", "--rank", "5", "--metric", "ar1:0.9,0.5", "--json", *place]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["algorithm"]["name"] == name
    assert found["under_the_metric"]["rel_sq_error"] == found["algorithm"]["metric_rel_sq_error"]
    assert main(["best", "--tile", "2", "--rank", "5", *place]) == 0
    assert name not in capsys.readouterr().out
    assert main(["show", name, *place]) == 0
    assert re.search(r"under the metric +0\.\d+ \(e_metric\)", capsys.readouterr().out)
    assert main(["list", "--tile", "2", "--rank", "5", *place]) == 0
    assert "ar1:0.9,0.5" in capsys.readouterr().out


def test_weights_of_one_tensor_need_no_name(files):
    samples = load_samples(files / "acts.npy", str(files / "one.safetensors"))
    assert samples.weight.shape == (8, 6)
    assert samples.activations.shape == (40, 6, 8)


@pytest.mark.slow
def test_the_digits_example_writes_samples_that_load(tmp_path):
    pytest.importorskip("sklearn")
    script = Path(__file__).parent.parent / "examples" / "digits_activations.py"
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path), "--epochs", "1"], check=True, capture_output=True)
    samples = load_samples(tmp_path / "mlp2.npy", f"{tmp_path / 'weights.safetensors'}:mlp2")
    assert samples.activations.shape == (297, 16, 128)
    assert samples.weight.shape == (128, 64)
    assert (samples.activations >= 0).all()  # behind a ReLU

"""examples/t2t_vit: training runs to the end, goes on as if never stopped, and answers bad input with one line."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stlsearch.nn.models import t2t_vit_digits

FOLDER = Path(__file__).parent.parent / "examples" / "t2t_vit"
SMALL = ["--data", "synthetic", "--model", "t2t_vit_digits", "--samples", "24", "--batch", "8", "--device", "cpu"]


@pytest.fixture
def train(monkeypatch):
    """The script's functions, imported as it imports its own modules."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import train

    return train


@pytest.fixture
def pictures(tmp_path):
    """An ImageFolder of two classes, dark and light noise of several sizes and modes."""
    draws = np.random.default_rng(0)
    image = pytest.importorskip("PIL.Image")
    for part, count in (("train", 6), ("val", 3)):
        for name, shift in (("dark", 0), ("light", 128)):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                noise = draws.integers(0, 128, (40 + number, 50, 3)) + shift
                picture = image.fromarray(noise.astype(np.uint8)).convert("L" if number == 1 else "RGB")
                picture.save(tmp_path / part / name / f"{number}.{'jpg' if number % 2 else 'png'}")
    return tmp_path


def run(train, capsys, *arguments):
    """(exit code, stdout as JSON or None, stderr) of a run."""
    code = train.main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else None, captured.err


def test_digits_train_and_the_saved_model_gives_the_reported_accuracy(train, capsys, tmp_path):
    pytest.importorskip("sklearn")
    out = tmp_path / "run"
    code, result, _ = run(train, capsys, "--data", "digits", "--samples", 200, "--rank", 24, "--epochs", 1, "--warmup", 0, "--out", out)
    assert code == 0
    assert result["finished"]
    assert result["layers"] == "backbone"
    assert result["basis"].startswith("4x4x4_r24_R_")
    assert 0 < result["loss"] < 3
    from data import Share, digits
    from network import load_model

    model = load_model(out)
    assert not model.training
    images, labels = zip(*digits(16, None, Share(100, 0), 0, torch.device("cpu")).test(), strict=True)
    right = (model(torch.cat(images)).argmax(1) == torch.cat(labels)).float().mean().item()
    assert right == pytest.approx(result["accuracy_average"])
    assert len(torch.cat(labels)) == 297
    config = json.loads((out / "config.json").read_text())
    assert config["result"] == result
    assert config["settings"]["epochs"] == 1
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint.pt", "config.json", "model.safetensors"]


@pytest.mark.parametrize("variant", [["--rank", "0"], ["--rank", "24", "--mixup", "0.8", "--samples", "16"]])
def test_a_resumed_run_equals_an_uninterrupted_one(train, capsys, tmp_path, variant):
    from network import load_model

    options = [*SMALL, *variant, "--epochs", "3", "--warmup", "1", "--drop-path", "0.2"]
    assert run(train, capsys, *options, "--out", tmp_path / "whole")[0] == 0
    code, part, _ = run(train, capsys, *options, "--out", tmp_path / "parts", "--stop-after", 1, "--resume")  # nothing to resume yet
    assert (code, part["epochs"], part["finished"]) == (0, 1, False)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    code, rest, said = run(train, capsys, *options, "--out", tmp_path / "parts", "--resume")
    assert (code, rest["epochs"], rest["finished"]) == (0, 3, True)
    assert "resumed after epoch 1 of 3" in said
    whole, parts = (load_model(tmp_path / name).state_dict() for name in ("whole", "parts"))
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name], rtol=0, atol=0)
    losses = [[row["loss"] for row in json.loads((tmp_path / name / "config.json").read_text())["log"]] for name in ("whole", "parts")]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3


def test_interrupting_leaves_the_last_checkpoint(train, capsys, tmp_path, monkeypatch):
    epochs = train.Run.train_epoch

    def interrupted(self, epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return epochs(self, epoch)

    monkeypatch.setattr(train.Run, "train_epoch", interrupted)
    options = [*SMALL, "--epochs", "2", "--out", tmp_path]
    code, result, said = run(train, capsys, *options)
    assert (code, result) == (130, None)
    assert said.splitlines()[-1].startswith("Interrupted")
    monkeypatch.setattr(train.Run, "train_epoch", epochs)
    assert run(train, capsys, *options, "--resume")[1]["epochs"] == 2


def test_a_run_is_not_overwritten_nor_continued_with_other_settings(train, capsys, tmp_path):
    options = [*SMALL, "--out", tmp_path, "--average", "0"]
    assert run(train, capsys, *options)[0] == 0
    assert "accuracy_average" not in json.loads((tmp_path / "config.json").read_text())["result"]
    for more, expected in ((["--rate", "1"], "holds a run"), (["--rate", "0.5", "--resume"], "--rate 0.001, not 0.5")):
        code, _, said = run(train, capsys, *options, *more)
        assert (code, len(said.splitlines())) == (2, 1)
        assert expected in said
    assert run(train, capsys, *options, "--restart", "--seed", "1")[0] == 0
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    code, _, said = run(train, capsys, *options, "--resume")
    assert (code, len(said.splitlines())) == (2, 1)
    assert "is not a checkpoint of this script" in said


def test_a_folder_of_images_trains_by_the_whole_recipe(train, capsys, pictures, tmp_path):
    options = ["--data", "imagenet", "--root", pictures, "--model", "t2t_vit_digits", "--batch", 6, "--epochs", 2, "--device", "cpu"]
    one = run(train, capsys, *options, "--workers", 0, "--out", tmp_path / "one")[1]
    two = run(train, capsys, *options, "--workers", 2, "--out", tmp_path / "two", "--amp", "none")[1]
    assert one["loss"] == two["loss"]  # reading processes change nothing
    assert one["macs"]["head"] == 64 * 2
    settings = json.loads((tmp_path / "one" / "config.json").read_text())["settings"]
    recipe = ("rate", "weight_decay", "drop_path", "randaugment", "mixup", "cutmix", "smoothing", "erase", "average")
    assert [settings[name] for name in recipe] == [1e-3, 0.03, 0.1, 9, 0.8, 1, 0.1, 0, 0.99996]
    (pictures / "train" / "dark" / "0.png").write_bytes(b"no picture")
    for workers in (0, 1):
        code, _, said = run(train, capsys, *options, "--workers", workers, "--out", tmp_path / "three", "--restart")
        assert (code, len(said.splitlines())) == (2, 1)
        assert "dark/0.png" in said


def test_mixed_precision_and_clipping(train, capsys, tmp_path):
    code, result, _ = run(train, capsys, *SMALL, "--rank", 24, "--amp", "bfloat16", "--clip", "1", "--out", tmp_path, "--cutmix", "1")
    assert code == 0
    assert math.isfinite(result["loss"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data", "digits", "--rank", "63"], "no basis of rank 63"),
        (["--data", "digits", "--basis", "nonesuch"], "nonesuch"),
        (["--data", "digits", "--basis", "4x4x4_r49_Z_94107573", "--rank", "24"], "49"),
        (["--data", "digits", "--batch", "2000"], "1500 training images"),
        (["--data", "digits", "--smoothing", "1"], "--smoothing"),
        (["--data", "cifar"], "cifar"),
        (["--data", "imagenet"], "--root"),
        (["--data", "imagenet", "--root", "nowhere"], "nowhere"),
        (["--data", "synthetic", "--model", "t2t_vit_digits", "--shift", "-1", "--device", "tpu"], "tpu"),
        (["--data", "synthetic", "--samples", "many"], "--samples"),
        (["--data", "digits", "--resume", "--restart"], "--restart"),
        ([*SMALL, "--rate", "1e30"], "the loss is"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(train, capsys, tmp_path, arguments, expected):
    if "--batch" in arguments:
        pytest.importorskip("sklearn")  # the images are counted
    code, result, said = run(train, capsys, *arguments, "--out", tmp_path / "out")
    assert (code, result) == (2, None)
    assert len(said.splitlines()) == 1
    assert expected in said
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_the_rate_warms_up_and_falls_by_a_cosine(train):
    rates = [train.rate_factor(step, 10, 110) for step in range(110)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10] == 1
    assert rates[60] == pytest.approx(0.505)
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)
    assert sorted(rates[10:], reverse=True) == rates[10:]


def test_mixed_targets_are_the_shares_of_what_is_seen(train):
    from mixing import erase, mix

    labels = torch.tensor([0, 1, 2, 3])
    images = labels.float()[:, None, None, None].expand(4, 3, 8, 8)  # every image holds its class
    torch.manual_seed(0)
    for mixup, cutmix in ((0.8, 0.0), (0.0, 1.0), (0.8, 1.0)):
        for _ in range(10):
            mixed, targets = mix(images, labels, 4, mixup, cutmix)
            assert targets.shape == (4, 4)
            torch.testing.assert_close(targets.sum(1), torch.ones(4))
            torch.testing.assert_close(mixed.mean((1, 2, 3)), targets @ torch.arange(4.0))
    same, targets = mix(images, labels, 4, 0, 0)
    assert same is images
    assert (targets.argmax(1) == labels).all()
    changed = (erase(images, 0.5) != images).flatten(1).any(1)
    assert 0 <= changed.sum() <= 4
    assert (erase(torch.full((64, 1, 9, 9), 9.0), 0.999) != 9).flatten(1).any(1).float().mean() > 0.9


def test_randaugment_is_reproducible_and_leaves_the_size(train):
    image = pytest.importorskip("PIL.Image")
    from data import generator
    from folder import AUGMENTATIONS, randaugment

    picture = image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8))
    assert len(AUGMENTATIONS) == 15
    for operation in AUGMENTATIONS:
        for strength in (0.0, 0.5, 1.0):
            assert operation(picture, strength, -1.0).size == (20, 12)
    assert randaugment(picture, 0, generator(1)) is picture
    first, again, other = (np.array(randaugment(picture, 9, generator(seed))) for seed in (1, 1, 3))
    assert (first == again).all()
    assert (first != other).any()


def test_processes_share_an_epoch_without_overlap(train):
    from data import Share

    whole = Share(6, 0).order(20, 4)
    parts = [Share(6, 0, rank, 2).order(20, 4) for rank in (0, 1)]
    assert len(whole) == 18
    steps = zip(whole.split(6), *(part.split(3) for part in parts), strict=True)
    assert all({*step.tolist()} == {*left.tolist(), *right.tolist()} for step, left, right in steps)
    assert (Share(6, 0).order(20, 5) != whole).any()


def test_images_are_shifted_and_their_border_continued(train):
    from data import generator, shifted

    images = torch.arange(16.0).view(1, 1, 4, 4).expand(50, 1, 4, 4)
    moved = shifted(images, 1, generator(0))
    assert moved.shape == images.shape
    assert len({tuple(image.flatten().tolist()) for image in moved}) == 9
    assert any((image == images[0]).all() for image in moved)


def test_the_average_forgets_its_start(train):
    from network import MovingAverage

    model = t2t_vit_digits(depth=1)
    average = MovingAverage(model, 0.5)
    start = model.head.bias.detach().clone()
    with torch.no_grad():
        model.head.bias.add_(1)
    average.update(model, 0)
    torch.testing.assert_close(average.model.head.bias, start + 0.9)  # decay 1/10 at first
    with torch.no_grad():
        model.head.bias.add_(1)
    average.update(model, 100)
    torch.testing.assert_close(average.model.head.bias, start + 0.5 * 0.9 + 0.5 * 2)
    assert not any(value.requires_grad for value in average.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 24])
def test_digits_are_learned(rank, tmp_path):
    pytest.importorskip("sklearn")
    command = [sys.executable, str(FOLDER / "train.py"), "--data", "digits", "--rank", str(rank), "--out", str(tmp_path), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["accuracy_average"] > 0.95


@pytest.mark.slow
def test_two_processes_train_together(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(FOLDER / "train.py")]
    options = [*SMALL, "--rank", "24", "--epochs", "2", "--out", str(tmp_path), "--json"]
    part = subprocess.run([*command, *options, "--stop-after", "1"], check=True, capture_output=True, text=True, timeout=120)
    assert json.loads(part.stdout)["epochs"] == 1
    done = subprocess.run([*command, *options, "--resume"], check=True, capture_output=True, text=True, timeout=120)
    result = json.loads(done.stdout)  # one process prints
    assert result["finished"]
    assert json.loads((tmp_path / "config.json").read_text())["made_with"]["processes"] == 2

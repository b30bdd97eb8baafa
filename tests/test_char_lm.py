"""The character model of examples/char_lm: causal where it says so, leaking where it shows that, and counted right."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from stlsearch.errors import InputError
from stlsearch.nn import STLLinear
from stlsearch.registry.store import open_registry

FOLDER = Path(__file__).parent.parent / "examples" / "char_lm"


def _load(*names):
    """Modules of the example, which other examples may have under the same names: none stays in sys.modules."""
    own = [file.stem for file in FOLDER.glob("*.py")]
    hidden = {name: sys.modules.pop(name) for name in own if name in sys.modules}
    sys.path.insert(0, str(FOLDER))
    try:
        return [__import__(name) for name in names]
    finally:
        sys.path.remove(str(FOLDER))
        for name in own:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


measure, model, sparse, text, train = _load("measure", "model", "sparse", "text", "train")
CONFIG = model.Config(dim=16, layers=2, heads=2, context=64, vocabulary=128)
SETTINGS = train.Settings(CONFIG, steps=12, batch=8, rate=1e-2)
WORDS = "a tile holds one character of four samples; the basis mixes them, and time goes by. "


@pytest.fixture(autouse=True)
def _threads():
    """The command takes one thread; tests of other files keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def words():
    return text.Text.of(WORDS * (text.CHUNK * text.HELD_OUT // len(WORDS) + 1))


@pytest.fixture
def windows():
    return torch.randint(CONFIG.vocabulary, (8, CONFIG.context + 1), generator=torch.Generator().manual_seed(1))


def make(name, **options):
    torch.manual_seed(0)
    return model.GPT(CONFIG, model.stl(open_registry().get(name).algorithm, **options))


@pytest.mark.parametrize("learn", ["", "UW"])
@pytest.mark.parametrize("rank", [16, 24])
def test_the_future_changes_nothing_before_and_after_training(rank, learn, words, windows):
    gpt = make(train.BASES[rank], learn=learn)
    for steps in (0, 4):
        if steps:
            train.train(gpt, words, train.Settings(CONFIG, steps=steps, batch=8), seed=0)
        with torch.no_grad():
            before = gpt(windows[:, :-1])
            for cut in range(1, CONFIG.context, 5):
                changed = windows[:, :-1].clone()
                changed[:, cut:] = (changed[:, cut:] + 7) % CONFIG.vocabulary
                after = gpt(changed)
                assert (after[:, :cut] - before[:, :cut]).abs().max() <= 1e-6
                assert (after[:, cut:] - before[:, cut:]).abs().max() > 1e-3
        assert measure.future_influence(gpt, windows) <= 1e-6


def test_what_is_validated_at_once_is_what_generating_meets(windows):
    gpt = make(train.BASES[24])
    torch.testing.assert_close(measure.validate(gpt, windows), measure.validate_honestly(gpt, windows), rtol=0, atol=1e-5)


def test_tiles_over_tokens_leak(windows):
    gpt = make(train.BASES[24], rows="tokens")
    assert measure.future_influence(gpt, windows) > 0.01
    at_once, honest = measure.validate(gpt, windows), measure.validate_honestly(gpt, windows)
    torch.testing.assert_close(at_once[:, 3::4], honest[:, 3::4], rtol=0, atol=1e-5)  # the last of a tile has no future there
    for place in range(3):
        assert (at_once[:, place::4] - honest[:, place::4]).abs().mean() > 1e-3


def test_the_layers_that_leak_are_refused_where_safety_is_asked_for():
    algorithm = open_registry().get(train.BASES[24]).algorithm
    with pytest.raises(InputError, match="later ones"):
        STLLinear(16, 16, algorithm, rows="tokens", causal_safe=True)
    assert all(layer.causal_safe for layer in make(train.BASES[24]).modules() if isinstance(layer, STLLinear))


def test_neighbours_matter_to_inexact_bases_and_to_no_others(windows):
    inexact = measure.neighbours_influence(make(train.BASES[24]), windows)
    assert all(inexact[name]["change"] > 0.01 for name in ("strangers", "noise", "blank", "copies", "alone"))
    exact = measure.neighbours_influence(make("4x4x4_r49_Z_94107573"), windows)
    assert all(values["change"] < 1e-5 for values in exact.values())
    torch.manual_seed(0)
    for gpt in (model.GPT(CONFIG), model.GPT(CONFIG, model.stl(model.kept_products(24)))):
        for name, values in measure.neighbours_influence(gpt, windows).items():
            if name in ("strangers", "noise", "blank"):  # the others change the place in the tile as well
                assert values["change"] < 1e-6


def test_kept_products_are_a_fixed_sparsity():
    algorithm = model.kept_products(24)
    assert algorithm.error == pytest.approx(1 - 24 / 64)
    layer = STLLinear(8, 8, algorithm, bias=False, rows="batch").load_dense(weight := torch.randn(8, 8))
    x = torch.randn(4, 3, 8)
    live = torch.zeros(4, 4)
    for channel, output in ((0, 0), (1, 1), (2, 2), (3, 3), (0, 1), (1, 2)):
        live[channel, output] = 1
    torch.testing.assert_close(layer(x), x @ (weight * live.repeat(2, 2)))


@pytest.mark.parametrize(("dim", "batch"), [(16, 8), (16, 1), (20, 6), (18, 4)])
def test_multiplications_are_those_of_the_layers(dim, batch):
    """Counted by hooks from the shapes that occur; 18 channels are padded to 20."""
    config, counted = model.Config(dim=dim, layers=2, heads=2, context=8), []
    algorithm = open_registry().get(train.BASES[24]).algorithm

    def count(layer, inputs, _output):
        (x,) = inputs
        if isinstance(layer, torch.nn.Linear):
            counted.append(x[..., 0].numel() * layer.weight.numel())
            return
        rows = math.ceil(x.shape[0] / 4) * x.shape[1]  # tiles
        r, inner, outer = layer.encoded.tensor.shape
        counted.append(rows * (16 * r * inner + r * inner * outer + 16 * r * outer))

    for linear, options in ((torch.nn.Linear, {}), (model.stl(algorithm), {"rank": 24, "batch": batch})):
        counted.clear()
        gpt = model.GPT(config, linear)
        for layer in gpt.modules():
            if isinstance(layer, torch.nn.Linear | STLLinear):
                layer.register_forward_hook(count)
        gpt(torch.zeros(batch, config.context, dtype=torch.long))
        wanted = measure.macs(config, **options)
        assert sum(counted) == pytest.approx((wanted["linears"] + wanted["head"]) * batch * config.context)
    full = measure.macs(model.Config(), rank=24)
    assert measure.macs(model.Config(), rank=24, batch=1)["linears"] == 4 * full["linears"]


def test_the_narrow_model_is_the_widest_that_fits():
    budget = measure.macs(model.Config(), rank=24)["total"]
    dim = measure.narrow(model.Config(), budget).dim
    assert measure.macs(model.Config(dim=dim))["total"] <= budget < measure.macs(model.Config(dim=dim + 4))["total"]


@pytest.mark.parametrize("name", ["dense", "2:4", "stl24"])
def test_training_lowers_the_loss(name, words):
    torch.manual_seed(0)
    gpt = train.build(train.KINDS[name], SETTINGS)
    history = train.train(gpt, words, SETTINGS, seed=0, sparse=name == "2:4")
    assert history[-1] < history[0] - 0.3
    if name == "2:4":
        for layer in gpt.blocks.modules():
            if isinstance(layer, torch.nn.Linear):
                assert (layer.weight.unflatten(1, (-1, 4)) != 0).sum(2).max() == 2


def test_training_and_validation_do_not_overlap(words):
    assert len(words.train) == 9 * len(words.validation)
    document = text.Text.of(text.project_text())
    assert document.train.numel() + document.validation.numel() <= document.size
    assert document.decode(document.encode("tile 4 x 4")) == "tile 4 x 4"
    cut = text.all_windows(document.validation, 64)
    assert len(cut) % 4 == 0
    chunks = {tuple(chunk.tolist()) for chunk in document.train.unfold(1, 65, 1).flatten(0, 1)[::97]}
    assert not chunks & {tuple(window.tolist()) for window in cut}
    with pytest.raises(ValueError, match="characters is needed"):
        text.Text.of("short")


def test_sampling_follows_the_prompt():
    gpt = model.GPT(CONFIG)
    prompt = torch.zeros(4, 70, dtype=torch.long)  # longer than the context
    greedy = [model.sample(gpt, prompt, 3, temperature=0) for _ in range(2)]
    assert greedy[0].shape == (4, 73)
    assert torch.equal(*greedy)
    drawn = model.sample(gpt, prompt, 8, temperature=1.0, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, :70], prompt)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--kinds", "dense,sparse"], "unknown kind 'sparse'"),
        (["--steps", "0"], "--steps 0 is not above 0"),
        (["--dim", "30"], "--dim 30"),
        (["--context", "1000"], "--context 1000"),
        (["--seeds", "x"], "invalid int value"),
    ],
)
def test_bad_options_are_one_line(options, wanted, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    with pytest.raises(SystemExit) as stopped:
        train.main()
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.out) == (2, "")
    assert wanted in printed.err
    assert printed.err.count("\n") == 1


def test_the_command_keeps_its_runs_and_prints_them_again(tmp_path, monkeypatch, capsys):
    (tmp_path / "text.txt").write_text(WORDS * 130)
    kept, small = str(tmp_path / "runs.json"), ["--dim", "16", "--heads", "2", "--layers", "1", "--context", "16", "--steps", "2"]
    command = ["train.py", "--text", str(tmp_path / "text.txt"), "--output", kept, *small, "--seeds", "1", "--kinds"]
    for kinds, wanted in (("dense", 2), ("dense,stl24-tokens", 3)):  # the second goes on from the first
        monkeypatch.setattr(sys, "argv", [*command, kinds])
        train.main()
        assert len(json.loads(Path(kept).read_text())["runs"]) == wanted
    printed = capsys.readouterr().out
    assert "| stl24-tokens |" in printed
    monkeypatch.setattr(sys, "argv", ["train.py", "--from", kept])
    train.main()
    assert printed.endswith(capsys.readouterr().out)


def test_runs_of_other_settings_are_not_continued(tmp_path, monkeypatch, capsys):
    (tmp_path / "runs.json").write_text('{"runs": []}')
    (tmp_path / "broken.json").write_text("{")
    monkeypatch.setattr(sys, "argv", ["train.py", "--output", str(tmp_path / "runs.json")])
    with pytest.raises(SystemExit, match="2"):
        train.main()
    assert "choose another --output" in capsys.readouterr().err
    for missing in ("broken.json", "none.json"):
        monkeypatch.setattr(sys, "argv", ["train.py", "--from", str(tmp_path / missing)])
        with pytest.raises(SystemExit, match="2"):
            train.main()
        assert "holds no runs" in capsys.readouterr().err

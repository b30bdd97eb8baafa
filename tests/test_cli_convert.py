"""`stlsearch convert` and `stlsearch count`: tables, JSON, folders, and every way to call them wrongly."""

import json
import re

import pytest
import torch
from optional import optional
from safetensors.torch import load_file, save_file
from test_nn_convert import RANK_24, encoder, noise, output, tiny

from stlsearch.commands import main
from stlsearch.nn import convert, count, load, save
from stlsearch.nn.sources import Source


@pytest.fixture
def run(capsys):
    """A command: its exit code, stdout, stderr."""

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def folder(tmp_path):
    """A model of no library, and itself."""
    torch.manual_seed(0)
    model = encoder()
    save(model, tmp_path / "model", example=noise(2, 9, 16))
    return tmp_path / "model", model


def test_a_model_of_no_library(run, folder, tmp_path):
    path, model = folder
    code, out, err = run("convert", path, "--output", tmp_path / "out")
    assert (code, err) == (0, f"wrote {tmp_path / 'out'}\n")
    assert out.startswith(f"basis {RANK_24.name}, rows tokens\n")
    assert "layers.0.linear1" in out
    loaded = load(encoder(), tmp_path / "out").eval()
    convert(model, basis=RANK_24, include="*.linear?")
    assert torch.equal(output(loaded, noise(3, 9, 16)), output(model.eval(), noise(3, 9, 16)))
    assert (tmp_path / "out" / "config.json").read_text() == (path / "config.json").read_text()


def test_a_dry_run_writes_nothing(run, folder, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run("convert", folder[0], "--dry-run", "--json", "--rank", 49, "--include", "layers.0.*", "--exclude", "*2")
    assert (code, err) == (0, "")
    assert sorted(tmp_path.rglob("*")) == before
    document = json.loads(out)
    assert (document["version"], document["kind"], document["output"]) == (1, "stlsearch", None)
    converted = [layer["name"] for layer in document["layers"] if not layer["skipped"]]
    assert converted == ["layers.0.linear1"]
    assert document["layers"][-1]["skipped"] == "not included"


def test_counts_of_several_ranks(run, folder):
    code, out, err = run("count", folder[0], "--rank", "16,24", "--json")
    assert (code, err) == (0, "")
    counts = json.loads(out)["counts"]
    assert [each["rank"] for each in counts] == [16, 24]
    assert counts[0]["macs_before"] == counts[1]["macs_before"] == 2 * 2 * 9 * 16 * 32 * 2  # the fused attention is no layer of the table
    assert counts[0]["macs_after"] < counts[1]["macs_after"]
    code, out, _ = run("count", folder[0], "--rank", "16,24")
    assert code == 0
    assert "layers.*.linear1" in out
    assert "rank 24: MACs" in out


def test_a_single_file(run, tmp_path):
    state = {
        "body.weight": noise(8, 16),
        "body.bias": noise(8),
        "embed.weight": noise(20, 16),
        "norm.weight": noise(8),
        "step": torch.tensor(3),
    }
    save_file(state, tmp_path / "a.safetensors")
    code, out, _ = run("count", tmp_path / "a.safetensors", "--tokens", 32, "--batch", 2, "--json")
    assert code == 0
    (found,) = json.loads(out)["counts"]
    assert [(layer["name"], layer["rows"], layer["macs_before"]) for layer in found["layers"]] == [("body", 64, 64 * 16 * 8)]
    assert found["parameters_before"] == 16 * 8 + 8 + 20 * 16 + 8
    code, _, _ = run("convert", tmp_path / "a.safetensors", "--output", tmp_path / "out")
    assert code == 0
    assert Source.of(tmp_path / "out").kind == "stlsearch"


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_transformers(run, name, tmp_path):
    model, example = tiny(name)
    model.save_pretrained(tmp_path / "dense")
    rows = "batch" if name == "gpt2" else "tokens"
    code, out, err = run("convert", tmp_path / "dense", "--output", tmp_path / "out", "--rows", rows, "--json", "--tokens", 12)
    assert code == 0, err
    document = json.loads(out)
    opened = Source.of(tmp_path / "out").open()
    inputs = Source.of(tmp_path / "out").example(opened, 4 if name == "gpt2" else 1, 12)
    assert (count(opened, inputs).macs, count(opened, inputs).parameters) == (document["macs_after"], document["parameters_after"])
    convert(model, basis=RANK_24, example=example, rows=rows)
    assert torch.equal(output(opened.eval(), example), output(model.eval(), example))

    code, out, err = run("count", tmp_path / "dense", "--tokens", 12, "--batch", 4, "--json")
    assert code == 0, err
    (found,) = json.loads(out)["counts"]
    dense = Source.of(tmp_path / "dense").open()
    assert (found["macs_before"], found["parameters_before"]) == (
        count(dense, Source.of(tmp_path / "dense").example(dense, 4, 12)).macs,
        count(dense, inputs).parameters,
    )
    code, _, err = run("convert", tmp_path / "out", "--dry-run")
    assert (code, err) == (2, f"error: {tmp_path / 'out'} is converted already\n")
    code, _, err = run("convert", tmp_path / "dense", "--dry-run", "--tokens", 4000)
    assert code == 2
    assert "positions, fewer than 4000 tokens" in err


def test_a_causal_model_names_the_remedy(run, tmp_path):
    tiny("llama")[0].save_pretrained(tmp_path)
    code, _, err = run("convert", tmp_path, "--dry-run")
    assert code == 2
    assert "the model is causal" in err
    assert "rows='batch'" in err


def test_timm(run, tmp_path):
    timm = optional("timm")
    model, example = tiny("vit")
    timm.models.save_for_hf(model, tmp_path / "dense", safe_serialization=True)
    code, out, err = run("convert", tmp_path / "dense", "--output", tmp_path / "out", "--json")
    assert code == 0, err
    assert json.loads(out)["layers"][1]["rows"] == 17
    opened = Source.of(tmp_path / "out").open().eval()
    convert(model, basis=RANK_24, example=example)
    assert torch.equal(output(opened, example), output(model.eval(), example))
    code, out, err = run("count", tmp_path / "dense", "--rank", "24")
    assert code == 0, err
    assert "blocks.*.mlp.fc1" in out


def test_an_output_that_is_taken(run, folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").write_text("mine")
    code, _, err = run("convert", folder[0], "--output", tmp_path / "out")
    assert code == 2
    assert "is not empty: give --force" in err
    assert run("convert", folder[0], "--output", tmp_path / "out", "--force")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors", "notes"]
    code, _, err = run("convert", folder[0], "--output", tmp_path / "out" / "notes", "--force")
    assert (code, "is no folder" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convert", "MODEL"], "missing option '--output'"),
        (["convert", "nowhere", "--dry-run"], "there is no file or folder nowhere"),
        (["count", "nowhere"], "there is no file or folder nowhere"),
        (["count", "EMPTY"], "holds no config.json"),
        (["convert", "MODEL/config.json", "--dry-run"], "is no .safetensors file"),
        (["convert", "MODEL", "--dry-run", "--rank", "3"], "no basis of rank 3 for 4x4x4 tiles is registered"),
        (["convert", "MODEL", "--dry-run", "--basis", "nothing"], "no algorithm is called 'nothing'"),
        (["convert", "MODEL", "--dry-run", "--include", "nothing"], "no layer of the model fits 'nothing'"),
        (["convert", "MODEL", "--dry-run", "--exclude", "*"], "no layer can be converted"),
        (["convert", "MODEL", "--dry-run", "--rows", "group"], "'group' is not one of"),
        (["count", "MODEL", "--rank", "x"], "ranks are given like 24"),
    ],
)
def test_wrong_calls(run, folder, arguments, words, tmp_path):
    (tmp_path / "empty").mkdir()
    places = {"MODEL": folder[0], "EMPTY": tmp_path / "empty", "MODEL/config.json": folder[0] / "config.json"}
    code, out, err = run(*(places.get(argument, argument) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"version": 2, "layers": {}}, "of no version that this stlsearch reads (1)"),
        ({"version": 1, "layers": {"a": {"kind": "linear"}}}, "the table has a layer a, whose weight is not there"),
        ({"version": 1, "layers": {"layers.0.linear1": {"kind": "lstm"}}}, "of kind 'lstm'; valid: linear, conv1d, conv"),
        ({"version": 1, "layers": {"layers.0.linear1": {"kind": "conv"}}}, "has a weight of shape (32, 16)"),
        (
            {"version": 1, "layers": {"layers.0.linear1": {"kind": "linear", "calls": [7]}}},
            "the calls of layers.0.linear1 are pairs of numbers",
        ),
    ],
)
def test_wrong_tables(run, folder, table, words):
    (folder[0] / "config.json").write_text(json.dumps({"stlsearch": table}))
    code, _, err = run("count", folder[0])
    assert code == 2
    assert words in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_layer": 3}, r"lacks transformer.h.1.\S+, which its config asks for \(24 missing\)"),
        ({"n_positions": 7}, "the weights have other sizes than its config says"),
        ({"vocab_size": "many"}, "Validation error for field 'vocab_size'"),
        ({"activation_function": "none"}, "KeyError 'none'"),
        ({"attn_implementation": "someone/kernel"}, "its config asks for 'someone/kernel', code from elsewhere"),
        ({"text_config": {"_experts_implementation": {"": "someone/kernel"}}}, "its config asks for 'someone/kernel'"),
        (None, "holds an adapter: merge it into the model first"),
    ],
)
def test_folders_of_transformers_that_do_not_fit(run, change, words, tmp_path):
    model, _ = tiny("gpt2")
    model.save_pretrained(tmp_path)
    if change is None:
        (tmp_path / "adapter_config.json").write_text("{}")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | (change or {})))
    run("list")  # what saving printed
    code, out, err = run("convert", tmp_path, "--dry-run", "--rows", "batch", "--tokens", 4)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(words, err)


def test_weights_without_a_place_are_told(tmp_path):
    model, _ = tiny("gpt2")
    model.save_pretrained(tmp_path)
    save_file(load_file(tmp_path / "model.safetensors") | {"extra": torch.ones(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match=r"holds extra, which its model has no place for \(1 left out\)"):
        Source.of(tmp_path).open()


def test_json_stays_json_where_a_result_is_not_finite(run, tmp_path):
    model, _ = tiny("gpt2")
    torch.nn.init.constant_(next(model.parameters()), torch.nan)
    model.save_pretrained(tmp_path)
    run("list")
    code, out, _ = run("convert", tmp_path, "--dry-run", "--json", "--rows", "batch", "--tokens", 4)
    assert code == 0
    assert {layer["note"] for layer in json.loads(out)["layers"] if not layer["skipped"]} == {"its result is not finite"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"calls": [[10**300, 10**300]]}, "the calls of layers.0.linear1 are pairs of numbers"),
        ({"aliases": ["layers.0.linear1.x"]}, "'layers.0.linear1.x' is no name of a module"),
        ({"aliases": [""]}, "'' is no name of a module"),
    ],
)
def test_tables_that_would_never_end(run, folder, change, words):
    config = json.loads((folder[0] / "config.json").read_text())
    config["stlsearch"]["layers"]["layers.0.linear1"] |= change
    (folder[0] / "config.json").write_text(json.dumps(config))
    code, out, err = run("convert", folder[0], "--dry-run")
    assert (code, out) == (2, "")
    assert words in err


def test_a_path_that_cannot_be_looked_at(run):
    code, out, err = run("convert", "a" * 5000, "--dry-run")
    assert (code, out) == (2, "")
    assert err.startswith("error: cannot read 'aaa")
    assert err.endswith("File name too long\n")

"""Models written and read back bit for bit, refused where anything does not fit, and exported."""

import copy
import json
import shutil
import stat

import pytest
import torch
from optional import optional
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_nn_convert import RANK_24, RANK_32, SMALL, Shared, encoder, mlp, noise, output, tiny, tokens
from test_ops import with_channels

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.nn import Basis, STLConv2d, STLLinear, convert, count, export_onnx, load, save
from stlsearch.nn.sources import Source, library
from stlsearch.nn.state import KEY


def saved(model, folder, fresh, **options):
    """The model through a folder into a fresh dense one."""
    save(model, folder, **options)
    return load(fresh, folder)


def same(left, right):
    one, other = left.state_dict(), right.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["sequential", "encoder", "convolutions", "vit", "resnet", "bert", "gpt2"])
def test_a_converted_model_comes_back_bit_for_bit(name, tmp_path):
    model, example = tiny(name)
    fresh = copy.deepcopy(model)
    convert(model, basis=RANK_24, example=example, rows="batch" if name == "gpt2" else "tokens")
    saved(model, tmp_path / "out", fresh)
    assert same(model, fresh)
    assert torch.equal(output(fresh.eval(), example), output(model.eval(), example))
    again = copy.deepcopy(fresh)
    assert same(load(again, tmp_path / "out"), model)  # into a model that is converted already


def test_learned_bases_layouts_dtypes_and_frozen_weights(tmp_path):
    fresh = mlp().to(torch.bfloat16)
    fresh[0].weight.requires_grad_(False)
    model = copy.deepcopy(fresh)
    convert(model, basis=RANK_24, learn="UW", rows="blocks")
    with torch.no_grad():
        model[0].basis.U.mul_(1.5)
    saved(model, tmp_path, fresh.eval())
    assert same(model, fresh)
    assert (fresh[0].layout.rows, fresh[0].basis.learn, fresh[0].basis.algorithm_id) == ("blocks", "UW", RANK_24.id)
    assert (fresh[0].training, fresh[0].encoded.tensor.requires_grad, fresh[2].encoded.tensor.requires_grad) == (False, False, True)


def test_an_order_of_channels(tmp_path):
    fresh, order = mlp(6), [3, 1, 0, 2, 5, 4]
    model = copy.deepcopy(fresh)
    model[0] = STLLinear.from_linear(model[0], with_channels(SMALL, order), rows="tokens")
    saved(model, tmp_path, fresh)
    assert fresh[0].encoded.channels.tolist() == order
    x = noise(2, 5, 6)
    assert torch.equal(fresh(x), model(x))


def test_shared_bases_and_tied_weights_are_stored_once(tmp_path):
    fresh = torch.nn.ModuleDict({"shared": Shared(), "mlp": mlp()})
    model = copy.deepcopy(fresh)
    basis = Basis(SMALL, learn="W")
    convert(model["shared"], basis=basis, example=tokens())
    convert(model["mlp"], basis=basis)
    saved(model, tmp_path, fresh)
    assert same(model, fresh)
    assert fresh["mlp"][0].basis is fresh["mlp"][2].basis is fresh["shared"].query.basis
    assert fresh["shared"].key is fresh["shared"].query
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(name.endswith("basis.U") for name in stored) == 1
    assert sum("embed_tokens" in name or "inner" in name for name in stored) == 1


def test_the_file_and_its_permissions(tmp_path):
    save(mlp(), tmp_path / "a" / "b")
    folder = tmp_path / "a" / "b"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert len(modes) == 1
    with safe_open(folder / "model.safetensors", "pt") as stream:
        table = json.loads(stream.metadata()[KEY])
    assert (table["version"], table["layers"], len(table["sha256"])) == (1, {}, 64)


def test_a_dense_model_and_its_table(tmp_path):
    model, fresh = tiny("convolutions")[0], tiny("convolutions")[0]
    saved(model, tmp_path, fresh, example=noise(2, 3, 8, 8))
    assert same(model, fresh)
    table = json.loads((tmp_path / "config.json").read_text())[KEY]["layers"]
    assert table["0"] == {"kind": "conv", "inner": 27, "outputs": 8, "bias": True, "aliases": [], "calls": [[2, 64]], "vectors": False}
    save(mlp(), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())[KEY]["layers"]["0"]["calls"] is None


def tampered(folder, change):
    """Change the tensors and the metadata of a model's file."""
    file = folder / "model.safetensors"
    with safe_open(file, "pt") as stream:
        metadata = stream.metadata()
    tensors, table = load_file(file), json.loads(metadata[KEY])
    change(tensors, table)
    save_file(tensors, file, {"format": "pt", KEY: json.dumps(table)})


def _value(tensors, table):
    tensors["0.bias"][0] += 1


def _version(tensors, table):
    table["version"] = 9


def _rows(tensors, table):
    table["layers"]["0"]["rows"] = "blocks"


def _basis(tensors, table):
    (document,) = table["bases"].values()
    document["rank"] = 23


def _missing(tensors, table):
    del table["layers"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_value, "damaged or changed"),
        (_version, "version 9 of the table; this stlsearch reads 1"),
        (_rows, "damaged or changed"),
        (_basis, "damaged or changed"),
        (_missing, "the table lacks 'shared', 'layers' or 'bases'"),
    ],
)
def test_a_changed_file_is_refused_before_anything_is_loaded(change, words, tmp_path):
    model, fresh = mlp(), mlp()
    convert(model, basis=RANK_24)
    save(model, tmp_path)
    tampered(tmp_path, change)
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(InputError, match=words) as error:
        load(fresh, tmp_path)
    assert "\n" not in str(error.value)
    assert isinstance(fresh[0], torch.nn.Linear)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_models_that_do_not_fit(tmp_path):
    model = mlp()
    convert(model, basis=RANK_24)
    save(model, tmp_path)
    other = mlp()
    convert(other, basis=RANK_32)
    for fresh, words in (
        (mlp(20), r"0 is saved as linear 16 x 32 with a bias, the model has linear 20 x 32 with a bias there"),
        (torch.nn.Sequential(torch.nn.ReLU()), "0 is saved as linear 16 x 32 with a bias, the model has ReLU there"),
        (torch.nn.Sequential(*mlp()[:2]), "the model has no layer 2"),
        (torch.nn.Sequential(*mlp(), torch.nn.LayerNorm(12)), r"lacks 3.bias \(2 missing, 0 unknown\)"),
        (other, "0 is saved with basis '2deba9dc.*', the model's has '95e98885.*'"),
    ):
        with pytest.raises(InputError, match=words):
            load(fresh, tmp_path)
    small, other = mlp(), mlp()
    convert(small, basis=SMALL)
    save(small, tmp_path)
    changed = Basis(SMALL).to_algorithm()  # of the same sizes, but another one
    convert(other, basis=changed)
    with pytest.raises(InputError, match="0 is saved with basis"):
        load(other, tmp_path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="there is no file or folder"):
        load(mlp(), tmp_path / "nowhere")
    with pytest.raises(InputError, match="pickled weights are never read"):
        load(mlp(), tmp_path)
    torch.save(mlp().state_dict(), tmp_path / "model.safetensors")  # a pickle under another name
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load(mlp(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.safetensors"}}')
    with pytest.raises(InputError, match=r"'weight_map' has to name \.safetensors files beside it"):
        load(mlp(), tmp_path)


def test_parts_with_an_index(tmp_path):
    model, fresh = mlp(), mlp()
    state = model.state_dict()
    names = {name: f"model-{int(name[0]) // 2 + 1}-of-2.safetensors" for name in state}
    for part in set(names.values()):
        save_file({name: state[name] for name in state if names[name] == part}, tmp_path / part)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert same(load(fresh, tmp_path), model)
    (tmp_path / "model-1-of-2.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-1-of-2.safetensors is missing"):
        load(mlp(), tmp_path)


def test_a_folder_of_transformers_is_built_by_its_config(tmp_path):
    model, example = tiny("bert")
    model.save_pretrained(tmp_path / "dense")
    assert torch.equal(output(Source.of(tmp_path / "dense").open().eval(), example), output(model.eval(), example))
    convert(model, basis=RANK_24, example=example)
    save(model, tmp_path / "converted")
    opened = Source.of(tmp_path / "converted").open().eval()
    assert isinstance(opened.bert.encoder.layer[0].output.dense, STLLinear)
    assert torch.equal(output(opened, example), output(model, example))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "bert", "architectures": ["os.system"]}, "transformers has no architecture 'os.system'"),
        ({"model_type": "bert", "architectures": ["AutoModel"]}, "transformers has no architecture 'AutoModel'"),
        ({"model_type": "nothing of that kind"}, "nothing of that kind"),
    ],
)
def test_a_config_runs_no_code(config, words, tmp_path):
    optional("transformers")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=words):
        Source.of(tmp_path).build()


def test_a_missing_library_is_named():
    with pytest.raises(InputError, match=r"no_such_library is missing.*pip install 'stlsearch\[networks\]'"):
        library("no_such_library")


def test_torch_export(tmp_path):
    model, x = torch.nn.Sequential(mlp(), torch.nn.Unflatten(1, (2, 4)), torch.nn.Conv2d(2, 4, 3, padding=1)).eval(), noise(2, 8, 16)
    convert(model, basis=RANK_24)
    assert isinstance(model[2], STLConv2d)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    other = noise(5, 8, 16)
    torch.testing.assert_close(loaded(other), model(other))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_onnx_at_another_batch_size(tmp_path):
    optional("onnxscript")
    runtime = optional("onnxruntime")
    model, x = torch.nn.Sequential(mlp(), torch.nn.Unflatten(1, (2, 5)), torch.nn.Conv2d(2, 4, 3, padding=1)), noise(2, 10, 16)
    convert(model, basis=RANK_24)
    export_onnx(model, x, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert model.training
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    other = noise(5, 10, 16)
    (found,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(other).detach(), rtol=1e-3, atol=1e-3)


def test_a_stand_in_is_converted_as_its_model_is(tmp_path):
    """Layers with two names, tied ones, and those whose weight other code reads."""
    model = torch.nn.ModuleDict({"shared": Shared(), "encoder": encoder()})
    fresh = copy.deepcopy(model)
    save(model, tmp_path / "dense")
    table = json.loads((tmp_path / "dense" / "config.json").read_text())[KEY]["layers"]
    assert table["shared.query"]["aliases"] == ["shared.key"]
    assert not any("self_attn" in name for name in table)
    source = Source.of(tmp_path / "dense")
    stand_in = source.open()
    done, expected = convert(stand_in, basis=SMALL), convert(model, basis=SMALL)
    assert [layer.name for layer in done.converted] == [layer.name for layer in expected.converted]
    assert (done.parameters_after, done.bytes_after) == (expected.parameters_after, expected.bytes_after)
    save(stand_in, tmp_path / "out", config=source.config)
    assert same(load(fresh, tmp_path / "out"), model)
    assert fresh["shared"].key is fresh["shared"].query


def test_names_of_tensors(tmp_path):
    """A stand-in holds what its model holds, under the same names."""
    model = encoder()
    save(model, tmp_path, example=noise(2, 9, 16))
    stand_in = Source.of(tmp_path).open()
    assert same(stand_in, model)
    shutil.copy(tmp_path / "model.safetensors", tmp_path / "alone.safetensors")
    assert same(Source.of(tmp_path / "alone.safetensors").open(), model)


def test_a_config_that_is_no_json_writes_nothing(tmp_path):
    for config in ({"dtype": torch.float32}, {"scale": float("nan")}):
        with pytest.raises(InputError, match="the config is no JSON object"):
            save(mlp(), tmp_path / "model", config=config)
    assert not (tmp_path / "model").exists()


def test_what_safetensors_cannot_hold(tmp_path):
    with torch.device("meta"):
        empty = mlp()
    wide = mlp()
    wide.register_buffer("wide", torch.zeros(3, dtype=torch.complex128))
    for model, words in ((empty, "0.weight is no dense tensor with values"), (wide, "does not hold torch.complex128")):
        with pytest.raises(InputError, match=words):
            save(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_view_of_another_tensor_has_its_own_values(tmp_path):
    def model():
        made = mlp()
        made.register_buffer("flat", made[0].weight.detach().view(-1))
        return made

    first, fresh = model(), model()
    assert same(saved(first, tmp_path, fresh), first)


def test_a_converted_model_takes_nothing_of_another_one(tmp_path):
    turned = BilinearAlgorithm.from_floats(RANK_24.target, RANK_24.U, RANK_24.V, -RANK_24.W)
    models = [torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)) for _ in range(2)]
    convert(models[0], basis=RANK_24)
    convert(models[1], basis={"0": RANK_24, "1": turned})
    before = copy.deepcopy(models[1])
    save(models[0], tmp_path)
    with pytest.raises(InputError, match="1 is saved with basis"):
        load(models[1], tmp_path)
    assert same(models[1], before)
    grouped = torch.nn.Sequential(STLLinear(16, 16, RANK_24, rows="group", group_axis=1))
    save(grouped, tmp_path)
    with pytest.raises(InputError, match="0 is saved with rows 'group', the model's has 'tokens'"):
        load(torch.nn.Sequential(STLLinear(16, 16, RANK_24)), tmp_path)


def test_a_dense_layer_that_cannot_be_replaced_is_not(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, padding=1))
    convert(model, basis=RANK_24)
    save(model, tmp_path)
    hooked = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, padding=1))
    hooked[0].register_forward_hook(lambda *_: None)
    for fresh, words in (
        (torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect")), "padding reflect"),
        (hooked, "it has hooks"),
    ):
        with pytest.raises(InputError, match=f"0: the model's layer cannot be replaced: {words}"):
            load(fresh, tmp_path)


def test_orders_of_channels_count_in_the_plan():
    model, order = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.Linear(8, 16)), list(range(15, -1, -1))
    found = convert(model, basis={"0": with_channels(RANK_24, order), "1": RANK_24})
    assert found.bytes_after == count(model, noise(1, 8, 16)).bytes


def test_a_stand_in_leaves_layers_that_hold_more_than_a_weight(tmp_path):
    tensors = {
        "a.weight": noise(8, 8),
        "a.lora_A": noise(8, 2),
        "b.weight": noise(8, 8),
        "b.inner.scale": noise(1),
        "c.weight": noise(8, 8),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    source = Source.of(tmp_path / "model.safetensors")
    assert list(source.table(tensors)) == ["c"]
    assert source.open().state_dict().keys() == tensors.keys()

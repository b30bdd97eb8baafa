"""Converting models: exact bases change nothing, plans say what happens, and layers that must stay stay."""

import copy

import pytest
import torch
from optional import optional

from stlsearch.errors import InputError
from stlsearch.nn import Basis, STLConv2d, STLLinear, convert, count, plan
from stlsearch.nn.convert import _inputs
from stlsearch.registry.store import Registry, shipped_folder
from stlsearch.targets import Target


def best(rank, tile=4):
    return Registry(None, shipped_folder()).best(Target.matmul(tile, tile, tile), rank).algorithm


EXACT, RANK_24, RANK_32, SMALL = best(49), best(24), best(32), best(7, 2)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def mlp(inner=16):
    return torch.nn.Sequential(torch.nn.Linear(inner, 32), torch.nn.GELU(), torch.nn.Linear(32, 12))


def encoder(**options):
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, **options)
    return torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=True)


class Shared(torch.nn.Module):
    """A second name for one layer, another whose weight is read by other code, and a last one tied to the embedding."""

    def __init__(self):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(20, 16)
        self.query = torch.nn.Linear(16, 16)
        self.key = self.query
        self.unused = torch.nn.Linear(16, 16)
        self.inner = torch.nn.Linear(16, 20, bias=False)
        self.inner.weight = self.embed_tokens.weight

    def forward(self, x):
        x = self.embed_tokens(x)
        return self.inner(self.key(torch.tanh(self.query(x))) + torch.nn.functional.linear(x, self.unused.weight))


def tokens(batch=4, length=10, words=20):
    return torch.randint(words, (batch, length), generator=torch.Generator().manual_seed(1))


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def tiny(name):
    """Tiny models of the three libraries and an example of each."""
    if name == "encoder":
        return encoder(), noise(2, 9, 16)
    if name == "sequential":
        return mlp(), noise(2, 9, 16)
    if name == "convolutions":
        return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 1, stride=2)), noise(
            2, 3, 8, 8
        )
    if name in ("vit", "resnet"):
        timm = optional("timm")
        sizes = {"depth": 2, "embed_dim": 24, "num_heads": 2, "img_size": 32, "patch_size": 8, "num_classes": 4}
        model = timm.create_model("vit_tiny_patch16_224", **sizes) if name == "vit" else timm.create_model("resnet10t", num_classes=4)
        return model, noise(2, 3, 32, 32)
    transformers = optional("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 20}
    if name == "bert":
        return transformers.BertForMaskedLM(transformers.BertConfig(**sizes)), {"input_ids": tokens()}
    if name == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)), {"input_ids": tokens()}
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, bos_token_id=0, eos_token_id=0)
    return transformers.GPT2LMHeadModel(config), {"input_ids": tokens()}


def output(model, example):
    with torch.no_grad():
        result = model(**example) if isinstance(example, dict) else model(example)
    return result.logits if hasattr(result, "logits") else result


MODELS = ("sequential", "encoder", "convolutions", "vit", "resnet", "bert", "llama", "gpt2")
CAUSAL = ("llama", "gpt2")


@pytest.mark.parametrize("name", MODELS)
def test_an_exact_basis_leaves_what_a_model_computes_and_the_plan_is_what_is_counted(name):
    model, example = tiny(name)
    model.eval()
    dense = output(model, example)
    exact = copy.deepcopy(model)
    assert convert(exact, rank=49, example=example).converted
    assert any(isinstance(module, STLLinear) for module in exact.modules())
    torch.testing.assert_close(output(exact, example), dense, rtol=0, atol=1e-4)

    rows = "batch" if name in CAUSAL else "tokens"
    expected = plan(model, rank=24, example=example, rows=rows)
    assert count(model, example).macs == expected.macs_before
    assert convert(model, rank=24, example=example, rows=rows).to_dict() == expected.to_dict()
    found = count(model, example)
    assert (found.macs, found.parameters, found.bytes) == (expected.macs_after, expected.parameters_after, expected.bytes_after)
    assert all(0.2 < layer.error < 0.8 for layer in expected.converted)
    assert not torch.allclose(output(model, example), dense, atol=1e-4)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_model_leaks_nothing(name):
    model, example = tiny(name)
    with pytest.raises(InputError, match=r"the model is causal.*rows='batch'"):
        convert(model, example=example)
    convert(model.eval(), example=example, rows="batch")
    later = {"input_ids": example["input_ids"].clone()}
    later["input_ids"][:, 6:] = 3
    torch.testing.assert_close(output(model, later)[:, :6], output(model, example)[:, :6])
    other, _ = tiny(name)
    assert convert(other, causal_safe=False).converted  # on purpose


def test_gpt2_and_its_transposed_weights():
    model, example = tiny("gpt2")
    found = {layer.name: layer for layer in plan(model, example=example, rows="batch").layers}
    assert found["transformer.h.0.attn.c_attn"].kind == "conv1d"
    assert (found["transformer.h.0.attn.c_attn"].inner, found["transformer.h.0.attn.c_attn"].outputs) == (16, 48)
    assert found["lm_head"].skipped == "excluded by '*_head'"
    insisted = plan(model, include=("*", "lm_head"), rows="batch")
    assert insisted.layers[-1].skipped == "its weight is that of transformer.wte too"


def test_what_an_encoder_layer_fuses_in_evaluation_is_called_instead():
    model, x = tiny("encoder")
    model.eval()
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[1, 6:] = True
    with torch.no_grad():
        dense = model(x, src_key_padding_mask=mask)
        convert(model, basis=EXACT, example=x)
        torch.testing.assert_close(model(x, src_key_padding_mask=mask)[~mask], dense[~mask], rtol=0, atol=1e-5)
    model.train()(x).sum().backward()
    assert model.layers[0].linear1.encoded.tensor.grad is not None


def test_layers_of_attention_stay_and_say_why():
    reasons = {layer.name: layer.skipped for layer in plan(encoder(), example=noise(1, 8, 16)).layers}
    assert reasons["layers.0.self_attn.in_proj_weight"] == "torch.nn.MultiheadAttention multiplies by in_proj_weight itself"
    assert reasons["layers.0.self_attn.out_proj"] == "a subclass, NonDynamicallyQuantizableLinear"
    assert reasons["layers.0.linear1"] == ""


def test_shared_tied_and_unused_layers():
    model = Shared()
    found = convert(model, basis=SMALL, example=tokens())
    reasons = {layer.name: layer.skipped for layer in found.layers}
    assert reasons == {
        "query": "",
        "unused": "the example does not call it",
        "inner": "its weight is that of embed_tokens too",
    }
    assert model.key is model.query
    assert isinstance(model.key, STLLinear)
    (layer,) = found.converted
    assert layer.rows == 2 * 4 * 10  # it is called twice
    assert count(model, tokens()).macs == found.macs_after
    assert model(tokens()).shape == (4, 10, 20)


def test_samples_of_a_batch_are_mixed_on_request_only():
    model, x = mlp(), noise(8, 16)
    reasons = [layer.skipped for layer in plan(model, example=x).layers]
    assert reasons == ["mixes samples: its input is (B, K); include it by name to convert it"] * 2
    chosen = plan(model, example=x, include=("0",))
    assert [(layer.note, layer.skipped) for layer in chosen.layers] == [("mixes samples", ""), ("", "not included")]
    assert not any(layer.skipped for layer in plan(model, example=x, rows="batch").layers)
    assert not any(layer.skipped or layer.note for layer in plan(model, example=x, basis=EXACT).layers)  # nothing to mix
    for rows, include in (("batch", "*"), ("tokens", ("0", "2"))):
        other = mlp()
        found = convert(other, example=x, rows=rows, include=include)
        assert count(other, x).macs == found.macs_after


def test_what_cannot_be_replaced():
    grouped = torch.nn.Sequential(
        torch.nn.Conv2d(8, 8, 3, groups=2),
        torch.nn.Conv2d(8, 8, 3, padding="same"),
        torch.nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(8, 8, 1)),
        torch.nn.Conv2d(8, 2, 1),
        torch.nn.Linear(8, 8),
        torch.nn.Linear(8, 8, dtype=torch.complex64),
    )
    grouped[5].register_forward_hook(lambda *_: None)
    assert [layer.skipped for layer in plan(grouped).layers] == [
        "a convolution of 2 groups",
        "padding same",
        "padding reflect",
        "a subclass, ParametrizedConv2d",
        "smaller than a tile of 4 x 4",
        "it has hooks",
        "a weight of dtype torch.complex64",
    ]
    few = plan(mlp(), example=noise(5, 1, 16))
    assert [layer.skipped for layer in few.layers] == ["1 row, fewer than a tile has"] * 2


def test_patterns():
    model = torch.nn.ModuleDict({"body": mlp(), "head": torch.nn.Linear(12, 8)})
    assert [layer.name for layer in plan(model).converted] == ["body.0", "body.2"]
    assert [layer.name for layer in plan(model, include="head").converted] == ["head"]  # by name
    assert [layer.name for layer in plan(model, include="he*").converted] == []
    assert [layer.name for layer in plan(model, exclude="body.*").converted] == ["head"]
    with pytest.raises(InputError, match="no layer of the model fits 'boddy'"):
        plan(model, include=("boddy", "body.*"))


def test_a_basis_for_each_layer():
    model = mlp()
    convert(model, basis={"0": RANK_24, "*": SMALL})
    assert (model[0].basis.rank, model[2].basis.rank) == (24, 7)
    model = mlp()
    found = convert(model, basis=lambda name: RANK_32 if name == "2" else None)
    assert [layer.skipped for layer in found.layers] == ["no basis is given for it", ""]
    for wrong in ("strassen", {"*": "strassen"}, lambda name: 24):
        with pytest.raises(InputError, match="BilinearAlgorithm"):
            plan(mlp(), basis=wrong)
    with pytest.raises(InputError, match="no basis of rank 3 for 4x4x4 tiles is registered"):
        plan(mlp(), rank=3)
    for rank in (0, 65, "24"):
        with pytest.raises(InputError, match="give an integer from 1 to 64"):
            plan(mlp(), rank=rank)
    assert plan(mlp(), rank=14, tile="2x2x4").converted[0].algorithm.target.shape == (2, 2, 4)


def test_bases_are_shared_unless_they_learn():
    fixed, learned, given = mlp(), mlp(), mlp()
    assert convert(fixed, basis=RANK_24).basis_values == 24 * 48
    assert fixed[0].basis is fixed[2].basis
    found = convert(learned, basis=RANK_24, learn="UW", example=noise(1, 8, 16))
    assert learned[0].basis is not learned[2].basis
    assert (found.basis_values, found.parameters_after) == (2 * 24 * 48, count(learned, noise(1, 8, 16)).parameters)
    basis = Basis(RANK_24, learn="W")
    found = convert(given, basis=basis, example=noise(1, 8, 16))
    assert given[0].basis is given[2].basis is basis
    total = count(given, noise(1, 8, 16))
    assert (found.basis_values, found.parameters_after, found.bytes_after) == (24 * 48, total.parameters, total.bytes)
    with pytest.raises(InputError, match=r"the shared basis is torch\.float32"):
        convert(mlp().to(torch.bfloat16), basis=basis)


def test_modes_dtypes_and_frozen_weights_stay_and_no_random_number_is_drawn():
    model = mlp().to(torch.bfloat16)
    model[0].weight.requires_grad_(False)
    model[2].eval()
    state = torch.get_rng_state()
    convert(model, basis=RANK_24, example=noise(2, 8, 16).to(torch.bfloat16))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert (model[0].training, model[2].training) == (True, False)
    assert (model[0].encoded.tensor.requires_grad, model[0].bias.requires_grad) == (False, True)
    assert model[0].encoded.tensor.dtype == torch.bfloat16
    assert model(noise(2, 8, 16).to(torch.bfloat16)).dtype == torch.bfloat16


def test_a_plan_changes_nothing_not_even_running_means():
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 1), torch.nn.BatchNorm2d(8))
    before = copy.deepcopy(model.state_dict())
    found = plan(model, example=noise(2, 4, 6, 6))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert isinstance(model[0], torch.nn.Conv2d)
    assert not model[0]._forward_hooks
    assert model[1].training
    assert not found.converted[0].skipped


def test_expected_errors():
    model, x = mlp(), noise(64, 64, 16)
    white = plan(model).layers[0]
    assert (white.error, white.rows, white.macs_before) == (RANK_24.error, None, None)
    measured = plan(model, example=x).layers[0]
    layer = STLLinear.from_linear(model[0], RANK_24)
    with torch.no_grad():
        dense = x @ model[0].weight.T
        error = float((layer(x) - dense - model[0].bias).square().sum() / dense.square().sum())
    assert measured.error == pytest.approx(error, rel=1e-5)
    assert measured.error == pytest.approx(RANK_24.error, rel=0.1)  # white inputs


@pytest.mark.parametrize("sequential", [True, False])
def test_calibration(sequential):
    torch.manual_seed(3)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 1), torch.nn.Flatten(2), torch.nn.Linear(36, 8)
    )
    mixing = noise(4, 4) / 2 + 0.5
    batches = [torch.einsum("ij,bjhw->bihw", mixing, noise(24, 4, 6, 6)) for _ in range(2)]
    other = copy.deepcopy(model)
    found = convert(other, basis=RANK_24, calibrate=batches, sequential=sequential)
    plain = plan(model, basis=RANK_24, example=batches[0])
    assert isinstance(other[0], STLConv2d)
    assert [layer.note[:10] for layer in found.layers] == ["calibrated"] * 3
    assert found.layers[0].error < 0.8 * plain.layers[0].error
    with torch.no_grad():
        difference = (other[0](batches[1]) - model[0](batches[1])).square().sum()
        dense = (model[0](batches[1]) - model[0].bias[:, None, None]).square().sum()
    assert float(difference / dense) == pytest.approx(found.layers[0].error, rel=0.3)
    assert found.macs_after == count(other, batches[0]).macs


def test_calibration_with_too_few_rows_encodes_plainly():
    model, plain = (mlp(64) for _ in range(2))
    plain.load_state_dict(model.state_dict())
    found = convert(model, basis=RANK_24, calibrate=noise(2, 8, 64))
    assert found.layers[0].note.startswith("not calibrated: 8 rows give")
    convert(plain, basis=RANK_24)
    assert torch.equal(model[0].encoded.tensor, plain[0].encoded.tensor)
    with pytest.raises(InputError, match="no batch"):
        convert(mlp(), calibrate=[])


def test_the_table_and_the_dictionary():
    found = plan(mlp(), example=(noise(2, 8, 16),), rank=24)
    lines = str(found).splitlines()
    assert lines[0].split()[:3] == ["layer", "kind", "K"]
    assert lines[1].split()[:4] == ["0", "linear", "16", "x"]
    assert lines[-1].startswith("whole model")
    document = found.to_dict()
    assert document["layers"][0]["algorithm_id"] == RANK_24.id
    assert document["macs_before"] == 16 * (16 * 32 + 32 * 12)
    assert document["layers"][0]["skipped"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": "group"}, "unknown rows 'group'; valid: tokens, blocks, batch"),
        ({"learn": "V"}, "cannot learn 'V'"),
        ({"tile": "4x"}, "tile"),
        ({"example": 3}, "an example is a tensor, a tuple of arguments or a mapping of named ones, not int"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(InputError, match="the model is a single layer, Linear"):
        plan(torch.nn.Linear(4, 4))
    with pytest.raises(InputError, match=words):
        plan(mlp(), **options)


class Sometimes(torch.nn.Module):
    """One layer for an even number of tokens, the other for an odd one."""

    def __init__(self):
        super().__init__()
        self.even, self.odd = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)

    def forward(self, x):
        return self.odd(x) if x.shape[1] % 2 else self.even(x)


class Causal(torch.nn.Module):
    """Attention of a model that no library owns."""

    def __init__(self, positional):
        super().__init__()
        self.project, self.positional = torch.nn.Linear(16, 16), positional

    def forward(self, x):
        q, attend = self.project(x), torch.nn.functional.scaled_dot_product_attention
        return attend(q, q, q, None, 0.0, True) if self.positional else attend(q, q, q, is_causal=True)


def test_a_replaced_forward_and_a_shared_bias_stay():
    model = mlp()
    model[0].forward = lambda x: 2 * torch.nn.Linear.forward(model[0], x)  # as accelerate does
    shared = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16))
    shared[1].bias = shared[0].bias
    assert [layer.skipped for layer in plan(model, basis=RANK_24).layers] == ["its forward was replaced", ""]
    assert [layer.skipped for layer in plan(shared, basis=RANK_24).layers] == ["its bias is that of 1 too", "its bias is that of 0 too"]


def test_a_lazy_layer_has_no_size_yet():
    model = torch.nn.Sequential(torch.nn.LazyLinear(16))
    with pytest.raises(InputError, match="a LazyLinear has no size before its first call"):
        convert(model, basis=RANK_24)
    model(noise(1, 8, 16))
    assert convert(model, basis=RANK_24).converted


@pytest.mark.parametrize("tile", [(4, 4), 4.5, None])
def test_tiles_that_are_none(tile):
    with pytest.raises(InputError, match="give one size such as 4, or three"):
        plan(mlp(), tile=tile)


def test_a_conversion_that_fails_leaves_the_model_as_it_was():
    class Even(torch.nn.Module):
        def forward(self, x):
            if x.shape[1] % 2:
                raise ValueError("an odd number of tokens")
            return x

    layers = encoder().eval()
    model = torch.nn.Sequential(layers, Even(), torch.nn.Linear(16, 16)).eval()
    before, flags = output(model, noise(2, 8, 16)), [layer.activation_relu_or_gelu for layer in layers.layers]
    with pytest.raises(ValueError, match="an odd number"):
        convert(model, basis=RANK_24, calibrate=[noise(80, 8, 16), noise(80, 9, 16)])
    assert not any(isinstance(module, STLLinear) for module in model.modules())
    assert layers.use_nested_tensor
    assert flags == [layer.activation_relu_or_gelu for layer in layers.layers] != [0, 0]
    assert torch.equal(output(model, noise(2, 8, 16)), before)


def test_layers_that_the_first_batch_does_not_call_say_so():
    model = Sometimes()
    found = convert(model, basis=RANK_24, example=noise(2, 8, 16), calibrate=[noise(80, 7, 16), noise(80, 8, 16)])
    assert found.converted[0].note == "not calibrated: the first batch does not call it"


def test_inputs_of_a_layer_that_is_called_several_times():
    class Repeated(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x):
            state = x.clone()
            for _ in range(2 if len(x) > 1 else 1):
                state.copy_(self.layer(state))  # into what the layer was given
            return state

    model, batches = Repeated(), [noise(2, 3, 4), noise(1, 3, 4), noise(3, 3, 4)]
    wanted = [batches[0], model.layer(batches[0]), batches[1], batches[2], model.layer(batches[2])]
    found = _inputs(model, model.layer, batches, calls=2)
    assert [tuple(x.shape) for x in found] == [tuple(x.shape) for x in wanted]
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_results_that_are_not_finite():
    found = plan(mlp(), basis=RANK_24, example=torch.full((2, 8, 16), torch.nan))
    assert {layer.note for layer in found.converted} == {"its result is not finite"}
    assert {layer["expected_rel_sq_error"] for layer in found.to_dict()["layers"]} == {None}


@pytest.mark.parametrize("positional", [True, False])
def test_attention_that_hides_later_tokens_is_noticed(positional):
    model, x = Causal(positional), noise(2, 8, 16)
    with pytest.raises(InputError, match="the model is causal"):
        convert(model, basis=RANK_24, example=x)
    assert plan(model, basis=RANK_24, example=x, rows="batch").causal_safe
    assert not plan(model, basis=RANK_24, example=x, causal_safe=False).causal_safe
    mask = torch.nn.Transformer.generate_square_subsequent_mask(9)
    assert plan(encoder(), basis=EXACT, example={"src": noise(2, 9, 16), "mask": mask, "is_causal": True}).causal_safe
    assert not plan(encoder(), basis=EXACT, example=noise(2, 9, 16)).causal_safe

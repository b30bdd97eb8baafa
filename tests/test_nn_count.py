"""MACs and parameters against closed forms, and against dense layers."""

import pytest
import torch
from optional import optional
from test_nn_convert import RANK_24, Shared, encoder, mlp, noise, tokens
from test_ops import random_algorithm
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from stlsearch.evaluate.cost import count_cost
from stlsearch.nn import STLConv2d, STLLinear, convert, count
from stlsearch.nn.count import layer_macs
from stlsearch.ops import decode, encode_activations, encode_weights, multiply

ODD = random_algorithm(3, 2, 5, 7)


@pytest.mark.parametrize(
    ("algorithm", "rows", "inner", "columns"), [(RANK_24, 16, 32, 8), (RANK_24, 13, 30, 9), (ODD, 7, 5, 11), (ODD, 1, 1, 1)]
)
def test_a_layer_costs_what_the_closed_form_says(algorithm, rows, inner, columns):
    layer = STLLinear(inner, columns, algorithm)
    found = count(layer, noise(2, rows, inner))
    cost = count_cost(algorithm, rows, inner, columns)
    assert found.macs == 2 * cost.macs.pre_encoded
    assert found.parameters == cost.weight_parameters + columns
    assert found.bytes == 4 * (found.parameters + cost.basis_parameters)
    (only,) = found.layers
    assert (only.kind, only.macs, only.parameters) == ("STLLinear", found.macs, found.parameters)
    n, m, p = algorithm.target.shape
    cut = count(layer, noise(2, rows, inner), padded=False).macs
    assert cut == 2 * (algorithm.rank * rows * (inner + columns) + algorithm.rank * rows * inner * columns // (n * m * p))
    if rows % n == inner % m == columns % p == 0:
        assert cut == found.macs


def test_forward_and_gradients():
    """The gradients of x, of the encoded weight and of the factors, as their own operators count."""
    x = noise(1, 13, 30).requires_grad_()
    cost = count_cost(RANK_24, 13, 30, 9)
    encode, middle, end = cost.macs.encode_activations, cost.macs.multiply, cost.macs.decode
    fixed, learned = STLLinear(30, 9, RANK_24), STLLinear(30, 9, RANK_24, learn="UW")
    with FlopCounterMode(display=False) as counter:
        fixed(x).sum().backward()
    assert counter.get_total_flops() == 2 * (cost.macs.pre_encoded * 3)  # two gradients, each as much as the product
    assert cost.backward_macs.total == 2 * middle + encode + end  # there the planes that both need are encoded once
    with FlopCounterMode(display=False) as counter:
        learned(x).sum().backward()
    for_factors = (end + middle + encode) + (encode + middle + end)
    assert counter.get_total_flops() == 2 * (3 * cost.macs.pre_encoded + for_factors)


def test_the_stages_one_by_one():
    x, weight = noise(13, 30), noise(30, 9)
    stages = count_cost(RANK_24, 13, 30, 9).macs
    counts = []
    for run in (
        lambda: encode_weights(weight, RANK_24),
        lambda: encode_activations(x, RANK_24),
        lambda: multiply(encode_activations(x, RANK_24), encode_weights(weight, RANK_24)),
        lambda: decode(noise(24, 4, 3), RANK_24, 13, 9),
    ):
        with FlopCounterMode(display=False) as counter:
            run()
        counts.append(counter.get_total_flops() // 2)
    both = stages.encode_weights + stages.encode_activations
    assert counts == [stages.encode_weights, stages.encode_activations, both + stages.multiply, stages.decode]


def test_dense_layers_and_convolutions():
    assert count(torch.nn.Linear(30, 9), noise(2, 13, 30)).macs == 2 * 13 * 30 * 9
    conv = torch.nn.Conv2d(3, 8, 3, stride=2)
    assert count(conv, noise(2, 3, 9, 11)).macs == 2 * 4 * 5 * 27 * 8
    converted = STLConv2d.from_conv(conv, RANK_24)
    assert count(converted, noise(2, 3, 9, 11)).macs == 2 * layer_macs((4, 4, 4), 24, 20, 27, 8)
    assert [layer.kind for layer in count(converted, noise(2, 3, 9, 11)).layers] == ["STLConv2d"]


@pytest.mark.parametrize("training", [True, False])
def test_attention_counts_in_every_mode_and_layers_add_up(training):
    """In evaluation PyTorch would run a whole encoder layer as one operator, of which its counter counts nothing."""
    model, x = encoder().train(training), noise(2, 9, 16)
    found = count(model, x)
    layer = 9 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 9 * 9 * 16
    assert found.macs == 2 * 2 * layer
    assert sum(each.macs for each in found.layers) == found.macs
    assert sum(each.parameters for each in found.layers) == found.parameters == sum(each.numel() for each in model.parameters())
    assert all(each.macs >= 0 for each in found.layers)
    assert model.training == training
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("padded", [True, False])
def test_fake_tensors_count_the_same_and_take_no_memory(padded):
    def build():
        model = torch.nn.Sequential(torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.nn.Linear(16, 8))
        convert(model, basis=RANK_24)
        return model

    real = count(build(), noise(2, 9, 16), padded=padded)
    with FakeTensorMode():
        assert count(build(), torch.empty(2, 9, 16), padded=padded) == real
        large = torch.nn.Sequential(STLLinear(2**14, 2**14, RANK_24))
        found = count(large, torch.empty(2**20, 2**14), padded=padded)
        assert found.macs == count_cost(RANK_24, 2**20, 2**14, 2**14).macs.pre_encoded


def test_shared_and_tied_parameters_count_once():
    model = Shared()
    found = count(model, tokens())
    assert found.parameters == 20 * 16 + 2 * (16 * 16 + 16)
    assert found.macs == 40 * (3 * 16 * 16 + 16 * 20)


def test_a_real_model():
    """4.6 GMACs are in the literature for ViT-S/16 at 224 x 224."""
    timm = optional("timm")
    with torch.device("meta"):
        model = timm.create_model("vit_small_patch16_224")
        macs = count(model, torch.empty(1, 3, 224, 224)).macs
    tokens, width = 197, 384
    block = tokens * 12 * width * width + 2 * tokens * tokens * width
    assert macs == 196 * 768 * width + 12 * block + width * 1000
    assert macs == pytest.approx(4.6e9, rel=0.01)


def test_the_dictionary():
    document = count(mlp(), noise(1, 8, 16)).to_dict()
    assert document["macs"] == 8 * (16 * 32 + 32 * 12)
    assert [layer["name"] for layer in document["layers"]] == ["0", "2"]

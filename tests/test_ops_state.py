"""Encoded weights as parameters: trained, moved, copied, saved and loaded."""

import copy
import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import strassen
from test_ops import random_algorithm, random_tensors, with_channels

from stlsearch.errors import InputError
from stlsearch.ops import Bases, EncodedParameter, Layout, encode_weights, reference_matmul, stl_matmul

ALGORITHM = random_algorithm(3, 2, 4, 5)
ORDERED = with_channels(ALGORITHM, [3, 1, 0, 2, 4])


class Layer(torch.nn.Module):
    def __init__(self, algorithm=ALGORITHM, shape=(5, 9), layout=None, seed=0):
        super().__init__()
        (weight,) = random_tensors(shape, seed=seed)
        self.algorithm = algorithm
        self.weight = EncodedParameter(encode_weights(weight, algorithm, layout=layout))

    def forward(self, x):
        return stl_matmul(x, self.weight, self.algorithm)


def saved_and_loaded(state):
    """A state through `torch.save` and a load that runs no code of the file."""
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def test_the_tensor_is_a_parameter_and_nothing_else_is():
    layer = Layer()
    assert [name for name, _ in layer.named_parameters()] == ["weight.tensor"]
    assert list(layer.buffers()) == []
    assert [name for name, _ in Layer(ORDERED).named_buffers()] == ["weight.channels"]
    assert layer.weight.value.tensor is layer.weight.tensor
    assert not EncodedParameter(layer.weight.value, requires_grad=False).tensor.requires_grad
    assert "shape=(5, 9)" in repr(layer)
    assert ALGORITHM.id[:8] in repr(layer)


def test_the_parameter_or_its_value_multiply():
    layer = Layer()
    (x,) = random_tensors((2, 7, 5))
    torch.testing.assert_close(stl_matmul(x, layer.weight.value, ALGORITHM), layer(x))


def test_an_optimiser_trains_it_to_what_an_exact_algorithm_can_do():
    layer = Layer(strassen(), (6, 4))
    x, weight = random_tensors((16, 6), (6, 4), seed=1)
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        error = (layer(x) - x @ weight).square().mean()
        error.backward()
        return error

    before = layer.weight.tensor.detach().clone()
    assert loss() > 0.1
    optimiser.step(loss)
    assert not torch.equal(layer.weight.tensor, before)
    assert loss() < 1e-6


def test_a_deep_copy_has_its_own_tensor():
    layer = Layer(ORDERED)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.weight.tensor.zero_()
    assert layer.weight.tensor.all()
    assert twin.weight.value.layout == layer.weight.value.layout
    assert twin.weight.channels.tolist() == [3, 1, 0, 2, 4]


def test_it_moves_to_other_dtypes_and_devices_as_modules_do():
    (x,) = random_tensors((2, 7, 5))
    for algorithm in (ALGORITHM, ORDERED):
        layer = Layer(algorithm)
        exact = layer(x)
        layer.to(torch.bfloat16)
        assert layer.weight.value.tensor.dtype == torch.bfloat16
        assert layer(x.bfloat16()).dtype == torch.bfloat16
        layer.float()
        torch.testing.assert_close(layer(x.float()).double(), exact, rtol=0.05, atol=0.1)
        if algorithm is ORDERED:
            assert layer.weight.value.channels.dtype == torch.int64
        layer.to("meta")
        assert layer(x.float().to("meta")).shape == (2, 7, 9)


def test_an_encoded_weight_moves_with_its_channels():
    encoded = encode_weights(torch.ones(5, 9), ORDERED)
    moved = encoded.to("meta", torch.float16)
    assert (moved.tensor.device.type, moved.tensor.dtype, moved.channels.device.type) == ("meta", torch.float16, "meta")
    assert moved.channels.dtype == torch.int64
    assert (moved.shape, moved.algorithm_id, moved.layout) == (encoded.shape, encoded.algorithm_id, encoded.layout)


@pytest.mark.parametrize("algorithm", [ALGORITHM, ORDERED], ids=["as they stand", "ordered"])
@pytest.mark.parametrize("layout", [None, Layout("blocks", "blocked", "interleaved")], ids=["default", "blocks"])
def test_a_state_is_saved_and_loaded_without_running_code(algorithm, layout):
    layer, other = Layer(algorithm, layout=layout), Layer(algorithm, layout=layout, seed=1)
    (x,) = random_tensors((2, 7, 5))
    result = layer(x)
    assert not torch.allclose(other(x), result)
    assert other.load_state_dict(saved_and_loaded(layer.state_dict()))
    assert torch.equal(other(x), result)
    empty = Layer(algorithm, layout=layout).to("meta")
    empty.load_state_dict(saved_and_loaded(layer.state_dict()), assign=True)
    assert torch.equal(empty(x), result)


def test_a_state_brings_the_order_of_its_channels():
    """Tensor and order belong together: another order of the same algorithm is no mismatch."""
    layer, other = Layer(ORDERED), Layer(with_channels(ALGORITHM, [4, 3, 2, 1, 0]))
    (x,) = random_tensors((2, 7, 5))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


def test_loading_a_state_changes_no_other_weight_of_the_algorithm():
    layer, twin = (Layer(with_channels(ALGORITHM, [4, 2, 3, 0, 1])) for _ in range(2))
    encoded = encode_weights(*random_tensors((5, 9)), layer.algorithm)
    layer.load_state_dict(Layer(ORDERED).state_dict())
    for order in (twin.weight.channels, encoded.channels, Bases.prepare(layer.algorithm).channels):
        assert order.tolist() == [4, 2, 3, 0, 1]
    assert encode_weights(*random_tensors((5, 9)), layer.algorithm).channels.tolist() == [4, 2, 3, 0, 1]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: Layer(random_algorithm(3, 2, 4, 5, seed=1)), f"saved for algorithm_id [0-9a-f]+, not {ALGORITHM.id}"),
        (lambda: Layer(random_algorithm(2, 2, 2, 5)), "saved for algorithm_id"),
        (lambda: Layer(shape=(6, 9)), r"saved for shape \[6, 9\], not \[5, 9\]"),  # as many planes and tiles
        (lambda: Layer(shape=(9, 9)), r"saved for shape \[9, 9\]"),
        (lambda: Layer(layout=Layout("batch")), r"saved for layout \['batch', 'interleaved', 'interleaved'\]"),
        (lambda: Layer(layout=Layout(outputs="blocked")), "saved for layout"),
    ],
)
def test_a_state_of_another_algorithm_size_or_layout_is_refused_and_changes_nothing(other, message):
    layer = Layer()
    before = layer.weight.tensor.detach().clone()
    for strict in (True, False):
        with pytest.raises(InputError, match=message):
            layer.load_state_dict(saved_and_loaded(other().state_dict()), strict=strict)
    assert torch.equal(layer.weight.tensor, before)


def test_a_state_without_its_description_or_order_is_incomplete():
    layer = Layer(ORDERED)
    for key in ("weight._extra_state", "weight.channels", "weight.tensor"):
        state = layer.state_dict()
        del state[key]
        with pytest.raises(RuntimeError, match=f'Missing key.*"{key}"'):
            layer.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"weight\.channels"'):
        Layer().load_state_dict(layer.state_dict())


def test_encoded_weights_and_bases_can_be_pickled_and_copied():
    (x,) = random_tensors((2, 7, 5))
    weight = random_tensors((5, 9), seed=1)[0]
    for algorithm in (ALGORITHM, ORDERED):
        encoded, bases = encode_weights(weight, algorithm), Bases.prepare(algorithm, dtype=torch.float64)
        expected = reference_matmul(x.numpy(), weight.numpy(), algorithm)
        for again in (copy.deepcopy, copy.copy, lambda value: pickle.loads(pickle.dumps(value))):
            np.testing.assert_allclose(stl_matmul(x, again(encoded), again(bases)).numpy(), expected, atol=1e-12)


def test_bases_keep_who_they_are_when_they_are_rounded_or_learned():
    bases = Bases.prepare(ORDERED)
    rounded = bases.to(torch.bfloat16)
    assert {factor.dtype for factor in (rounded.U, rounded.V, rounded.W)} == {torch.bfloat16}
    learned = replace(bases, U=torch.nn.Parameter(bases.U))
    for other in (rounded, learned):
        assert (other.shape, other.algorithm_id, other.rank) == ((3, 2, 4), ORDERED.id, 5)
        assert other.channels.tolist() == [3, 1, 0, 2, 4]


def test_safetensors_can_hold_the_state(tmp_path):
    layer = EncodedParameter(encode_weights(torch.randn(6, 4), ALGORITHM))
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    other = EncodedParameter(encode_weights(torch.zeros(6, 4), ALGORITHM))
    other.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    torch.testing.assert_close(other.tensor, layer.tensor)


@pytest.mark.parametrize(
    "state", [torch.zeros(3, dtype=torch.uint8), torch.tensor([91, 49, 93], dtype=torch.uint8), [1], {"shape": [6, 4]}]
)
def test_a_state_of_something_else_is_one_clear_error(state):
    layer = EncodedParameter(encode_weights(torch.randn(6, 4), ALGORITHM))
    with pytest.raises(InputError, match="not the bytes of a JSON object"):
        layer.load_state_dict({**layer.state_dict(), "_extra_state": state})

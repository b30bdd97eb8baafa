"""Strassen-Tile layers: the same product as the operator, sane starts, states, and nothing that leaks unseen."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from samples import strassen
from torch import Tensor, nn

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.metric import Metric
from stlsearch.nn import Basis, STLConv2d, STLLinear, parameter_groups, precondition, steady_rate
from stlsearch.ops import Layout, encode_weights, stl_matmul
from stlsearch.registry.store import open_registry
from stlsearch.targets import Target


@pytest.fixture(scope="module")
def inexact() -> BilinearAlgorithm:
    return open_registry().best(Target.matmul(4, 4, 4), rank=24).algorithm


@pytest.fixture(scope="module")
def exact() -> BilinearAlgorithm:
    return open_registry().best(Target.matmul(4, 4, 4), rank=49).algorithm


@pytest.mark.parametrize("rows", ["tokens", "blocks", "batch"])
def test_the_layer_is_the_operators_product_and_a_bias(inexact: BilinearAlgorithm, rows: str) -> None:
    torch.manual_seed(0)
    x, dense = torch.randn(3, 7, 10), nn.Linear(10, 6)
    layer = STLLinear.from_linear(dense, inexact, rows=rows)
    encoded = encode_weights(dense.weight.detach().T, inexact, layout=Layout(rows))
    torch.testing.assert_close(layer(x), stl_matmul(x, encoded, inexact) + dense.bias)


@pytest.mark.parametrize("shape", [(13,), (5, 13), (2, 5, 13), (2, 3, 5, 13), (0, 13)])
@pytest.mark.parametrize("rows", ["tokens", "batch"])
def test_an_exact_algorithm_gives_the_dense_layer(exact: BilinearAlgorithm, shape: tuple[int, ...], rows: str) -> None:
    torch.manual_seed(0)
    dense, x = nn.Linear(13, 9).double(), torch.randn(shape, dtype=torch.float64)
    layer = STLLinear.from_linear(dense, exact, rows=rows)
    torch.testing.assert_close(layer(x), dense(x))


def test_groups_are_tiles_along_another_axis(inexact: BilinearAlgorithm) -> None:
    torch.manual_seed(0)
    layer = STLLinear(8, 12, inexact, rows="group", group_axis=1)
    x = torch.randn(2, 4, 5, 8)  # (batch, heads, tokens, channels)
    tokens_layer = STLLinear(8, 12, inexact)
    tokens_layer.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), tokens_layer(x.transpose(1, 2)).transpose(1, 2))


def depends(layer: nn.Module, x: Tensor, row: tuple[int, int]) -> list[tuple[int, int]]:
    """Which (sample, token) of x the output at `row` depends on."""
    x = x.clone().requires_grad_()
    layer(x)[row].sum().backward()
    assert x.grad is not None
    return [tuple(place) for place in (x.grad.abs().sum(-1) > 0).nonzero().tolist()]


def test_which_rows_an_output_depends_on(inexact: BilinearAlgorithm, exact: BilinearAlgorithm) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 6, 8)
    assert depends(STLLinear(8, 8, inexact), x, (1, 2)) == [(1, token) for token in range(4)]
    assert depends(STLLinear(8, 8, inexact, rows="batch", causal_safe=True), x, (1, 2)) == [(sample, 2) for sample in range(4)]
    changed = x.clone()
    changed[:, 3:] += 1
    safe = STLLinear.from_linear(nn.Linear(8, 8), exact, causal_safe=True)
    torch.testing.assert_close(safe(changed)[:, :3], safe(x)[:, :3])


@pytest.mark.parametrize("options", [{}, {"rows": "blocks"}, {"rows": "group", "group_axis": -2}])
def test_a_layer_that_must_be_causal_refuses_to_leak(inexact: BilinearAlgorithm, options: dict) -> None:
    with pytest.raises(InputError, match=r"a causal model needs rows='batch'"):
        STLLinear(8, 8, inexact, causal_safe=True, **options)


def test_a_learned_basis_is_not_exact(exact: BilinearAlgorithm) -> None:
    with pytest.raises(InputError, match="whose factors are fixed"):
        STLLinear(8, 8, exact, learn="U", causal_safe=True)


def test_a_group_axis_that_turns_out_to_be_the_tokens_is_refused(inexact: BilinearAlgorithm) -> None:
    layer = STLLinear(8, 8, inexact, rows="group", group_axis=1, causal_safe=True)
    assert layer(torch.randn(2, 4, 5, 8)).shape == (2, 4, 5, 8)
    with pytest.raises(InputError, match="it would leak the future"):
        layer(torch.randn(2, 5, 8))


@pytest.mark.parametrize("start", ["encoded", "independent"])
@pytest.mark.parametrize("rank", [16, 24, 49])
def test_random_starts_preserve_variance(start: str, rank: int) -> None:
    """The output's variance is that of torch.nn.Linear, E[x^2]/3, whatever the basis loses or amplifies."""
    torch.manual_seed(rank)
    algorithm = open_registry().best(Target.matmul(4, 4, 4), rank=rank).algorithm
    variances = [STLLinear(256, 256, algorithm, start=start, bias=False)(torch.randn(16, 64, 256)).var().item() for _ in range(4)]
    assert sum(variances) / 4 == pytest.approx(1 / 3, rel=0.05)


def test_seeds_decide_the_start(inexact: BilinearAlgorithm) -> None:
    def made(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return STLLinear(8, 8, inexact).encoded.tensor

    assert torch.equal(made(1), made(1))
    assert not torch.equal(made(1), made(2))


@pytest.mark.parametrize("learn", ["", "U", "W", "UW"])
def test_what_is_learned_gets_gradients_and_nothing_else_does(inexact: BilinearAlgorithm, learn: str) -> None:
    layer = STLLinear(8, 8, inexact, learn=learn)
    layer(torch.randn(4, 8)).square().sum().backward()
    trained = {name for name, parameter in layer.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert trained == {"encoded.tensor", "bias", *(f"basis.{name}" for name in learn)}
    assert {name for name, _ in layer.named_buffers()} == {f"basis.{name}" for name in set("UVW") - set(learn)}


def test_a_shared_basis_is_one_set_of_parameters(inexact: BilinearAlgorithm) -> None:
    basis = Basis(inexact, learn="UW")
    model = nn.Sequential(STLLinear(8, 8, basis), STLLinear(8, 8, basis))
    names = [name for name, _ in model.named_parameters()]
    assert len([name for name in names if "basis" in name]) == 2
    with pytest.raises(InputError, match="the shared basis learns 'UW'"):
        STLLinear(8, 8, basis, learn="U")


def test_a_trained_basis_becomes_an_algorithm_with_a_parent(inexact: BilinearAlgorithm) -> None:
    basis = Basis(inexact, learn="UW", dtype=torch.float64)
    assert basis.to_algorithm().error == pytest.approx(inexact.error)
    with torch.no_grad():
        basis.U += 0.1
    assert basis.to_algorithm().error > inexact.error
    assert basis.to_algorithm().provenance["parents"] == [{"id": inexact.id}]


def test_state_round_trip_and_refusals(inexact: BilinearAlgorithm, exact: BilinearAlgorithm) -> None:
    torch.manual_seed(0)
    layer, other = STLLinear(8, 6, inexact, learn="UW"), STLLinear(8, 6, inexact)
    state = copy.deepcopy(layer.state_dict())
    other.load_state_dict(state)
    x = torch.randn(3, 4, 8)
    torch.testing.assert_close(other(x), layer(x))
    for wrong in (STLLinear(8, 6, exact), STLLinear(6, 6, inexact), STLLinear(8, 6, inexact, rows="batch")):
        before = copy.deepcopy(wrong.state_dict())
        with pytest.raises(InputError, match="was saved for"):
            wrong.load_state_dict(state)
        assert torch.equal(before["encoded.tensor"], wrong.state_dict()["encoded.tensor"])


def test_channels_are_permuted_as_the_basis_was_fitted(inexact: BilinearAlgorithm, exact: BilinearAlgorithm) -> None:
    torch.manual_seed(0)
    order = torch.randperm(12)
    dense, x = nn.Linear(12, 8), torch.randn(2, 4, 12)
    torch.testing.assert_close(STLLinear.from_linear(dense, exact, channels=order)(x), dense(x), rtol=1e-4, atol=1e-5)
    metric = Metric(torch.eye(16).numpy(), torch.eye(16).numpy(), {"channels": order.tolist()})
    fitted = BilinearAlgorithm.from_floats(inexact.target, inexact.U, inexact.V, inexact.W, metric=metric)
    by_basis, by_hand = STLLinear.from_linear(dense, fitted), STLLinear.from_linear(dense, inexact, channels=order)
    torch.testing.assert_close(by_basis(x), by_hand(x))
    assert STLLinear(16, 8, fitted, layout=Layout()).encoded.channels is None
    with pytest.raises(InputError, match="the basis orders 12 channels, the layer has 16"):
        STLLinear(16, 8, fitted)
    with pytest.raises(InputError, match=r"permutation of 0\.\.11"):
        STLLinear(12, 8, inexact, channels=[0] * 12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: STLLinear(0, 8, a), "at least one channel"),
        (lambda a: STLLinear(8, 8, a, rows="columns"), "valid: tokens, blocks, batch, group"),
        (lambda a: STLLinear(8, 8, a, learn="V"), "V never enters a product"),
        (lambda a: STLLinear(8, 8, a, rows="group"), "needs a group_axis"),
        (lambda a: STLLinear(8, 8, a, group_axis=1), "needs a group_axis"),
        (lambda a: STLLinear(8, 8, a, start="zero"), "valid: encoded, independent"),
        (lambda a: STLLinear(8, 8, a, layout=Layout("batch")), "the layout takes rows from batch, the layer from tokens"),
        (lambda a: STLLinear(8, 8, a).load_dense(torch.zeros(6, 8)), r"\(8, 8\) is needed, not \(6, 8\)"),
        (lambda a: STLLinear(8, 8, a, bias=False).load_dense(torch.zeros(8, 8), torch.zeros(8)), "without one"),
        (lambda a: STLLinear(8, 8, "strassen"), "a BilinearAlgorithm is needed, not str"),
        (lambda a: STLConv2d(3, 8, 3, a, padding="same"), "padding is a number"),
        (lambda a: STLConv2d.from_conv(nn.Conv2d(4, 4, 3, groups=2), a), "one group"),
        (lambda a: STLConv2d.from_conv(nn.Conv2d(4, 4, 3, padding_mode="reflect"), a), "zero padding"),
        (lambda a: parameter_groups(nn.Linear(2, 2), -1.0), "not negative"),
        (lambda a: parameter_groups(nn.Linear(2, 2), 1.0, decay=float("nan")), "not negative"),
    ],
)
def test_bad_input_is_one_line(inexact: BilinearAlgorithm, make, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make(inexact)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2, "bias": False},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1), "dilation": (1, 2)},
        {"kernel_size": 1, "padding": 1},
    ],
)
@pytest.mark.parametrize("rows", ["tokens", "batch"])
def test_convolutions_by_an_exact_algorithm(exact: BilinearAlgorithm, options: dict, rows: str) -> None:
    torch.manual_seed(0)
    dense, x = nn.Conv2d(5, 6, **options), torch.randn(3, 5, 9, 8)
    layer = STLConv2d.from_conv(dense, exact, rows=rows)
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(x[0]), dense(x[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("outputs", [8, 7])
def test_preconditioned_descent_is_descent_on_the_dense_weight(inexact: BilinearAlgorithm, outputs: int) -> None:
    """E stays the encoding of the dense weight, step by step, with momentum and weight decay."""
    torch.manual_seed(0)
    start, layer = torch.randn(10, outputs, dtype=torch.float64), STLLinear(10, outputs, inexact, dtype=torch.float64, bias=False)
    layer.load_dense(start)
    dense = nn.Parameter(start.clone())
    settings = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 0.1}
    of_layer, of_dense = torch.optim.SGD(layer.parameters(), **settings), torch.optim.SGD([dense], **settings)
    for _ in range(5):
        x, goal = torch.randn(6, 10, dtype=torch.float64), torch.randn(6, outputs, dtype=torch.float64)
        for optimizer in (of_layer, of_dense):
            optimizer.zero_grad()
        (layer(x) - goal).square().sum().backward()
        (stl_matmul(x, encode_weights(dense, inexact), inexact) - goal).square().sum().backward()
        precondition(layer)
        of_layer.step()
        of_dense.step()
    assert not torch.allclose(dense, start)
    torch.testing.assert_close(layer.encoded.tensor, encode_weights(dense, inexact).tensor)


def test_groups_of_parameters_hold_each_trained_one_once(inexact: BilinearAlgorithm) -> None:
    model = nn.Sequential(nn.Linear(8, 8), STLLinear(8, 8, inexact, learn="UW"), nn.LayerNorm(8))
    model[0].bias.requires_grad_(False)
    groups = parameter_groups(model, 1e-3, decay=0.1, encoded=2.0, bases=0.5)
    found = {id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    assert set(found) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert found[id(model[1].encoded.tensor)] == (pytest.approx(2e-3 * steady_rate(model[1].basis)), 0.1)
    assert found[id(model[1].basis.U)] == (5e-4, 0.0)
    assert found[id(model[0].weight)] == (1e-3, 0.1)
    assert found[id(model[1].bias)] == found[id(model[2].weight)] == (1e-3, 0.0)


@pytest.mark.parametrize("rank", [16, 24, 49])
def test_a_step_at_the_steady_rate_moves_the_output_as_a_dense_step_does(rank: int) -> None:
    """All values by +- eta at random: Var = K eta^2 for white inputs."""
    torch.manual_seed(rank)
    layer = STLLinear(256, 256, open_registry().best(Target.matmul(4, 4, 4), rank=rank).algorithm, bias=False)
    with torch.no_grad():
        layer.encoded.tensor.copy_(steady_rate(layer.basis) * torch.randn_like(layer.encoded.tensor).sign())
    assert layer(torch.randn(16, 64, 256)).var().item() == pytest.approx(256, rel=0.1)


def test_training_lowers_the_loss_for_every_way_of_learning(inexact: BilinearAlgorithm) -> None:
    torch.manual_seed(0)
    x, goal = torch.randn(4, 16, 12), torch.randn(4, 16, 8)
    for learn in ("", "UW"):
        layer = STLLinear(12, 8, inexact, learn=learn)
        optimizer, losses = torch.optim.Adam(layer.parameters(), 1e-2), []
        for _ in range(30):
            optimizer.zero_grad()
            loss = (layer(x) - goal).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]
        assert sum(later < earlier for earlier, later in pairwise(losses)) > 20


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layers_move_between_dtypes(dtype: torch.dtype) -> None:
    layer = STLLinear(8, 8, strassen()).to(dtype)
    assert layer.weight.dtype == layer.basis.U.dtype == dtype
    assert layer(torch.randn(2, 4, 8, dtype=dtype)).dtype == dtype


def test_autocast_and_compile(inexact: BilinearAlgorithm) -> None:
    torch.manual_seed(0)
    layer, x = STLLinear(8, 8, inexact, learn="UW"), torch.randn(2, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize(("axis", "shape"), [(1, (16, 16)), (3, (2, 5, 16)), (-5, (2, 5, 16)), (0, (16,)), (2, (2, 5, 16))])
def test_a_group_axis_is_an_axis_of_x_and_not_its_channels(inexact: BilinearAlgorithm, axis: int, shape: tuple[int, ...]) -> None:
    layer = STLLinear(16, 8, inexact, rows="group", group_axis=axis)
    if (axis, shape) == (0, (16,)):
        assert layer(torch.randn(shape)).shape == (8,)  # a vector is one row
        return
    with pytest.raises(InputError, match="is no axis of x"):
        layer(torch.randn(shape))


def test_convolutions_refuse_what_is_no_image(inexact: BilinearAlgorithm) -> None:
    layer = STLConv2d(4, 8, 3, inexact)
    for shape in ((2, 5), (1, 1, 4, 6, 6), (2, 5, 6, 6)):
        with pytest.raises(InputError, match=r"images \(\[B,\] 4, H, W\) are needed"):
            layer(torch.randn(shape))
    for size in ((3, 3, 3), 2.5, "3", (3,)):
        with pytest.raises(InputError, match="one whole number or two"):
            STLConv2d(4, 8, size, inexact)  # type: ignore[arg-type]

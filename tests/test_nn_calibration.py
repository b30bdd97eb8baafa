"""Calibration of layers: normal equations, ridges, bases, and what it is compared with."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.baselines import truncation
from stlsearch.constructions.known import best_exact
from stlsearch.errors import InputError
from stlsearch.nn import Basis, STLLinear, least_squares
from stlsearch.nn.calibration import RIDGES, calibrate_layer, calibrated_linear, gather, system_of
from stlsearch.nn.least_squares import Moments, fit_basis, projected
from stlsearch.nn.pruning import (
    low_rank,
    low_rank_cost,
    output_error,
    rank_at,
    refit,
    sparse_gpt,
    stl_cost,
    two_four,
    two_four_calibrated,
)
from stlsearch.ops import Layout
from stlsearch.samples import Samples
from stlsearch.targets import Target

TWO = Target.matmul(2, 2, 2)
CASES = [  # rows, layout, tokens, channels, outputs
    ("tokens", None, 6, 8, 6),
    ("tokens", Layout("tokens", "blocked", "blocked"), 5, 7, 5),
    ("blocks", Layout("blocks", "interleaved", "blocked"), 5, 7, 9),
    ("batch", None, 3, 7, 5),
]


def basis(rank=5, target=TWO, seed=0):
    """An inexact algorithm with nothing special about it."""
    random = np.random.default_rng(seed)
    return BilinearAlgorithm.from_floats(target, *(random.normal(size=(rank, extent)) for extent in target.dims))


def activations(samples, tokens, channels, seed=0, dtype=torch.float64):
    """Correlated tokens and channels of different sizes."""
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(channels, channels, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    mix = mix * torch.linspace(0.1, 1, channels, dtype=torch.float64)
    x = torch.randn(samples, tokens, channels, generator=random, dtype=torch.float64)
    return ((x + torch.randn(samples, 1, channels, generator=random, dtype=torch.float64)) @ mix).to(dtype)


def dense(channels, outputs, seed=1):
    return torch.randn(channels, outputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(rows="tokens", layout=None, channels=8, outputs=6, algorithm=None, bias=True, **options):
    options = {"dtype": torch.float64, "channels": torch.randperm(channels, generator=torch.Generator().manual_seed(3))} | options
    return STLLinear(channels, outputs, algorithm or basis(), rows=rows, layout=layout, bias=bias, **options)


def measured(layer, x, weight):
    """||xB - layer||^2/||xB||^2, the bias aside."""
    with torch.no_grad():
        exact = x @ weight
        result = layer(x) - (0 if layer.bias is None else layer.bias)
        return float((result - exact).square().sum() / exact.square().sum())


@pytest.mark.parametrize(("rows", "layout", "tokens", "channels", "outputs"), CASES)
def test_the_solution_is_that_of_the_explicit_design_matrix(rows, layout, tokens, channels, outputs):
    """Compared by what the layers compute: where padding leaves few places, several encoded weights compute the same."""
    x, weight = activations(31, tokens, channels), dense(channels, outputs)
    layer = make(rows, layout, channels, outputs, bias=False)
    calibrate_layer(layer, x, weight, held_out=x, ridge=1e-10)
    found, design = layer.encoded.tensor.detach().clone(), []
    with torch.no_grad():
        for index in range(found.numel()):
            layer.encoded.tensor.zero_().view(-1)[index] = 1.0
            design.append(layer(x).flatten())
        matrix, exact = torch.stack(design, 1), (x @ weight).flatten()[:, None]
        expected = matrix @ torch.linalg.lstsq(matrix, exact, driver="gelsd").solution
    assert torch.allclose(matrix @ found.view(-1, 1), expected, atol=1e-6 * float(exact.abs().max()))


@pytest.mark.parametrize(("rows", "layout", "tokens", "channels", "outputs"), CASES)
def test_errors_are_those_of_the_layer_as_it_runs(rows, layout, tokens, channels, outputs):
    x, seen, weight = activations(40, tokens, channels), activations(21, tokens, channels, seed=5), dense(channels, outputs)
    layer = make(rows, layout, channels, outputs)
    with torch.no_grad():
        layer.bias.copy_(torch.arange(outputs))
    plain = make(rows, layout, channels, outputs, bias=False).load_dense(weight)
    done = calibrate_layer(layer, x, weight, held_out=seen)
    assert layer.bias.tolist() == list(range(outputs))
    for error, of, rows_ in (
        (done.before, plain, x),
        (done.held_out_before, plain, seen),
        (done.after, layer, x),
        (done.held_out, layer, seen),
    ):
        assert error == pytest.approx(measured(of, rows_, weight), rel=1e-9)
    assert (done.rows, done.held_out_rows) == (40 * tokens, 21 * tokens)
    assert done.unknowns == 5 * -(-channels // 2)
    assert done.equations == done.rows * 2 / done.unknowns


def test_batches_may_come_one_by_one_and_in_any_leading_shape():
    x, weight = activations(24, 6, 8), dense(8, 6)
    layers = [make() for _ in range(3)]
    results = [
        calibrate_layer(layer, inputs, weight).to_dict()
        for layer, inputs in zip(layers, (x, [x[:10], x[10:]], x.view(2, 12, 6, 8)), strict=True)
    ]
    for other in results[1:]:
        assert all(other[key] == pytest.approx(value, rel=1e-9) for key, value in results[0].items() if key != "basis")
    assert torch.allclose(layers[0].encoded.tensor, layers[1].encoded.tensor, rtol=1e-6)


def test_every_fourth_sample_is_held_out_and_of_one_sample_its_last_quarter():
    x, weight = activations(24, 6, 8), dense(8, 6)
    out = torch.arange(24) % 4 == 3
    assert calibrate_layer(make(), x, weight) == calibrate_layer(make(), x[~out], weight, held_out=x[out])
    rows = x.view(-1, 8)
    assert calibrate_layer(make(), rows, weight) == calibrate_layer(make(), rows[:108], weight, held_out=rows[108:])
    over_batch = make("batch")
    result = calibrate_layer(over_batch, x, weight)  # 12 tiles of two samples, 3 held out
    tile = torch.arange(24) // 2 % 4 == 3
    assert result == calibrate_layer(make("batch"), x[~tile], weight, held_out=x[tile])


def test_grouped_rows_are_tiles_along_their_axis():
    x, weight = activations(20 * 4, 6, 8).view(20, 4, 6, 8), dense(8, 6)
    layer = make("group", group_axis=1)
    assert calibrate_layer(layer, x, weight, held_out=x).after == pytest.approx(measured(layer, x, weight), rel=1e-9)


def test_an_exact_algorithm_stays_exact():
    layer = make(algorithm=best_exact(TWO), channels=7, outputs=5)
    x, weight = activations(24, 5, 7), dense(7, 5)
    done = calibrate_layer(layer, x, weight, bases=True)
    assert max(done.before, done.after, done.held_out) < 1e-12
    assert measured(layer, x, weight) < 1e-12
    assert layer.basis.exact
    assert layer.basis.algorithm_id == best_exact(TWO).id


@settings(max_examples=25, deadline=None)
@given(
    rank=some.integers(1, 8),
    samples=some.integers(4, 30),
    channels=some.integers(1, 9),
    outputs=some.integers(1, 6),
    seed=some.integers(0, 99),
)
def test_calibration_does_no_harm(rank, samples, channels, outputs, seed):
    layer = make(channels=channels, outputs=outputs, algorithm=basis(rank, seed=seed))
    done = calibrate_layer(layer, activations(samples, 4, channels, seed), dense(channels, outputs, seed), least=0)
    assert done.held_out <= done.held_out_before
    assert done.after <= done.before * (1 + 1e-9)


def test_the_ridge_pulls_to_the_plain_encoding_and_the_held_out_rows_choose_it():
    x, seen, weight = activations(6, 4, 8), activations(20, 4, 8, seed=7), dense(8, 6)
    plain = make().load_dense(weight, torch.zeros(6, dtype=torch.float64)).encoded.tensor
    hard = make()
    calibrate_layer(hard, x, weight, held_out=x, ridge=1e12)
    assert torch.allclose(hard.encoded.tensor, plain, rtol=1e-9, atol=1e-9)
    alone = {ridge: calibrate_layer(make(), x, weight, held_out=seen, ridge=ridge) for ridge in RIDGES}
    best = min(alone.values(), key=lambda done: done.held_out)
    assert calibrate_layer(make(), x, weight, held_out=seen) == best
    fitted = [alone[ridge].after for ridge in RIDGES]
    assert fitted == sorted(fitted)


def test_dead_channels_and_repeated_rows_are_no_trouble():
    x, weight = activations(24, 4, 8), dense(8, 6)
    x[:, :, 3:5] = 0
    x[4:] = x[:4].repeat(5, 1, 1)
    layer = make(dtype=torch.float32)
    done = calibrate_layer(layer, x.float(), weight, held_out=x.float(), ridge=(0.0, 1e-8), least=0)
    assert layer.encoded.tensor.isfinite().all()
    assert done.after < done.before


def test_layers_keep_their_dtype_and_errors_are_of_the_stored_values():
    x, weight = activations(40, 4, 8), dense(8, 6)
    layer = make(dtype=torch.bfloat16, bias=False)
    done = calibrate_layer(layer, x.bfloat16(), weight, held_out=x.bfloat16())
    assert layer.encoded.tensor.dtype == torch.bfloat16
    stored = make(dtype=torch.float64, bias=False)
    with torch.no_grad():
        stored.encoded.tensor.copy_(layer.encoded.tensor)
        stored.basis.U.copy_(layer.basis.U)
        stored.basis.W.copy_(layer.basis.W)
    assert done.after == pytest.approx(measured(stored, x.bfloat16().double(), weight), rel=1e-9)


@pytest.mark.parametrize(("rows", "layout", "tokens", "channels", "outputs"), CASES)
def test_gradients_of_bases(rows, layout, tokens, channels, outputs):
    layer, weight = make(rows, layout, channels, outputs), dense(channels, outputs)
    system = system_of(layer, gather(layer, activations(30, tokens, channels))[0], weight)
    U, W, start = layer.basis.U, layer.basis.W, layer.load_dense(weight).encoded.tensor.detach()
    settings_ = (start, system.normal(U, W).scales(), 1e-2, 1e-2)
    _, _, by_u, by_w = projected(system, U, W, *settings_)
    random = torch.Generator().manual_seed(0)
    along_u, along_w = (torch.randn(factor.shape, generator=random, dtype=torch.float64) for factor in (U, W))
    step = 1e-5
    ahead, behind = (projected(system, U + sign * step * along_u, W + sign * step * along_w, *settings_)[0] for sign in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(float((by_u * along_u).sum() + (by_w * along_w).sum()), rel=1e-5)


def test_bases_are_improved_for_one_layer_and_belong_to_it():
    x, weight = activations(60, 6, 8), dense(8, 6)
    shared = Basis(basis(6), dtype=torch.float64)
    layer, other = make(algorithm=shared), make(algorithm=shared)
    before = [factor.clone() for factor in (shared.U, shared.V, shared.W)]
    encoded = calibrate_layer(other, x, weight)
    done = calibrate_layer(layer, x, weight, bases=True, steps=30)
    assert encoded.held_out < encoded.held_out_before
    assert done.held_out < 0.7 * encoded.held_out
    assert done.basis == "calibrated"
    assert done.held_out == pytest.approx(measured(layer, x[3::4], weight), rel=1e-6)
    assert other.basis is shared
    assert all(torch.equal(*pair) for pair in zip(before, (shared.U, shared.V, shared.W), strict=True))
    assert layer.basis.algorithm_id == layer.encoded.value.algorithm_id != shared.algorithm_id
    fresh = STLLinear(8, 6, layer.basis.to_algorithm(), dtype=torch.float64, channels=layer.encoded.channels)
    with pytest.raises((InputError, RuntimeError)):
        make(algorithm=basis(6)).load_state_dict(layer.state_dict())
    assert fresh.basis.rank == 6


def test_improving_a_basis_never_raises_what_it_minimises():
    layer, weight = make(), dense(8, 6)
    system = system_of(layer, gather(layer, activations(40, 6, 8))[0], weight)
    normal = system.normal(layer.basis.U, layer.basis.W)
    start = normal.solve(layer.load_dense(weight).encoded.tensor.detach(), 1e-6)
    value = projected(system, layer.basis.U, layer.basis.W, start, normal.scales(), 1e-6, 1e-6)[0]
    found = fit_basis(system, layer.basis.U, layer.basis.W, start, steps=10)
    assert found.value <= value
    assert system.normal(found.U, found.W).error(found.encoded) < normal.error(start)


def test_a_calibrated_truncation_is_never_worse_than_truncation():
    x, weight = activations(60, 6, 8), dense(8, 6)
    samples = Samples.of(x.numpy(), weight.numpy())
    layer = make(algorithm=truncation(samples.metric(TWO), TWO, 4), channels=8, outputs=6)
    done = calibrate_layer(layer, x, weight)
    assert done.after <= done.before
    assert done.held_out <= done.held_out_before


def test_a_layer_from_a_dense_one():
    x = activations(60, 6, 8, dtype=torch.float32)
    linear = torch.nn.Linear(8, 6)
    layer, done = calibrated_linear(linear, basis(6), x, starts=("given", "truncated"), steps=20)
    assert done.held_out < done.held_out_before
    assert done.basis.endswith(", calibrated")
    assert layer.encoded.tensor.dtype == torch.float32
    assert torch.equal(layer.bias, linear.bias)
    assert done.held_out == pytest.approx(measured(layer.double(), x[3::4].double(), linear.weight.detach().T.double()), rel=1e-4)
    plain, first = calibrated_linear(linear, 7, x, tile=(2, 2, 2))
    assert plain.basis.exact
    assert first.held_out < 1e-9
    over_batch, _ = calibrated_linear(linear, basis(6), x, starts=["given"], bases=False, group=False, rows="batch", causal_safe=True)
    assert over_batch.rows == "batch"
    assert over_batch.encoded.channels.tolist() == list(range(8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": torch.zeros(0, 4, 8)}, "0 rows of activations are too few to hold any out: give at least 4 tiles of rows, so 8 rows"),
        ({"inputs": activations(8, 4, 7)}, "inputs (..., 8) of floating point are needed, not one of shape (8, 4, 7), torch.float64"),
        ({"inputs": [None]}, "inputs (..., 8) of floating point are needed, not one of type NoneType"),
        ({"inputs": torch.full((8, 4, 8), torch.nan)}, "the activations hold NaN or infinite values"),
        ({"inputs": torch.zeros(8, 4, 8)}, "the layer's result is zero for all these activations"),
        ({"weight": dense(6, 8)}, "a weight (K, N) of shape (8, 6) is needed, not (6, 8); transpose it, torch.nn.Linear stores (N, K)"),
        ({"weight": dense(6, 6)}, "a weight (K, N) of shape (8, 6) is needed, not (6, 6)"),
        ({"ridge": -1.0}, "a ridge is a finite number of at least 0, or several; got -1.0"),
        ({"ridge": ()}, "a ridge is a finite number of at least 0, or several; got ()"),
        ({"inputs": activations(4, 2, 8)}, "6 rows give 12 equations for r K/m = 20 unknowns per output; at least 10 rows are needed"),
    ],
)
def test_what_cannot_be_calibrated(change, message):
    arguments = {"inputs": activations(8, 4, 8), "weight": dense(8, 6)} | change
    with pytest.raises(InputError, match=re.escape(message)):
        calibrate_layer(make(), **arguments)


def test_sizes_and_starts_that_are_refused(monkeypatch):
    with pytest.raises(InputError, match="up to 4096 channels, not 5000"):
        Moments(4, 5000)
    monkeypatch.setattr(least_squares, "available_memory", lambda device: 1000)
    with pytest.raises(InputError, match=re.escape("r K/m = 20 unknowns per output takes 1.79e-05 GiB, and 9.31e-07 GiB are free")):
        calibrate_layer(make(), activations(20, 4, 8), dense(8, 6))
    linear, x = torch.nn.Linear(8, 6), activations(20, 4, 8, dtype=torch.float32)
    with pytest.raises(InputError, match="unknown start 'best'; valid: given, rotated, truncated, fitted"):
        calibrated_linear(linear, basis(), x, starts=["best"])
    with pytest.raises(InputError, match="channels and layout are chosen here"):
        calibrated_linear(linear, basis(), x, channels=range(8))
    with pytest.raises(InputError, match="give one size such as 4, or three"):
        calibrated_linear(linear, 24, x, tile=(4, 4))


def problem(seed, channels=12, outputs=5):
    x = activations(50, 4, channels, seed).view(-1, channels)
    return dense(channels, outputs, seed), x.T @ x, x


@settings(max_examples=25, deadline=None)
@given(seed=some.integers(0, 999))
def test_two_of_four_weights_are_kept(seed):
    weight, gram, _ = problem(seed)
    magnitude = weight * two_four(weight)
    for pruned in (magnitude, sparse_gpt(weight, gram), two_four_calibrated(weight, gram)):
        assert ((pruned != 0).view(3, 4, 5).sum(1) == 2).all()
    best = output_error(weight, two_four_calibrated(weight, gram), gram)
    assert best <= output_error(weight, refit(weight, two_four(weight), gram), gram) * (1 + 1e-9)
    assert best <= min(output_error(weight, magnitude, gram), output_error(weight, sparse_gpt(weight, gram), gram)) * (1 + 1e-9)


def test_for_white_inputs_pruning_is_by_magnitude():
    weight, _, _ = problem(0)
    magnitude = weight * two_four(weight)
    white = 7 * torch.eye(12, dtype=torch.float64)
    assert torch.allclose(sparse_gpt(weight, white), magnitude)
    assert torch.allclose(two_four_calibrated(weight, white), magnitude, atol=1e-6)


def test_sparse_gpt_is_as_in_its_paper():
    """One input after the other by the inverse of what is left of H, as its Cholesky form promises."""
    weight, gram, _ = problem(4, channels=8)
    H = gram + 0.01 * gram.diagonal().mean() * torch.eye(8, dtype=torch.float64)
    expected = weight.clone()
    for j in range(8):
        inverse = torch.linalg.inv(H[j:, j:])
        if j % 4 == 0:
            scores = torch.stack([expected[j + i] ** 2 / torch.linalg.inv(H[j + i :, j + i :])[0, 0] for i in range(4)])
            kept = two_four(expected[j : j + 4], scores)
        error = expected[j] * ~kept[j % 4] / inverse[0, 0]
        expected[j:] -= inverse[0][:, None] * error
    assert torch.allclose(sparse_gpt(weight, gram), expected, atol=1e-9)


def test_a_refit_is_least_squares_over_what_is_kept():
    weight, gram, x = problem(2)
    kept = two_four(weight)
    fitted = refit(weight, kept, gram)
    for output in range(5):
        chosen = kept[:, output]
        expected = torch.linalg.lstsq(x[:, chosen], x @ weight[:, output, None]).solution[:, 0]
        assert torch.allclose(fitted[chosen, output], expected, atol=1e-6)
    assert not fitted[~kept].any()


def test_low_rank_is_the_best_of_its_rank():
    weight, gram, x = problem(3, channels=12, outputs=8)
    values = torch.linalg.svdvals(x @ weight)
    errors = []
    for rank in range(1, 9):
        left, right = low_rank(weight, rank, gram)
        assert left.shape == (12, rank)
        assert right.shape == (rank, 8)
        errors.append(output_error(weight, left @ right, gram))
        assert errors[-1] == pytest.approx(float(values[rank:].square().sum() / values.square().sum()), abs=1e-9)
        plain = torch.linalg.multi_dot(low_rank(weight, rank)) if rank > 1 else low_rank(weight, 1)[0] @ low_rank(weight, 1)[1]
        assert errors[-1] <= output_error(weight, plain, gram) + 1e-12
        kept = torch.linalg.svdvals(weight)[rank:].square().sum()
        assert float((weight - plain).square().sum()) == pytest.approx(float(kept), abs=1e-9)


def test_costs():
    assert stl_cost(24, (4, 4, 4), 256, 512) == pytest.approx(24 / 64 + 24 / 512 + 24 / 256)
    assert low_rank_cost(rank_at(0.5, 256, 512), 256, 512) <= 0.5 < low_rank_cost(rank_at(0.5, 256, 512) + 1, 256, 512)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: two_four(dense(6, 4)), "2:4 sparsity needs channels in fours, not 6"),
        (lambda: sparse_gpt(dense(8, 4), torch.eye(6)), "the second moments of 8 channels are a matrix of that size, not of shape (6, 6)"),
        (lambda: low_rank(dense(8, 4), 5), "a rank of a 8 x 4 weight is 1 to 4, not 5"),
        (lambda: refit(dense(8, 4), torch.eye(8, 4, dtype=torch.bool)[:, :3], torch.eye(8)), "a mask (8, 4) of bool"),
        (lambda: two_four(torch.ones(8, dtype=torch.float64)), "a weight is a matrix (K, N) of floating point, not a tensor of shape (8,)"),
    ],
)
def test_what_cannot_be_pruned(call, message):
    with pytest.raises(InputError, match=re.escape(message)):
        call()


def test_what_is_not_finite_is_refused_and_ends():
    weight, nan = torch.randn(8, 4), torch.full((8, 8), torch.nan)
    for call in (lambda: refit(weight, two_four(weight), nan), lambda: sparse_gpt(weight * torch.inf, torch.eye(8))):
        with pytest.raises(InputError, match="NaN or infinite"):
            call()
    layer = STLLinear(8, 8, basis(), dtype=torch.float64)
    x = torch.randn(64, 8, 8, dtype=torch.float64)
    for inputs, dense in ((x, torch.full((8, 8), torch.nan)), (x * 1e160, torch.randn(8, 8))):
        with pytest.raises(InputError, match=r"NaN or infinite values, or .* overflows"):
            calibrate_layer(layer, inputs, dense)

"""Derivatives of the operator: numerically checked, of any order, by every part of it."""

from dataclasses import replace

import pytest
import torch
from samples import strassen
from test_ops import LAYOUTS, random_algorithm, random_tensors, with_channels
from test_ops_kernels import torch_threads
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from stlsearch.ops import BACKENDS, DTYPES, Bases, Layout, backend, encode_weights, library, stl_matmul
from stlsearch.ops.product import product

TILE = (2, 2, 3)


def arguments(x_shape=(2, 3, 3), columns=4, dtype=torch.float64, rank=3):
    """x, weight, U, V and W that want gradients, no size a multiple of the tile."""
    n, m, p = TILE
    shapes = (x_shape, (x_shape[-1], columns), (rank, n * m), (rank, m * p), (rank, n * p))
    return [tensor.requires_grad_() for tensor in random_tensors(*shapes, dtype=dtype)]


def whole(layout=None, chunk=None):
    """The product as a function of x, weight, U, V and W."""
    bases = Bases.prepare(random_algorithm(*TILE, 3), dtype=torch.float64)

    def function(x, weight, U, V, W):
        learned = replace(bases, U=U, V=V, W=W)
        return stl_matmul(x, encode_weights(weight, learned, layout=layout), learned, chunk=chunk)

    return function


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_first_derivatives_are_right_in_every_argument_and_layout(layout):
    for chunk in (None, 1):
        assert gradcheck(whole(layout, chunk), arguments((3, 3, 3)))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_second_derivatives_are_right_in_every_argument_and_layout(layout):
    for chunk in (None, 1):
        assert gradgradcheck(whole(layout, chunk), arguments((3, 1, 3)), fast_mode=True)


def test_second_derivatives_are_right_entry_by_entry():
    assert gradgradcheck(whole(chunk=1), arguments((1, 3, 3)))


def test_derivatives_are_right_in_plain_pytorch_in_forward_mode_and_in_batches():
    with backend("plain"):
        assert gradcheck(whole(), arguments(), fast_mode=True)
        assert gradgradcheck(whole(), arguments(), fast_mode=True)
    assert gradcheck(whole(), arguments(), fast_mode=True, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(whole(), arguments(), fast_mode=True, check_fwd_over_rev=True, check_batched_grad=True)


def test_derivatives_of_an_encoded_weight_are_right():
    algorithm = random_algorithm(*TILE, 3)
    x, weight, *_ = arguments()
    encoded = encode_weights(weight.detach(), algorithm)
    tensor = encoded.tensor.clone().requires_grad_()
    for chunk in (None, 1):
        assert gradcheck(lambda x, tensor: stl_matmul(x, replace(encoded, tensor=tensor), algorithm, chunk=chunk), (x, tensor))  # noqa: B023
        assert gradgradcheck(lambda x, tensor: stl_matmul(x, replace(encoded, tensor=tensor), algorithm, chunk=chunk), (x, tensor))  # noqa: B023


def test_derivatives_are_right_in_the_order_of_channels_an_algorithm_was_fitted_to():
    algorithm = with_channels(random_algorithm(*TILE, 3), [2, 0, 1])
    x, weight, *_ = arguments()
    assert gradcheck(lambda x, weight: stl_matmul(x, encode_weights(weight, algorithm), algorithm), (x, weight))


@pytest.mark.parametrize("blocks", [(False, False), (True, False), (False, True), (True, True)])
def test_derivatives_of_each_operator_are_right(blocks):
    matrix, factor, planes = (tensor.requires_grad_() for tensor in random_tensors((2, 3, 4), (2, 6), (2, 4, 2)))
    cases = [
        (lambda matrix, factor: library.encode(matrix, factor, 2, 3, *blocks), (matrix, factor)),
        (lambda planes, factor: library.decode(planes, factor, 2, 3, 2, 3, 4, *blocks), (planes, factor)),
        (lambda matrix, planes: library.correlate(matrix, planes, 2, 3, *blocks), (matrix, planes)),
        (library.multiply, (planes, random_tensors((2, 2, 3))[0].requires_grad_())),
    ]
    for function, inputs in cases:
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs, fast_mode=True)
        for alone in range(2):  # the other one keeps nothing for a gradient nobody wants
            fixed = inputs[1 - alone].detach()
            assert gradcheck(lambda wanted: function(*((wanted, fixed) if not alone else (fixed, wanted))), inputs[alone])  # noqa: B023


def test_gradients_of_an_exact_algorithm_are_those_of_the_ordinary_product():
    for shape in [(5, 6), (2, 3, 5, 6)]:
        for layout in LAYOUTS if len(shape) > 2 else LAYOUTS[:8]:
            x, weight, cotangent = random_tensors(shape, (6, 7), (*shape[:-1], 7))
            pair = x.requires_grad_(), weight.requires_grad_()
            ours = torch.autograd.grad(stl_matmul(x, encode_weights(weight, strassen(), layout=layout), strassen()), pair, cotangent)
            torch.testing.assert_close(ours, torch.autograd.grad(x @ weight, pair, cotangent))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_have_the_dtype_of_their_tensors_and_are_close_to_those_in_float64(dtype):
    expected = torch.autograd.grad(whole()(*(exact := arguments())).sum(), exact)
    bases = Bases.prepare(random_algorithm(*TILE, 3), dtype=DTYPES[dtype])
    x, weight, U, V, W = rounded = arguments(dtype=DTYPES[dtype])
    learned = replace(bases, U=U, V=V, W=W)
    for name in BACKENDS:
        with backend(name):
            grads = torch.autograd.grad(stl_matmul(x, encode_weights(weight, learned), learned).sum(), rounded)
        assert {grad.dtype for grad in grads} == {DTYPES[dtype]}
        for grad, exact_grad in zip(grads, expected, strict=True):
            tolerance = 40 * torch.finfo(DTYPES[dtype]).eps
            torch.testing.assert_close(grad.double(), exact_grad, rtol=tolerance, atol=tolerance * float(exact_grad.abs().max()))


def test_chunks_and_threads_do_not_change_gradients():
    for layout in (Layout(), Layout("blocks", "blocked"), Layout("batch")):
        inputs = arguments((3, 7, 5), 7)
        expected = torch.autograd.grad(whole(layout)(*inputs).square().sum(), inputs)
        for chunk in (1, 2, 5, 100):
            torch.testing.assert_close(torch.autograd.grad(whole(layout, chunk)(*inputs).square().sum(), inputs), expected)
        with torch_threads(2):
            torch.testing.assert_close(torch.autograd.grad(whole(layout)(*inputs).square().sum(), inputs), expected)


@pytest.mark.parametrize("layout", [Layout(), Layout("blocks"), Layout("batch")], ids=str)
def test_empty_sizes_have_gradients(layout):
    """Of the right shapes, and zero where they are not empty, as those of `torch.matmul`."""
    for shape, columns in [((0, 3, 5), 4), ((2, 0, 5), 4), ((2, 3, 0), 4), ((2, 3, 5), 0), ((0, 2, 3, 5), 4)]:
        for chunk in (None, 1):
            inputs = arguments(shape, columns)
            grads = torch.autograd.grad(whole(layout, chunk)(*inputs).sum(), inputs)
            for grad, tensor in zip(grads, inputs, strict=True):
                torch.testing.assert_close(grad, torch.zeros_like(tensor))


def test_a_gradient_penalty_is_that_of_forward_over_reverse_mode():
    inputs = arguments()
    directions = random_tensors(*(tensor.shape for tensor in inputs), seed=1)

    def loss(*tensors):
        return whole(chunk=1)(*tensors).tanh().sum()

    first = torch.autograd.grad(loss(*inputs), inputs, create_graph=True)
    slope = sum((grad * direction).sum() for grad, direction in zip(first, directions, strict=True))
    ours = torch.autograd.grad(slope, inputs)
    plainly = [tensor.detach() for tensor in inputs]
    _, expected = torch.func.jvp(torch.func.grad(loss, argnums=tuple(range(5))), tuple(plainly), tuple(directions))
    torch.testing.assert_close(ours, expected)


def test_reverse_mode_works_within_forward_mode():
    x, weight, *_ = arguments()
    algorithm = random_algorithm(*TILE, 3)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach(), torch.ones_like(x))
        loss = stl_matmul(dual, encode_weights(weight, algorithm), algorithm).square().sum()
        tangent = forward_ad.unpack_dual(torch.autograd.grad(loss, weight)[0]).tangent

    def loss_at(step):
        loss = stl_matmul(x.detach() + step, encode_weights(weight, algorithm), algorithm).square().sum()
        return torch.autograd.grad(loss, weight)[0]

    torch.testing.assert_close(tangent, (loss_at(1) - loss_at(-1)) / 2)  # quadratic in x


def kept_for_gradients(inputs, function):
    """The tensors an expression keeps."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        result = function(*inputs)
    assert result.requires_grad
    return kept


def test_nothing_but_the_inputs_is_kept_for_gradients():
    x, weight, *_ = arguments((2, 8, 6), 9)
    algorithm = random_algorithm(*TILE, 3)
    encoded = encode_weights(weight.detach(), algorithm)
    tensor = encoded.tensor.requires_grad_()
    bases = Bases.prepare(algorithm, dtype=torch.float64)
    allowed = {x.data_ptr(), tensor.data_ptr(), bases.U.data_ptr(), bases.W.data_ptr()}
    kept = kept_for_gradients((x,), lambda x: stl_matmul(x, replace(encoded, tensor=tensor), bases))
    assert {tensor.data_ptr() for tensor in kept} <= allowed
    kept = kept_for_gradients((x,), lambda x: stl_matmul(x, encoded.to(torch.float64), bases))
    assert {tensor.data_ptr() for tensor in kept} <= allowed


def test_the_activations_are_not_kept_where_only_their_own_gradient_is_wanted():
    x, weight, *_ = arguments((2, 8, 6), 9)
    algorithm = random_algorithm(*TILE, 3)
    encoded = encode_weights(weight.detach(), algorithm)
    assert x.data_ptr() not in {tensor.data_ptr() for tensor in kept_for_gradients((x,), lambda x: stl_matmul(x, encoded, algorithm))}


def test_changing_an_input_in_place_before_the_backward_pass_is_an_error():
    x, weight, *_ = arguments()
    algorithm = random_algorithm(*TILE, 3)
    copy = x * 1
    result = stl_matmul(copy, encode_weights(weight, algorithm), algorithm)
    copy.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


def test_a_checkpointed_product_has_the_same_gradients():
    inputs = arguments()
    expected = torch.autograd.grad(whole()(*inputs).square().sum(), inputs)
    again = checkpoint(whole(), *inputs, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again.square().sum(), inputs), expected)


@pytest.mark.parametrize("layout", [None, Layout("blocks", "blocked"), Layout("batch")], ids=str)
def test_compiled_gradients_are_the_eager_ones(layout):
    inputs = arguments((3, 5, 3))
    function = whole(layout, 1)
    expected = torch.autograd.grad(function(*inputs).square().sum(), inputs)
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*inputs).square().sum(), inputs), expected)
    algorithm = random_algorithm(*TILE, 3)

    def with_algorithm(x, weight):
        return stl_matmul(x, encode_weights(weight, algorithm, layout=layout), algorithm)

    expected = torch.autograd.grad(with_algorithm(*inputs[:2]).square().sum(), inputs[:2])
    compiled = torch.compile(with_algorithm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*inputs[:2]).square().sum(), inputs[:2]), expected)


def test_learned_bases_can_be_trained():
    """From a perturbed Strassen back to one that multiplies."""
    start = Bases.prepare(strassen(), dtype=torch.float64)
    noise = random_tensors(start.U.shape, start.V.shape, start.W.shape)
    U, V, W = ((factor + 0.1 * step).requires_grad_() for factor, step in zip((start.U, start.V, start.W), noise, strict=True))
    x, weight = random_tensors((32, 6), (6, 8))
    optimiser = torch.optim.LBFGS([U, V, W], max_iter=60, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        learned = replace(start, U=U, V=V, W=W)
        error = (stl_matmul(x, encode_weights(weight, learned), learned) - x @ weight).square().mean()
        error.backward()
        return error

    assert loss() > 1e-2
    optimiser.step(loss)
    assert loss() < 1e-4


def test_the_product_operator_takes_a_transposed_weight():
    """As its own derivative does."""
    matrix, encoder, weight, decoder = (tensor.requires_grad_() for tensor in random_tensors((1, 3, 4), (2, 4), (2, 2, 2), (2, 6)))
    assert gradcheck(
        lambda matrix, weight: product(matrix, encoder, weight.mT, decoder, (2, 2, 3), 5, (False, True, False), 1), (matrix, weight)
    )

"""The operator within torch.compile, torch.export, torch.func and autocast, and as PyTorch checks its operators."""

import shutil
from dataclasses import replace

import pytest
import torch
from samples import strassen
from test_ops import LAYOUTS, random_algorithm, random_tensors, reference_matmul, with_channels
from torch._dynamo.testing import CompileCounterWithBackend, EagerAndRecordGraphs
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree as pytree

from stlsearch.errors import InputError
from stlsearch.ops import (
    Bases,
    EncodedParameter,
    Layout,
    backend,
    decode,
    encode_activations,
    encode_weights,
    multiply,
    stl_matmul,
)
from stlsearch.ops import bases as bases_module

ALGORITHM = random_algorithm(3, 2, 4, 5)
OTHER = random_algorithm(2, 2, 2, 4)
X, WEIGHT = random_tensors((2, 7, 5), (5, 9))


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    torch._dynamo.reset()


def bases(algorithm=ALGORITHM, dtype=torch.float64):
    return Bases.prepare(algorithm, dtype=dtype)


def encode_and_multiply(x, weight, algorithm):
    return stl_matmul(x, encode_weights(weight, algorithm), algorithm)


def oracle(algorithm=ALGORITHM, x=X, layout=None):
    return torch.tensor(reference_matmul(x.numpy(), WEIGHT.numpy(), algorithm, layout))


class Layer(torch.nn.Module):
    def __init__(self, algorithm=ALGORITHM, weight=WEIGHT, layout=None):
        super().__init__()
        self.algorithm = algorithm
        self.weight = EncodedParameter(encode_weights(weight, algorithm, layout=layout))

    def forward(self, x):
        return stl_matmul(x, self.weight, self.algorithm)


def compiled(function, **options):
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)


# torch.compile


def test_an_algorithm_is_an_argument_of_a_compiled_function_and_another_one_compiles_anew():
    counter = CompileCounterWithBackend("aot_eager")
    function = torch.compile(encode_and_multiply, fullgraph=True, backend=counter)
    for algorithm, frames in [(ALGORITHM, 1), (ALGORITHM, 1), (OTHER, 2), (ALGORITHM, 2), (OTHER, 2)]:
        torch.testing.assert_close(function(X, WEIGHT, algorithm), oracle(algorithm))
        assert counter.frame_count == frames


def test_bases_are_an_argument_of_a_compiled_function():
    counter = CompileCounterWithBackend("aot_eager")
    function = torch.compile(encode_and_multiply, fullgraph=True, backend=counter)
    for algorithm, frames in [(ALGORITHM, 1), (ALGORITHM, 1), (OTHER, 2)]:
        torch.testing.assert_close(function(X, WEIGHT, bases(algorithm)), oracle(algorithm))
        assert counter.frame_count == frames


def test_an_encoded_weight_is_an_argument_of_a_compiled_function():
    function = compiled(stl_matmul)
    for layout in (None, Layout("blocks", "blocked", "blocked"), Layout("batch")):
        encoded = encode_weights(WEIGHT, ALGORITHM, layout=layout)
        for algorithm in (ALGORITHM, bases()):
            torch.testing.assert_close(function(X, encoded, algorithm), oracle(layout=layout))


def test_two_algorithms_and_bases_are_closed_over_by_one_graph():
    prepared = bases()

    def function(x):
        first = encode_and_multiply(x, WEIGHT, ALGORITHM)
        return first + encode_and_multiply(x, WEIGHT, OTHER) + encode_and_multiply(x, WEIGHT, prepared)

    torch.testing.assert_close(compiled(function)(X), 2 * oracle() + oracle(OTHER))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_compiles(layout):
    def function(x, weight):
        return stl_matmul(x, encode_weights(weight, ALGORITHM, layout=layout), ALGORITHM, chunk=2)

    torch.testing.assert_close(compiled(function)(X, WEIGHT), oracle(layout=layout))


def test_the_stages_compile():
    def function(x, weight):
        return decode(multiply(encode_activations(x, ALGORITHM), encode_weights(weight, ALGORITHM)), ALGORITHM, 7, 9)

    torch.testing.assert_close(compiled(function)(X[0], WEIGHT), oracle(x=X[0]))


def test_algorithms_that_differ_only_in_the_order_of_channels_are_not_confused():
    orders = [3, 1, 0, 2, 4], [0, 1, 2, 4, 3], None
    algorithms = [ALGORITHM if order is None else with_channels(ALGORITHM, order) for order in orders]
    function = compiled(encode_and_multiply)
    for algorithm in (*algorithms, *algorithms):
        torch.testing.assert_close(function(X, WEIGHT, algorithm), oracle(algorithm))


def test_a_graph_has_one_node_for_the_product():
    recorder = EagerAndRecordGraphs()
    encoded, prepared = encode_weights(WEIGHT, ALGORITHM), bases()
    torch.compile(lambda x: stl_matmul(x, encoded, prepared), fullgraph=True, backend=recorder)(X)
    ((graph,),) = [recorder.graphs]
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert sum("stlsearch.product" in name for name in names) == 1
    assert not any("encode" in name or "decode" in name or "bmm" in name for name in names)


def test_a_dynamic_batch_size_compiles_once():
    counter = CompileCounterWithBackend("aot_eager")
    encoded = encode_weights(WEIGHT, ALGORITHM)
    function = torch.compile(lambda x: stl_matmul(x, encoded, ALGORITHM), fullgraph=True, backend=counter, dynamic=True)
    for batch, tokens in [(2, 7), (3, 7), (5, 8), (8, 13)]:
        (x,) = random_tensors((batch, tokens, 5))
        torch.testing.assert_close(function(x), oracle(x=x))
    assert counter.frame_count == 1


def test_a_batch_size_that_changes_becomes_dynamic_with_gradients_too():
    counter = CompileCounterWithBackend("aot_eager")
    function = torch.compile(encode_and_multiply, fullgraph=True, backend=counter)
    for batch in (2, 3, 5, 8):
        x, weight = random_tensors((batch, 7, 5), (5, 9))
        pair = x.requires_grad_(), weight.requires_grad_()
        ours = torch.autograd.grad(function(*pair, ALGORITHM).square().sum(), pair)
        torch.testing.assert_close(ours, torch.autograd.grad(encode_and_multiply(*pair, ALGORITHM).square().sum(), pair))
    assert counter.frame_count == 2


def test_a_module_with_an_encoded_parameter_compiles_and_trains():
    for layer in (Layer(), Layer(with_channels(ALGORITHM, [3, 1, 0, 2, 4])), Layer(layout=Layout("blocks", "blocked"))):
        fast = compiled(layer)
        expected = torch.autograd.grad(layer(X).square().sum(), layer.weight.tensor)
        torch.testing.assert_close(torch.autograd.grad(fast(X).square().sum(), layer.weight.tensor), expected)
        with torch.no_grad():
            layer.weight.tensor.mul_(2)
        torch.testing.assert_close(fast(X), layer(X))


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
def test_the_default_compiler_compiles_it_between_other_operations():
    def function(x, weight):
        return torch.relu(encode_and_multiply(x * 2, weight, ALGORITHM)).square().sum()

    pair = [tensor.clone().requires_grad_() for tensor in (X, WEIGHT)]
    expected = torch.autograd.grad(function(*pair), pair)
    torch.testing.assert_close(torch.autograd.grad(torch.compile(function, fullgraph=True)(*pair), pair), expected)


def test_errors_within_a_compiled_function_are_the_same():
    encoded = encode_weights(WEIGHT, ALGORITHM)
    with pytest.raises(InputError, match="the weight was encoded by algorithm"):
        torch.compile(stl_matmul, backend="aot_eager")(X, encoded, OTHER)
    with pytest.raises(InputError, match=r"cannot multiply x of shape \(2, 7, 4\)"):
        torch.compile(stl_matmul, backend="aot_eager")(X[..., :4], encoded, ALGORITHM)


@pytest.mark.parametrize("blocks", [(False, False, False), (True, True, True), (True, False, True)])
def test_pytorchs_own_checks_of_operators_pass(blocks):
    operators = torch.ops.stlsearch
    rows, columns, _ = blocks
    shapes = (2, 7, 5), (4, 6), (4, 12), (4, 6, 3), (4, 3, 3)
    matrix, encoder, decoder, planes, weight = (tensor.requires_grad_() for tensor in random_tensors(*shapes))
    torch.library.opcheck(operators.encode.default, (matrix, encoder, 3, 2, rows, columns))
    torch.library.opcheck(operators.decode.default, (planes, encoder, 3, 2, 2, 7, 5, rows, columns))
    torch.library.opcheck(operators.correlate.default, (matrix, planes, 3, 2, rows, columns))
    torch.library.opcheck(operators.multiply.default, (planes, weight))
    grad = random_tensors((2, 7, 9), seed=3)[0].requires_grad_()
    torch.library.opcheck(operators.weight_gradient.default, (matrix, encoder, grad, decoder, 3, 2, 4, *blocks, int(rows)))
    torch.library.opcheck(operators.product.default, (matrix, encoder, weight, decoder, 3, 2, 4, 9, *blocks, int(rows)))


def test_pytorchs_own_checks_pass_for_operators_on_views_without_gradients():
    matrix, factor, planes = random_tensors((5, 7, 2), (4, 6), (3, 6, 4), dtype=torch.bfloat16)
    matrix, factor, planes = matrix.transpose(0, 2), factor.flip(1), planes.transpose(0, 2)
    cases = {
        torch.ops.stlsearch.encode.default: (matrix, factor, 3, 2, False, False),
        torch.ops.stlsearch.decode.default: (planes, factor, 3, 2, 2, 7, 5, False, False),
        torch.ops.stlsearch.correlate.default: (matrix, planes, 3, 2, False, False),
    }
    for operator, arguments in cases.items():
        torch.library.opcheck(operator, arguments)


def test_pytorchs_own_checks_pass_for_the_operator_that_makes_factors():
    """It has no tensor among its arguments; a graph holds those it is called with."""
    recorder = EagerAndRecordGraphs()
    algorithm = with_channels(ALGORITHM, [3, 1, 0, 2, 4])
    torch.compile(encode_and_multiply, fullgraph=True, backend=recorder)(X, WEIGHT, algorithm)
    calls = [node.args for node in recorder.graphs[0].graph.nodes if "stlsearch.factor" in str(node.target)]
    assert {arguments[1:4] for arguments in calls} == {(0, 5, 6), (1, 5, 8), (2, 5, 12), (3, 1, 5)}  # U, V, W and the order
    for arguments in calls:
        torch.library.opcheck(torch.ops.stlsearch.factor.default, arguments)


# torch.export and modes


def test_a_layer_can_be_exported_with_a_dynamic_batch_and_saved(tmp_path):
    for layer in (Layer(), Layer(layout=Layout("batch", "blocked"))):
        exported = torch.export.export(layer, (X,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
        torch.export.save(exported, tmp_path / "layer.pt2")
        loaded = torch.export.load(tmp_path / "layer.pt2")
        for batch in (2, 5):
            (x,) = random_tensors((batch, 7, 5))
            torch.testing.assert_close(exported.module()(x), layer(x))
            torch.testing.assert_close(loaded.module()(x), layer(x))


def test_an_exported_program_carries_bases_but_not_an_algorithm(tmp_path, monkeypatch):
    """Another process knows the algorithm by its id only."""
    for algorithm in (bases(), ALGORITHM):
        layer = Layer()
        layer.algorithm = algorithm
        torch.export.save(torch.export.export(layer, (X,)), tmp_path / "layer.pt2")
        with monkeypatch.context() as patch:
            patch.setattr(bases_module, "_compiled_for", {})
            loaded = torch.export.load(tmp_path / "layer.pt2").module()
            if algorithm is ALGORITHM:
                with pytest.raises(InputError, match=f"traced with algorithm {ALGORITHM.id[:8]}, which is not known here"):
                    loaded(X)
            else:
                torch.testing.assert_close(loaded(X), oracle())


def test_encoded_weights_and_bases_are_inputs_of_an_exported_program():
    class Product(torch.nn.Module):
        def forward(self, x, encoded, algorithm):
            return stl_matmul(x, encoded, algorithm)

    arguments = X, encode_weights(WEIGHT, ALGORITHM), bases()
    torch.testing.assert_close(torch.export.export(Product(), arguments).module()(*arguments), oracle())


def test_fake_tensors_leave_nothing_behind():
    algorithm = random_algorithm(2, 2, 2, 3, seed=71)
    with FakeTensorMode():
        assert encode_and_multiply(torch.ones(3, 5), torch.ones(5, 4), algorithm).shape == (3, 4)
    result = encode_and_multiply(torch.ones(3, 5), torch.ones(5, 4), algorithm)
    assert type(result) is torch.Tensor
    with FakeTensorMode():  # nor is anything real taken for fake
        encode_and_multiply(torch.ones(3, 5), torch.ones(5, 4), algorithm)
    torch.testing.assert_close(encode_and_multiply(torch.ones(3, 5), torch.ones(5, 4), algorithm), result)


def test_shapes_are_computed_on_the_meta_device():
    for algorithm in (ALGORITHM, bases().to(torch.float32), Bases.prepare(ALGORITHM, device="meta")):
        if isinstance(algorithm, Bases):
            algorithm = replace(algorithm, **{name: getattr(algorithm, name).to("meta") for name in "UVW"})
        x, weight = torch.ones(2, 7, 5, device="meta"), torch.ones(5, 9, device="meta")
        result = encode_and_multiply(x, weight, algorithm)
        assert (result.device.type, result.shape, result.dtype) == ("meta", (2, 7, 9), torch.float32)


def test_bases_that_inference_mode_made_serve_training():
    algorithm = random_algorithm(2, 2, 2, 3, seed=72)
    with torch.inference_mode():
        expected = encode_and_multiply(X, WEIGHT, algorithm)
    pair = [tensor.clone().requires_grad_() for tensor in (X, WEIGHT)]
    result = encode_and_multiply(*pair, algorithm)
    result.sum().backward()
    torch.testing.assert_close(result, expected)
    with torch.inference_mode():
        torch.testing.assert_close(encode_and_multiply(*pair, algorithm), expected)


@pytest.mark.parametrize(("seed", "transform"), list(enumerate(["vmap", "grad", "jvp", "functionalize"], 73)))
def test_bases_made_within_a_transform_serve_outside_it(seed, transform):
    algorithm = random_algorithm(2, 2, 2, 3, seed=seed)

    def function(x):
        return encode_and_multiply(x, WEIGHT, algorithm)

    {
        "vmap": lambda: torch.vmap(function)(X),
        "grad": lambda: torch.func.grad(lambda x: function(x).sum())(X),
        "jvp": lambda: torch.func.jvp(function, (X,), (X,)),
        "functionalize": lambda: torch.func.functionalize(function)(X),
    }[transform]()
    torch.testing.assert_close(function(X), oracle(algorithm))


# torch.func


def test_vmap_over_each_argument_is_a_loop():
    algorithm = bases()
    xs, weights, U, V, W = random_tensors((4, 2, 7, 5), (4, 5, 9), (4, 5, 6), (4, 5, 8), (4, 5, 12))
    encoded = encode_weights(WEIGHT, algorithm)

    def compare(function, batch):
        expected = torch.stack([function(one) for one in batch])
        torch.testing.assert_close(torch.vmap(function)(batch), expected)
        torch.testing.assert_close(torch.vmap(function, in_dims=-1, out_dims=-1)(batch.movedim(0, -1)), expected.movedim(0, -1))

    compare(lambda x: stl_matmul(x, encoded, algorithm), xs)
    compare(lambda x: stl_matmul(x, encoded, ALGORITHM, chunk=1), xs)
    compare(lambda weight: encode_and_multiply(X, weight, algorithm), weights)
    compare(lambda weight: encode_weights(weight, algorithm).tensor, weights)
    compare(lambda x: encode_activations(x, algorithm), xs[:, 0])
    compare(lambda U: stl_matmul(X, encoded, replace(algorithm, U=U)), U)
    compare(lambda V: encode_and_multiply(X, WEIGHT, replace(algorithm, V=V)), V)
    compare(lambda W: stl_matmul(X, encoded, replace(algorithm, W=W)), W)
    several = torch.vmap(lambda weight: encode_weights(weight, algorithm))(weights)  # as a tree
    torch.testing.assert_close(
        torch.vmap(stl_matmul, in_dims=(0, 0, None))(xs, several, algorithm),
        torch.stack([encode_and_multiply(x, weight, algorithm) for x, weight in zip(xs, weights, strict=True)]),
    )


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_vmap_works_in_every_layout(layout):
    (xs,) = random_tensors((4, 2, 6, 5))
    encoded = encode_weights(WEIGHT, ALGORITHM, layout=layout)
    expected = torch.stack([stl_matmul(x, encoded, ALGORITHM) for x in xs])
    torch.testing.assert_close(torch.vmap(lambda x: stl_matmul(x, encoded, ALGORITHM))(xs), expected)
    torch.testing.assert_close(torch.vmap(lambda x: stl_matmul(x, encoded, ALGORITHM), in_dims=3)(xs.movedim(0, 3)), expected)


def test_gradients_of_torch_func_are_those_of_autograd():
    def loss(x, weight, algorithm):
        return encode_and_multiply(x, weight, algorithm).square().sum()

    x, weight = X.clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    expected = torch.autograd.grad(loss(x, weight, ALGORITHM), (x, weight))
    for algorithm in (ALGORITHM, bases()):
        torch.testing.assert_close(torch.func.grad(lambda *pair: loss(*pair, algorithm), argnums=(0, 1))(X, WEIGHT), expected)  # noqa: B023
        per_sample = torch.vmap(torch.func.grad(lambda weight, x: loss(x, weight, algorithm)), in_dims=(None, 0))(WEIGHT, X)  # noqa: B023
        torch.testing.assert_close(per_sample.sum(0), expected[1])


def test_gradients_can_be_taken_by_encoded_weights_and_bases_as_trees():
    encoded, prepared = encode_weights(WEIGHT, ALGORITHM), bases()
    by_weight, by_bases = torch.func.grad(lambda *pair: stl_matmul(X, *pair).square().sum(), argnums=(0, 1))(encoded, prepared)
    tensor, U, W = (tensor.clone().requires_grad_() for tensor in (encoded.tensor, prepared.U, prepared.W))
    result = stl_matmul(X, replace(encoded, tensor=tensor), replace(prepared, U=U, W=W)).square().sum()
    expected = torch.autograd.grad(result, (tensor, U, W))
    torch.testing.assert_close((by_weight.tensor, by_bases.U, by_bases.W), expected)
    assert (by_weight.shape, by_weight.layout, by_bases.algorithm_id) == ((5, 9), Layout(), ALGORITHM.id)


def test_jacobians_and_hessians_agree_between_modes():
    encoded = encode_weights(WEIGHT, ALGORITHM)
    x, tangent = random_tensors((3, 5), (3, 5))

    def function(x):
        return stl_matmul(x, encoded, ALGORITHM)

    def loss(x):
        return function(x).tanh().sum()

    jacobian = torch.func.jacrev(function)(x)
    for again in (
        torch.func.jacfwd(function)(x),
        torch.autograd.functional.jacobian(function, x),
        torch.autograd.functional.jacobian(function, x, vectorize=True),
        torch.autograd.functional.jacobian(function, x, vectorize=True, strategy="forward-mode"),
    ):
        torch.testing.assert_close(again, jacobian)
    torch.testing.assert_close(torch.func.jvp(function, (x,), (tangent,))[1], function(tangent))  # linear
    hessian = torch.func.hessian(loss)(x)
    torch.testing.assert_close(torch.autograd.functional.hessian(loss, x), hessian)
    torch.testing.assert_close(torch.autograd.functional.hessian(loss, x, vectorize=True), hessian)


def test_functional_call_takes_another_tensor_for_the_parameter():
    layer = Layer()
    (weights,) = random_tensors((3, 5, 9), seed=1)
    tensors = torch.stack([encode_weights(weight, ALGORITHM).tensor for weight in weights])
    results = torch.vmap(lambda tensor: torch.func.functional_call(layer, {"weight.tensor": tensor}, (X,)))(tensors)
    expected = torch.stack([encode_and_multiply(X, weight, ALGORITHM) for weight in weights])
    torch.testing.assert_close(results, expected)
    torch.testing.assert_close(layer(X), oracle())


def test_torch_func_within_torch_compile():
    encoded = encode_weights(WEIGHT, ALGORITHM)

    def gradient(x):
        return torch.func.grad(lambda x: stl_matmul(x, encoded, ALGORITHM).square().sum())(x)

    def batched(x):
        return torch.vmap(lambda x: stl_matmul(x, encoded, ALGORITHM))(x)

    torch.testing.assert_close(compiled(gradient)(X), gradient(X))
    torch.testing.assert_close(compiled(batched)(X), batched(X))


# Autocast


@pytest.mark.parametrize("name", ["auto", "plain"])
def test_autocast_multiplies_in_its_dtype_and_leaves_gradients_in_theirs(name):
    x, weight = (tensor.float().requires_grad_() for tensor in random_tensors((2, 7, 5), (5, 9)))
    for algorithm in (strassen(), bases(strassen(), torch.float32)):
        with backend(name):
            with torch.autocast("cpu", torch.bfloat16):
                result = encode_and_multiply(x, weight, algorithm)
                assert encode_weights(weight, algorithm).tensor.dtype == torch.float32  # of the weight: only products are cast
                assert encode_activations(x[0], algorithm).dtype == torch.float32
            grads = torch.autograd.grad(result.float().square().sum(), (x, weight))
        assert result.dtype == torch.bfloat16
        torch.testing.assert_close(result.float(), x @ weight, rtol=0.05, atol=0.1)
        assert {grad.dtype for grad in grads} == {torch.float32}
        expected = torch.autograd.grad((x @ weight).square().sum(), (x, weight))
        for grad, exact in zip(grads, expected, strict=True):
            torch.testing.assert_close(grad, exact, rtol=0.1, atol=0.05 * float(exact.abs().max()))


def test_autocast_leaves_float64_alone_and_refuses_integers():
    encoded = encode_weights(WEIGHT, ALGORITHM)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(stl_matmul(X, encoded, ALGORITHM), oracle())
        with pytest.raises(InputError, match=r"does not compute in torch\.int64"):
            stl_matmul(X.long(), encoded, ALGORITHM)


@pytest.mark.parametrize("name", ["auto", "plain"])
def test_a_backward_pass_under_autocast_has_gradients_of_the_right_dtype(name):
    """As for `torch.matmul`, it is less precise there, but no error."""
    inputs = [tensor.float().requires_grad_() for tensor in random_tensors((2, 7, 5), (5, 9), (5, 6), (5, 8), (5, 12))]
    x, weight, U, V, W = inputs
    learned = Bases(U, V, W, (3, 2, 4), "some")
    with backend(name):
        loss = encode_and_multiply(x, weight, learned).square().sum()
        expected = torch.autograd.grad(loss, inputs, retain_graph=True)
        with torch.autocast("cpu", torch.bfloat16):
            grads = torch.autograd.grad(loss, inputs)
    for grad, exact in zip(grads, expected, strict=True):
        assert grad.dtype == torch.float32
        torch.testing.assert_close(grad, exact, rtol=0.1, atol=0.05 * float(exact.abs().max()))


def test_autocast_within_a_compiled_function():
    def function(x, weight):
        return encode_and_multiply(x, weight, ALGORITHM)

    x, weight = X.float(), WEIGHT.float()
    with torch.autocast("cpu", torch.bfloat16):
        result = compiled(function)(x, weight)
        assert result.dtype == torch.bfloat16
        torch.testing.assert_close(result, function(x, weight))


def test_trees_of_tensors_round_trip():
    ordered = with_channels(ALGORITHM, [3, 1, 0, 2, 4])
    for value in (bases(), bases(ordered), encode_weights(WEIGHT, ALGORITHM, layout=Layout("batch")), encode_weights(WEIGHT, ordered)):
        leaves, tree = pytree.tree_flatten(value)
        assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
        again = pytree.tree_unflatten(leaves, tree)
        assert vars(again) == vars(value)
        assert pytree.tree_structure(again) == tree
        doubled = pytree.tree_map_only(torch.Tensor, lambda leaf: leaf * 2, value)
        assert torch.equal(pytree.tree_leaves(doubled)[0], leaves[0] * 2)
        paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(value)[0]]
        assert paths == [f".{name}" for name in ("U", "V", "W", "tensor", "channels") if getattr(value, name, None) is not None]

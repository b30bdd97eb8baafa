"""The operator against the tile-by-tile oracle, and both against the ordinary product."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import STRASSEN_U, STRASSEN_V, STRASSEN_W, definition

from stlsearch.algorithm import UNIT_ROUNDOFF, BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.metric import Metric
from stlsearch.ops import (
    BACKENDS,
    DTYPES,
    Bases,
    EncodedParameter,
    Layout,
    backend,
    decode,
    encode_activations,
    encode_weights,
    multiply,
    reference_matmul,
    stl_matmul,
)
from stlsearch.targets import Target

STRASSEN = (STRASSEN_U, STRASSEN_V, STRASSEN_W)
COLUMNS = ("interleaved", "blocked")
LAYOUTS = [Layout(rows, channels, outputs) for rows in ("tokens", "blocks", "batch") for channels in COLUMNS for outputs in COLUMNS]


@pytest.fixture(scope="module")
def strassen():
    return BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), *STRASSEN)


def random_algorithm(n, m, p, rank, seed=0):
    rng = np.random.default_rng(seed)
    target = Target.matmul(n, m, p)
    return BilinearAlgorithm.from_floats(target, *(rng.normal(size=(rank, d)) / d**0.5 for d in target.dims))


def with_channels(algorithm, order):
    """The algorithm as if it had been fitted to channels in that order."""
    a, b, _ = algorithm.target.dims
    return replace(algorithm, metric=Metric(np.eye(a), np.eye(b), {"channels": list(order)}))


def random_pair(rows, inner, columns, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, inner)), rng.normal(size=(inner, columns))


def random_tensors(*shapes, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def product(x, weight, algorithm, dtype=torch.float64, device="cpu", layout=None):
    bases = Bases.prepare(algorithm, dtype=dtype, device=device)
    x, weight = (torch.tensor(matrix, dtype=dtype, device=device) for matrix in (x, weight))
    return stl_matmul(x, encode_weights(weight, bases, layout=layout), bases)


# The product against the oracle


def check_against_oracle(dtype, device):
    """The operator in `dtype` errs from the oracle by no more than rounding explains."""
    algorithm = random_algorithm(3, 2, 4, 11)
    x, weight = random_pair(31, 19, 26)
    expected = reference_matmul(x, weight, algorithm)
    result = product(x, weight, algorithm, DTYPES[dtype], device).double().cpu().numpy()
    # g u^2 relative to the exact product, which this random map enlarges by |map|^2/|exact product|^2;
    # a further factor of 20 for accumulation over the 19 inner values where it happens in the dtype itself.
    enlarged = (expected**2).sum() / ((x @ weight) ** 2).sum()
    bound = 20 * (2 + algorithm.amplification / enlarged) * UNIT_ROUNDOFF[dtype] ** 2
    assert ((result - expected) ** 2).sum() / (expected**2).sum() < bound


def test_the_oracle_with_an_exact_algorithm_is_the_ordinary_product(strassen):
    x, weight = random_pair(5, 7, 3)
    np.testing.assert_allclose(reference_matmul(x, weight, strassen), x @ weight, atol=1e-13)


def test_the_oracle_on_one_tile_is_apply():
    algorithm = random_algorithm(2, 3, 4, 5)
    a, b = random_pair(2, 3, 4)
    np.testing.assert_allclose(reference_matmul(a, b, algorithm).ravel(), algorithm.apply(a.ravel(), b.ravel()), rtol=1e-12)


def test_the_oracle_in_a_layout_is_the_oracle_on_permuted_matrices():
    """Where the tile divides the sizes, taking tiles from blocks is the same as dealing the blocks out first."""
    algorithm = random_algorithm(2, 3, 2, 5)
    x, weight = random_pair(6, 9, 8)
    rows, channels, outputs = (np.arange(size).reshape(parts, -1).T.ravel() for size, parts in ((6, 2), (9, 3), (8, 2)))
    expected = np.empty((6, 8))
    expected[np.ix_(rows, outputs)] = reference_matmul(x[np.ix_(rows, channels)], weight[np.ix_(channels, outputs)], algorithm)
    np.testing.assert_allclose(reference_matmul(x, weight, algorithm, Layout("blocks", "blocked", "blocked")), expected)
    over_samples = reference_matmul(x.reshape(6, 1, 9), weight, algorithm, Layout("batch"))
    np.testing.assert_allclose(over_samples[:, 0], reference_matmul(x, weight, algorithm))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 5)] * 3),
    st.integers(1, 9),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.lists(st.integers(1, 3), max_size=2),
    st.sampled_from(LAYOUTS),
    st.sampled_from(BACKENDS),
    st.integers(0, 99),
)
def test_any_tile_rank_size_batch_and_layout_matches_the_oracle(tile, rank, size, batch, layout, name, seed):
    algorithm = random_algorithm(*tile, rank, seed)
    (rows, inner, columns), batch = size, batch or ([2] if layout.rows == "batch" else [])
    x, weight = random_tensors((*batch, rows, inner), (inner, columns), seed=seed)
    with backend(name):
        result = stl_matmul(x, encode_weights(weight, algorithm, layout=layout), algorithm)
    assert result.shape == (*batch, rows, columns)
    np.testing.assert_allclose(result.numpy(), reference_matmul(x.numpy(), weight.numpy(), algorithm, layout), atol=1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_matches_the_oracle_to_rounding(dtype):
    check_against_oracle(dtype, "cpu")
    with backend("plain"):
        check_against_oracle(dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_matches_the_oracle_on_cuda(dtype):
    check_against_oracle(dtype, "cuda")


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_an_exact_algorithm_is_the_ordinary_product_in_every_layout(strassen, layout):
    for algorithm, shape in [(strassen, (3, 5, 7)), (strassen, (2, 3, 1, 9)), (definition(3, 2, 4), (2, 7, 5))]:
        x, weight = random_tensors(shape, (shape[-1], 11))
        torch.testing.assert_close(stl_matmul(x, encode_weights(weight, algorithm, layout=layout), algorithm), x @ weight)


def test_an_algorithm_cuts_channels_in_the_order_it_was_fitted_to():
    algorithm = with_channels(random_algorithm(3, 2, 4, 5), [3, 1, 0, 2, 4])
    x, weight = random_tensors((2, 7, 5), (5, 9))
    encoded = encode_weights(weight, algorithm)
    assert encoded.channels.tolist() == [3, 1, 0, 2, 4]
    result = stl_matmul(x, encoded, algorithm)
    np.testing.assert_allclose(result.numpy(), reference_matmul(x.numpy(), weight.numpy(), algorithm), atol=1e-12)
    with_bases = stl_matmul(x, encoded, Bases.prepare(algorithm, dtype=torch.float64))
    torch.testing.assert_close(with_bases, result)
    in_stages = decode(multiply(encode_activations(x[0], algorithm), encoded), algorithm, 7, 9)
    torch.testing.assert_close(in_stages, result[0])


def test_an_explicit_layout_takes_the_channels_as_they_stand():
    algorithm = with_channels(random_algorithm(3, 2, 4, 5), [3, 1, 0, 2, 4])
    x, weight = random_tensors((7, 5), (5, 9))
    encoded = encode_weights(weight, algorithm, layout=Layout())
    assert encoded.channels is None
    result = stl_matmul(x, encoded, algorithm).numpy()
    np.testing.assert_allclose(result, reference_matmul(x.numpy(), weight.numpy(), algorithm, Layout()), atol=1e-12)
    np.testing.assert_allclose(result, reference_matmul(x.numpy(), weight.numpy(), replace(algorithm, metric=None)), atol=1e-12)


def test_stages_have_the_documented_shapes():
    bases = Bases.prepare(random_algorithm(2, 3, 4, 5))
    encoded = encode_weights(torch.ones(7, 9), bases)
    activations = encode_activations(torch.ones(5, 7), bases)
    products = multiply(activations, encoded)
    assert activations.shape == (5, 3, 3)
    assert encoded.tensor.shape == (5, 3, 3)
    assert encoded.shape == (7, 9)
    assert activations.is_contiguous()
    assert encoded.tensor.is_contiguous()
    assert products.shape == (5, 3, 3)
    assert decode(products, bases, 5, 9).shape == (5, 9)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout.rows != "batch"], ids=str)
def test_the_stages_one_by_one_are_the_product(layout):
    algorithm = random_algorithm(3, 2, 4, 5)
    x, weight = random_tensors((7, 5), (5, 9))
    encoded = encode_weights(weight, algorithm, layout=layout)
    products = multiply(encode_activations(x, algorithm, layout=layout), encoded)
    torch.testing.assert_close(decode(products, algorithm, 7, 9, layout=layout), stl_matmul(x, encoded, algorithm))


def test_an_algorithm_can_stand_in_for_its_bases(strassen):
    x, weight = (torch.tensor(matrix, dtype=torch.float32) for matrix in random_pair(6, 6, 6))
    products = multiply(encode_activations(x, strassen), encode_weights(weight, strassen))
    torch.testing.assert_close(decode(products, strassen, 6, 6), x @ weight)


# Shapes, views and empty sizes


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", BACKENDS)
def test_empty_sizes_give_what_the_ordinary_product_gives(strassen, layout, name):
    for shape, columns in [((0, 4, 4), 4), ((3, 0, 4), 4), ((3, 4, 0), 4), ((3, 4, 4), 0), ((0, 0, 0), 0), ((2, 0, 3, 4), 5)]:
        x, weight = random_tensors(shape, (shape[-1], columns))
        with backend(name):
            result = stl_matmul(x, encode_weights(weight, strassen, layout=layout), strassen)
        torch.testing.assert_close(result, x @ weight)


def test_views_are_taken_as_they_are():
    algorithm = random_algorithm(3, 2, 4, 5)
    (base, weight) = random_tensors((4, 8, 6, 12), (6, 9))
    views = {
        "strided columns": base[..., ::2][:, :, :, :6],
        "strided rows": base[:, ::3, :, :6],
        "a transposed matrix": base[:, :, :, :7].transpose(2, 3)[..., :6],
        "permuted axes": base.permute(3, 0, 1, 2),
        "one row for all": base[:, :, :1, :6].expand(4, 8, 5, 6),
        "one sample for all": base[:1, :, :, :6].expand(4, 8, 6, 6),
        "one value for all": base[:1, :1, :1, :1].expand(2, 3, 4, 6),
        "an offset into the storage": base[1:, 3:, 1:, 5:11],
        "the end of the storage": base.view(-1)[-30:].view(5, 6),
        "flipped": base.flip(3)[..., :6],
    }
    for layout in (None, Layout("blocks"), Layout("batch", "blocked")):
        encoded = encode_weights(weight.T.contiguous().T, algorithm, layout=layout)
        for name, view in views.items():
            if layout is None or layout.rows != "batch" or view.ndim > 2:
                expected = reference_matmul(view.numpy(), weight.numpy(), algorithm, layout)
                np.testing.assert_allclose(stl_matmul(view, encoded, algorithm).numpy(), expected, atol=1e-12, err_msg=name)
                torch.testing.assert_close(stl_matmul(view, encoded, algorithm, chunk=2).numpy(), expected)


def test_negated_views_are_taken_as_they_are(strassen):
    x = torch.randn(6, 4, dtype=torch.complex128).conj().imag
    assert x.is_neg()
    torch.testing.assert_close(stl_matmul(x, encode_weights(torch.eye(4, dtype=torch.float64), strassen), strassen), x.clone())


def test_a_result_never_shares_memory_with_its_inputs():
    one = definition(1, 1, 1)
    for dtype in DTYPES.values():
        for name in BACKENDS:
            with backend(name):
                x = torch.ones(3, 3, dtype=dtype)
                encoded = encode_weights(x, one)
                tensors = x, encoded.tensor, stl_matmul(x, encoded, one), encode_activations(x, one)
                assert len({tensor.data_ptr() for tensor in tensors}) == 4


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_chunks_of_any_size_give_the_same(layout, dtype):
    algorithm = random_algorithm(3, 2, 4, 5)
    for shape in [(3, 14, 9), (1, 1, 9), (2, 2, 5, 9), (7, 3, 9)]:
        x, weight = random_tensors(shape, (9, 7), dtype=dtype)
        encoded = encode_weights(weight, algorithm, layout=layout)
        whole = stl_matmul(x, encoded, algorithm)
        for chunk in (1, 2, 3, 4, 100):
            torch.testing.assert_close(stl_matmul(x, encoded, algorithm, chunk=chunk), whole)


def test_more_activations_than_are_held_at_once_give_the_same(monkeypatch):
    algorithm = random_algorithm(3, 2, 4, 5)
    x, weight = random_tensors((5, 20, 9), (9, 7))
    encoded = encode_weights(weight, algorithm)
    whole = stl_matmul(x, encoded, algorithm)
    for size in (1, 1000, 3000):
        monkeypatch.setattr("stlsearch.ops.product.CHUNK_BYTES", size)
        torch.testing.assert_close(stl_matmul(x, encoded, algorithm), whole)


# Padding: which rows depend on which


def dependence(layout, shape, change):
    """Which rows (..., M) of the result change with one entry of x."""
    algorithm = random_algorithm(3, 2, 4, 5)
    x, weight = random_tensors(shape, (shape[-1], 7))
    encoded = encode_weights(weight, algorithm, layout=layout)
    before = stl_matmul(x, encoded, algorithm)
    x[change] += 1
    return (stl_matmul(x, encoded, algorithm) != before).any(-1)


@pytest.mark.parametrize("channels", COLUMNS)
def test_a_tile_holds_neighbouring_rows_of_one_sample(channels):
    changed = dependence(Layout("tokens", channels), (2, 4, 8, 5), (1, 2, 4, 3))
    assert changed.nonzero().tolist() == [[1, 2, 3], [1, 2, 4], [1, 2, 5]]
    changed = dependence(Layout("tokens", channels), (2, 4, 8, 5), (1, 2, 7, 4))  # the padded tile
    assert changed.nonzero().tolist() == [[1, 2, 6], [1, 2, 7]]


def test_a_tile_from_blocks_holds_rows_of_one_sample():
    changed = dependence(Layout("blocks"), (2, 4, 8, 5), (1, 2, 4, 3))
    assert changed.nonzero().tolist() == [[1, 2, 1], [1, 2, 4], [1, 2, 7]]


def test_a_tile_over_the_batch_holds_one_token():
    changed = dependence(Layout("batch"), (8, 6, 5), (4, 2, 3))
    assert changed.nonzero().tolist() == [[3, 2], [4, 2], [5, 2]]
    changed = dependence(Layout("batch"), (2, 4, 6, 5), (1, 3, 2, 3))  # samples 6 and 7 of 8
    assert changed.nonzero().tolist() == [[1, 2, 2], [1, 3, 2]]


def test_padding_is_zeros(strassen):
    algorithm = random_algorithm(3, 2, 4, 5)
    x, weight = random_tensors((2, 7, 5), (5, 9))
    padded_x, padded_weight = torch.zeros(2, 9, 6, dtype=torch.float64), torch.zeros(6, 12, dtype=torch.float64)
    padded_x[:, :7, :5], padded_weight[:5, :9] = x, weight
    for channels in COLUMNS:
        layout = Layout(channels=channels)
        whole = stl_matmul(padded_x, encode_weights(padded_weight, algorithm, layout=layout), algorithm)
        torch.testing.assert_close(stl_matmul(x, encode_weights(weight, algorithm, layout=layout), algorithm), whole[:, :7, :9])


# One clear error each


def test_algorithms_without_a_meaning_on_real_matrices_are_refused():
    modulo_two = BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), *STRASSEN, ring="Z2", verify=False)
    one = np.ones((1, 1))
    complex_valued = BilinearAlgorithm.from_floats(Target.matmul(1, 1, 1), one * 1j, one, one)
    polynomial = BilinearAlgorithm.from_floats(Target.make("polymul", {"m": 1, "n": 1}), one, one, one)
    for algorithm, message in [(modulo_two, "over Z2"), (complex_valued, "over C"), (polynomial, "not a matrix product")]:
        with pytest.raises(InputError, match=message):
            Bases.prepare(algorithm)
        with pytest.raises(InputError, match=message):
            encode_weights(torch.ones(2, 2), algorithm)
        with pytest.raises(InputError, match=message):
            reference_matmul(one, one, algorithm)


def test_sizes_that_do_not_fit_are_one_clear_error_each(strassen):
    bases = Bases.prepare(strassen)
    encoded = encode_weights(torch.ones(4, 6), bases)
    with pytest.raises(InputError, match=r"x of shape \(3, 5\) by an encoded weight of shape \(4, 6\)"):
        stl_matmul(torch.ones(3, 5), encoded, bases)
    with pytest.raises(InputError, match=r"x of shape \(\) by an encoded weight"):
        stl_matmul(torch.ones(()), encoded, bases)
    with pytest.raises(InputError, match=r"tiles over tokens need x of at least 2 dimensions, not shape \(4,\)"):
        stl_matmul(torch.ones(4), encoded, bases)
    with pytest.raises(InputError, match="tiles over batch need x of at least 3 dimensions"):
        stl_matmul(torch.ones(3, 4), replace(encoded, layout=Layout("batch")), bases)
    with pytest.raises(InputError, match="a chunk is at least 1 row of tiles, not 0"):
        stl_matmul(torch.ones(3, 4), encoded, bases, chunk=0)
    with pytest.raises(InputError, match=r"encoded as \(7, 2, 3\), not as \(7, 2, 2\)"):
        stl_matmul(torch.ones(3, 4), replace(encoded, tensor=encoded.tensor[:, :, :2]), bases)
    with pytest.raises(InputError, match="do not decode to 8 x 6 with rank 7"):
        decode(torch.ones(7, 2, 3), bases, 8, 6)
    with pytest.raises(InputError, match="do not decode to -1 x 6 with rank 7"):
        decode(torch.ones(7, 0, 3), bases, -1, 6)
    for activations in (torch.ones(7, 2, 3), torch.ones(6, 2, 2), torch.ones(7, 2)):
        with pytest.raises(InputError, match=r"activations of shape .* do not fit an encoded weight of shape \(7, 2, 3\)"):
            multiply(activations, encoded)
    with pytest.raises(InputError, match=r"a weight is a matrix \(K, N\), not a tensor of shape \(2, 3, 4\)"):
        encode_weights(torch.ones(2, 3, 4), bases)
    with pytest.raises(InputError, match=r"a matrix is needed, not a tensor of shape \(4,\)"):
        encode_activations(torch.ones(4), bases)
    ordered = with_channels(strassen, [2, 0, 1, 3])
    with pytest.raises(InputError, match="the basis orders 4 channels, the matrix has 5"):
        encode_weights(torch.ones(5, 6), ordered)
    with pytest.raises(InputError, match="the basis orders 4 channels, the matrix has 5"):
        encode_activations(torch.ones(3, 5), ordered)
    with pytest.raises(InputError, match="the basis orders 4 channels, the weight has 5"):
        reference_matmul(np.ones((3, 5)), np.ones((5, 6)), ordered)
    with pytest.raises(InputError, match="cannot multiply"):
        reference_matmul(np.ones((2, 3)), np.ones((4, 2)), strassen)
    with pytest.raises(InputError, match="with tiles over batch"):
        reference_matmul(np.ones((2, 4)), np.ones((4, 2)), strassen, Layout("batch"))


def test_dtypes_and_devices_that_do_not_fit_are_one_clear_error_each(strassen):
    bases = Bases.prepare(strassen)
    encoded = encode_weights(torch.ones(4, 6), bases)
    x = torch.ones(3, 4)
    with pytest.raises(InputError, match=r"float64 on cpu, the bases' U torch\.float32 on cpu"):
        stl_matmul(x.double(), encoded, bases)
    with pytest.raises(InputError, match=r"x is torch\.float64 on cpu, the encoded weight torch\.float32"):
        stl_matmul(x.double(), encoded, strassen)
    with pytest.raises(InputError, match=r"float32 on meta, the bases' U torch\.float32 on cpu"):
        stl_matmul(x.to("meta"), encoded, bases)
    with pytest.raises(InputError, match=r"x is .* on meta, the encoded weight .* on cpu"):
        stl_matmul(x.to("meta"), encoded, strassen)
    with pytest.raises(InputError, match=r"x is .* on cpu, the encoded weight .* on meta"):
        stl_matmul(x, encoded.to("meta"), strassen)
    with pytest.raises(InputError, match=r"activations are torch\.float64 on cpu, the weight torch\.float32 on cpu"):
        multiply(torch.ones(7, 2, 2, dtype=torch.float64), encoded)
    integers = replace(bases, **{name: getattr(bases, name).long() for name in "UVW"})
    with pytest.raises(InputError, match=r"does not compute in torch\.int64"):
        encode_weights(torch.ones(4, 6).long(), integers)
    with pytest.raises(InputError, match=r"float32 on cpu, the bases' U .* on meta"):
        encode_weights(torch.ones(4, 6), Bases.prepare(strassen, device="meta"))
    for other in (torch.int64, torch.complex64, torch.bool):
        with pytest.raises(InputError, match=f"does not compute in {other}; valid: float64, float32, bfloat16, float16"):
            Bases.prepare(strassen, dtype=other)
        with pytest.raises(InputError, match=f"does not compute in {other}"):
            encode_weights(torch.ones(4, 6, dtype=other), strassen)
        with pytest.raises(InputError, match=f"does not compute in {other}"):
            stl_matmul(x.to(other), encoded, strassen)


def test_arguments_of_another_type_are_one_clear_error_each(strassen):
    x, weight = torch.ones(3, 4), torch.ones(4, 6)
    encoded = encode_weights(weight, strassen)
    for wrong in ("strassen", None, weight):
        with pytest.raises(InputError, match=f"a BilinearAlgorithm or Bases are needed, not {type(wrong).__name__}"):
            stl_matmul(x, encoded, wrong)
        with pytest.raises(InputError, match="a BilinearAlgorithm or Bases are needed"):
            encode_weights(weight, wrong)
        with pytest.raises(InputError, match="a BilinearAlgorithm or Bases are needed"):
            encode_activations(x, wrong)
        with pytest.raises(InputError, match="a BilinearAlgorithm is needed"):
            Bases.prepare(wrong)
    for wrong in (weight, strassen, torch.nn.Linear(4, 6)):
        with pytest.raises(InputError, match=f"an encoded weight is needed, see encode_weights, not {type(wrong).__name__}"):
            stl_matmul(x, wrong, strassen)
        with pytest.raises(InputError, match="an encoded weight is needed"):
            multiply(torch.ones(7, 2, 2), wrong)
        with pytest.raises(InputError, match="an encoded weight is needed"):
            EncodedParameter(wrong)
    for wrong, message in [(x.numpy(), "not ndarray"), (x.tolist(), "not list"), (x.to_sparse(), "not one of layout torch.sparse_coo")]:
        for function in (
            lambda wrong: stl_matmul(wrong, encoded, strassen),
            lambda wrong: encode_weights(wrong, strassen),
            lambda wrong: encode_activations(wrong, strassen),
            lambda wrong: multiply(wrong, encoded),
            lambda wrong: decode(wrong, strassen, 3, 6),
        ):
            with pytest.raises(InputError, match=message):
                function(wrong)
    for chunk in (1.5, "1", -1):
        with pytest.raises(InputError, match=f"a chunk is at least 1 row of tiles, not {chunk!r}"):
            stl_matmul(x, encoded, strassen, chunk=chunk)
    for function in (
        lambda: encode_weights(weight, strassen, layout="blocked"),
        lambda: encode_activations(x, strassen, layout="blocked"),
        lambda: decode(torch.ones(7, 2, 3), strassen, 3, 6, layout="blocked"),
    ):
        with pytest.raises(InputError, match=r"a layout is a stlsearch\.ops\.Layout, not str"):
            function()


def test_a_weight_of_another_algorithm_is_refused(strassen):
    encoded = encode_weights(torch.ones(4, 6), strassen)
    other = random_algorithm(2, 2, 2, 7)
    for algorithm in (other, Bases.prepare(other), random_algorithm(3, 2, 4, 7)):
        with pytest.raises(InputError, match="the weight was encoded by algorithm 2fe6dac1, not by"):
            stl_matmul(torch.ones(3, 4), encoded, algorithm)
        with pytest.raises(InputError, match="the weight was encoded by algorithm 2fe6dac1, not by"):
            stl_matmul(torch.ones(3, 4), EncodedParameter(encoded), algorithm)


@pytest.mark.parametrize("name", "UVW")
def test_bases_of_another_tile_rank_or_dtype_are_refused(strassen, name):
    bases = Bases.prepare(strassen)
    encoded, x = encode_weights(torch.ones(4, 6), bases), torch.ones(3, 4)
    for wrong, message in [
        (torch.ones(7, 6), rf"{name} of rank-7 bases of 2x2x2 tiles is \(7, 4\), not \(7, 6\)"),
        (torch.ones(8, 4), r"is \([78], 4\), not \([78], 4\)"),
        (torch.ones(28), "rank"),
        (torch.ones(7, 4, dtype=torch.float64), rf"the bases' {name} torch\.float64 on cpu"),
        (torch.ones(7, 4, device="meta"), rf"the bases' {name} torch\.float32 on meta"),
    ]:
        changed = replace(bases, **{name: wrong})
        with pytest.raises(InputError, match=message):
            encode_weights(torch.ones(4, 6), changed)
        with pytest.raises(InputError, match=message):
            stl_matmul(x, encoded, changed)


def test_unknown_layouts_are_refused():
    for wrong in ({"rows": "columns"}, {"channels": "grouped"}, {"outputs": None}):
        ((name, value),) = wrong.items()
        with pytest.raises(InputError, match=f"unknown {name} layout {value!r}; valid: "):
            Layout(**wrong)

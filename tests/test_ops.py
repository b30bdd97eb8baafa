"""The batched operator against the tile-by-tile oracle, and both against the ordinary product."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stlsearch.algorithm import UNIT_ROUNDOFF, BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.ops import DTYPES, Bases, decode, encode_activations, encode_weights, multiply, reference_matmul, stl_matmul
from stlsearch.targets import Target

STRASSEN = (
    [[1, 0, 0, 1], [0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 1], [1, 1, 0, 0], [-1, 0, 1, 0], [0, 1, 0, -1]],
    [[1, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, -1], [-1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1]],
    [[1, 0, 0, 1], [0, 0, 1, -1], [0, 1, 0, 1], [1, 0, 1, 0], [-1, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]],
)


@pytest.fixture(scope="module")
def strassen():
    return BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), *STRASSEN)


def random_algorithm(n, m, p, rank, seed=0):
    rng = np.random.default_rng(seed)
    target = Target.matmul(n, m, p)
    return BilinearAlgorithm.from_floats(target, *(rng.normal(size=(rank, d)) / d**0.5 for d in target.dims))


def random_pair(rows, inner, columns, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, inner)), rng.normal(size=(inner, columns))


def product(x, weight, algorithm, dtype=torch.float64, device="cpu"):
    bases = Bases.prepare(algorithm, dtype=dtype, device=device)
    x, weight = (torch.tensor(matrix, dtype=dtype, device=device) for matrix in (x, weight))
    return stl_matmul(x, encode_weights(weight, bases), bases)


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


def test_strassen_reproduces_the_ordinary_product(strassen):
    x, weight = random_pair(64, 48, 80)
    np.testing.assert_allclose(product(x, weight, strassen).numpy(), x @ weight, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 4)] * 3), st.integers(1, 9), st.tuples(*[st.integers(1, 13)] * 3), st.integers(0, 99))
def test_any_tile_rank_and_size_matches_the_oracle(tile, rank, size, seed):
    algorithm = random_algorithm(*tile, rank, seed)
    x, weight = random_pair(*size, seed)
    result = product(x, weight, algorithm)
    assert result.shape == (size[0], size[2])
    np.testing.assert_allclose(result.numpy(), reference_matmul(x, weight, algorithm), atol=1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_matches_the_oracle_to_rounding(dtype):
    check_against_oracle(dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_matches_the_oracle_on_cuda(dtype):
    check_against_oracle(dtype, "cuda")


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


@pytest.mark.parametrize("size", [(0, 4, 4), (4, 0, 4), (4, 4, 0)])
def test_empty_sizes(strassen, size):
    x, weight = np.ones(size[:2]), np.ones(size[1:])
    np.testing.assert_array_equal(product(x, weight, strassen).numpy(), x @ weight)


def test_views_are_taken_as_they_are(strassen):
    x, weight = (torch.tensor(matrix) for matrix in random_pair(12, 10, 14))
    encoded = encode_weights(weight.T.contiguous().T, strassen)
    strided = torch.stack([x, x], dim=2)[..., 0]
    torch.testing.assert_close(stl_matmul(strided, encoded, strassen), x @ weight)


def test_gradients_of_an_exact_algorithm_are_those_of_the_ordinary_product(strassen):
    x, weight = (torch.tensor(matrix, requires_grad=True) for matrix in random_pair(5, 6, 7))
    cotangent = torch.randn(5, 7, dtype=torch.float64)
    ours = torch.autograd.grad(stl_matmul(x, encode_weights(weight, strassen), strassen), (x, weight), cotangent)
    torch.testing.assert_close(ours, (cotangent @ weight.T, x.T @ cotangent))


def test_an_algorithm_can_stand_in_for_its_bases(strassen):
    x, weight = (torch.tensor(matrix, dtype=torch.float32) for matrix in random_pair(6, 6, 6))
    products = multiply(encode_activations(x, strassen), encode_weights(weight, strassen))
    torch.testing.assert_close(decode(products, strassen, 6, 6), x @ weight)


def test_algorithms_without_a_meaning_on_real_matrices_are_refused():
    modulo_two = BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), *STRASSEN, ring="Z2", verify=False)
    one = np.ones((1, 1))
    complex_valued = BilinearAlgorithm.from_floats(Target.matmul(1, 1, 1), one * 1j, one, one)
    polynomial = BilinearAlgorithm.from_floats(Target.make("polymul", {"m": 1, "n": 1}), one, one, one)
    for algorithm, message in [(modulo_two, "over Z2"), (complex_valued, "over C"), (polynomial, "not a matrix product")]:
        with pytest.raises(InputError, match=message):
            Bases.prepare(algorithm)
        with pytest.raises(InputError, match=message):
            reference_matmul(one, one, algorithm)


def test_mismatches_are_one_clear_error_each(strassen):
    bases = Bases.prepare(strassen)
    encoded = encode_weights(torch.ones(4, 6), bases)
    with pytest.raises(InputError, match=r"x of shape \(3, 5\) by an encoded weight of shape \(4, 6\)"):
        stl_matmul(torch.ones(3, 5), encoded, bases)
    with pytest.raises(InputError, match="a matrix is needed"):
        stl_matmul(torch.ones(2, 3, 4), encoded, bases)
    with pytest.raises(InputError, match=r"float64 on cpu, the bases torch\.float32"):
        stl_matmul(torch.ones(3, 4, dtype=torch.float64), encoded, bases)
    with pytest.raises(InputError, match=r"the encoded weight torch\.float32"):
        stl_matmul(torch.ones(3, 4, dtype=torch.float64), encoded, strassen)
    with pytest.raises(InputError, match="was encoded by algorithm"):
        stl_matmul(torch.ones(3, 4), encoded, random_algorithm(2, 2, 2, 7))
    with pytest.raises(InputError, match="do not decode to 8 x 6 with rank 7"):
        decode(torch.ones(7, 2, 3), bases, 8, 6)
    with pytest.raises(InputError, match=r"does not compute in torch\.int64; valid: float64"):
        Bases.prepare(strassen, dtype=torch.int64)
    with pytest.raises(InputError, match="cannot multiply"):
        reference_matmul(np.ones((2, 3)), np.ones((4, 2)), strassen)

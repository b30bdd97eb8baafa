"""Recursive fast products against the ordinary one."""

import pytest
import torch
from test_ops import STRASSEN, random_algorithm

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.expression import construct
from stlsearch.errors import InputError
from stlsearch.ops.fast import fast_matmul


@pytest.fixture(scope="module")
def strassen():
    return construct("strassen")


def pair(rows, inner, columns, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(rows, inner, generator=generator, dtype=torch.float64)
    return a.to(dtype), torch.randn(inner, columns, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [(8, 8, 8), (7, 9, 5), (1, 1, 1), (13, 2, 31)])
def test_every_level_and_size_is_the_ordinary_product(strassen, levels, size):
    a, b = pair(*size)
    torch.testing.assert_close(fast_matmul(a, b, strassen, levels), a @ b)


@pytest.mark.parametrize("formula", ["winograd", "laderman", "standard(1,2,3)", "strassen +n standard(1,2,2)", "strassen*strassen"])
def test_every_exact_algorithm_multiplies(formula):
    a, b = pair(14, 11, 9)
    torch.testing.assert_close(fast_matmul(a, b, construct(formula), 2), a @ b)


def test_leading_dimensions_are_rows(strassen):
    a, b = pair(30, 6, 5)
    torch.testing.assert_close(fast_matmul(a.view(2, 3, 5, 6), b, strassen), (a @ b).view(2, 3, 5, 5))
    assert fast_matmul(a[0], b, strassen).shape == (5,)
    assert fast_matmul(a[:0], b, strassen).shape == (0, 5)


def test_gradients_are_those_of_the_ordinary_product(strassen):
    a, b = (matrix.requires_grad_() for matrix in pair(5, 6, 7))
    cotangent = torch.randn(5, 7, dtype=torch.float64)
    ours = torch.autograd.grad(fast_matmul(a, b, strassen, 2), (a, b), cotangent)
    torch.testing.assert_close(ours, (cotangent @ b.T, a.T @ cotangent))


def test_the_graph_of_torch_compile_has_no_break(strassen):
    a, b = pair(8, 8, 8)
    compiled = torch.compile(lambda a, b: fast_matmul(a, b, strassen, 2), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a, b), a @ b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_error_grows_with_the_levels_by_no_more_than_theory_allows(strassen, dtype):
    a, b = pair(64, 64, 64, dtype)
    exact = a.double() @ b.double()
    errors = [float((fast_matmul(a, b, strassen, levels).double() - exact).norm() / exact.norm()) for levels in range(3)]
    assert errors[0] < errors[1] < errors[2]
    # Strassen's growth factor is 12 a level in the worst case; typical errors stay well under it.
    assert errors[2] < 12 * errors[1] < 144 * max(errors[0], torch.finfo(dtype).eps / 4)


def test_bad_input_is_one_clear_error_each(strassen):
    a, b = pair(4, 4, 4)
    with pytest.raises(InputError, match="is not exact"):
        fast_matmul(a, b, random_algorithm(2, 2, 2, 6))
    with pytest.raises(InputError, match=r"a of shape \(4, 3\) by b of shape \(4, 4\)"):
        fast_matmul(a[:, :3], b, strassen)
    with pytest.raises(InputError, match=r"a is torch\.float64 on cpu, b torch\.float32"):
        fast_matmul(a, b.float(), strassen)
    with pytest.raises(InputError, match="levels must be an integer of at least 0, not -1"):
        fast_matmul(a, b, strassen, -1)
    with pytest.raises(InputError, match=r"does not compute in torch\.int64"):
        fast_matmul(a.long(), b.long(), strassen)
    with pytest.raises(InputError, match="over Z2"):
        fast_matmul(a, b, BilinearAlgorithm.from_exact(strassen.target, *STRASSEN, ring="Z2"))


@pytest.mark.parametrize("levels", [1.5, True, "1"])
def test_levels_are_an_integer(strassen, levels):
    with pytest.raises(InputError, match="levels must be an integer"):
        fast_matmul(*pair(4, 4, 4), strassen, levels)


def test_arguments_of_other_types_are_one_clear_error_each(strassen):
    a, b = pair(4, 4, 4)
    with pytest.raises(InputError, match="a BilinearAlgorithm is needed, not str"):
        fast_matmul(a, b, "strassen")
    with pytest.raises(InputError, match=r"b is a torch\.Tensor, not ndarray"):
        fast_matmul(a, b.numpy(), strassen)
    with pytest.raises(InputError, match=r"5 levels of .* are 16807 products; at most 4096"):
        fast_matmul(a, b, strassen, 5)

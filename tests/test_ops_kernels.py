"""The compiled kernels against the plain ones: sizes, views, rounding, threads and processes."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ops import LAYOUTS, random_algorithm, random_tensors

from stlsearch.errors import InputError
from stlsearch.ops import (
    Bases,
    Layout,
    backend,
    compiled,
    encode_activations,
    encode_weights,
    library,
    plain,
    stl_matmul,
    threads,
)
from stlsearch.ops.bfloat16 import multiplies_pairs
from stlsearch.solvers import machine_code


@contextmanager
def torch_threads(count):
    """Even small tensors are shared out over `count` threads."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "WORTH_A_THREAD", 1)
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


# The compiled kernels against the plain ones

TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.bfloat16: {"rtol": 2e-2, "atol": 1e-1},
}
VIEWS = ("contiguous", "transposed", "samples and rows exchanged", "expanded", "part of a larger one")


def matrices(view, dtype, batch, rows, columns, seed):
    shape = {
        "contiguous": (batch, rows, columns),
        "transposed": (batch, columns, rows),
        "samples and rows exchanged": (rows, batch, columns),
        "expanded": (1, 1, columns),
        "part of a larger one": (batch + 1, rows + 3, columns + 5),
    }[view]
    (matrix,) = random_tensors(shape, dtype=dtype, seed=seed)
    if view == "transposed":
        return matrix.transpose(1, 2)
    if view == "samples and rows exchanged":
        return matrix.transpose(0, 1)
    if view == "expanded":
        return matrix.expand(batch, rows, columns)
    return matrix[1:, 2:-1, 3:-2] if view == "part of a larger one" else matrix


@contextmanager
def pairs(multiplied):
    """Whether bfloat16 is multiplied in pairs, which takes a processor that does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "PAIRED", multiplied)
        yield


MULTIPLIED = [False, pytest.param(True, marks=pytest.mark.skipif(not multiplies_pairs(), reason="needs a processor with AVX512_BF16"))]


@pytest.fixture(params=MULTIPLIED, ids=["widened", "in pairs"])
def in_pairs(request):
    with pairs(request.param):
        yield request.param


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_compiled_and_plain_kernels_agree_on_any_size(data):
    draw = data.draw
    height, width, rank = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 20))
    batch, rows = draw(st.integers(0, 3)), draw(st.integers(0, 9))
    strip = compiled.STRIP * width
    around = [st.integers(count * strip - 3 * width, count * strip + 3 * width) for count in (1, 2)]
    columns = draw(st.one_of(st.integers(0, 40), *around))
    blocks = draw(st.booleans()), draw(st.booleans())
    dtype, view, seed = draw(st.sampled_from(list(TOLERANCE))), draw(st.sampled_from(VIEWS)), draw(st.integers(0, 99))
    matrix = matrices(view, dtype, batch, rows, columns, seed)
    factor, other = random_tensors((rank, height * width), (rank, height * width), dtype=dtype, seed=seed)
    factor[other.abs() < draw(st.sampled_from([0.0, 0.7, 9.0]))] = 0
    with torch_threads(draw(st.integers(1, 2))), pairs(multiplies_pairs() and draw(st.booleans())):
        planes = library.encode(matrix, factor, height, width, *blocks)
        tiles = library.decode(planes, factor, height, width, batch, rows, columns, *blocks)
    assert planes.is_contiguous()
    assert tiles.is_contiguous()
    torch.testing.assert_close(planes, plain.encode(matrix, factor, height, width, *blocks), **TOLERANCE[dtype])
    expected = plain.decode(planes, factor, height, width, batch, rows, columns, *blocks)
    # bfloat16 sums of values that are themselves sums: the bound is absolute in their size
    size = float(expected.abs().max()) if expected.numel() else 0
    torch.testing.assert_close(tiles, expected, rtol=TOLERANCE[dtype]["rtol"], atol=TOLERANCE[dtype]["atol"] * max(1, size))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_very_long_rows_are_computed_strip_by_strip(dtype, in_pairs):
    algorithm = random_algorithm(2, 3, 2, 4)
    x, weight = random_tensors((3, 3 * (2 * compiled.STRIP + 5) - 1), (3 * (2 * compiled.STRIP + 5) - 1, 3), dtype=dtype)
    for layout in (Layout(), Layout("blocks", "blocked", "blocked")):
        encoded = encode_weights(weight, algorithm, layout=layout)
        wide = encode_weights(weight.T.contiguous(), algorithm, layout=layout)
        ours = stl_matmul(x, encoded, algorithm), stl_matmul(x[:, :3], wide, algorithm)
        with backend("plain"):
            plainly = stl_matmul(x, encoded, algorithm), stl_matmul(x[:, :3], wide, algorithm)
        for one, other in zip(ours, plainly, strict=True):
            torch.testing.assert_close(one, other, rtol=TOLERANCE[dtype]["rtol"], atol=TOLERANCE[dtype]["atol"] * float(other.abs().max()))


def test_every_bfloat16_survives_the_compiled_kernels(in_pairs):
    """But for denormal numbers, which processors that multiply pairs take for zero."""
    numbers = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    one = torch.ones(1, 1, dtype=torch.bfloat16)
    encoded = library.encode(numbers[None, None], one, 1, 1, False, False)
    for result in (encoded, library.decode(encoded, one, 1, 1, 1, 1, 1 << 16, False, False)):
        result, expected = result.flatten().float(), numbers.float()
        denormal = (expected != 0) & (expected.abs() < torch.finfo(torch.bfloat16).tiny)
        may_vanish = denormal & (result == 0) if in_pairs else torch.zeros_like(denormal)
        torch.testing.assert_close(result, expected.where(~may_vanish, result), rtol=0, atol=0, equal_nan=True)
        assert denormal.sum() == 2 * 127


def test_bfloat16_sums_are_rounded_once_to_the_nearest_and_ties_to_even(in_pairs):
    # Numbers of 8 bits whose exponents differ by 9 at most, times small integers: float32 holds every sum exactly.
    random = np.random.default_rng(0)
    x = random.choice([-1, 1], (1, 4096, 2)) * (1 + random.integers(0, 128, (1, 4096, 2)) / 128)
    x[..., 1] *= 2.0 ** -random.integers(0, 10, (1, 4096))
    x = torch.tensor(x).bfloat16()
    factor = torch.tensor([[1, 1], [1, -1], [3, 2], [-2, 5]], dtype=torch.bfloat16)
    exact = torch.einsum("sa,bia->sbi", factor.double(), x.double())
    assert torch.equal(exact.float().double(), exact)
    expected = exact.float().bfloat16()
    assert torch.equal(library.encode(x, factor, 1, 2, False, False).squeeze(-1), expected[:, 0])
    # Half of the last place of 1 and of its neighbour: down to the even one, up to the even one.
    ties = torch.tensor([[[1.0, 2.0**-8, 1 + 2.0**-7, 2.0**-8]]], dtype=torch.bfloat16)
    assert library.encode(ties, torch.ones(1, 2, dtype=torch.bfloat16), 1, 2, False, False).flatten().tolist() == [1, 1 + 2.0**-6]
    largest = torch.finfo(torch.bfloat16).max
    assert library.encode(torch.full((1, 1, 2), largest).bfloat16(), torch.ones(1, 2).bfloat16(), 1, 2, False, False).item() == float("inf")


def test_bfloat16_is_summed_in_float32(in_pairs):
    """256 + 1 is 256 in bfloat16; the sum of 256 and sixteen ones is not."""
    x = torch.ones(1, 1, 17, dtype=torch.bfloat16)
    x[0, 0, 0] = 256
    assert library.encode(x, torch.ones(1, 17, dtype=torch.bfloat16), 1, 17, False, False).item() == 272
    planes = x.view(17, 1, 1)
    assert library.decode(planes, torch.ones(17, 1, dtype=torch.bfloat16), 1, 1, 1, 1, 1, False, False).item() == 272


def test_numbers_beyond_the_edges_stay_as_they_are(in_pairs):
    """Vectors end at the edge of the matrix, wherever in a strip that is."""
    for columns in (1, 7, 31, 64, 129, 2 * compiled.STRIP + 3):
        for dtype in TOLERANCE:
            for width in (1, 2, 3, 4):
                for blocks in (False, True):
                    factor, memory = torch.ones(5, 2 * width, dtype=dtype), torch.full((4, columns + 70), 7.0, dtype=dtype)
                    inner = memory[:3, 3 : 3 + columns]
                    planes = library.encode(inner[None], factor, 2, width, False, blocks)
                    around = torch.full((planes.numel() + 70,), 7.0, dtype=dtype)
                    compiled.encode(inner[None], factor, 2, width, False, blocks, into=around[3:-67].view(planes.shape))
                    assert torch.equal(around[3:-67].view(planes.shape), planes)
                    assert (around[:3] == 7).all()
                    assert (around[-67:] == 7).all()
                    compiled.decode(planes, factor, 2, width, 1, 3, columns, False, blocks, into=inner[None])
                    assert (memory[:, :3] == 7).all()
                    assert (memory[:, 3 + columns :] == 7).all()
                    assert (memory[3] == 7).all()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_nan_and_infinity_spread_as_in_plain_pytorch(dtype, in_pairs):
    x, factor = random_tensors((1, 8, 64), (7, 4), dtype=dtype)
    x[0, 1, 3] = float("nan")
    x[0, [3, 6], [9, 0]] = float("inf")
    x[0, [2, 7], [9, 1]] = -float("inf")  # with an infinity in the same tile: NaN or infinity, by the signs
    planes, expected = library.encode(x, factor, 2, 2, False, False), plain.encode(x, factor, 2, 2, False, False)
    assert planes.isnan().sum() > 7
    torch.testing.assert_close(planes, expected, equal_nan=True, **TOLERANCE[dtype])
    tiles, expected = (module.decode(planes, factor, 2, 2, 1, 8, 64, False, False) for module in (library, plain))
    torch.testing.assert_close(tiles, expected, equal_nan=True, rtol=TOLERANCE[dtype]["rtol"], atol=10 * TOLERANCE[dtype]["atol"])
    factor[2, 1] = float("nan")
    torch.testing.assert_close(*(module.encode(x, factor, 2, 2, True, True).isnan() for module in (library, plain)))


def test_zero_coefficients_are_left_out_of_compiled_sums():
    """Nothing is multiplied by zero, so a NaN there does not spread; a row of zeros gives zeros."""
    x = torch.ones(1, 4, 4)
    x[0, 0, 0] = float("nan")
    factor = torch.tensor([[0.0, 1, 2, 3], [0, 0, 0, 0], [1, 0, 0, 0]])
    planes = library.encode(x, factor, 2, 2, False, False)
    assert planes[:2].isfinite().all()
    assert not planes[1].any()
    assert planes[2].isnan().nonzero().tolist() == [[0, 0]]


def test_pairs_of_zero_coefficients_are_left_out_of_bfloat16_sums(in_pairs):
    """A zero beside another number is multiplied where they are multiplied together."""
    x, factor = torch.ones(1, 4, 4).bfloat16(), torch.tensor([[0, 0, 1, 2], [0, 3, 0, 0], [0, 0, 0, 0]]).bfloat16()
    x[0, 0, 0] = float("nan")
    planes = library.encode(x, factor, 2, 2, False, False)
    assert planes[[0, 2]].isfinite().all()
    assert planes[1].isnan().nonzero().tolist() == ([[0, 0]] if in_pairs else [])
    # The last of an odd number has a zero beside it that meets no number of the matrix.
    odd = torch.tensor([[1.0, 2.0, 4.0, float("inf")]]).bfloat16()
    assert library.encode(odd[None], torch.ones(1, 3).bfloat16(), 1, 3, False, False).flatten().tolist() == [7, float("inf")]


def test_kernels_refuse_tensors_that_do_not_fit():
    matrix, factor, planes = torch.ones(1, 4, 6), torch.ones(3, 4), torch.ones(3, 2, 3)
    for operator, arguments in [
        (library.encode, (matrix, torch.ones(3, 5), 2, 2, False, False)),
        (library.encode, (matrix, factor.double(), 2, 2, False, False)),
        (library.decode, (planes, torch.ones(4, 4), 2, 2, 1, 4, 6, False, False)),
        (library.decode, (planes, torch.ones(3, 3), 2, 2, 1, 4, 6, False, False)),
        (library.decode, (planes, factor.double(), 2, 2, 1, 4, 6, False, False)),
        (library.decode, (planes, factor, 2, 2, 1, 9, 6, False, False)),
    ]:
        with pytest.raises(InputError, match="do not fit each other"):
            operator(*arguments)


# Threads and processes


@pytest.fixture
def problem():
    """A product and its result with one thread."""
    algorithm = random_algorithm(2, 3, 4, 9)
    x, weight = random_tensors((4, 33, 47), (47, 31))
    encoded = encode_weights(weight, algorithm)
    return algorithm, x, encoded, stl_matmul(x, encoded, algorithm)


@pytest.mark.parametrize("openmp", [True, False], ids=["PyTorch's threads", "a pool"])
def test_two_threads_compute_what_one_does(problem, openmp, monkeypatch):
    algorithm, x, encoded, expected = problem
    one = encode_activations(x[0], algorithm)
    if not openmp:
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    with torch_threads(2):
        assert torch.equal(encode_activations(x[0], algorithm), one)
        for layout in LAYOUTS:
            again = replace(encoded, layout=layout)
            two = stl_matmul(x, again, algorithm)
            with torch_threads(1):
                torch.testing.assert_close(two, stl_matmul(x, again, algorithm))
        torch.testing.assert_close(stl_matmul(x, encoded, algorithm), expected)


@pytest.mark.parametrize("openmp", [True, False], ids=["PyTorch's threads", "a pool"])
def test_several_python_threads_compute_at_once(problem, openmp, monkeypatch):
    algorithm, x, encoded, expected = problem
    if not openmp:
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    with torch_threads(2), ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: stl_matmul(x, encoded, algorithm), range(40)):
            torch.testing.assert_close(result, expected)


@pytest.mark.skipif(sys.platform != "linux" or "OpenMP" not in torch.__config__.parallel_info(), reason="needs PyTorch on OpenMP")
def test_pytorchs_own_threads_are_found():
    """Without them everything still works, but as slowly as a pool that competes with them."""
    assert threads._openmp() is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("count", [1, 2])
def test_a_forked_process_computes_too(problem, count, monkeypatch):
    """With one thread as the workers of a DataLoader have, with two in a pool: PyTorch's threads do not survive a fork."""
    algorithm, x, _, _ = problem
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    with torch_threads(count):
        expected = encode_activations(x[0], algorithm)
        if not (child := os.fork()):
            signal.alarm(30)  # rather killed than waited for
            os._exit(0 if torch.equal(encode_activations(x[0], algorithm), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_kernels_are_compiled_where_machine_code_cannot_be_kept(monkeypatch):
    def without_a_place(signature, cache=False):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return cfunc(signature)

    cfunc = machine_code.cfunc
    monkeypatch.setattr(machine_code, "cfunc", without_a_place)
    assert compiled._entry.__wrapped__(True, torch.float32, False).address


def test_an_unknown_backend_is_refused():
    with pytest.raises(InputError, match="unknown backend 'fast'; valid: auto, plain"), backend("fast"):
        pass


@pytest.mark.parametrize("layout", [Layout(), Layout("batch", "blocked", "blocked")])
def test_small_products_by_pytorch_are_those_of_the_kernels(layout, monkeypatch):
    algorithm = random_algorithm(2, 3, 2, 5)
    x, weight = (torch.randn(*shape, dtype=torch.float64) for shape in ((3, 5, 7), (7, 4)))
    found = []
    for small in (0, 1 << 20):
        monkeypatch.setattr("stlsearch.ops.product.SMALL", small)
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight)]
        bases = Bases.prepare(algorithm, dtype=torch.float64)
        bases = replace(bases, U=bases.U.requires_grad_(), W=bases.W.requires_grad_())
        y = stl_matmul(leaves[0], encode_weights(leaves[1], bases, layout=layout), bases)
        names = {node.name() for node in walked(y.grad_fn)}
        assert any("stlsearch_product" in name for name in names) is (small == 0)
        y.square().sum().backward()
        found.append([y.detach(), *(tensor.grad for tensor in (*leaves, bases.U, bases.W))])
    torch.testing.assert_close(found[0], found[1])


def walked(node):
    """A node of autograd's graph and all before it."""
    if node is not None:
        yield node
        for following, _ in node.next_functions:
            yield from walked(following)

"""What the operator allocates: a few rows of tiles at a time, and large memory that the system may hand out in huge pages."""

import mmap
from dataclasses import replace

import pytest
import torch
from test_ops import STRASSEN, random_tensors

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.evaluate.memory import peak_extra_bytes
from stlsearch.ops import Bases, compiled, encode_weights, memory, product, stl_matmul
from stlsearch.targets import Target

RANK = 7
ROWS, INNER, COLUMNS = 64, 60, 72
DOWN, ALONG, ACROSS = ROWS // 2, INNER // 2, COLUMNS // 2  # tiles


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def problem(request):
    """x, an encoded weight and its bases; and what bfloat16 alone needs: one factor at a time, in float32, or in pairs, with zeros."""
    algorithm = BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), *STRASSEN)
    bases = Bases.prepare(algorithm, dtype=request.param)
    x, weight = random_tensors((ROWS, INNER), (INNER, COLUMNS), dtype=request.param)
    return x, encode_weights(weight, bases), bases, factor_bytes(request.param)


def factor_bytes(dtype):
    if dtype != torch.bfloat16:
        return 0
    return 4 * (RANK + RANK % 2) * 2 if compiled.PAIRED else 4 * RANK * 4


def planes_of(rows):
    """Values of the encoded activations and the products of some rows of tiles."""
    return RANK * rows * (ALONG + ACROSS)


# The peak of a product


def forward_bytes(x, encoded, bases, chunk):
    with torch.inference_mode():
        return peak_extra_bytes(lambda: stl_matmul(x, encoded, bases, chunk=chunk))


@pytest.mark.parametrize("chunk", [1, 4, 8, DOWN, 1000, None])
def test_a_forward_pass_holds_one_chunk_and_the_result(problem, chunk):
    x, encoded, bases, widened = problem
    held = planes_of(min(chunk or DOWN, DOWN))
    assert forward_bytes(x, encoded, bases, chunk) == x.itemsize * (ROWS * COLUMNS + held) + widened


def test_the_device_chooses_chunks_that_fit_its_limit(problem, monkeypatch):
    x, encoded, bases, widened = problem
    for rows in (1, 4):
        monkeypatch.setattr(product, "CHUNK_BYTES", x.itemsize * planes_of(rows))
        assert forward_bytes(x, encoded, bases, None) == x.itemsize * (ROWS * COLUMNS + planes_of(rows)) + widened


def training_bytes(x, encoded, bases, chunk):
    """Of a product and the gradients of x and of the encoded weight."""
    x, tensor = (each.detach().clone().requires_grad_() for each in (x, encoded.tensor))
    gradient = torch.ones(ROWS, COLUMNS, dtype=x.dtype)
    encoded = replace(encoded, tensor=tensor)
    return peak_extra_bytes(lambda: torch.autograd.grad(stl_matmul(x, encoded, bases, chunk=chunk), (x, tensor), gradient))


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_a_backward_pass_holds_one_chunk_beside_the_result_and_the_gradients(problem, chunk):
    x, encoded, bases, widened = problem
    least = ROWS * COLUMNS + ROWS * INNER + encoded.tensor.numel()
    found = training_bytes(x, encoded, bases, chunk)
    assert x.itemsize * least < found <= x.itemsize * (least + 2 * planes_of(chunk)) + widened
    whole = training_bytes(x, encoded, bases, None)
    assert found < 0.65 * whole
    assert whole > x.itemsize * (least + planes_of(DOWN) / 2)  # or there would be nothing to lower


# Large memory


@pytest.fixture
def advised(monkeypatch):
    """Calls of madvise, which refuses: ENOMEM and the like change nothing."""
    calls = []

    def refuse(*arguments):
        calls.append(arguments)
        return -1

    monkeypatch.setattr(memory, "_madvise", lambda: refuse)
    return calls


def check_usable(dtype):
    like = torch.empty(0, dtype=dtype)
    tensor = memory.empty(like, 3, memory.LARGE // dtype.itemsize // 3 + 1)
    assert tensor.nbytes >= memory.LARGE
    assert tensor.is_contiguous()
    assert (tensor.dtype, tensor.device) == (dtype, like.device)
    tensor.fill_(2)
    assert tensor.sum(dtype=torch.float64) == 2 * tensor.numel()
    return tensor


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_large_memory_can_be_used(dtype):
    check_usable(dtype)


def test_large_memory_where_the_system_has_no_advice_to_take(monkeypatch):
    monkeypatch.setattr(memory, "_madvise", lambda: None)
    check_usable(torch.float32)


def test_a_system_without_huge_pages_is_not_asked(monkeypatch):
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert memory._madvise.__wrapped__() is None


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="this system has no huge pages")
def test_advice_is_for_the_whole_pages_of_large_memory_and_may_be_refused(advised):
    tensor = check_usable(torch.bfloat16)
    ((first, size, advice),) = advised
    assert advice == mmap.MADV_HUGEPAGE
    assert first % mmap.PAGESIZE == size % mmap.PAGESIZE == 0
    assert tensor.data_ptr() <= first < tensor.data_ptr() + mmap.PAGESIZE
    assert tensor.data_ptr() + tensor.nbytes - mmap.PAGESIZE < first + size <= tensor.data_ptr() + tensor.nbytes


def test_small_memory_and_other_devices_are_left_alone(advised):
    assert memory.empty(torch.empty(0), 10, 10).shape == (10, 10)
    assert memory.empty(torch.empty(0), 0, 10).shape == (0, 10)
    assert memory.empty(torch.empty(0, device="meta"), memory.LARGE).device.type == "meta"
    assert advised == []

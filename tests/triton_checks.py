"""Checks of the Triton kernels against einsum in float64, run by tests/test_triton.py in a process of their own.

    TRITON_INTERPRET=1 pytest tests/triton_checks.py     through Triton's interpreter, on a CPU
    pytest tests/triton_checks.py                        on a CUDA device

Triton reads the variable as it is imported, which PyTorch does now and then, so it cannot be set for these checks alone within
the process of other tests.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import asdict

import pytest
import torch

from stlsearch.errors import InputError
from stlsearch.evaluate import tune as tune_module
from stlsearch.ops import Bases, backend, encode_weights, fp8, quantise, stl_matmul, triton_kernels, triton_product
from stlsearch.ops.tuning import key, tuned
from stlsearch.registry.store import open_registry
from stlsearch.targets import Target

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"

TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}
"""Relative Frobenius error; the interpreter truncates to bfloat16, so errs by twice as much as rounding."""

BLOCKS = list(itertools.product((False, True), repeat=2))
BOTH = BLOCKS[1:3]  # rows from blocks, and columns from blocks

SHAPES = [  # tile, rank, batch, rows, columns, dtype
    ((4, 4), 24, 2, 37, 50, torch.bfloat16),
    ((4, 4), 49, 1, 8, 1300, torch.float32),
    ((2, 3), 7, 3, 9, 40, torch.float16),
    ((3, 3), 24, 1, 100, 7, torch.float32),
    ((1, 1), 7, 2, 5, 33, torch.bfloat16),
    ((4, 2), 70, 1, 63, 65, torch.float16),
    ((16, 16), 20, 1, 40, 1, torch.float32),
]


def lines(extent: int, size: int, blocks: bool) -> torch.Tensor:
    """(tiles, size): the row (column) of every place of every tile, `extent` and more where there is none."""
    tiles = -(-extent // size)
    places = torch.arange(tiles * size)
    return places.reshape(size, tiles).T if blocks else places.reshape(tiles, size)


def cut(matrix: torch.Tensor, height: int, width: int, row_blocks: bool, column_blocks: bool) -> torch.Tensor:
    """(batch, I, J, h, w): the tiles of a matrix in float64."""
    _, rows, columns = matrix.shape
    row, column = lines(rows, height, row_blocks), lines(columns, width, column_blocks)
    padded = torch.zeros(len(matrix), row.numel(), column.numel(), dtype=torch.float64)
    padded[:, :rows, :columns] = matrix.cpu()
    return padded[:, row[:, None, :, None], column[None, :, None, :]]


def encoded(matrix, factor, height, width, *blocks):
    tiles = cut(matrix, height, width, *blocks)
    return torch.einsum("sac,bijac->sbij", factor.cpu().double().view(-1, height, width), tiles).flatten(1, 2)


def decoded(planes, factor, height, width, batch, rows, columns, row_blocks, column_blocks):
    row, column = lines(rows, height, row_blocks), lines(columns, width, column_blocks)
    planes = planes.cpu().double().view(len(planes), batch, len(row), len(column))
    tiles = torch.einsum("sac,sbij->bijac", factor.cpu().double().view(-1, height, width), planes)
    matrix = torch.empty(batch, row.numel(), column.numel(), dtype=torch.float64)
    matrix[:, row[:, None, :, None], column[None, :, None, :]] = tiles
    return matrix[:, :rows, :columns]


def correlated(matrix, planes, height, width, *blocks):
    tiles = cut(matrix, height, width, *blocks)
    planes = planes.cpu().double().view(len(planes), *tiles.shape[:3])
    return torch.einsum("sbij,bijac->sac", planes, tiles).flatten(1)


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def check(result, expected, dtype):
    assert result.shape == expected.shape
    assert result.dtype == dtype
    assert result.is_contiguous()
    error = (result.cpu().double() - expected).norm() / expected.norm()
    assert error < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("tile", "rank", "batch", "rows", "columns", "dtype", "blocks"),
    [(*shape, blocks) for index, shape in enumerate(SHAPES) for blocks in (BLOCKS[::3], BOTH)[index % 2]],
)
def test_maps(tile, rank, batch, rows, columns, dtype, blocks):
    matrix = random(batch, rows, columns, dtype=dtype)
    factor = random(rank, tile[0] * tile[1], dtype=dtype, seed=1)
    planes = random(rank, batch * -(-rows // tile[0]), -(-columns // tile[1]), dtype=dtype, seed=2)
    check(triton_kernels.encode(matrix, factor, *tile, *blocks), encoded(matrix, factor, *tile, *blocks), dtype)
    size = (batch, rows, columns)
    check(triton_kernels.decode(planes, factor, *tile, *size, *blocks), decoded(planes, factor, *tile, *size, *blocks), dtype)
    check(triton_kernels.correlate(matrix, planes, *tile, *blocks), correlated(matrix, planes, *tile, *blocks), dtype)


@pytest.mark.parametrize("blocks", BOTH)
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.mT,
        lambda x: x[:, 3:, 1::2],
        lambda x: x[1:2].expand(3, -1, -1),
        lambda x: x.transpose(0, 1),
        lambda x: x[:, :0],
    ],
    ids=["transposed", "sliced", "expanded", "batch inside", "empty"],
)
def test_strides(view, blocks):
    matrix = view(random(2, 70, 90))
    factor = random(7, 12, seed=1)
    planes = triton_kernels.encode(matrix, factor, 4, 3, *blocks)
    expected = encoded(matrix, factor, 4, 3, *blocks)
    if matrix.numel():
        check(planes, expected, torch.float32)
        noncontiguous = torch.stack([planes, planes], -1)[..., 0]
        check(triton_kernels.correlate(matrix, noncontiguous, 4, 3, *blocks), correlated(matrix, planes, 4, 3, *blocks), torch.float32)
        result = triton_kernels.decode(noncontiguous, factor, 4, 3, *matrix.shape, *blocks)
        check(result, decoded(planes, factor, 4, 3, *matrix.shape, *blocks), torch.float32)
    else:
        assert planes.shape == expected.shape


def test_empty_sizes():
    factor = random(7, 16)
    for shape in ((0, 8, 8), (1, 0, 8), (1, 8, 0)):
        planes = triton_kernels.encode(random(*shape), factor, 4, 4, False, False)
        assert planes.shape == (7, shape[0] * shape[1] // 4, shape[2] // 4)
        assert triton_kernels.decode(planes, factor, 4, 4, *shape, False, False).shape == shape
        assert torch.equal(triton_kernels.correlate(random(*shape), planes, 4, 4, False, False), torch.zeros_like(factor))
    no_terms = triton_kernels.decode(random(0, 2, 2), random(0, 16), 4, 4, 1, 8, 8, False, False)
    assert torch.equal(no_terms, torch.zeros_like(no_terms))
    nothing_inside = triton_product.product_decode(random(7, 2, 0), random(7, 0, 2), factor, 4, 4, 1, 8, 8, False, False)
    assert torch.equal(nothing_inside, torch.zeros_like(nothing_inside))


@pytest.mark.parametrize("blocks", BLOCKS)
def test_each_map_is_the_adjoint_of_the_others(blocks):
    matrix, factor, planes = random(2, 27, 30), random(24, 16, seed=1), random(24, 14, 8, seed=2)
    forms = torch.stack(
        [
            (planes * triton_kernels.encode(matrix, factor, 4, 4, *blocks)).sum(),
            (matrix * triton_kernels.decode(planes, factor, 4, 4, *matrix.shape, *blocks)).sum(),
            (factor * triton_kernels.correlate(matrix, planes, 4, 4, *blocks)).sum(),
        ]
    )
    torch.testing.assert_close(forms, forms[:1].expand(3), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_go_where_they_are_wanted(dtype):
    matrix, factor = random(1, 24, 30, dtype=dtype), random(7, 12, dtype=dtype)
    memory = random(3, 60, 30, dtype=dtype)
    before, place = memory.clone(), memory[1:2, 1:49:2]
    planes = torch.full((7, 6, 10), float("nan"), dtype=dtype, device=DEVICE)
    assert triton_kernels.encode(matrix, factor, 4, 3, False, False, into=planes) is planes
    assert torch.equal(planes, triton_kernels.encode(matrix, factor, 4, 3, False, False))
    assert triton_kernels.decode(planes, factor, 4, 3, 1, 24, 30, False, True, into=place) is place
    assert torch.equal(place, triton_kernels.decode(planes, factor, 4, 3, 1, 24, 30, False, True))
    place.copy_(before[1:2, 1:49:2])
    assert torch.equal(memory, before)  # nothing else was written


def test_correlate_with_more_blocks_than_programs(monkeypatch):
    monkeypatch.setattr(triton_kernels, "PARTIAL_SUMS", 3)
    matrix, planes = random(1, 60, 70, dtype=torch.float16), random(7, 60, 70, dtype=torch.float16, seed=1)
    result = triton_kernels.correlate(matrix, planes, 1, 1, False, False)
    check(result, correlated(matrix, planes, 1, 1, False, False), torch.float16)
    assert torch.equal(result, triton_kernels.correlate(matrix, planes, 1, 1, False, False))


@pytest.mark.parametrize(("dtype", "tile"), [(torch.float64, (2, 2)), (torch.float32, (32, 16))])
def test_what_no_kernel_computes_is_left_to_plain_pytorch(dtype, tile):
    assert not triton_kernels.supports(dtype, *tile)
    matrix, factor = random(1, 64, 64, dtype=dtype), random(3, tile[0] * tile[1], dtype=dtype)
    planes = triton_kernels.encode(matrix, factor, *tile, False, False)
    result = triton_kernels.decode(planes, factor, *tile, 1, 64, 64, False, False)
    torch.testing.assert_close(planes.cpu().double(), encoded(matrix, factor, *tile, False, False), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(result.cpu().double(), decoded(planes, factor, *tile, 1, 64, 64, False, False), rtol=1e-4, atol=1e-3)
    assert triton_kernels.correlate(matrix, planes, *tile, False, False).shape == factor.shape
    with pytest.raises(InputError, match="product_decode"):
        triton_product.product_decode(planes, planes.mT.contiguous(), factor, *tile, 1, 64, 64, False, False)


def test_bfloat16_tiles_are_supported():
    assert triton_kernels.supports(torch.bfloat16, 4, 4)


@pytest.mark.parametrize(
    ("tile", "rank", "batch", "rows", "columns", "inner", "dtype", "blocks"),
    [
        ((4, 4), 24, 2, 37, 50, 130, torch.bfloat16, (False, False)),
        ((4, 4), 49, 1, 9, 30, 64, torch.float16, (True, True)),
        ((2, 3), 7, 3, 20, 41, 1, torch.float16, (False, True)),
        ((3, 3), 24, 1, 50, 7, 33, torch.float32, (True, False)),
        ((1, 1), 7, 1, 70, 66, 16, torch.float32, (False, False)),
        ((4, 4), 24, 2, 37, 64, 80, torch.bfloat16, (False, False)),
    ],
)
def test_product_decode(tile, rank, batch, rows, columns, inner, dtype, blocks, monkeypatch):
    monkeypatch.setattr(triton_product, "PROGRAMS", 1)  # large blocks where sizes allow them, as in the last shape
    down, across = batch * -(-rows // tile[0]), -(-columns // tile[1])
    activations, weight = random(rank, down, inner, dtype=dtype), random(rank, inner, across, dtype=dtype, seed=1)
    factor = random(rank, tile[0] * tile[1], dtype=dtype, seed=2)
    size = (batch, rows, columns)
    products = activations.cpu().double() @ weight.cpu().double()
    result = triton_product.product_decode(activations, weight, factor, *tile, *size, *blocks)
    check(result, decoded(products, factor, *tile, *size, *blocks), dtype)
    result = triton_product.product_decode(activations, weight.mT.contiguous().mT, factor, *tile, *size, *blocks)
    check(result, decoded(products, factor, *tile, *size, *blocks), dtype)


WAYS = [  # dtype, inner_last, descriptors, persistent; what is quantised lies inner_last
    *itertools.product((torch.bfloat16,), (False, True), (False, True), (False, True)),
    (torch.float8_e4m3fn, True, False, False),
    (torch.float8_e4m3fn, True, True, True),
    (torch.float32, False, False, True),
    (torch.float32, True, False, False),
]


@pytest.mark.parametrize(("dtype", "inner_last", "descriptors", "persistent"), WAYS)
def test_every_way_to_multiply(dtype, inner_last, descriptors, persistent):
    """Blocks in teams of 4, more of them than multiprocessors (in the interpreter), rows and columns that no block divides."""
    rank, rows, inner, columns = 3, 148, 64, 320
    stored = torch.float32 if dtype == torch.float32 else torch.bfloat16
    left, right = random(rank, rows // 4, inner).to(dtype), random(rank, inner, columns // 4, seed=1)
    right = (right.mT.contiguous().to(dtype).mT) if inner_last else right.to(dtype)
    scales = (random(rank, rows // 4, seed=2).abs(), random(rank, columns // 4, seed=3).abs()) if dtype == torch.float8_e4m3fn else None
    products = left.float().cpu().double() @ right.float().cpu().double()
    if scales:
        products *= scales[0].cpu().double()[:, :, None] * scales[1].cpu().double()[:, None, :]
    blocks = {"down": 32, "across": 32, "step": 32, "warps": 4, "stages": 2, "descriptors": descriptors, "persistent": persistent}
    sizes = (dtype, rank, *left.shape[1:], right.shape[2])
    table = {
        key("multiply", *sizes): {**blocks, "vendor": False},
        key("product_decode", *sizes): {**blocks, "team_bytes": 4 * rank * 32 * 32 * stored.itemsize},
    }
    factor = random(rank, 16, dtype=stored, seed=4)
    with tuned(table):
        into = torch.empty(products.shape, dtype=stored, device=DEVICE)
        check(triton_product.multiply(left, right, scales=scales, into=into), products, stored)
        result = triton_product.product_decode(left, right, factor, 4, 4, 1, rows, columns, False, False, scales=scales)
    check(result, decoded(products, factor, 4, 4, 1, rows, columns, False, False), stored)


@pytest.mark.parametrize(
    ("tile", "rank", "batch", "rows", "columns", "dtype", "blocks"),
    [(*shape, BLOCKS[index % 4]) for index, shape in enumerate(SHAPES)],
)
def test_encoding_to_fp8(tile, rank, batch, rows, columns, dtype, blocks):
    matrix = random(batch, rows, columns, dtype=dtype)
    matrix[0, 0] = 0
    factor = random(rank, tile[0] * tile[1], dtype=dtype, seed=1)
    planes, scales = triton_kernels.encode_fp8(matrix, factor, *tile, *blocks)
    assert planes.dtype == torch.float8_e4m3fn
    assert planes.is_contiguous()
    expected = encoded(matrix, factor, *tile, *blocks)
    torch.testing.assert_close(scales.cpu().double(), expected.abs().amax(2).clamp_min(1e-30) / 448, rtol=1e-2, atol=0)
    found = planes.cpu().double() * scales.cpu().double()[..., None]
    assert (found - expected).abs().le(0.07 * expected.abs() + expected.abs().amax(2, keepdim=True) * 2**-14).all()
    theirs, their_scales = fp8.encode(matrix.cpu(), factor.cpu(), *tile, *blocks)
    torch.testing.assert_close(scales.cpu(), their_scales, rtol=1e-3, atol=0)
    assert (planes.cpu().float() != theirs.float()).sum() <= 0.01 * planes.numel() + 1  # sums in another order are rounded elsewhere


@pytest.mark.parametrize(("name", "dtype"), [("unfused", torch.float32), ("fused", torch.bfloat16)])
def test_the_operator_through_the_kernels(name, dtype):
    """The whole of it, gradients and fp8 too, beside plain PyTorch."""
    algorithm = open_registry().best(Target.matmul(4, 4, 4), 16, max_amplification=5).algorithm
    bases = Bases.prepare(algorithm, dtype=dtype, device=DEVICE)
    x, weight = random(2, 14, 32, dtype=dtype).requires_grad_(), random(32, 21, dtype=dtype, seed=1).requires_grad_()
    found = {}
    for each in (name, "plain"):
        with backend(each):
            result = stl_matmul(x, encode_weights(weight, bases), bases)
            gradients = torch.autograd.grad(result, [x, weight], random(2, 14, 21, dtype=dtype, seed=2))
            with torch.no_grad():
                eighth = stl_matmul(x, quantise(encode_weights(weight, bases)), bases, chunk=5)
        found[each] = [result.detach(), *gradients, eighth]
    rounding = 1e-5 if dtype == torch.float32 else 0.1
    bounds = [rounding] * 3 + [max(rounding, 0.01)]  # between two numbers in fp8 the last bit of a sum decides
    for fast, plain, bound in zip(found[name], found["plain"], bounds, strict=True):
        assert (fast - plain).norm() < bound * plain.norm()


@pytest.mark.parametrize("fp8", [False, True])
def test_tuning(fp8, monkeypatch):
    """Every stage gets a choice, the operator takes it, and computes the same."""
    monkeypatch.setattr(tune_module, "MAPS", [{"bytes": 4096, "warps": 2}])
    monkeypatch.setattr(triton_kernels, "candidates", lambda *_: [triton_product.Blocks(32, 32, 32, 4, 2, True, True)])
    monkeypatch.setattr(triton_product, "rule", lambda *_, **__: triton_product.Blocks(32, 32, 32, 4, 2))
    clock = itertools.count(1000, -1)  # every call is faster than the one before

    def timer(function, device):
        function()
        return next(clock)

    algorithm = open_registry().best(Target.matmul(4, 4, 4), 16, max_amplification=5).algorithm
    bases = Bases.prepare(algorithm, dtype=torch.bfloat16, device=DEVICE)
    x, weight = random(16, 32, dtype=torch.bfloat16), random(32, 32, dtype=torch.bfloat16, seed=1)
    encoded = encode_weights(weight, bases)
    found = tune_module.tune(x, encoded, bases, fp8=fp8, timer=timer)
    assert not found.refused
    encode, planes = ("encode_fp8", "float8_e4m3fn") if fp8 else ("encode", "bfloat16")
    operations = [f"{encode} bfloat16", f"multiply {planes}", "decode bfloat16", f"product_decode {planes}"]
    assert [name.rpartition(" 16 ")[0] for name in found.seconds] == operations
    assert all(seconds["fastest"] < seconds["rule"] for seconds in found.seconds.values())
    assert [name.rpartition(" 16 ")[0] for name in found.table] == operations
    assert [choice.get("fused") for choice in found.table.values()] == [None, None, None, False]  # the other way was timed last
    results = []
    for table in ({}, found.table):
        with backend("unfused"), tuned(table), torch.no_grad():
            results.append(stl_matmul(x, quantise(encoded) if fp8 else encoded, bases))
    assert (results[0] - results[1]).norm() < 0.02 * results[0].norm()


def test_what_cannot_be_tuned(monkeypatch):
    algorithm = open_registry().best(Target.matmul(4, 4, 4), 16, max_amplification=5).algorithm
    x = random(8, 8, dtype=torch.float64)
    bases = Bases.prepare(algorithm, dtype=torch.float64, device=DEVICE)
    with pytest.raises(InputError, match="float64: there is nothing to tune"):
        tune_module.tune(x, encode_weights(x, bases), bases)
    monkeypatch.setattr(triton_kernels, "can_quantise", lambda *_: False)  # as on devices before compute capability 8.9
    bases = bases.to(torch.float32)
    with pytest.raises(InputError, match="do not quantise 4 x 4 tiles"):
        tune_module.tune(x.float(), encode_weights(x.float(), bases), bases, fp8=True)


def test_a_table_may_leave_the_rest_to_the_rule():
    left, right = random(3, 40, 32, dtype=torch.float16), random(3, 32, 48, dtype=torch.float16, seed=1)
    with tuned({key("multiply", torch.float16, 3, 40, 32, 48): {"vendor": False, "down": 32, "warps": 2}}):
        check(triton_product.multiply(left, right), left.cpu().double() @ right.cpu().double(), torch.float16)


@pytest.mark.skipif(DEVICE == "cpu", reason="too large for the interpreter")
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_many_programs_at_once(dtype):
    rank, rows, inner, columns = 24, 2052, 1028, 4096
    matrix, weight = random(1, rows, inner, dtype=dtype), random(rank, inner // 4, columns // 4, dtype=dtype, seed=1)
    factor = random(rank, 16, dtype=dtype, seed=2)
    planes = triton_kernels.encode(matrix, factor, 4, 4, False, False)
    check(planes, encoded(matrix, factor, 4, 4, False, False), dtype)
    check(triton_kernels.correlate(matrix, planes, 4, 4, False, False), correlated(matrix, planes, 4, 4, False, False), dtype)
    products = planes.double() @ weight.double()
    size = (1, rows, columns)
    results = [triton_product.product_decode(planes, weight, factor, 4, 4, *size, False, False) for _ in range(20)]
    check(results[0], decoded(products, factor, 4, 4, *size, False, False), dtype)
    assert all(torch.equal(result, results[0]) for result in results)
    for blocks in triton_product.candidates(dtype, planes.device):
        sizes = (dtype, rank, *planes.shape[1:], weight.shape[2])
        with tuned({key("multiply", *sizes): {**asdict(blocks), "vendor": False}, key("product_decode", *sizes): asdict(blocks)}):
            check(triton_product.multiply(planes, weight), products.cpu(), dtype)
            result = triton_product.product_decode(planes, weight, factor, 4, 4, *size, False, False)
        check(result, decoded(products, factor, 4, 4, *size, False, False), dtype)


@pytest.mark.skipif(DEVICE == "cpu", reason="too large for the interpreter")
def test_every_candidate_in_fp8():
    rank, rows, inner, columns = 24, 2052, 4160, 4096
    left, of_rows = fp8.quantise_rows(random(rank, rows // 4, inner // 4))
    right, of_columns = fp8.quantise_rows(random(rank, columns // 4, inner // 4, seed=1))
    scales, right = (of_rows, of_columns), right.mT
    products = (left.double() * of_rows[..., None]) @ (right.double() * of_columns[:, None])
    factor = random(rank, 16, dtype=torch.bfloat16, seed=2)
    expected = decoded(products, factor, 4, 4, 1, rows, columns, False, False)
    for choice in ({"vendor": True}, *map(asdict, triton_product.candidates(left.dtype, left.device))):
        sizes = (left.dtype, rank, *left.shape[1:], right.shape[2])
        fused = {} if "vendor" in choice else choice
        with tuned({key("multiply", *sizes): choice, key("product_decode", *sizes): fused}):
            into = torch.empty(products.shape, dtype=torch.bfloat16, device=DEVICE)
            check(triton_product.multiply(left, right, scales=scales, into=into), products.cpu(), torch.bfloat16)
            result = triton_product.product_decode(left, right, factor, 4, 4, 1, rows, columns, False, False, scales=scales)
        check(result, expected, torch.bfloat16)


@pytest.mark.skipif(DEVICE == "cpu", reason="takes 12 GB of a GPU")
def test_planes_of_more_than_2_to_the_31_values():
    if torch.cuda.mem_get_info()[0] < 24e9:
        pytest.skip("takes 12 GB of a GPU's memory")
    columns = 2**25 + 8
    matrix, factor = random(1, 4, columns, dtype=torch.float16), random(70, 4, dtype=torch.float16, seed=1)
    planes = triton_kernels.encode(matrix, factor, 2, 2, False, False)
    assert planes.numel() > 2**31
    check(planes[:, :, -100:].contiguous(), encoded(matrix[:, :, -200:], factor, 2, 2, False, False), torch.float16)
    result = triton_kernels.decode(planes, factor, 2, 2, 1, 4, columns, False, False)
    expected = decoded(planes[:, :, -100:].contiguous(), factor, 2, 2, 1, 4, 200, False, False)
    check(result[:, :, -200:].contiguous(), expected, torch.float16)

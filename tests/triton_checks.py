"""Checks of the Triton kernels against einsum in float64, run by tests/test_triton.py in a process of their own.

    TRITON_INTERPRET=1 pytest tests/triton_checks.py     through Triton's interpreter, on a CPU
    pytest tests/triton_checks.py                        on a CUDA device

Triton reads the variable as it is imported, which PyTorch does now and then, so it cannot be set for these checks alone within
the process of other tests.
"""

from __future__ import annotations

import itertools
import os

import pytest
import torch

from stlsearch.errors import InputError
from stlsearch.ops import triton_fused, triton_kernels

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"

TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}
"""Relative Frobenius error; the interpreter truncates to bfloat16, so errs by twice as much as rounding."""

BLOCKS = list(itertools.product((False, True), repeat=2))

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


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize(("tile", "rank", "batch", "rows", "columns", "dtype"), SHAPES)
def test_maps(tile, rank, batch, rows, columns, dtype, blocks):
    matrix = random(batch, rows, columns, dtype=dtype)
    factor = random(rank, tile[0] * tile[1], dtype=dtype, seed=1)
    planes = random(rank, batch * -(-rows // tile[0]), -(-columns // tile[1]), dtype=dtype, seed=2)
    check(triton_kernels.encode(matrix, factor, *tile, *blocks), encoded(matrix, factor, *tile, *blocks), dtype)
    size = (batch, rows, columns)
    check(triton_kernels.decode(planes, factor, *tile, *size, *blocks), decoded(planes, factor, *tile, *size, *blocks), dtype)
    check(triton_kernels.correlate(matrix, planes, *tile, *blocks), correlated(matrix, planes, *tile, *blocks), dtype)


@pytest.mark.parametrize("blocks", BLOCKS)
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
    nothing_inside = triton_fused.product_decode(random(7, 2, 0), random(7, 0, 2), factor, 4, 4, 1, 8, 8, False, False)
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
        triton_fused.product_decode(planes, planes.mT.contiguous(), factor, *tile, 1, 64, 64, False, False)


def test_bfloat16_tiles_are_supported():
    assert triton_kernels.supports(torch.bfloat16, 4, 4)


@pytest.mark.parametrize(
    ("tile", "rank", "batch", "rows", "columns", "inner", "dtype", "blocks"),
    [
        ((4, 4), 24, 2, 37, 50, 130, torch.bfloat16, (False, False)),
        ((4, 4), 49, 1, 9, 30, 64, torch.float16, (True, True)),
        ((2, 3), 7, 3, 20, 41, 1, torch.float16, (False, True)),
        ((3, 3), 24, 1, 50, 7, 33, torch.float32, (True, False)),
        ((1, 1), 7, 1, 150, 130, 16, torch.float32, (False, False)),
        ((4, 4), 24, 2, 37, 64, 80, torch.bfloat16, (False, False)),
    ],
)
def test_product_decode(tile, rank, batch, rows, columns, inner, dtype, blocks, monkeypatch):
    monkeypatch.setattr(triton_fused, "PROGRAMS", 1)  # large blocks where sizes allow them, as in the last shape
    monkeypatch.setattr(triton_fused, "TEAM_BYTES", 4 * rank * 64 * 64 * dtype.itemsize)  # 4 blocks a team, 9 in the last but one
    down, across = batch * -(-rows // tile[0]), -(-columns // tile[1])
    activations, weight = random(rank, down, inner, dtype=dtype), random(rank, inner, across, dtype=dtype, seed=1)
    factor = random(rank, tile[0] * tile[1], dtype=dtype, seed=2)
    size = (batch, rows, columns)
    products = activations.cpu().double() @ weight.cpu().double()
    result = triton_fused.product_decode(activations, weight, factor, *tile, *size, *blocks)
    check(result, decoded(products, factor, *tile, *size, *blocks), dtype)


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
    results = [triton_fused.product_decode(planes, weight, factor, 4, 4, *size, False, False) for _ in range(20)]
    check(results[0], decoded(products, factor, 4, 4, *size, False, False), dtype)
    assert all(torch.equal(result, results[0]) for result in results)


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

"""The three linear maps of the operator in plain PyTorch, for every device and dtype.

With h x w tiles, one trilinear form holds all of them:

    F(matrix, factor, planes) = sum planes[s, (b, i), j] factor[s, (a, c)] matrix[b, row(i, a), column(j, c)]

over terms s, batches b, tiles (i, j) and places (a, c) in a tile. `encode`, `decode` and `correlate` are its derivatives by
planes, matrix and factor. So each is the adjoint of the others, and the derivatives of all three are the same three again.

A tile's rows are neighbours, row(i, a) = i h + a, or come from h blocks, row(i, a) = a I + i with I = ceil(rows/h) tiles; its
columns likewise. Entries beyond the matrix are zeros: they pad the last tiles.

Shapes: matrix (batch, rows, columns), factor (r, h w), planes (r, batch I, J) with J = ceil(columns/w).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def encode(matrix: Tensor, factor: Tensor, height: int, width: int, row_blocks: bool, column_blocks: bool) -> Tensor:
    """planes[s] = sum_ac factor[s, ac] matrix[row(:, a), column(:, c)]."""
    places = _tiles(matrix, height, width, row_blocks, column_blocks)
    batch, rows, columns = matrix.shape
    # One wide matrix product that writes contiguous planes, the form the batched product reads fastest.
    return times(factor, places).view(factor.shape[0], batch * -(-rows // height), -(-columns // width))


def decode(
    planes: Tensor, factor: Tensor, height: int, width: int, batch: int, rows: int, columns: int, row_blocks: bool, column_blocks: bool
) -> Tensor:
    """matrix[row(i, a), column(j, c)] = sum_s factor[s, ac] planes[s, i, j], the padding cut off."""
    down, across = -(-rows // height), -(-columns // width)
    places = times(factor.T, planes.reshape(planes.shape[0], batch * down * across))
    tiles = places.view(height, width, batch, down, across)
    order = (2, *((0, 3) if row_blocks else (3, 0)), *((1, 4) if column_blocks else (4, 1)))
    matrix = tiles.permute(order).reshape(batch, down * height, across * width)[:, :rows, :columns]
    return matrix.contiguous()


def correlate(matrix: Tensor, planes: Tensor, height: int, width: int, row_blocks: bool, column_blocks: bool) -> Tensor:
    """factor[s, ac] = sum_ij planes[s, i, j] matrix[row(i, a), column(j, c)]."""
    places = _tiles(matrix, height, width, row_blocks, column_blocks)
    return times(planes.reshape(planes.shape[0], places.shape[1]), places.T)


def times(left: Tensor, right: Tensor) -> Tensor:
    """left @ right in their own dtype: autocast is for the whole product."""
    kind = left.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            return left @ right
    return left @ right


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """products[s] = left[s] @ right[s], (r, I, J) times (r, J, L)."""
    return times(left, right)


def _tiles(matrix: Tensor, height: int, width: int, row_blocks: bool, column_blocks: bool) -> Tensor:
    """(h w, batch I J): one row for every place in a tile."""
    batch, rows, columns = matrix.shape
    down, across = -(-rows // height), -(-columns // width)
    if (down * height, across * width) != (rows, columns):
        matrix = pad(matrix, (0, across * width - columns, 0, down * height - rows))
    split_rows = (height, down) if row_blocks else (down, height)
    split_columns = (width, across) if column_blocks else (across, width)
    row, row_in_tile = (2, 1) if row_blocks else (1, 2)
    column, column_in_tile = (4, 3) if column_blocks else (3, 4)
    tiles = matrix.reshape(batch, *split_rows, *split_columns).permute(row_in_tile, column_in_tile, 0, row, column)
    return tiles.reshape(height * width, batch * down * across)


def output_like(matrix: Tensor, *shape: int) -> Tensor:
    """Memory of a shape, contiguous, of the dtype and device of `matrix`."""
    return torch.empty(shape, dtype=matrix.dtype, device=matrix.device)

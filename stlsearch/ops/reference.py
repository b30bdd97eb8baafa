"""The slow, obvious product with a bilinear algorithm: the oracle every operator is tested against."""

from __future__ import annotations

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.ops.layout import Layout
from stlsearch.ops.tiles import tile_of


def reference_matmul(x: np.ndarray, weight: np.ndarray, algorithm: BilinearAlgorithm, layout: Layout | None = None) -> np.ndarray:
    """x @ weight, every <n,m,p> tile product replaced by the algorithm, in float64.

    With x cut into n x m tiles X[i,k] and weight into m x p tiles B[k,j] (zeros pad the last ones),
    the n x p tile (i,j) of the result is ``sum_k W^T((U vec X[i,k]) * (V vec B[k,j]))``.

    Args:
        x: (..., M, K), any sizes.
        weight: (K, N).
        layout: which rows and columns make a tile; None is `Layout()` with the channels in the order that the algorithm was
            fitted to, if it was.

    Returns:
        (..., M, N) float64.

    Raises:
        InputError: sizes that do not fit, or an algorithm that is not a real matrix product.
    """
    tile = tile_of(algorithm)
    order = algorithm.metric.channels if layout is None and algorithm.metric is not None else None
    layout = layout or Layout()
    least = 3 if layout.rows == "batch" else 2
    if x.ndim < least or weight.ndim != 2 or x.shape[-1] != weight.shape[0]:
        raise InputError(f"cannot multiply x of shape {x.shape} by weight of shape {weight.shape} with tiles over {layout.rows}")
    if order is not None:
        if len(order) != len(weight):
            raise InputError(f"the basis orders {len(order)} channels, the weight has {len(weight)}")
        x, weight = x[..., order], weight[order]
    inner, columns = weight.shape
    samples, tokens = int(np.prod(x.shape[:-2])), x.shape[-2]
    x_of = x.reshape(samples, tokens, inner)
    out = np.zeros((samples, tokens, columns))
    if layout.rows == "batch":
        for token in range(tokens):
            out[:, token] = _multiply(x_of[:, token], weight, algorithm, tile, layout)
    else:
        for sample in range(samples):
            out[sample] = _multiply(x_of[sample], weight, algorithm, tile, layout)
    return out.reshape(*x.shape[:-1], columns)


def _multiply(x: np.ndarray, weight: np.ndarray, algorithm: BilinearAlgorithm, tile: tuple[int, int, int], layout: Layout) -> np.ndarray:
    """One matrix product, tile by tile."""
    n, m, p = tile
    (rows, inner), columns = x.shape, weight.shape[1]
    row_tiles = _indices(rows, n, layout.rows == "blocks")
    inner_tiles = _indices(inner, m, layout.channels == "blocked")
    column_tiles = _indices(columns, p, layout.outputs == "blocked")
    padded_x = np.zeros((len(row_tiles) * n, len(inner_tiles) * m))
    padded_x[:rows, :inner] = x
    padded_weight = np.zeros((len(inner_tiles) * m, len(column_tiles) * p))
    padded_weight[:inner, :columns] = weight
    out = np.zeros((len(row_tiles) * n, len(column_tiles) * p))
    for i in row_tiles:
        for j in column_tiles:
            for k in inner_tiles:
                a, b = padded_x[np.ix_(i, k)], padded_weight[np.ix_(k, j)]
                out[np.ix_(i, j)] += algorithm.apply(a.ravel(), b.ravel()).reshape(n, p)
    return out[:rows, :columns]


def _indices(length: int, size: int, from_blocks: bool) -> list[list[int]]:
    """Which rows (or columns) make each tile: neighbours, or one from each of `size` blocks. Those from `length` on are padding."""
    count = -(-length // size)
    if from_blocks:
        return [[block * count + i for block in range(size)] for i in range(count)]
    return [[i * size + place for place in range(size)] for i in range(count)]

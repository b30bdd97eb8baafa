"""The slow, obvious product with a bilinear algorithm: the oracle every operator is tested against."""

from __future__ import annotations

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.ops.tiles import tile_of


def reference_matmul(x: np.ndarray, weight: np.ndarray, algorithm: BilinearAlgorithm) -> np.ndarray:
    """x @ weight, every <n,m,p> tile product replaced by the algorithm, in float64.

    With x cut into n x m tiles X[i,k] and weight into m x p tiles B[k,j] (zeros pad the last ones),
    the n x p tile (i,j) of the result is ``sum_k W^T((U vec X[i,k]) * (V vec B[k,j]))``.

    Args:
        x: (M, K), any sizes.
        weight: (K, N).

    Returns:
        (M, N) float64.

    Raises:
        InputError: sizes that do not fit, or an algorithm that is not a real matrix product.
    """
    n, m, p = tile_of(algorithm)
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[0]:
        raise InputError(f"cannot multiply x of shape {x.shape} by weight of shape {weight.shape}")
    (rows, inner), columns = x.shape, weight.shape[1]
    down, along, across = -(-rows // n), -(-inner // m), -(-columns // p)
    padded_x = np.zeros((down * n, along * m))
    padded_x[:rows, :inner] = x
    padded_weight = np.zeros((along * m, across * p))
    padded_weight[:inner, :columns] = weight
    out = np.zeros((down * n, across * p))
    for i in range(down):
        for j in range(across):
            for k in range(along):
                a = padded_x[i * n : (i + 1) * n, k * m : (k + 1) * m]
                b = padded_weight[k * m : (k + 1) * m, j * p : (j + 1) * p]
                out[i * n : (i + 1) * n, j * p : (j + 1) * p] += algorithm.apply(a.ravel(), b.ravel()).reshape(n, p)
    return out[:rows, :columns]

"""Other ways to make a trained layer cheaper, to compare calibrated Strassen-Tile layers with: 2:4 sparsity and low rank.

All take a dense weight B (K, N), y = x B, and most the second moments of the inputs H = sum x x^T (K, K)
(`stlsearch.nn.least_squares.Moments.gram`), and are judged by the output error tr((B - B')^T H (B - B')) / tr(B^T H B).
Multiply-accumulates, as shares of the dense product's, are `TWO_FOUR_COST`, `low_rank_cost` and `stl_cost`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stlsearch.errors import InputError

GROUP, KEPT = 4, 2
DAMPING = 0.01  # of the mean diagonal of H, as in SparseGPT
FLOOR = 1e-10  # added to H for an exact refit, relative: channels that are always zero keep a solution
CHUNK = 2**25  # values of the systems of a refit at once
TWO_FOUR_COST = KEPT / GROUP


def two_four(weight: Tensor, scores: Tensor | None = None) -> Tensor:
    """Which weights 2:4 magnitude pruning keeps: of every 4 consecutive inputs of an output the 2 largest, bool (K, N).

    Args:
        scores: (K, N) to go by instead of the magnitude.

    Raises:
        InputError: K is no multiple of 4.
    """
    _check(weight)
    inner, outputs = weight.shape
    groups = (weight.abs() if scores is None else scores).view(inner // GROUP, GROUP, outputs)
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, groups.topk(KEPT, dim=1).indices, True)
    return kept.view(inner, outputs)


def sparse_gpt(weight: Tensor, gram: Tensor, *, damping: float = DAMPING) -> Tensor:
    """2:4 pruning by SparseGPT (arXiv 2301.00774): B' (K, N), with 2 of every 4 consecutive inputs of an output kept.

    Inputs are gone through in order. With R the upper Cholesky factor of (H + damping mean(diag H))^-1, a group of 4 loses the 2 weights
    of least w^2/R_jj^2, and every error w_j/R_jj is spread over the inputs that follow, in proportion to R_j.

    Raises:
        InputError: K is no multiple of 4, or a gram of another size.
    """
    _check(weight, gram)
    H = _damped(gram, damping)
    R = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    B = weight.to(H).clone()
    for j in range(len(B)):
        if j % GROUP == 0:
            kept = two_four(B[j : j + GROUP], B[j : j + GROUP].square() / R.diagonal()[j : j + GROUP, None].square())
        error = B[j] * ~kept[j % GROUP] / R[j, j]
        B[j:] -= R[j, j:, None] * error
        B[j] *= kept[j % GROUP]
    return B.to(weight.dtype)


def refit(weight: Tensor, kept: Tensor, gram: Tensor, *, damping: float = FLOOR) -> Tensor:
    """The weights of least output error that are zero where `kept` (K, N) is: an exact least-squares problem per output.

    With the set s of an output: H_ss b_s = (H B)_s. All outputs need equally many kept weights. Where rounding leaves H_ss not positive
    definite, the damping counts tenfold until it is.

    Raises:
        InputError: shapes that do not fit, or outputs of which different numbers are kept.
    """
    _check(weight, gram, divisible=False)
    outputs = weight.shape[1]
    if kept.shape != weight.shape or kept.dtype != torch.bool or (counts := kept.sum(0)).min() != counts.max() or not counts[0]:
        raise InputError(f"a mask {tuple(weight.shape)} of bool that keeps equally many weights of every output is needed")
    H = _damped(gram, damping)
    right = H @ weight.to(H)
    where = kept.T.nonzero()[:, 1].view(outputs, -1)  # (N, kept)
    result = torch.zeros_like(right)
    for part in torch.arange(outputs, device=H.device).split(max(1, CHUNK // where.shape[1] ** 2)):
        chosen = where[part]
        systems = H[chosen[:, :, None], chosen[:, None, :]]
        factor, failed = torch.linalg.cholesky_ex(systems)
        more = damping
        while failed.any():  # by rounding, where channels are nearly dependent
            more = max(10 * more, FLOOR)
            systems.diagonal(dim1=1, dim2=2).add_(more * float(H.diagonal().mean()))
            factor, failed = torch.linalg.cholesky_ex(systems)
        values = torch.cholesky_solve(right[chosen, part[:, None]][:, :, None], factor)[:, :, 0]
        result[chosen, part[:, None]] = values
    return result.to(weight.dtype)


def two_four_calibrated(weight: Tensor, gram: Tensor) -> Tensor:
    """2:4 at its best here: the mask of SparseGPT or of the magnitudes, whichever errs less once its weights are fitted exactly.

    SparseGPT corrects only inputs that follow; the exact fit corrects all, at a cost of N (K/2)^3 that large layers may not bear.
    """
    masks = sparse_gpt(weight, gram) != 0, two_four(weight)
    fitted = [refit(weight, _completed(mask, weight), gram) for mask in masks]
    return min(fitted, key=lambda candidate: output_error(weight, candidate, gram))


def low_rank(weight: Tensor, rank: int, gram: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A (K, k) and C (k, N) whose product A C errs least in rank k.

    Without a gram, the truncated singular value decomposition of B. With one, the least output error of all matrices of that rank
    (Eckart-Young for H^(1/2) B): A = B P, C = P^T, the columns of P the leading eigenvectors of B^T H B.

    Raises:
        InputError: a rank outside 1..min(K, N), or a gram of another size.
    """
    _check(weight, gram, divisible=False)
    if not 1 <= rank <= min(weight.shape):
        raise InputError(f"a rank of a {weight.shape[0]} x {weight.shape[1]} weight is 1 to {min(weight.shape)}, not {rank}")
    B = weight.double()
    moments = B.T @ B if gram is None else B.T @ gram.double() @ B
    leading = torch.linalg.eigh((moments + moments.T) / 2)[1][:, -rank:]
    return (B @ leading).to(weight.dtype), leading.T.to(weight.dtype)


def output_error(weight: Tensor, other: Tensor, gram: Tensor) -> float:
    """||X B - X B'||^2/||X B||^2 from H = X^T X."""
    H, B, difference = gram.double(), weight.double(), (weight.double() - other.double())
    return float((difference * (H @ difference)).sum() / (B * (H @ B)).sum())


def low_rank_cost(rank: int, inner: int, outputs: int) -> float:
    """k (K + N)/(K N)."""
    return rank * (inner + outputs) / (inner * outputs)


def stl_cost(rank: int, tile: tuple[int, int, int], inner: int, outputs: int) -> float:
    """r/(nmp) + r/N + r/K: products, encoded activations and decoded results; the weight is encoded beforehand. Sizes the tile divides."""
    return rank / math.prod(tile) + rank / outputs + rank / inner


def rank_at(cost: float, inner: int, outputs: int) -> int:
    """The largest k whose low-rank product costs no more than a share of the dense one, within 1..min(K, N)."""
    return max(1, min(int(cost * inner * outputs / (inner + outputs) + 1e-9), inner, outputs))


def _completed(mask: Tensor, weight: Tensor) -> Tensor:
    """Exactly two of four: a mask read off non-zeros lacks those that happened to be zero."""
    return two_four(weight, mask.to(torch.float64) + weight.abs().double() / (4 * weight.abs().max().double() + 1e-300))


def _damped(gram: Tensor, damping: float) -> Tensor:
    """H in float64 with a multiple of its mean diagonal added; channels that are always zero count as one."""
    H = gram.double().clone()
    diagonal = H.diagonal()
    mean = float(diagonal.mean())
    diagonal += damping * mean
    diagonal[diagonal == 0] = mean or 1.0
    return H


def _check(weight: Tensor, gram: Tensor | None = None, *, divisible: bool = True) -> None:
    if weight.ndim != 2 or not weight.is_floating_point():
        raise InputError(f"a weight is a matrix (K, N) of floating point, not a tensor of shape {tuple(weight.shape)}, {weight.dtype}")
    if divisible and len(weight) % GROUP:
        raise InputError(f"2:4 sparsity needs channels in fours, not {len(weight)}")
    if gram is not None and tuple(gram.shape) != (len(weight), len(weight)):
        raise InputError(f"the second moments of {len(weight)} channels are a matrix of that size, not of shape {tuple(gram.shape)}")
    if not all(bool(matrix.isfinite().all()) for matrix in (weight, gram) if matrix is not None):
        raise InputError("the weight or the second moments hold NaN or infinite values")

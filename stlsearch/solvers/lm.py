"""Levenberg-Marquardt with structured normal equations, all restarts as one batch.

The Jacobian (abc rows) is never formed. With Gram matrices A = U U^T, B = V V^T, C = W W^T, the blocks of
J^T J are, for terms r, s and entries i, j,

    (U_ri, U_sj):  (B*C)[r,s] [i=j]          (U_ri, V_sj):  C[r,s] U[s,i] V[r,j]

and cyclically; the amplification penalty, a residual sqrt(mu) u_r (x) v_r (x) w_r of its own per term,
multiplies the r = s entries of every one by 1 + mu. ALS slows down near a solution, LM converges to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stlsearch.errors import InputError
from stlsearch.solvers.problem import Factors, Monitor, Problem, balance, hadamard_gram, report, silent, unknowns

MAX_UNKNOWNS = 8000  # r(a+b+c); the normal matrix of 8000 takes half a gigabyte, and its factor as much


def normal_matrix(factors: Factors, penalty: float) -> Tensor:
    """J^T J of the penalised problem, shape (B, r(a+b+c), r(a+b+c)); unknowns ordered U, V, W, row-major."""
    batch, rank, _ = factors[0].shape
    widths = [factor.shape[2] for factor in factors]
    offsets = [0, rank * widths[0], rank * (widths[0] + widths[1])]
    total = rank * sum(widths)
    matrix = factors[0].new_zeros(batch, total, total)
    for mode in range(3):
        first, second = (factors[k] for k in range(3) if k != mode)
        gram = hadamard_gram(first, second, penalty)
        block = _block(matrix, offsets, widths, rank, mode, mode)
        block.diagonal(dim1=2, dim2=4).copy_(gram.unsqueeze(-1).expand(-1, -1, -1, widths[mode]))
    for row, column, other in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        gram = factors[other] @ factors[other].mT
        gram.diagonal(dim1=-2, dim2=-1).mul_(1 + penalty)
        block = torch.einsum("zrs,zsi,zrj->zrisj", gram, factors[row], factors[column])
        _block(matrix, offsets, widths, rank, row, column).copy_(block)
        _block(matrix, offsets, widths, rank, column, row).copy_(block.permute(0, 3, 4, 1, 2))
    return matrix


def gradient(problem: Problem, factors: Factors, penalty: float) -> Tensor:
    """Half the gradient of ||T - [[U,V,W]]||^2 + penalty * sum |u|^2|v|^2|w|^2, shape (B, r(a+b+c))."""
    parts = []
    residual = problem.residual(factors)
    for mode in range(3):
        first, second = (factors[k] for k in range(3) if k != mode)
        # From the dense residual, not from MTTKRP minus Gram: the difference cancels to nothing near e = 0.
        pull = _contract(residual, first, second, mode)
        size = first.square().sum(-1, keepdim=True) * second.square().sum(-1, keepdim=True)
        parts.append((penalty * size * factors[mode] - pull).flatten(1))
    return torch.cat(parts, dim=1)


def solve(
    problem: Problem,
    start: Factors,
    *,
    penalty: float = 1e-6,
    iterations: int = 100,
    monitor: Monitor = silent,
    every: int = 5,
    tolerance: float = 1e-12,
) -> Factors:
    """At most `iterations` LM steps from `start` at a fixed penalty; each restart has its own damping.

    A step solves (J^T J + d I) x = -gradient by Cholesky; it is accepted when the objective falls (damping
    divided by 4, or by 20 after a good prediction), else undone (damping times 4). Stops early when no
    restart improves by more than a relative `tolerance` (at least 1e-6 in float32) in 8 successive steps.

    Args:
        problem, start, penalty, monitor, every: as in `stlsearch.solvers.als.solve`.
        iterations: steps; each costs O(B (r(a+b+c))^3 / 3).

    Raises:
        InputError: more than `MAX_UNKNOWNS` coefficients.
    """
    if unknowns(start) > MAX_UNKNOWNS:
        raise InputError(f"solver lm takes at most {MAX_UNKNOWNS} unknowns r(a+b+c), not {unknowns(start)}; valid: als, sgd")
    double = problem.tensor.dtype == torch.float64
    tolerance, least = (tolerance, 1e-15) if double else (max(tolerance, 1e-6), 1e-7)
    factors = balance(start)
    value = problem.objective(factors, penalty)
    damping = torch.full_like(value, 1e-2)
    idle = done = 0
    for step in range(iterations):
        monitor.tick()
        if step % every == 0:
            report(problem, monitor, step, factors)
        matrix = normal_matrix(factors, penalty)
        slope = gradient(problem, factors, penalty)
        matrix.diagonal(dim1=-2, dim2=-1).add_(damping.unsqueeze(-1))
        lower, failed = torch.linalg.cholesky_ex(matrix)
        move = torch.cholesky_solve(-slope.unsqueeze(-1), lower).squeeze(-1)
        trial = _add(factors, move)
        trial_value = problem.objective(trial, penalty)
        # Decrease predicted by the quadratic model, in units of the objective.
        predicted = (move * (damping.unsqueeze(-1) * move - slope)).sum(-1) / problem.norm_sq
        better = (trial_value < value) & (failed == 0)
        gain = (value - trial_value) / predicted.clamp_min(1e-300 if double else 1e-30)
        shrink = torch.where(gain > 0.75, 0.05, 0.25)
        progress = better & (value - trial_value > tolerance * value)
        factors = balance(_choose(better, trial, factors))
        value = torch.where(better, trial_value, value)
        damping = torch.where(better, damping * shrink, damping * 4).clamp(least, 1e8)
        done = step + 1
        idle = 0 if bool(progress.any()) else idle + 1
        if idle == 8:
            break
    report(problem, monitor, done, factors)
    return factors


def _block(matrix: Tensor, offsets: list[int], widths: list[int], rank: int, row: int, column: int) -> Tensor:
    """The (row mode, column mode) block as a view of shape (B, r, width, r, width)."""
    rows = matrix[:, offsets[row] : offsets[row] + rank * widths[row], offsets[column] : offsets[column] + rank * widths[column]]
    return rows.unflatten(2, (rank, widths[column])).unflatten(1, (rank, widths[row]))


def _contract(residual: Tensor, first: Tensor, second: Tensor, mode: int) -> Tensor:
    pairs = (first.unsqueeze(-1) * second.unsqueeze(-2)).flatten(-2)
    return pairs @ residual.movedim(mode + 1, -1).flatten(1, 2)


def _add(factors: Factors, move: Tensor) -> Factors:
    sizes = [factor[0].numel() for factor in factors]
    U, V, W = (factor + part.reshape(factor.shape) for factor, part in zip(factors, move.split(sizes, dim=1), strict=True))
    return U, V, W


def _choose(mask: Tensor, yes: Factors, no: Factors) -> Factors:
    U, V, W = (torch.where(mask[:, None, None], a, b) for a, b in zip(yes, no, strict=True))
    return U, V, W

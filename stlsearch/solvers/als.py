"""Alternating least squares with a decaying amplification penalty, all restarts as one batch.

With two factors fixed, the objective of `stlsearch.solvers.problem` is a ridge regression in the third:
for U, ((V V^T * W W^T) + mu diag(|v|^2 |w|^2)) U = MTTKRP(T, V, W), one Cholesky factorisation of an r x r
matrix per restart. The penalty starts large and decays: without it ALS drifts into swamps of huge cancelling
terms (border-rank solutions) and never returns.
"""

from __future__ import annotations

import torch

from stlsearch.solvers.problem import Factors, Monitor, Problem, balance, hadamard_gram, report, silent

START_PENALTY = 3e-3


def sweep(problem: Problem, factors: Factors, penalty: float) -> Factors:
    """One ALS sweep: U, then V, then W, each the exact minimiser given the other two."""
    updated = list(balance(factors))
    # Balanced terms have comparable sizes, so a tiny multiple of the mean diagonal guards zero terms only.
    floor = 1e-14 if problem.tensor.dtype == torch.float64 else 1e-7
    for mode in range(3):
        first, second = (updated[k] for k in range(3) if k != mode)
        gram = hadamard_gram(first, second, penalty)
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
        diagonal += floor * diagonal.mean(-1, keepdim=True) + 1e-30
        right = problem.mttkrp((updated[0], updated[1], updated[2]), mode)
        lower, failed = torch.linalg.cholesky_ex(gram)
        # A restart whose Gram matrix is singular to rounding keeps its factor instead of turning into NaN.
        updated[mode] = torch.where((failed == 0)[:, None, None], torch.cholesky_solve(right, lower), updated[mode])
    return updated[0], updated[1], updated[2]


def solve(
    problem: Problem,
    start: Factors,
    *,
    penalty: float = 1e-6,
    iterations: int = 1000,
    monitor: Monitor = silent,
    every: int = 50,
    start_penalty: float = START_PENALTY,
) -> Factors:
    """`iterations` sweeps from `start`, the penalty decaying geometrically from `start_penalty` to `penalty`.

    The decay takes the first two thirds of the sweeps; the rest run at the final penalty.

    Args:
        problem: the tensor, device and dtype.
        start: factors of shape (B, r, a), (B, r, b), (B, r, c).
        penalty: the final multiplier mu of the amplification.
        iterations: sweeps; each costs O(B r (ab c + r^2)).
        monitor: told the state every `every` sweeps; may raise to stop.
    """
    factors = start
    decay = max(1, 2 * iterations // 3)
    first = max(start_penalty, penalty)
    for step in range(iterations):
        monitor.tick()
        if step % every == 0:
            report(problem, monitor, step, factors)
        level = first * (max(penalty, 1e-16) / first) ** min(1.0, step / decay)
        factors = sweep(problem, factors, level)
    report(problem, monitor, iterations, factors)
    return factors

"""Alternating least squares with a decaying amplification penalty, all restarts as one batch.

With two factors fixed, the objective of `stlsearch.solvers.problem` is a ridge regression in the third:
for U, ((V V^T * W W^T) + mu diag(|v|^2 |w|^2)) U = MTTKRP(T, V, W), one Cholesky factorisation of an r x r
matrix per restart. The penalty starts large and decays: without it ALS drifts into swamps of huge cancelling
terms (border-rank solutions) and never returns.

On a CPU the sweeps run compiled (`stlsearch.solvers.anchored`, without anchors), elsewhere as batched tensor operations.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from stlsearch.solvers.anchored import Anchors, anchored_sweeps, least_pivot
from stlsearch.solvers.problem import Factors, Monitor, Problem, balance, hadamard_gram, report, silent
from stlsearch.solvers.simd import width

START_PENALTY = 3e-3
MOST_LANES = 64  # restarts that a call of the compiled sweeps takes, so that a monitor hears of them often enough


def solve(
    problem: Problem,
    start: Factors,
    *,
    penalty: float | Tensor = 1e-6,
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
        penalty: the final multiplier mu of the amplification, for all restarts or one each, shape (B,).
        iterations: sweeps; each costs O(B r (nonzeros(T) + r^2 + r (a + b + c))).
        monitor: told the state every `every` sweeps; may raise to stop.
    """
    last = torch.as_tensor(penalty, dtype=torch.float64, device="cpu").expand(len(start[0])).clamp_min(1e-16)
    first = last.clamp_min(start_penalty)
    decay = max(1, 2 * iterations // 3)
    fractions = (torch.arange(iterations, dtype=torch.float64) / decay).clamp_max(1.0)
    penalties = first * (last / first) ** fractions.unsqueeze(1)
    factors = start
    for step in range(0, iterations, every):
        report(problem, monitor, step, factors)
        factors = sweeps(problem, factors, penalties[step : step + every], monitor)
    report(problem, monitor, iterations, factors)
    return factors


def sweeps(problem: Problem, factors: Factors, penalties: Tensor, monitor: Monitor = silent) -> Factors:
    """ALS sweeps, one per row of `penalties` (S, B) or (S, 1): mu of each sweep and restart."""
    penalties = penalties.expand(-1, len(factors[0]))
    if problem.tensor.device.type == "cpu":
        return _compiled(problem, factors, penalties, monitor)
    for level in penalties.to(problem.tensor):
        monitor.tick()
        factors = sweep(problem, factors, level)
    return factors


def settle(problem: Problem, factors: Factors, penalty: float, count: int, monitor: Monitor = silent) -> Factors:
    """`count` sweeps at one penalty, without a decay: a refit of factors (B, r, dims[mode]) that are near a solution."""
    return sweeps(problem, factors, torch.full((count, 1), penalty, dtype=torch.float64), monitor)


def sweep(problem: Problem, factors: Factors, penalty: float | Tensor) -> Factors:
    """One ALS sweep as tensor operations: U, then V, then W, each the exact minimiser given the other two."""
    updated = list(balance(factors))
    # Balanced terms have comparable sizes, so a tiny multiple of the mean diagonal guards zero terms only.
    floor = least_pivot(problem.tensor.element_size())
    for mode in range(3):
        first, second = (updated[k] for k in range(3) if k != mode)
        gram = hadamard_gram(first, second, penalty)
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
        diagonal += floor * diagonal.mean(-1, keepdim=True) + 1e-30
        right = problem.mttkrp((updated[0], updated[1], updated[2]), mode)
        lower, failed = torch.linalg.cholesky_ex(gram)
        # Not `cholesky_solve`: on CUDA some versions of PyTorch go through the batch one by one for several right-hand sides.
        solved = torch.linalg.solve_triangular(lower.mT, torch.linalg.solve_triangular(lower, right, upper=False), upper=True)
        # A restart whose Gram matrix is singular to rounding keeps its factor instead of turning into NaN.
        updated[mode] = torch.where((failed == 0)[:, None, None], solved, updated[mode])
    return updated[0], updated[1], updated[2]


def _compiled(problem: Problem, factors: Factors, penalties: Tensor, monitor: Monitor) -> Factors:
    """The sweeps by the compiled kernel, in groups of restarts; several threads take a group each."""
    swept = tuple(factor.detach().clone(memory_format=torch.contiguous_format) for factor in factors)
    levels, plans, anchors = penalties.numpy(), problem.plans, Anchors.free(len(penalties))
    threads, lanes = torch.get_num_threads(), width(plans[0].values.dtype)

    def work(group: slice) -> None:
        monitor.tick()
        anchored_sweeps([factor[group].numpy().transpose(2, 1, 0) for factor in swept], plans, levels[:, group], anchors)

    restarts = len(swept[0])
    share = min(MOST_LANES, lanes * -(-restarts // (lanes * threads)))  # whole vectors, an equal number for every thread
    groups = [slice(first, first + share) for first in range(0, restarts, share)]
    if min(threads, len(groups)) == 1:
        for group in groups:
            work(group)
    else:
        with ThreadPoolExecutor(min(threads, len(groups))) as pool:
            list(pool.map(work, groups))  # a list, so that what a monitor raises is raised here
    U, V, W = swept
    return U, V, W

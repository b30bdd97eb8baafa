"""Gradient descent (Adam) on the factors: the baseline that papers train, on two objectives.

`solve` descends the penalised CP objective itself. `solve_tiles` descends the Strassen-Tile paper's own
objective (arXiv 2503.12211): draw random tiles X and Y and minimise ||XY - STL(X, Y)||^2, whose expectation
over white tiles is exactly ||T - [[U,V,W]]||^2. It exists so that the paper's baseline can be reproduced.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from stlsearch.solvers.problem import Factors, Monitor, Problem, report, silent


def solve(
    problem: Problem,
    start: Factors,
    *,
    penalty: float = 1e-6,
    iterations: int = 4000,
    monitor: Monitor = silent,
    every: int = 200,
    rate: float = 0.03,
) -> Factors:
    """Adam on F = e + penalty g, the rate falling from `rate` to 0 by a cosine.

    Args:
        problem, start, penalty, monitor, every: as in `stlsearch.solvers.als.solve`.
        iterations: gradient steps; each costs O(B r abc).
    """
    return _descend(problem, start, lambda factors: problem.objective(factors, penalty), iterations, monitor, every, rate)


def solve_tiles(
    problem: Problem,
    start: Factors,
    *,
    penalty: float = 0.0,
    iterations: int = 4000,
    monitor: Monitor = silent,
    every: int = 200,
    rate: float = 0.02,
    tiles: int = 256,
    seed: int = 0,
) -> Factors:
    """Adam on the sampled objective E ||XY - W^T(UX * VY)||^2 / E||XY||^2 over fresh N(0, 1) tiles each step.

    Args:
        tiles: pairs of random tiles per step, shared by all restarts.
        seed: of the tiles.
        penalty: as in `solve`; the paper uses none.
    """
    generator = torch.Generator().manual_seed(seed)
    a, b, _ = problem.tensor.shape
    unfolded = problem.tensor.reshape(a * b, -1)

    def loss(factors: Factors) -> Tensor:
        U, V, W = factors
        x = torch.randn(tiles, a, generator=generator, dtype=torch.float64).to(U, non_blocking=True)
        y = torch.randn(tiles, b, generator=generator, dtype=torch.float64).to(U, non_blocking=True)
        wanted = (x.unsqueeze(2) * y.unsqueeze(1)).flatten(1) @ unfolded
        got = ((x @ U.mT) * (y @ V.mT)) @ W
        value = (got - wanted).square().sum((1, 2)) / (tiles * problem.norm_sq)
        return value + penalty * problem.amplification(factors) if penalty else value

    return _descend(problem, start, loss, iterations, monitor, every, rate)


def _descend(
    problem: Problem, start: Factors, loss: Callable[[Factors], Tensor], iterations: int, monitor: Monitor, every: int, rate: float
) -> Factors:
    # The loss is summed over restarts: Adam works element by element, so restarts do not influence each other.
    U, V, W = (factor.detach().clone().requires_grad_() for factor in start)
    optimizer = torch.optim.Adam([U, V, W], lr=rate)
    for step in range(iterations):
        monitor.tick()
        if step % every == 0:
            report(problem, monitor, step, (U.detach(), V.detach(), W.detach()))
        optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / iterations))
        optimizer.zero_grad()
        loss((U, V, W)).sum().backward()
        optimizer.step()
    factors = (U.detach(), V.detach(), W.detach())
    report(problem, monitor, iterations, factors)
    return factors

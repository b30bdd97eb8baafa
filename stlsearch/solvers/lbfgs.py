"""L-BFGS on the penalised objective, all restarts as one batch, with exact line searches.

The gradient of e + mu g is 2 ((G_V * G_W + mu diag) U - MTTKRP(T, V, W)) / ||T||^2 and cyclically, with G the Gram
matrices. Along a direction the objective is a polynomial of degree 6 in the step, whose coefficients cost about one
more gradient: each restart goes to the lowest point of its own line, and no step is ever tried in vain. An exact
minimum also keeps the curvature y^T s positive, which the two-loop recursion needs (Nocedal, "Updating quasi-Newton
matrices with limited storage", Math. Comp. 35, 1980; for CP decompositions Sorber, Van Barel and De Lathauwer,
SIAM J. Optim. 23, 2013).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stlsearch.solvers.contraction import contraction
from stlsearch.solvers.problem import Factors, Monitor, Problem, balance, hadamard_gram, report, silent

START_PENALTY = 3e-3
LEVELS = 8  # of the falling penalty: a quasi-Newton model needs an objective that stays the same for a while
MEMORY = 10
GRID = 2.0 ** torch.arange(-12, 7, 0.5, dtype=torch.float64)  # steps tried at first; 1 is the quasi-Newton step
REFINE = 8
NEWTON = 3


def solve(
    problem: Problem,
    start: Factors,
    *,
    penalty: float = 1e-6,
    iterations: int = 1000,
    monitor: Monitor = silent,
    every: int = 50,
    start_penalty: float = START_PENALTY,
    memory: int = MEMORY,
    project: Callable[[Factors], Factors] | None = None,
) -> Factors:
    """`iterations` L-BFGS steps from `start`, the penalty falling from `start_penalty` to `penalty` in levels.

    The levels take the first two thirds of the steps, as in `stlsearch.solvers.als.solve`. At each the terms are
    balanced and the memory is emptied.

    Args:
        problem, start, penalty, monitor, every: as in `stlsearch.solvers.als.solve`.
        iterations: steps; each costs O(B r (r (a + b + c) + nmp)), or abc in place of nmp for other maps.
        memory: pairs of steps and gradient changes that are kept.
        project: the orthogonal projection on factors of some symmetry of the tensor. The gradient at symmetric factors
            is symmetric already; it is projected so that rounding does not lead away, and `start` once.
    """
    contract = contraction(problem)
    first, last = max(start_penalty, penalty), max(penalty, 1e-16)
    decay = max(1, 2 * iterations // 3)
    factors, level = (start if project is None else project(start)), -1
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    pulls = slope = position = None
    for step in range(iterations):
        monitor.tick()
        if step % every == 0:
            report(problem, monitor, step, factors)
        wanted = min(LEVELS, step * LEVELS // decay) if first > last else LEVELS
        if wanted != level:
            level, factors = wanted, balance(factors)
            current = first * (last / first) ** (level / LEVELS) if penalty > 0 or level < LEVELS else 0.0
            steps, changes = [], []
            position = _flat(factors)
            pulls = contract(factors)
            slope = _slope(factors, pulls, current, project)
        assert position is not None and slope is not None and pulls is not None
        direction = _two_loop(slope, steps, changes)
        downhill = (direction * slope).sum(1, keepdim=True) < 0
        direction = torch.where(downhill, direction, -slope)
        moves = _unflat(direction, factors)
        length = _line_minimum(_line(factors, pulls, moves, contract(moves), current), first_step=not steps)
        move = length.unsqueeze(1) * direction
        position = position + move
        factors = _unflat(position, factors)
        pulls = contract(factors)
        new_slope = _slope(factors, pulls, current, project)
        steps.append(move)
        changes.append(new_slope - slope)
        del steps[:-memory], changes[:-memory]
        slope = new_slope
    report(problem, monitor, iterations, factors)
    return factors


def gradient(problem: Problem, factors: Factors, penalty: float) -> Factors:
    """Half the gradient of ||T||^2 (e + penalty g), shapes as the factors, from Gram matrices."""
    return _gradient(factors, contraction(problem)(factors), penalty)


def _slope(factors: Factors, pulls: Factors, penalty: float, project: Callable[[Factors], Factors] | None) -> Tensor:
    slope = _gradient(factors, pulls, penalty)
    return _flat(slope if project is None else project(slope))


def _gradient(factors: Factors, pulls: Factors, penalty: float) -> Factors:
    U, V, W = factors
    return (
        hadamard_gram(V, W, penalty) @ U - pulls[0],
        hadamard_gram(U, W, penalty) @ V - pulls[1],
        hadamard_gram(U, V, penalty) @ W - pulls[2],
    )


def _two_loop(slope: Tensor, steps: list[Tensor], changes: list[Tensor]) -> Tensor:
    """-H slope with H the inverse Hessian model of each restart; a pair without positive curvature counts for nothing."""
    direction = -slope
    weights: list[Tensor] = []
    inverses: list[Tensor] = []
    scale = torch.ones_like(slope[:, :1])
    for move, change in zip(reversed(steps), reversed(changes), strict=True):
        curvature = (move * change).sum(1, keepdim=True)
        size = change.square().sum(1, keepdim=True)
        usable = curvature > 1e-12 * size.sqrt() * move.norm(dim=1, keepdim=True)
        inverse = torch.where(usable, 1 / curvature, torch.zeros_like(curvature))
        if not weights:  # the newest pair gives the scale
            scale = torch.where(usable, curvature / size, scale)
        weight = inverse * (move * direction).sum(1, keepdim=True)
        direction = direction - weight * change
        weights.append(weight)
        inverses.append(inverse)
    direction = direction * scale
    for move, change, weight, inverse in zip(steps, changes, reversed(weights), reversed(inverses), strict=True):
        direction = direction + (weight - inverse * (change * direction).sum(1, keepdim=True)) * move
    return direction


def _line(factors: Factors, pulls: Factors, moves: Factors, move_pulls: Factors, penalty: float) -> Tensor:
    """Coefficients of ||T||^2 F(factors + x moves) for x^1 .. x^6, shape (B, 6); the constant plays no part."""
    grams = []
    for mode, (factor, move) in enumerate(zip(factors, moves, strict=True)):
        cross = factor @ move.mT
        parts = [factor @ factor.mT, cross + cross.mT, move @ move.mT]
        if mode == 2:  # once is enough: the penalty multiplies the diagonal of the triple product
            for part in parts:
                part.diagonal(dim1=-2, dim2=-1).mul_(1 + penalty)
        grams.append([part.flatten(1) for part in parts])
    (u0, u1, u2), (v0, v1, v2), w = grams
    pairs = [u0 * v0, u0 * v1 + u1 * v0, u0 * v2 + u1 * v1 + u2 * v0, u1 * v2 + u2 * v1, u2 * v2]
    totals = [sum((pairs[k - j] * w[j]).sum(1) for j in range(3) if 0 <= k - j <= 4) for k in range(1, 7)]

    def inner(one: Factors, other: Factors) -> Tensor:
        return sum((a * b).sum((1, 2)) for a, b in zip(one, other, strict=True))  # type: ignore[return-value]

    totals[0] = totals[0] - 2 * inner(moves, pulls)
    totals[1] = totals[1] - 2 * inner(factors, move_pulls)
    totals[2] = totals[2] - 2 * inner(moves, move_pulls) / 3  # one of the three modes
    return torch.stack(totals, dim=1)  # type: ignore[arg-type]


def _line_minimum(coefficients: Tensor, first_step: bool) -> Tensor:
    """The step x > 0 of lowest value of each polynomial sum_k c_k x^k, shape (B,): a grid, a finer one, Newton steps."""
    if first_step:  # no scale is known yet: that of the quadratic part
        unit = (-coefficients[:, 0] / (2 * coefficients[:, 1].abs()).clamp_min(1e-300)).clamp(1e-12, 1e12)
    else:
        unit = torch.ones_like(coefficients[:, 0])
    scaled = coefficients * unit.unsqueeze(1) ** torch.arange(1, 7, device=coefficients.device)
    grid = GRID.to(coefficients, non_blocking=True)
    best = _value(scaled, grid.expand(len(scaled), -1)).argmin(1)
    low, high = grid[(best - 1).clamp_min(0)], grid[(best + 1).clamp_max(len(grid) - 1)]
    fractions = torch.linspace(0, 1, REFINE + 1, dtype=grid.dtype, device=grid.device)
    finer = low.unsqueeze(1) + (high - low).unsqueeze(1) * fractions
    # The minimum lies between the last finer point where the polynomial still falls and the next one.
    rates = _rate(scaled, finer)
    place = (rates < 0).to(torch.int64).cumprod(1).sum(1).sub(1).clamp(0, REFINE - 1).unsqueeze(1)
    left, right = finer.gather(1, place), finer.gather(1, place + 1)
    rate_left, rate_right = _rate(scaled, left), _rate(scaled, right)
    x = left - rate_left * (right - left) / (rate_right - rate_left).clamp_min(1e-300)
    for _ in range(NEWTON):
        x = torch.minimum(torch.maximum(x, left), right)
        x = x - _rate(scaled, x) / _bend(scaled, x).clamp_min(1e-300)
    chosen = torch.cat([torch.minimum(torch.maximum(x, left), right), left, grid[best].unsqueeze(1)], dim=1)
    values = _value(scaled, chosen)
    lowest = values.min(1)
    step = chosen.gather(1, lowest.indices.unsqueeze(1)).squeeze(1)
    # Nothing to gain to rounding, or not a number: this restart stays where it is.
    return torch.where(lowest.values < 0, step * unit, torch.zeros_like(step))


def _value(coefficients: Tensor, x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for k in range(6, 0, -1):
        total = (total + coefficients[:, k - 1 : k]) * x
    return total


def _rate(coefficients: Tensor, x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for k in range(6, 0, -1):
        total = total * x + k * coefficients[:, k - 1 : k]
    return total


def _bend(coefficients: Tensor, x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for k in range(6, 1, -1):
        total = total * x + k * (k - 1) * coefficients[:, k - 1 : k]
    return total


def _flat(factors: Factors) -> Tensor:
    return torch.cat([factor.flatten(1) for factor in factors], dim=1)


def _unflat(flat: Tensor, like: Factors) -> Factors:
    parts = flat.split([factor[0].numel() for factor in like], dim=1)
    U, V, W = (part.reshape(factor.shape) for part, factor in zip(parts, like, strict=True))
    return U, V, W

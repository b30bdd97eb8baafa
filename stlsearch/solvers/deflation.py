"""Deflation: drop the cheapest terms one at a time and refit the rest, all restarts as one batch.

With two factors fixed the objective is a ridge regression in the third, so the exact increase from dropping
term k and refitting that factor is known without refitting: |c_k|^2 / (G^-1)_kk, with c_k the term's row and
G the penalised Hadamard Gram matrix of the other two factors. The cost of a term is the least over the three
factors. Greedy drops get trapped; a softmax over -cost/temperature explores, a different path per restart.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stlsearch.solvers import als
from stlsearch.solvers.problem import Factors, Monitor, Problem, balance, hadamard_gram, report, silent, take

TEMPERATURES = (0.1, 0.3, 1.0)
SWEEPS = 40  # ALS sweeps after every drop of a beam
CHILDREN = 3
MOST_COPIES = 32  # of one member, while the beam is narrower than wanted
SAME = 2e-5  # relative difference of two objectives below which they are taken for the same solution


def drop_costs(factors: Factors, penalty: float) -> Tensor:
    """The least increase of ||T - [[U,V,W]]||^2 + penalty ||terms||^2 per dropped term: shape (B, r)."""
    costs = []
    for mode in range(3):
        first, second = (factors[k] for k in range(3) if k != mode)
        gram = hadamard_gram(first, second, penalty)
        gram.diagonal(dim1=-2, dim2=-1).add_(1e-12)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(gram)[0])
        costs.append(factors[mode].square().sum(-1) / inverse.diagonal(dim1=-2, dim2=-1).clamp_min(1e-30))
    return torch.stack(costs).amin(0)


def deflate(
    problem: Problem,
    start: Factors,
    rank: int,
    *,
    penalty: float = 1e-3,
    sweeps: int = 50,
    temperature: Tensor | float = 0.0,
    generator: torch.Generator | None = None,
    monitor: Monitor = silent,
) -> Factors:
    """Drop terms until `rank` are left, with `sweeps` ALS sweeps at `penalty` after each drop.

    Args:
        start: factors of shape (B, R, a), (B, R, b), (B, R, c) with R >= rank.
        temperature: 0 drops the cheapest term; above it, term k with probability proportional to
            exp(-cost_k / (temperature * cheapest cost)). A scalar, or one per restart, shape (B,).
        generator: the source of the random choices, on the CPU; needed at a temperature above 0.
    """
    factors = start
    batch = len(start[0])
    heat = torch.as_tensor(temperature, dtype=torch.float64).expand(batch)
    hot = bool(heat.any())
    if hot and generator is None:
        raise ValueError("drops at a temperature need a generator")
    while factors[0].shape[1] > rank:
        factors = balance(factors)
        costs = drop_costs(factors, penalty).double().cpu()
        chosen_by = heated(costs, costs.amin(1, keepdim=True), heat, generator) if hot else costs
        chosen = chosen_by.argmin(1)
        keep = torch.ones(costs.shape, dtype=torch.bool)
        keep[torch.arange(batch), chosen] = False
        factors = _keep(factors, keep.to(factors[0].device))
        factors = als.settle(problem, factors, penalty, sweeps, monitor)
        report(problem, monitor, start[0].shape[1] - factors[0].shape[1], factors)
    return factors


def heated(costs: Tensor, cheapest: Tensor, temperature: Tensor, generator: torch.Generator | None) -> Tensor:
    """Costs whose smallest entry is a sample of the softmax of -cost/(temperature * cheapest), by the Gumbel trick.

    Args:
        costs: shape (B, r).
        cheapest: the scale of each restart, shape (B, 1).
        temperature: shape (B,); 0 leaves the costs as they are.
    """
    uniform = torch.rand(costs.shape, generator=generator, dtype=torch.float64).clamp_min(1e-300)
    return costs + temperature.unsqueeze(1) * cheapest.clamp_min(1e-9) * torch.log(-torch.log(uniform))


def descend(
    problem: Problem,
    start: Factors,
    rank: int,
    *,
    penalty: float,
    width: int,
    generator: torch.Generator,
    sweeps: int = SWEEPS,
    children: int = CHILDREN,
    monitor: Monitor = silent,
) -> Iterator[Factors]:
    """A stochastic beam of long drops: yields the beam at every rank from one below the start's down to `rank`.

    Every member of the beam has `children` successors, each with a term dropped at its own temperature (one greedily)
    and refitted; the `width` best with distinct objectives go on. A greedy path gets trapped after some ten drops, and
    many independent paths rediscover each other: keeping the distinct best of them costs no more and finds better ones.
    """
    factors = start
    first = start[0].shape[1]
    while factors[0].shape[1] > rank:
        held = len(factors[0])
        copies = children * max(1, min(width // held, MOST_COPIES))
        grown = tuple(factor.repeat_interleave(copies, 0) for factor in factors)
        heat = spread_temperatures(copies).repeat(held)
        factors = deflate(
            problem,
            (grown[0], grown[1], grown[2]),
            factors[0].shape[1] - 1,
            penalty=penalty,
            sweeps=sweeps,
            temperature=heat,
            generator=generator,
        )
        factors = distinct(problem, factors, penalty, width)
        report(problem, monitor, first - factors[0].shape[1], factors)
        yield factors


def distinct(problem: Problem, factors: Factors, penalty: float, most: int, difference: float = SAME) -> Factors:
    """The best restarts by the penalised objective, at most `most`, best first, of factors (B, r, dims[mode]).

    Restarts whose objectives differ by less than `difference`, relatively, are taken for the same solution.
    """
    values = problem.objective(factors, penalty).nan_to_num(float("inf")).tolist()
    chosen: list[int] = []
    for index in sorted(range(len(values)), key=values.__getitem__):
        if not chosen or values[index] - values[chosen[-1]] > difference * abs(values[index]) + 1e-12:
            chosen.append(index)
        if len(chosen) == most:
            break
    return take(factors, torch.tensor(chosen, device=factors[0].device))


def spread_temperatures(count: int) -> Tensor:
    """Drop temperatures for a batch of restarts from one algorithm, shape (count,): greedy once, hot in many ways."""
    return torch.tensor([0.0 if k == 0 else TEMPERATURES[(k - 1) % len(TEMPERATURES)] for k in range(count)], dtype=torch.float64)


def _keep(factors: Factors, mask: Tensor) -> Factors:
    batch = len(mask)
    U, V, W = (factor[mask].reshape(batch, -1, factor.shape[2]) for factor in factors)
    return U, V, W

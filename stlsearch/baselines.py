"""What a basis fitted under a metric has to beat, for the same rank and the same metric.

- An isotropic basis as it is, fitted for white inputs.
- The best rotation of it: every change of basis X A Y^-1, Y B Z^-1 by orthogonal X, Y, Z is as good a basis on white
  inputs, and on others some are far better than others.
- Truncation: rotate tokens, channels and outputs to the eigenvectors of their own second moments, and keep the r scalar
  products of the definition that carry most. With white weights these are the r/p leading token x channel modes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import standard_terms
from stlsearch.constructions.transforms import drop, sandwich
from stlsearch.errors import InputError
from stlsearch.metric import Metric
from stlsearch.solvers.problem import Factors, Problem
from stlsearch.targets import Target

ROTATIONS = 400
DESCENDED = 16  # of the drawn rotations, the best are improved by descent
STEPS = 100
RATE = 0.1

SIDES = ((0, 1), (1, 2), (0, 2))  # the axes of the tile that A, B and C hold


def eigenbases(metric: Metric, shape: tuple[int, int, int]) -> list[np.ndarray]:
    """Orthogonal X (n, n), Y (m, m), Z (p, p): rows are the eigenvectors of the moments of tokens, channels and outputs.

    Tokens: sum over channels of the activation's moment. Outputs: the same of the weight's. Channels meet both: the
    geometric middle would be no moment, so the activation decides. Leading eigenvectors come first.
    """
    n, m, p = shape
    activation = metric.activation.reshape(n, m, n, m)
    weight = metric.weight.reshape(m, p, m, p)
    marginals = np.einsum("ajbj->ab", activation), np.einsum("iaib->ab", activation), np.einsum("jajb->ab", weight)
    return [np.linalg.eigh(marginal)[1][:, ::-1].T for marginal in marginals]


def truncation(metric: Metric, target: Target, rank: int) -> BilinearAlgorithm:
    """The r products of the definition that carry most, in the eigenbases of the metric.

    Args:
        metric: the second moments.
        target: the matrix product.
        rank: r.
    """
    shape = target.shape
    if shape is None:
        raise InputError(f"truncation is for matrix products, not for {target.slug}")
    turned = sandwich(standard_terms(target), *eigenbases(metric, shape))
    frame = metric.frame(turned.target)
    sizes = [np.square(factor).sum(axis=1) for factor in (turned.U @ frame.activation, turned.V @ frame.weight, turned.W)]
    order = np.argsort(-(sizes[0] * sizes[1] * sizes[2]), kind="stable")
    return drop(turned, order[rank:].tolist()) if rank < turned.rank else turned


def best_rotation(
    algorithm: BilinearAlgorithm, metric: Metric, *, rotations: int = ROTATIONS, seed: int = 0
) -> tuple[BilinearAlgorithm, float]:
    """The change of basis of an algorithm by orthogonal matrices that errs least under a metric, and its error.

    `rotations` triples drawn uniformly (the eigenbases of the metric and the identity among them), the best few descended:
    Adam on the logarithms of further rotations. Reflections are reached by the draws.
    """
    shape = algorithm.target.shape
    if shape is None:
        raise InputError(f"rotations are for matrix products, not for {algorithm.target.slug}")
    if not algorithm.is_real:
        raise InputError(f"{algorithm.name} is over {algorithm.ring}; a real algorithm is needed")
    problem = Problem.of(algorithm.target, metric=metric)
    factors = tuple(torch.tensor(factor) for factor in (algorithm.U, algorithm.V, algorithm.W))
    random = np.random.default_rng(seed)
    bases = []
    for extent, eigenbasis in zip(shape, eigenbases(metric, shape), strict=True):
        drawn = [_uniform(extent, random) for _ in range(max(rotations - 2, 0))]
        bases.append(torch.tensor(np.stack([np.eye(extent), eigenbasis, *drawn])))
    errors = torch.cat([_errors(problem, factors, [basis[k : k + 50] for basis in bases]) for k in range(0, len(bases[0]), 50)])
    chosen = errors.argsort()[:DESCENDED]
    bases = [basis[chosen] for basis in bases]
    logarithms = [torch.zeros_like(basis, requires_grad=True) for basis in bases]
    optimizer = torch.optim.Adam(logarithms, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    least, best = float(errors[chosen[0]]), [basis[0] for basis in bases]
    for _ in range(STEPS):
        optimizer.zero_grad()
        turned = [torch.matrix_exp(log - log.mT) @ basis for log, basis in zip(logarithms, bases, strict=True)]
        values = _errors(problem, factors, turned)
        index = int(values.argmin())
        if float(values[index].detach()) < least:
            least, best = float(values[index].detach()), [basis[index].detach() for basis in turned]
        values.sum().backward()
        optimizer.step()
        schedule.step()
    result = sandwich(algorithm, *(basis.numpy() for basis in best))
    return result, metric.error(result)


def _errors(problem: Problem, factors: tuple[Tensor, ...], bases: list[Tensor]) -> Tensor:
    """e under the metric of `sandwich(.., X, Y, Z)` for a batch of orthogonal triples: shape (B,)."""
    turned = []
    for factor, (row, column) in zip(factors, SIDES, strict=True):
        left, right = bases[row], bases[column]
        tiles = factor.reshape(-1, left.shape[-1], right.shape[-1])
        # orthogonal: X^-T = X, so U (X (x) Y) for every factor
        turned.append(torch.einsum("rij,bik,bjl->brkl", tiles, left, right).flatten(2))
    whitened: Factors = problem.whiten((turned[0], turned[1], turned[2]))
    return problem.error(whitened)


def _uniform(extent: int, random: np.random.Generator) -> np.ndarray:
    """An orthogonal matrix by the Haar measure: QR of a Gaussian one, signs fixed."""
    q, r = np.linalg.qr(random.normal(size=(extent, extent)))
    return q * np.sign(r.diagonal())

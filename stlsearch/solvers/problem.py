"""What solvers minimise: the CP problem of one tensor, for a batch of restarts at once.

Factors are a triple of tensors with a leading batch dimension, U (B, r, a), V (B, r, b), W (B, r, c).
Every solver minimises the penalised objective, per restart,

    F(U, V, W) = (||T - [[U,V,W]]||^2 + mu sum_r |u_r|^2 |v_r|^2 |w_r|^2) / ||T||^2 = e + mu g.

The penalty is the amplification g itself: with mu = u^2 (u the unit roundoff of the storage dtype) F is
the predicted total error, and the minimiser at multiplier mu is the least error at its amplification. In
the normal equations it multiplies the diagonal of every Hadamard product of Gram matrices by 1 + mu, so
unlike a Tikhonov ridge it does not depend on how a term's size is spread over its three factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from stlsearch.metric import Frame, Metric
from stlsearch.solvers.plan import Plan
from stlsearch.targets import Target

Factors = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Problem:
    """One target tensor on one device, in the solver's dtype.

    Attributes:
        target: the bilinear map.
        tensor: T, or T weighted by a metric, shape (a, b, c).
        metric: None for white inputs. Factors that a solver sees are in the frame of the metric.
    """

    target: Target
    tensor: Tensor
    metric: Metric | None = None

    @staticmethod
    def of(target: Target, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64, metric: Metric | None = None) -> Problem:
        frame = None if metric is None else metric.frame(target)
        tensor = target.tensor if frame is None else frame.weighted(target.tensor)
        return Problem(target, torch.tensor(tensor, dtype=dtype, device=device), metric)

    @cached_property
    def frame(self) -> Frame | None:
        """The frame of the metric."""
        return None if self.metric is None else self.metric.frame(self.target)

    def whiten(self, factors: Factors) -> Factors:
        """Factors of the target itself taken to the frame of the metric: U Sa^(1/2), V Sb^(1/2), W."""
        if self.frame is None:
            return factors
        return self._turned(factors, self.frame.activation, self.frame.weight)

    def restore(self, factors: Factors) -> Factors:
        """Inverse of `whiten`: U_w Sa^(-1/2), V_w Sb^(-1/2), W."""
        if self.frame is None:
            return factors
        return self._turned(factors, self.frame.activation_inverse, self.frame.weight_inverse)

    @staticmethod
    def _turned(factors: Factors, first: np.ndarray, second: np.ndarray) -> Factors:
        U, V, W = factors
        return U @ torch.tensor(first).to(U), V @ torch.tensor(second).to(V), W

    @cached_property
    def plans(self) -> list[Plan]:
        """The non-zero entries as the compiled sweeps read them, one plan per mode; for a tensor on the CPU."""
        return [Plan.of(self.tensor.numpy(), mode) for mode in range(3)]

    @cached_property
    def norm_sq(self) -> Tensor:
        """||T||^2, a scalar tensor."""
        return (self.tensor**2).sum()

    def mttkrp(self, factors: Factors, mode: int) -> Tensor:
        """The tensor contracted with the other two factors, row by row: shape (B, r, dims[mode]).

        For mode 0: M[r, i] = sum_jk T[i, j, k] V[r, j] W[r, k].
        """
        first, second = (factors[k] for k in range(3) if k != mode)
        pairs = (first.unsqueeze(-1) * second.unsqueeze(-2)).flatten(-2)
        unfolded = self.tensor.movedim(mode, -1).reshape(-1, self.tensor.shape[mode])
        return pairs @ unfolded

    def residual(self, factors: Factors) -> Tensor:
        """T - [[U,V,W]], shape (B, a, b, c)."""
        U, V, W = factors
        pairs = (V.unsqueeze(-1) * W.unsqueeze(-2)).flatten(-2)
        return self.tensor - (U.mT @ pairs).reshape(len(U), *self.tensor.shape)

    def error(self, factors: Factors) -> Tensor:
        """e per restart, shape (B,), from the dense residual: accurate down to rounding."""
        return self.residual(factors).flatten(1).square().sum(1) / self.norm_sq

    def amplification(self, factors: Factors) -> Tensor:
        """g per restart, shape (B,)."""
        sizes = [factor.square().sum(-1) for factor in factors]
        return (sizes[0] * sizes[1] * sizes[2]).sum(-1) / self.norm_sq

    def objective(self, factors: Factors, penalty: float) -> Tensor:
        """F = e + penalty * g per restart, shape (B,)."""
        return self.error(factors) + penalty * self.amplification(factors)


@dataclass(frozen=True)
class Report:
    """What a solver tells its monitor: the state of every restart after some iterations.

    Attributes:
        iteration: iterations done so far by this solver call.
        factors: the current factors (not to be modified).
        error, amplification: shape (B,).
    """

    iteration: int
    factors: Factors
    error: Tensor
    amplification: Tensor


class Monitor:
    """Watches a solver. Either method may raise to stop it (time limit, interrupt). This one watches nothing."""

    def tick(self) -> None:
        """Called every iteration, or every few where they run compiled: it must be cheap."""

    def report(self, report: Report) -> None:
        """Called every few iterations with the state of every restart."""


silent = Monitor()


def report(problem: Problem, monitor: Monitor, iteration: int, factors: Factors) -> None:
    """Tell the monitor where the solver stands; costs one dense residual, so solvers do it rarely."""
    if monitor is not silent:
        monitor.report(Report(iteration, factors, problem.error(factors), problem.amplification(factors)))


def balance(factors: Factors) -> Factors:
    """Rescale every term so that |u| = |v| = |w|; the computed map is unchanged, zero terms stay zero."""
    norms = [factor.norm(dim=-1, keepdim=True) for factor in factors]
    size = (norms[0] * norms[1] * norms[2]).pow(1 / 3)
    U, V, W = (
        factor * (size / norm.clamp_min(1e-300 if norm.dtype == torch.float64 else 1e-30))
        for factor, norm in zip(factors, norms, strict=True)
    )
    return U, V, W


def hadamard_gram(first: Tensor, second: Tensor, penalty: float | Tensor) -> Tensor:
    """(F1 F1^T) * (F2 F2^T) with its diagonal multiplied by 1 + penalty (one, or one per restart): shape (B, r, r)."""
    gram = (first @ first.mT) * (second @ second.mT)
    # A number becomes a tensor where it is needed: as a copy from the host it would hold up a GPU.
    level = penalty.to(gram) if isinstance(penalty, Tensor) else gram.new_full((), penalty)
    gram.diagonal(dim1=-2, dim2=-1).mul_(1 + level.unsqueeze(-1))
    return gram


def take(factors: Factors, index: Tensor) -> Factors:
    """The chosen restarts of the batch."""
    U, V, W = (factor[index] for factor in factors)
    return U, V, W


def unknowns(factors: Factors) -> int:
    """r(a + b + c), the coefficients of one restart."""
    return sum(factor[0].numel() for factor in factors)

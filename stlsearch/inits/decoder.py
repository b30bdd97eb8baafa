"""The decoder of given encoders: with U and V fixed the best W is a linear least-squares problem."""

from __future__ import annotations

import torch
from torch import Tensor

from stlsearch.solvers.problem import Factors, Problem, hadamard_gram

EXACT = 1e-12  # an error below this is rounding of ill-conditioned encoders
REFINEMENTS = 3


def accurate(problem: Problem) -> Problem:
    """The same problem in float64, in which starts are built whatever the solver's dtype."""
    return Problem(problem.target, problem.tensor.double(), problem.metric)


def decoded(problem: Problem, U: Tensor, V: Tensor, penalty: float) -> Factors:
    """(U, V, W) with W minimising ||T - [[U,V,W]]||^2 + penalty sum_r |u_r|^2 |v_r|^2 |w_r|^2, rows scaled to |u| = |v| = 1.

    W solves ((U U^T * V V^T) + penalty I) W = MTTKRP(T, U, V). Where the encoders admit an exact decoder
    (e <= 1e-12 without penalty) that one is taken instead, so that exact constructions stay exact.

    Args:
        problem: in float64, see `accurate`.
        U, V: encoders, shapes (B, r, a) and (B, r, b); zero rows stay zero.
        penalty: the multiplier of the amplification.
    """
    U, V = (factor / factor.norm(dim=-1, keepdim=True).clamp_min(1e-300) for factor in (U, V))
    exact, ridge = (_least_squares(problem, U, V, level) for level in (0.0, penalty))
    keep = problem.error((U, V, exact)) <= EXACT
    return U, V, torch.where(keep[:, None, None], exact, ridge)


def _least_squares(problem: Problem, U: Tensor, V: Tensor, penalty: float) -> Tensor:
    gram = hadamard_gram(U, V, penalty)
    # Rows are unit vectors: the shift only serves dependent rows (more points than coefficients), and iterative
    # refinement with the unshifted matrix takes its bias away again.
    lower, failed = torch.linalg.cholesky_ex(gram + 1e-13 * torch.eye(U.shape[1], dtype=U.dtype, device=U.device))
    placeholder = torch.zeros(U.shape[0], 1, problem.tensor.shape[2], dtype=U.dtype, device=U.device)
    right = problem.mttkrp((U, V, placeholder), 2)
    solution = torch.cholesky_solve(right, lower)
    for _ in range(REFINEMENTS):
        solution = solution + torch.cholesky_solve(right - gram @ solution, lower)
    return torch.where((failed == 0)[:, None, None], solution, torch.zeros_like(solution))

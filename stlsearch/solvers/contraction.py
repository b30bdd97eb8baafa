"""All three contractions of the tensor with the factors at once, by the sparsity of the matrix product where there is one.

The unfolded tensor of <n,m,p> has nm rows of mp np columns and only nmp ones. Read as matrices, the contractions are
products of the terms' own small matrices: W V^T for U, U^T W for V and U V for W, so nmp multiplications a term.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from stlsearch.solvers.problem import Factors, Problem


def contraction(problem: Problem) -> Callable[[Factors], Factors]:
    """A function of the factors giving (M_U, M_V, M_W), shapes (B, r, a), (B, r, b), (B, r, c), of `Problem.mttkrp`."""
    shape = problem.target.shape
    plain = torch.tensor(problem.target.tensor).to(problem.tensor) if shape else None
    if shape is None or not torch.equal(problem.tensor, plain):  # type: ignore[arg-type]
        return lambda factors: (problem.mttkrp(factors, 0), problem.mttkrp(factors, 1), problem.mttkrp(factors, 2))
    n, m, p = shape

    def contract(factors: Factors) -> Factors:
        U, V, W = (factor.unflatten(-1, size) for factor, size in zip(factors, ((n, m), (m, p), (n, p)), strict=True))
        return (W @ V.mT).flatten(-2), (U.mT @ W).flatten(-2), (U @ V).flatten(-2)

    return contract

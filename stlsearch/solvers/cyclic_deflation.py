"""Deflation within the cyclic symmetry: drop whole orbits, or symmetric terms, and refit the rest.

With V and W fixed, dropping the terms K and refitting U raises the penalised objective by exactly
tr(U_K^T [(G^-1)_KK]^-1 U_K), G the penalised Hadamard Gram matrix: for one term |u_k|^2/(G^-1)_kk. By symmetry V and W
give the same. A step from rank r to r - 3 takes an orbit or three symmetric terms, whichever is cheaper (or, at a
temperature, drawn like that), so that all restarts keep one rank; steps of one symmetric term come first, where the
ranks differ by no multiple of 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stlsearch.errors import InputError
from stlsearch.solvers import cyclic
from stlsearch.solvers.cyclic import Orbits
from stlsearch.solvers.deflation import heated
from stlsearch.solvers.problem import Monitor, Problem, hadamard_gram, silent


def drop_costs(orbits: Orbits, reduced: Tensor, penalty: float) -> Tensor:
    """The increase of ||T||^2 (e + penalty g) per term dropped with its whole orbit and U refitted: shape (B, r)."""
    _, V, _ = orbits.expand(reduced)
    third = reduced.gather(1, orbits.third.unsqueeze(-1).expand(-1, -1, reduced.shape[2]))
    gram = hadamard_gram(V, third, penalty)
    gram.diagonal(dim1=-2, dim2=-1).add_(1e-12)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(gram)[0])
    terms = torch.arange(reduced.shape[1], device=reduced.device).expand(len(reduced), -1)
    members = torch.stack([terms, orbits.partner, orbits.third], dim=2)  # (B, r, 3)
    rows = torch.stack([reduced, V, third], dim=2)  # u of the three members: (B, r, 3, n^2)
    batch = torch.arange(len(reduced), device=reduced.device)[:, None, None, None]
    blocks = inverse[batch, members.unsqueeze(3), members.unsqueeze(2)]  # (B, r, 3, 3)
    single = reduced.square().sum(2) / inverse.diagonal(dim1=-2, dim2=-1).clamp_min(1e-30)
    fixed = orbits.partner == terms
    # The block of a symmetric term is three times the same number: a unit matrix in its place keeps the solve regular.
    blocks = torch.where(fixed[:, :, None, None], torch.eye(3, dtype=blocks.dtype, device=blocks.device), blocks)
    whole = (rows * torch.linalg.solve(blocks, rows)).sum((2, 3))
    return torch.where(fixed, single, whole)


def deflate(
    problem: Problem,
    orbits: Orbits,
    reduced: Tensor,
    rank: int,
    *,
    penalty: float = 1e-3,
    steps: int = 10,
    temperature: Tensor | float = 0.0,
    generator: torch.Generator | None = None,
    monitor: Monitor = silent,
) -> tuple[Tensor, Orbits]:
    """Drop orbits and symmetric terms until `rank` terms are left, with `steps` LM steps at `penalty` after each drop.

    Args:
        reduced: shape (B, R, n^2) with R >= rank, all restarts of one rank.
        temperature, generator: as in `stlsearch.solvers.deflation.deflate`; a scalar, or one per restart.

    Raises:
        InputError: a rank that dropping three terms at a time and the symmetric terms there are cannot reach.
    """
    heat = torch.as_tensor(temperature, dtype=torch.float64).expand(len(reduced))
    if bool(heat.any()) and generator is None:
        raise ValueError("drops at a temperature need a generator")
    excess = reduced.shape[1] - rank
    if excess < 0 or excess % 3 > int(orbits.symmetric.min()):
        raise InputError(f"rank {rank} cannot be reached from {reduced.shape[1]} by dropping orbits and the symmetric terms there are")
    while reduced.shape[1] > rank:
        single = (reduced.shape[1] - rank) % 3 != 0
        costs = drop_costs(orbits, reduced, penalty).double().cpu()
        keep = _chosen(orbits.partner.cpu(), costs, single, heat, generator).to(reduced.device)
        reduced, orbits = _kept(reduced, orbits, keep)
        reduced = cyclic.descend(problem, orbits, reduced, penalty=penalty, iterations=steps, monitor=monitor, tolerance=1e-4)
    return reduced, orbits


def _chosen(partner: Tensor, costs: Tensor, single: bool, heat: Tensor, generator: torch.Generator | None) -> Tensor:
    """The terms to keep, shape (B, r): all but a symmetric one (`single`), or all but an orbit or three symmetric ones."""
    terms = torch.arange(partner.shape[1]).expand(len(partner), -1)
    fixed = partner == terms
    first = terms == torch.minimum(torch.minimum(terms, partner), partner.gather(1, partner))
    infinite = torch.full_like(costs, float("inf"))
    cheapest = torch.where(first, costs, infinite).amin(1, keepdim=True)
    if generator is not None and bool(heat.any()):
        costs = heated(costs, cheapest, heat, generator)
    alone = torch.where(fixed, costs, infinite)
    keep = torch.ones_like(fixed)
    rows = torch.arange(len(partner))
    if single:
        keep[rows, alone.argmin(1)] = False
        return keep
    orbit = torch.where(first & ~fixed, costs, infinite).min(1)
    place = orbit.indices
    three = alone.sort(1)
    together = three.values[:, :3].sum(1) if partner.shape[1] >= 3 else torch.full((len(partner),), float("inf"), dtype=costs.dtype)
    by_three = together < orbit.values
    for turn in range(3):
        keep[rows, torch.where(by_three, three.indices[:, turn], place)] = False
        place = partner[rows, place]
    return keep


def _kept(reduced: Tensor, orbits: Orbits, keep: Tensor) -> tuple[Tensor, Orbits]:
    batch = len(keep)
    places = keep.cumsum(1) - 1
    partner = places.gather(1, orbits.partner)[keep].reshape(batch, -1)
    return reduced[keep].reshape(batch, -1, reduced.shape[2]), Orbits(orbits.size, partner)

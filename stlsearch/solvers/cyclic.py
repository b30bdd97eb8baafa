"""Algorithms of <n,n,n> with cyclic symmetry: a third of the unknowns, by Levenberg-Marquardt in those alone.

In its C^T form T = sum_ijk A_ij B_jk C_ki the matrix product does not change when its three modes move round,
(u, v, w) -> (v, w, u). An algorithm with that symmetry consists of s terms a (x) a (x) a and t orbits
x (x) y (x) z + y (x) z (x) x + z (x) x (x) y, of rank r = s + 3t (Chiantini, Ikenmeyer, Landsberg and Ottaviani, "The
geometry of rank decompositions of matrix multiplication I: 2x2 matrices", Exp. Math. 28, 2019; Ballard, Ikenmeyer,
Landsberg and Ryder, part II, "3x3 matrices", J. Pure Appl. Algebra 223, 2019, arXiv 1801.00843). Strassen's is one,
s = 1 and t = 2, and so is its composition with itself.

The factor U then holds every unknown exactly once, r n^2 in all, and a permutation p of the terms gives the rest:
v_k = u_p(k) and w_k^T = u_p(p(k)), with p(k) = k for a symmetric term. What LM needs of U alone follows from the
full problem: by symmetry its reduced gradient is 3 times that of U, and its reduced normal matrix
P^T J^T J P = 3 (H_UU + H_UV P1 + H_UW P2), with P1, P2 the moves by p and p^2. No full matrix is formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stlsearch.errors import InputError
from stlsearch.solvers import lm
from stlsearch.solvers.problem import Factors, Monitor, Problem, balance, hadamard_gram, report, silent

START_PENALTY = 1e-2
SYMMETRIC = 1e-6  # of the square of a term: how closely its partner has to be the term moved round


@dataclass(frozen=True, eq=False)
class Orbits:
    """Which terms of each restart are one orbit.

    Attributes:
        size: n of <n,n,n>.
        partner: p, shape (B, r), int64: the term whose u is this one's v.
    """

    size: int
    partner: Tensor

    @staticmethod
    def of(target_shape: tuple[int, int, int] | None, rank: int, symmetric: Sequence[int], device: torch.device | str = "cpu") -> Orbits:
        """Restart b with symmetric[b] symmetric terms first, then the x, the y and the z of its orbits.

        Raises:
            InputError: not <n,n,n>, or a number of symmetric terms that leaves no whole orbits.
        """
        size = square_size(target_shape)
        rows = []
        for count in symmetric:
            if not 0 <= count <= rank or (rank - count) % 3:
                raise InputError(f"rank {rank} is not {count} symmetric terms and orbits of three; valid: {splits(rank)}")
            orbits = (rank - count) // 3
            rows.append([*range(count), *range(count + orbits, rank), *range(count, count + orbits)])
        return Orbits(size, torch.tensor(rows, device=device))

    def expand(self, reduced: Tensor) -> Factors:
        """The factors U, V, W (of C, not C^T) of reduced unknowns U, shape (B, r, n^2)."""
        return reduced, _rows(reduced, self.partner), self.flip(_rows(reduced, self.third))

    def reduce(self, factors: Factors) -> Tensor:
        """The mean of the three places of every unknown: the orthogonal projection on what is symmetric."""
        U, V, W = factors
        return (U + _rows(V, self.third) + _rows(self.flip(W), self.partner)) / 3

    @property
    def third(self) -> Tensor:
        """p^2, which is also the inverse of p."""
        return self.partner.gather(1, self.partner)

    @property
    def symmetric(self) -> Tensor:
        """s of every restart, shape (B,)."""
        return (self.partner == torch.arange(self.partner.shape[1], device=self.partner.device)).sum(1)

    def flip(self, factor: Tensor) -> Tensor:
        """Every row, an n x n matrix, transposed: between C and C^T."""
        return factor.unflatten(-1, (self.size, self.size)).mT.flatten(-2)

    def project(self, factors: Factors) -> Factors:
        """The nearest symmetric factors."""
        return self.expand(self.reduce(factors))

    def take(self, index: Tensor) -> Orbits:
        """The chosen restarts."""
        return Orbits(self.size, self.partner[index])


def square_size(shape: tuple[int, int, int] | None) -> int:
    """n of <n,n,n>.

    Raises:
        InputError: any other target.
    """
    if shape is None or len(set(shape)) > 1:
        raise InputError("cyclic symmetry needs a product of square matrices <n,n,n>")
    return shape[0]


def splits(rank: int) -> list[int]:
    """The possible numbers of symmetric terms, r mod 3 first.

    >>> splits(7)
    [1, 4, 7]
    """
    return list(range(rank % 3, rank + 1, 3))


def find_orbits(shape: tuple[int, int, int] | None, factors: Factors, tolerance: float = SYMMETRIC) -> tuple[Tensor, Orbits] | None:
    """The reduced unknowns and orbits of symmetric factors, whatever the order, scales and signs of their terms.

    Term k moved round is the term nearest to it, of inner product <v_k, u_l> <w_k, v_l> <u_k, w_l> (w in the C^T form).
    In the basis given only: an algorithm may become symmetric after a change of basis, and is not found here.

    Returns:
        None unless every restart is symmetric.
    """
    try:
        size = square_size(shape)
    except InputError:
        return None
    U, V, W = balance(factors)
    W = W.unflatten(-1, (size, size)).mT.flatten(-2)
    terms = torch.arange(U.shape[1], device=U.device).expand(len(U), -1)
    overlap = (V @ U.mT) * (W @ V.mT) * (U @ W.mT)
    squares = ((U @ U.mT) * (V @ V.mT) * (W @ W.mT)).diagonal(dim1=-2, dim2=-1)
    nearest = (squares.unsqueeze(2) + squares.unsqueeze(1) - 2 * overlap).min(2)  # the squared distance of two terms
    partner = nearest.indices
    third = partner.gather(1, partner)
    far = nearest.values > tolerance * squares.amax(1, keepdim=True)
    if bool(far.any()) or bool((third.gather(1, partner) != terms).any()):
        return None
    # Signs and scales are those of the first term of each orbit: x, y and z are its u, v and w.
    first = torch.minimum(torch.minimum(terms, partner), third)
    place = torch.where(terms == first, 0, torch.where(partner.gather(1, first) == terms, 1, 2))
    reduced = torch.stack([_rows(factor, first) for factor in (U, V, W)])
    chosen = reduced.gather(0, place[None, :, :, None].expand(1, -1, -1, U.shape[2]))[0]
    fixed = (partner == terms).unsqueeze(2)  # u, v and w are one matrix up to signs: a is u with the sign of their product
    sign = ((U * V).sum(2, keepdim=True) * (U * W).sum(2, keepdim=True)).sign()
    return torch.where(fixed, U * sign, chosen), Orbits(size, partner)


def normal_matrix(orbits: Orbits, reduced: Tensor, penalty: float) -> Tensor:
    """A third of the reduced normal matrix, shape (B, r n^2, r n^2)."""
    U, V, W = reduced, _rows(reduced, orbits.partner), _rows(reduced, orbits.third)
    batch, rank, width = U.shape
    grams = []
    for factor in (V, W):
        gram = factor @ factor.mT
        gram.diagonal(dim1=-2, dim2=-1).mul_(1 + penalty)
        grams.append(gram)
    # d/du_k of term k, against the v and then the w of the terms l: their unknowns are u_p(l) and u_p(p(l)).
    by_v = _columns(grams[1], orbits.third).unsqueeze(-1) * W.unsqueeze(1)  # (B, k, l, i)
    by_w = _columns(grams[0], orbits.partner).unsqueeze(-1) * V.unsqueeze(1)
    blocks = by_v.unsqueeze(-1) * V[:, :, None, None, :] + by_w.unsqueeze(-1) * W[:, :, None, None, :]  # (B, k, l, i, j)
    blocks.diagonal(dim1=3, dim2=4).add_(hadamard_gram(V, W, penalty).unsqueeze(-1))
    return blocks.transpose(2, 3).reshape(batch, rank * width, rank * width)


def gradient(problem: Problem, orbits: Orbits, reduced: Tensor, penalty: float) -> Tensor:
    """A third of half the reduced gradient of ||T||^2 (e + penalty g), shape (B, r n^2)."""
    return lm.gradient(problem, orbits.expand(reduced), penalty)[:, : reduced[0].numel()]


def descend(
    problem: Problem,
    orbits: Orbits,
    reduced: Tensor,
    *,
    penalty: float = 1e-6,
    iterations: int = 100,
    monitor: Monitor = silent,
    every: int = 5,
    start_penalty: float | None = None,
    tolerance: float = 1e-12,
) -> Tensor:
    """LM steps in the reduced unknowns as in `stlsearch.solvers.lm.solve`, the penalty falling in the first two thirds.

    Args:
        reduced: shape (B, r, n^2).
        start_penalty: where the penalty begins; by default it is `penalty` throughout.
        iterations: steps; each costs O(B (r n^2)^3 / 3), a 27th of a step with all unknowns.
    """
    double = problem.tensor.dtype == torch.float64
    tolerance, least = (tolerance, 1e-15) if double else (max(tolerance, 1e-6), 1e-7)
    first = max(start_penalty or penalty, penalty)
    decay = 2 * iterations // 3 if first > penalty else 0
    damping = torch.full_like(reduced[:, 0, 0], 1e-2)
    growth = torch.full_like(damping, 4.0)
    idle = done = 0
    for step in range(iterations):
        monitor.tick()
        if step % every == 0:
            report(problem, monitor, step, orbits.expand(reduced))
        level = first * (max(penalty, 1e-16) / first) ** (step / decay) if step < decay else penalty
        value = problem.objective(orbits.expand(reduced), level)
        matrix = normal_matrix(orbits, reduced, level)
        slope = gradient(problem, orbits, reduced, level)
        matrix.diagonal(dim1=-2, dim2=-1).add_(damping.unsqueeze(-1))
        lower, failed = torch.linalg.cholesky_ex(matrix)
        move = torch.cholesky_solve(-slope.unsqueeze(-1), lower).squeeze(-1)
        trial = reduced + move.reshape(reduced.shape)
        trial_value = problem.objective(orbits.expand(trial), level)
        predicted = 3 * (move * (damping.unsqueeze(-1) * move - slope)).sum(-1) / problem.norm_sq
        better = (trial_value < value) & (failed == 0)
        gain = (value - trial_value) / predicted.clamp_min(1e-300 if double else 1e-30)
        reduced = torch.where(better[:, None, None], trial, reduced)
        reduced = balance(orbits.expand(reduced))[0]
        # After a step the model foretold badly the damping grows as well (Nielsen's rule): far from an exact solution the
        # normal matrix is a poor model of the curvature. After failures it grows faster and faster, to matter again.
        shrink = torch.where(gain > 0.9, 0.05, (1 - (2 * gain - 1) ** 3).clamp(0.25, 2))
        damping = torch.where(better, damping * shrink, damping * growth).clamp(least, 1e8)
        growth = torch.where(better, 4.0, growth * 2)
        done = step + 1
        idle = 0 if step < decay or bool((better & (value - trial_value > tolerance * value)).any()) else idle + 1
        if idle == 8:
            break
    report(problem, monitor, done, orbits.expand(reduced))
    return reduced


def solve(
    problem: Problem,
    start: Factors,
    *,
    penalty: float = 1e-6,
    iterations: int = 150,
    monitor: Monitor = silent,
    every: int = 5,
    start_penalty: float = START_PENALTY,
) -> Factors:
    """The nearby symmetric algorithm: LM in the unknowns of `start`'s own symmetry, or, when it has none, in its U.

    A start without symmetry lends its U as reduced unknowns, restart b with the (b mod count)-th of `open_splits`.

    Args:
        problem, start, penalty, monitor, every: as in `stlsearch.solvers.als.solve`.
        iterations: steps, see `descend`.

    Raises:
        InputError: a target other than <n,n,n>, a metric, or more than `lm.MAX_UNKNOWNS` reduced unknowns.
    """
    size = square_size(problem.target.shape)
    if problem.frame is not None:
        raise InputError("solver cyclic needs white inputs: a metric breaks the cyclic symmetry")
    rank = start[0].shape[1]
    if rank * size**2 > lm.MAX_UNKNOWNS:
        raise InputError(f"solver cyclic takes at most {lm.MAX_UNKNOWNS} unknowns r n^2, not {rank * size**2}; valid: als, lbfgs, sgd")
    found = find_orbits(problem.target.shape, start)
    if found is None:
        counts = open_splits(rank, size)
        chosen = [counts[index % len(counts)] for index in range(len(start[0]))]
        found = balance(start)[0], Orbits.of(problem.target.shape, rank, chosen, start[0].device)
    reduced, orbits = found
    reduced = descend(
        problem, orbits, reduced, penalty=penalty, iterations=iterations, monitor=monitor, every=every, start_penalty=start_penalty
    )
    return orbits.expand(reduced)


def open_splits(rank: int, size: int) -> list[int]:
    """The numbers of symmetric terms worth trying: at most n^2, as many as are linearly independent, but at least the least."""
    return [count for count in splits(rank) if count <= size**2] or splits(rank)[:1]


def _rows(factor: Tensor, index: Tensor) -> Tensor:
    return factor.gather(1, index.unsqueeze(-1).expand(-1, -1, factor.shape[2]))


def _columns(matrix: Tensor, index: Tensor) -> Tensor:
    return matrix.gather(2, index.unsqueeze(1).expand(-1, matrix.shape[1], -1))

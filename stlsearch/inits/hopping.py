"""Basin hopping from a registered algorithm: perturb, refit, keep the distinct best, and again.

Moves: noise on all coefficients; swaps (k random terms added, the whole refitted, k terms dropped at a temperature);
and, when the rank asked for is higher, added terms. A population hops rather than one walker, because most of its
members cost nothing more: the compiled sweeps fit them side by side.
"""

from __future__ import annotations

import torch

from stlsearch.inits.deflated import registered
from stlsearch.inits.request import Request, Start, embed
from stlsearch.lineage import parent_record
from stlsearch.solvers import als
from stlsearch.solvers.deflation import deflate, descend, distinct
from stlsearch.solvers.problem import Factors, balance, take

GENERATIONS = 8
CHILDREN = 3  # per member of the population, over all moves
NOISE = (0.1, 0.3)  # of the root mean square coefficient
SWAPS = (1, 2, 4)  # terms added and dropped
ADDED_SIZE = 0.5  # of added terms, relative to the root mean square coefficient
TEMPERATURE = 0.3
SETTLE, TRADE = 120, 20  # ALS sweeps after a move, and inside a swap after its terms are added and after every drop


def hop(request: Request) -> Start:
    """Basin hopping from a registered algorithm (``hop:NAME``): noise, swaps, added or dropped terms, the best kept.

    Generations of moves from a population that begins with the algorithm alone, refitted at the request's penalty by
    ALS and selected by the penalised objective. A parent of higher rank is deflated first, one of lower rank extended.

    Raises:
        InputError: no name given, an unknown one, or an algorithm of another target.
    """
    parent = registered(request, "hop")
    problem = request.problem
    population = embed(parent, problem, 1)
    if parent.rank > request.rank:
        *_, population = descend(
            problem,
            population,
            request.rank,
            penalty=request.penalty,
            width=request.restarts,
            generator=request.generator,
            monitor=request.monitor,
        )
    elif parent.rank < request.rank:
        copies = tuple(factor.expand(request.restarts, -1, -1) for factor in population)
        population = _added((copies[0], copies[1], copies[2]), request.rank - parent.rank, request)
    population = _settled(population, 2 * SETTLE, request)
    moves = [("noise", size) for size in NOISE] + [("swap", float(terms)) for terms in SWAPS]
    for _ in range(GENERATIONS):
        held = len(population[0])
        chosen = torch.arange(CHILDREN * request.restarts) % held
        parts = [population]
        for (kind, size), members in zip(moves, chosen.tensor_split(len(moves)), strict=True):
            if len(members) == 0:
                continue
            group = balance(take(population, members.to(population[0].device)))
            moved = _noisy(group, size, request) if kind == "noise" else _swapped(group, int(size), request)
            parts.append(_settled(moved, SETTLE, request))
        U, V, W = (torch.cat([part[mode] for part in parts]) for mode in range(3))
        population = distinct(problem, (U, V, W), request.penalty, request.restarts)
    return Start(population, {"parents": [parent_record(parent)]}, settled=True)


def _noisy(factors: Factors, size: float, request: Request) -> Factors:
    U, V, W = (factor + size * _scale(factor) * request.normal(*factor.shape) for factor in factors)
    return U, V, W


def _swapped(factors: Factors, terms: int, request: Request) -> Factors:
    rank = factors[0].shape[1]
    grown = _settled(_added(factors, terms, request), TRADE, request)
    return deflate(
        request.problem,
        grown,
        rank,
        penalty=request.penalty,
        sweeps=TRADE,
        temperature=TEMPERATURE,
        generator=request.generator,
        monitor=request.monitor,
    )


def _added(factors: Factors, terms: int, request: Request) -> Factors:
    """The factors with `terms` small random terms more."""
    U, V, W = (
        torch.cat([factor, ADDED_SIZE * _scale(factor) * request.normal(len(factor), terms, factor.shape[2])], 1) for factor in factors
    )
    return U, V, W


def _settled(factors: Factors, sweeps: int, request: Request) -> Factors:
    return als.settle(request.problem, factors, request.penalty, sweeps, request.monitor)


def _scale(factor: torch.Tensor) -> torch.Tensor:
    return factor.square().mean((1, 2), keepdim=True).sqrt()

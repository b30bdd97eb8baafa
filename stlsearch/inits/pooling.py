"""A pool of distinct solutions from the structured starts, improved by swapping terms."""

from __future__ import annotations

import torch

from stlsearch.inits.deflated import strassen
from stlsearch.inits.kron import kron
from stlsearch.inits.request import NotApplicable, Request, Start
from stlsearch.solvers import als
from stlsearch.solvers.deflation import deflate, distinct, spread_temperatures
from stlsearch.solvers.problem import Factors, balance, take

GENERATIONS = 24
CHILDREN = 6  # per restart and generation
MOST_SWAPPED = 8  # terms added and dropped: 1, 2, ... in turn
DISTANCE = 4e-3  # relative, of the objectives of two members: nearer ones are variants of one solution
ADDED_SIZE = 0.7  # of added terms, relative to the median row
FIRST, GROWN, SETTLED, TRADE = 300, 60, 200, 20  # ALS sweeps: of the starts, of grown and of finished children, after a drop


def pool(request: Request) -> Start:
    """Starts of `strassen` and `kron`, then generations of swaps from a pool that is kept diverse.

    A swap adds k random terms to a member, refits, and drops k terms at a temperature. Hopping from one basis (``hop``)
    stays near it; solutions of the weighted problem lie close in error and far apart, so the pool keeps only members
    whose objectives differ by 0.4 %, and draws better ones more often. Under the metric ar1:0.7,0.3 it found the best bases
    of ranks 16, 24 and 32, 1 to 4 % below the next start (docs/metric.md), at two to four times the time.

    Raises:
        NotApplicable: neither `strassen` nor `kron` applies.
    """
    parts = []
    for strategy in (strassen, kron):
        try:
            parts.append(_settled(strategy(request).factors, FIRST, request))
        except NotApplicable:
            continue
    if not parts:
        raise NotApplicable(f"init pool begins with strassen and kron, and neither can start {request.problem.target.slug}")
    members = distinct(request.problem, _joined(parts), request.penalty, request.restarts, DISTANCE)
    heat = spread_temperatures(CHILDREN * request.restarts)
    for generation in range(GENERATIONS):
        favour = torch.arange(len(members[0]), 0, -1, dtype=torch.float64)  # members are sorted, the best first
        drawn = torch.multinomial(favour, CHILDREN * request.restarts, replacement=True, generator=request.generator)
        parents = balance(take(members, drawn.to(members[0].device)))
        grown = _settled(_grown(parents, 1 + generation % MOST_SWAPPED, request), GROWN, request)
        children = deflate(
            request.problem,
            grown,
            request.rank,
            penalty=request.penalty,
            sweeps=TRADE,
            temperature=heat,
            generator=request.generator,
            monitor=request.monitor,
        )
        joined = _joined([members, _settled(children, SETTLED, request)])
        members = distinct(request.problem, joined, request.penalty, request.restarts, DISTANCE)
    return Start(members, {"pool": "strassen, kron"}, settled=True)


def _grown(factors: Factors, terms: int, request: Request) -> Factors:
    """The factors with random terms more."""
    grown = []
    for factor in factors:
        size = ADDED_SIZE * factor.norm(dim=-1).median() / factor.shape[2] ** 0.5
        grown.append(torch.cat([factor, size * request.normal(len(factor), terms, factor.shape[2])], 1))
    return grown[0], grown[1], grown[2]


def _settled(factors: Factors, sweeps: int, request: Request) -> Factors:
    return als.settle(request.problem, factors, request.penalty, sweeps, request.monitor)


def _joined(parts: list[Factors]) -> Factors:
    U, V, W = (torch.cat([part[mode] for part in parts]) for mode in range(3))
    return U, V, W

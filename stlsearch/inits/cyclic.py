"""Starts with cyclic symmetry: random ones fitted in a third of the unknowns, and symmetric algorithms losing whole orbits."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from stlsearch.errors import InputError
from stlsearch.inits.deflated import registered
from stlsearch.inits.request import NotApplicable, Request, Start, embed
from stlsearch.lineage import parent_record
from stlsearch.solvers import cyclic_deflation, lbfgs
from stlsearch.solvers.cyclic import Orbits, find_orbits, open_splits
from stlsearch.solvers.deflation import deflate, spread_temperatures
from stlsearch.solvers.problem import take
from stlsearch.targets import Target

DRAWN = 6  # random symmetric starts for every one that is kept
SCREENING_STEPS, STEPS = 250, 400
START_PENALTY, SCREENING_PENALTY = 1e-2, 3e-4
PATHS = 4  # ways down from each of the best
REFITS = 4  # LM steps after a drop


def cyclic(request: Request) -> Start:
    """Random algorithms with cyclic symmetry: s terms a (x) a (x) a and t orbits of three, s + 3t = r, all splits in turn.

    Fitted by L-BFGS within the symmetry (`stlsearch.solvers.cyclic`) at a high penalty, the best sixth of them again at
    the request's. A third of the unknowns leaves a landscape with fewer poor optima: from such starts <4,4,4;49> is found
    exactly, which random starts without symmetry do not reach. ALS, a mode at a time, leaves the symmetry by itself.

    With an argument (``cyclic:46``) that is the rank to begin at, and the best quarter loses orbits from there, each in
    four ways. For ranks some way below an exact algorithm's it finds better ones than starts at the rank itself.

    Raises:
        NotApplicable: a target other than <n,n,n>, or one weighted by a metric.
        InputError: an argument that is no rank from the one asked for on.
    """
    problem, size = request.problem, _square(request, "cyclic")
    rank = _begin(request)
    counts = open_splits(rank, size)
    drawn = [counts[index % len(counts)] for index in range(DRAWN * request.restarts)]
    symmetry = Orbits.of(problem.target.shape, rank, drawn, problem.tensor.device)
    factors = symmetry.expand(request.normal(len(drawn), rank, size**2))
    first = max(SCREENING_PENALTY, request.penalty)
    for steps, start_penalty, penalty in ((SCREENING_STEPS, START_PENALTY, first), (STEPS, first, request.penalty)):
        factors = lbfgs.solve(
            problem,
            factors,
            penalty=penalty,
            iterations=steps,
            start_penalty=start_penalty,
            monitor=request.monitor,
            project=symmetry.project,
        )
        order = problem.objective(factors, penalty).nan_to_num(float("inf")).argsort()[: request.restarts]
        factors, symmetry = take(factors, order), symmetry.take(order)
    if rank > request.rank:
        best = torch.arange(request.restarts, device=order.device) % max(1, request.restarts // PATHS)
        return _shrunk(request, symmetry.reduce(take(factors, best)), symmetry.take(best), {"start_rank": rank})
    return Start(factors, {"symmetric_terms": symmetry.symmetric.tolist()}, settled=True)


def orbits(request: Request) -> Start:
    """A symmetric algorithm (``orbits:NAME``, else the best exact one) losing whole orbits and symmetric terms.

    Three terms a drop, refitted within the symmetry (`stlsearch.solvers.cyclic_deflation`); what is left to drop when no
    orbit fits any more goes term by term. Strassen's algorithm composed with itself has one symmetric term and 16 orbits.

    Raises:
        NotApplicable: a target other than <n,n,n>, a metric, a rank above the algorithm's, or an algorithm that has no
            cyclic symmetry in the basis it is given in.
    """
    problem = request.problem
    _square(request, "orbits")
    parent = registered(request, "orbits") if request.argument else request.exact(Target.matmul(*request.matmul_shape("orbits")))
    if request.rank > parent.rank:
        raise NotApplicable(f"init orbits starts from rank {parent.rank} and cannot reach the higher rank {request.rank}")
    found = find_orbits(problem.target.shape, embed(parent, problem, request.restarts))
    if found is None:
        raise NotApplicable(f"{parent.name} has no cyclic symmetry in its basis, which init orbits needs")
    reduced, symmetry = found
    return _shrunk(request, reduced, symmetry, {"parents": [parent_record(parent)]})


def _shrunk(request: Request, reduced: Tensor, symmetry: Orbits, origin: dict[str, object]) -> Start:
    """Whole orbits and symmetric terms dropped down to the rank, at a different temperature in every restart."""
    heat = spread_temperatures(request.restarts)
    last = _last_rank(reduced.shape[1], request.rank, int(symmetry.symmetric.min()))
    reduced, symmetry = cyclic_deflation.deflate(
        request.problem,
        symmetry,
        reduced,
        last,
        penalty=request.penalty,
        steps=REFITS,
        temperature=heat,
        generator=request.generator,
        monitor=request.monitor,
    )
    factors = deflate(
        request.problem,
        symmetry.expand(reduced),
        request.rank,
        penalty=request.penalty,
        temperature=heat,
        generator=request.generator,
        monitor=request.monitor,
    )
    return Start(factors, {**origin, "symmetric_terms": symmetry.symmetric.tolist()}, settled=True)


def _begin(request: Request) -> int:
    if not request.argument:
        return request.rank
    most = request.problem.target.trivial_rank
    if not re.fullmatch(r"[0-9]{1,6}", request.argument) or not request.rank <= int(request.argument) <= most:
        raise InputError(f"init cyclic:RANK begins at a rank from {request.rank} to {most}, not at {request.argument!r:.20}")
    return int(request.argument)


def _last_rank(rank: int, wanted: int, symmetric: int) -> int:
    """The least rank of at least `wanted` that dropping orbits and the symmetric terms reaches."""
    while (rank - wanted) % 3 > symmetric:
        wanted += 1
    return wanted


def _square(request: Request, strategy: str) -> int:
    shape = request.matmul_shape(strategy)
    if len(set(shape)) > 1:
        raise NotApplicable(f"init {strategy} needs a product of square matrices, not {request.problem.target.slug}")
    if request.problem.frame is not None:
        raise NotApplicable(f"init {strategy} needs white inputs: a metric breaks the cyclic symmetry")
    return shape[0]

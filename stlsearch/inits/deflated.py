"""Starts from a known algorithm of higher rank: terms dropped, the rest refitted."""

from __future__ import annotations

import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.inits.request import NotApplicable, Request, Start, embed
from stlsearch.lineage import parent_record
from stlsearch.solvers.deflation import descend
from stlsearch.solvers.problem import take
from stlsearch.targets import Target

NOISE = 0.05  # of the root mean square coefficient


def strassen(request: Request) -> Start:
    """The best exact algorithm of the tile (Strassen composed with itself for 4 x 4), terms dropped.

    The classic idea of the Strassen-Tile paper (arXiv 2503.12211): an exact algorithm below the trivial rank
    already concentrates the tensor in few terms, so what remains after dropping the terms of least marginal
    loss starts far below any random point. The restarts are the ends of a stochastic beam of drops.

    Raises:
        NotApplicable: not a matmul target, or a rank above the exact algorithm's.
    """
    shape = request.matmul_shape("strassen")
    exact = request.exact(Target.matmul(*shape))
    if request.rank > exact.rank:
        raise NotApplicable(f"init strassen starts from rank {exact.rank} and cannot reach the higher rank {request.rank}")
    return _deflated(exact, request)


def known(request: Request) -> Start:
    """Any registered algorithm (``known:NAME``): deflated by a beam when its rank is higher, else padded, with noise.

    A good basis at a neighbouring rank or tile metric is the best start there is; the noise (5 % of the root
    mean square coefficient, none in the first restart) makes restarts differ. Padding adds small random terms.

    Raises:
        InputError: no name given, an unknown one, or an algorithm of another target.
    """
    algorithm = registered(request, "known")
    if algorithm.rank > request.rank:
        return _deflated(algorithm, request)
    factors = []
    for factor, extent in zip(embed(algorithm, request.problem, request.restarts), request.problem.target.dims, strict=True):
        noise = NOISE * factor.square().mean().sqrt() * request.normal(*factor.shape)
        noise[0] = 0
        padding = 0.1 * request.normal(request.restarts, request.rank - algorithm.rank, extent)
        factors.append(torch.cat([factor + noise, padding], dim=1))
    return Start((factors[0], factors[1], factors[2]), {"parents": [parent_record(algorithm)]}, settled=True)


def registered(request: Request, strategy: str) -> BilinearAlgorithm:
    """The registered algorithm that the request names after the strategy's colon.

    Raises:
        InputError: no name given, an unknown one, or an algorithm of another target.
    """
    if not request.argument:
        raise InputError(f"init {strategy} needs the name of a registered algorithm: --init {strategy}:NAME")
    algorithm = request.lookup(request.argument)
    if algorithm.target != request.problem.target:
        raise InputError(f"{algorithm.name} computes {algorithm.target.slug}, not {request.problem.target.slug}")
    return algorithm


def _deflated(algorithm: BilinearAlgorithm, request: Request) -> Start:
    factors = embed(algorithm, request.problem, request.restarts)
    if algorithm.rank == request.rank:
        return Start(factors, {"parents": [parent_record(algorithm)]})
    *_, factors = descend(
        request.problem,
        take(factors, torch.tensor([0])),
        request.rank,
        penalty=request.penalty,
        width=request.restarts,
        generator=request.generator,
        monitor=request.monitor,
    )
    return Start(factors, {"parents": [parent_record(algorithm)]}, settled=True)

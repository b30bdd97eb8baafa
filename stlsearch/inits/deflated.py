"""Starts from a known algorithm of higher rank: terms dropped, the rest refitted."""

from __future__ import annotations

import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.inits.request import NotApplicable, Request, Start, embed
from stlsearch.solvers.deflation import deflate, spread_temperatures
from stlsearch.targets import Target

NOISE = 0.05  # of the root mean square coefficient


def strassen(request: Request) -> Start:
    """The best exact algorithm of the tile (Strassen composed with itself for 4 x 4), terms dropped.

    The classic idea of the Strassen-Tile paper (arXiv 2503.12211): an exact algorithm below the trivial rank
    already concentrates the tensor in few terms, so what remains after dropping the terms of least marginal
    loss starts far below any random point. The first restart drops greedily, others at a temperature.

    Raises:
        NotApplicable: not a matmul target, or a rank above the exact algorithm's.
    """
    shape = request.matmul_shape("strassen")
    exact = request.exact(Target.matmul(*shape))
    if request.rank > exact.rank:
        raise NotApplicable(f"init strassen starts from rank {exact.rank} and cannot reach the higher rank {request.rank}")
    return _deflated(exact, request)


def known(request: Request) -> Start:
    """Any registered algorithm (``known:NAME``), plus noise: deflated when its rank is higher, padded when lower.

    A good basis at a neighbouring rank or tile metric is the best start there is; the noise (5 % of the root
    mean square coefficient, none in the first restart) makes restarts differ. Padding adds small random terms.

    Raises:
        InputError: no name given, an unknown one, or an algorithm of another target.
    """
    if not request.argument:
        raise InputError("init known needs the name of a registered algorithm: --init known:NAME")
    algorithm = request.lookup(request.argument)
    if algorithm.target != request.problem.target:
        raise InputError(f"{algorithm.name} computes {algorithm.target.slug}, not {request.problem.target.slug}")
    if algorithm.rank > request.rank:
        return _deflated(algorithm, request)
    factors = []
    for factor, extent in zip(embed(algorithm, request.problem, request.restarts), request.problem.target.dims, strict=True):
        noise = NOISE * factor.square().mean().sqrt() * request.normal(*factor.shape)
        noise[0] = 0
        padding = 0.1 * request.normal(request.restarts, request.rank - algorithm.rank, extent)
        factors.append(torch.cat([factor + noise, padding], dim=1))
    return Start((factors[0], factors[1], factors[2]), {"parents": [_parent(algorithm)]})


def _deflated(algorithm: BilinearAlgorithm, request: Request) -> Start:
    factors = deflate(
        request.problem,
        embed(algorithm, request.problem, request.restarts),
        request.rank,
        penalty=request.penalty,
        temperature=spread_temperatures(request.restarts),
        generator=request.generator,
        monitor=request.monitor,
    )
    return Start(factors, {"parents": [_parent(algorithm)]})


def _parent(algorithm: BilinearAlgorithm) -> dict[str, object]:
    """What a later reader needs to find the parent again: id, name and where it came from."""
    kept = {key: algorithm.provenance[key] for key in ("source", "licence", "construction") if key in algorithm.provenance}
    return {"id": algorithm.id, "name": algorithm.name, **kept}

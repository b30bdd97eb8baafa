"""Random starts: the baseline every other strategy has to beat."""

from __future__ import annotations

from stlsearch.inits.request import Request, Start


def random(request: Request) -> Start:
    """Independent N(0, 1) coefficients, the common start of CP solvers.

    ALS and LM are indifferent to the overall scale (the first least-squares step sets it), so the
    standard normal is as good as any; signs matter (all-positive starts succeed ten times less often).
    """
    return _normal(request, 1.0)


def random_small(request: Request) -> Start:
    """Smaller N(0, 0.5^2) coefficients, the start of gradient descent from scratch.

    The Strassen-Tile paper (arXiv 2503.12211) trains its random baseline by SGD. At N(0, 1) a trilinear product of
    vectors this long starts far outside and gradient descent spends its budget coming in; at N(0, 0.1^2) it starts
    in the flat neighbourhood of the origin. In between it does best (measured for <4,4,4;24>, both objectives).
    """
    return _normal(request, 0.5)


def _normal(request: Request, scale: float) -> Start:
    U, V, W = (scale * request.normal(request.restarts, request.rank, extent) for extent in request.problem.target.dims)
    return Start((U, V, W), {"scale": scale})

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
    """Small N(0, 0.1^2) coefficients, the start of gradient descent from scratch.

    Near the origin the gradient of a trilinear product is tiny and grows as terms align with the
    tensor, so SGD finds low-rank structure first; the Strassen-Tile paper (arXiv 2503.12211) trains its
    random baseline by SGD from such a start.
    """
    return _normal(request, 0.1)


def _normal(request: Request, scale: float) -> Start:
    U, V, W = (scale * request.normal(request.restarts, request.rank, extent) for extent in request.problem.target.dims)
    return Start((U, V, W), {"scale": scale})

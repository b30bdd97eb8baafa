"""Truncation to the leading modes of a metric, and what a solver makes of its better half."""

from __future__ import annotations

import torch

from stlsearch.baselines import truncation
from stlsearch.inits.request import NotApplicable, Request, Start, embed

LEAST_KEPT = 0.3  # share of the terms that a restart keeps at least
IDLE = 0.05  # size of a new term's rows, relative to the median row


def modes(request: Request) -> Start:
    """The r scalar products that carry most in the eigenbases of the metric, fewer of them in later restarts.

    With white weights these are the r/p leading token x channel modes of the activations, what principal components would
    keep. Why it should help: it is a floor, the baseline that no fit under a metric should end above (on very correlated
    data it is hard to beat). The first restart is the truncation itself; later ones keep a random share of it, the largest
    terms, and begin the others small and random, since all of it together is close to a stationary point.

    Raises:
        NotApplicable: no metric, or not a matmul target.
    """
    request.matmul_shape("modes")
    metric = request.problem.metric
    if metric is None:
        raise NotApplicable("init modes needs a metric: the modes of white inputs are all alike")
    kept = truncation(metric, request.problem.target, request.rank)
    factors = embed(kept, request.problem, request.restarts)
    sizes = factors[0][0].norm(dim=-1) * factors[1][0].norm(dim=-1) * factors[2][0].norm(dim=-1)
    order = sizes.argsort(descending=True, stable=True)
    shares = LEAST_KEPT + (1 - LEAST_KEPT) * torch.rand(request.restarts, generator=request.generator, dtype=torch.float64)
    shares[0] = 1.0
    count = (shares * request.rank).ceil().to(factors[0])
    idle = torch.arange(request.rank).to(factors[0]) >= count[:, None]
    started = []
    for factor in factors:
        size = factor.norm(dim=-1).median() * IDLE
        started.append(torch.where(idle.unsqueeze(-1), size * request.normal(*factor.shape), factor[:, order]))
    return Start((started[0], started[1], started[2]), {"kept_terms": count.int().tolist()})

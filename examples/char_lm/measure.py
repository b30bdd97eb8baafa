"""What a model costs, how well it predicts, whether it sees the future, and how much a sample depends on its neighbours."""

from __future__ import annotations

import math

import torch
from model import GPT, Config
from torch import Tensor
from torch.nn import functional

TILE = 4  # the bases are <4,4,4>
EVALUATED = 64  # samples at once
CUTS = (13, 30, 47, 58)  # characters kept, by which a change of the future is tried: 1, 2 and 3 places into a tile


def macs(
    config: Config, *, rank: int | None = None, density: float = 1.0, mixing: bool = True, batch: int | None = None
) -> dict[str, float]:
    """Multiply-adds per character: of the blocks' linear layers, of attention (C (T + 1): causal, averaged) and of the head.

    A dense layer takes density * K N. A Strassen-Tile one takes K N (r/64 + r/K + r/N): products, decoding, encoding, with K and N
    rounded up to whole tiles.

    Args:
        mixing: False for `kept_products`, which need no encoding or decoding, and no neighbours either.
        batch: samples at once. Tiles of four are filled up, so that 1 costs four times as much per character; None is a multiple of four.
    """
    linears = 0.0
    filled = 1.0 if batch is None or not mixing else math.ceil(batch / TILE) * TILE / batch
    for inputs, outputs in ((1, 3), (1, 1), (1, 4), (4, 1)):  # qkv, proj, fc1, fc2
        K, N = inputs * config.dim, outputs * config.dim
        if rank is None:
            linears += density * K * N
        else:
            K, N = (math.ceil(size / TILE) * TILE for size in (K, N))
            linears += filled * K * N * (rank / TILE**3 + (rank / K + rank / N if mixing else 0))
    counted = {
        "linears": linears * config.layers,
        "attention": config.layers * config.dim * (config.context + 1.0),
        "head": float(config.dim * config.vocabulary),
    }
    return counted | {"total": sum(counted.values())}


def narrow(config: Config, budget: float) -> Config:
    """The widest dense model of at most so many multiply-adds per character; dim is a multiple of its heads."""
    dims = range(config.heads, config.dim + 1, config.heads)
    fitting = [dim for dim in dims if macs(_with_dim(config, dim))["total"] <= budget]
    return _with_dim(config, max(fitting, default=config.heads))


def _with_dim(config: Config, dim: int) -> Config:
    return Config(dim, config.layers, config.heads, config.context, config.vocabulary)


def losses(logits: Tensor, windows: Tensor) -> Tensor:
    """(B, T) nats per character of logits (B, T, vocabulary), for windows (B, T + 1)."""
    return functional.cross_entropy(logits.mT, windows[:, 1:], reduction="none")


@torch.no_grad()
def validate(model: GPT, windows: Tensor) -> Tensor:
    """(windows, T) nats per character, the whole window at once: honest only if the model is causal."""
    return torch.cat([losses(model(batch[:, :-1]), batch) for batch in windows.split(EVALUATED)])


@torch.no_grad()
def validate_honestly(model: GPT, windows: Tensor) -> Tensor:
    """(windows, T) nats per character, each predicted from what precedes it and nothing else: what generating text is like."""
    columns = []
    for seen in range(1, windows.shape[1]):
        batches = [losses(model(batch[:, :seen])[:, -1:], batch[:, seen - 1 : seen + 1]) for batch in windows.split(EVALUATED)]
        columns.append(torch.cat(batches))
    return torch.cat(columns, 1)


@torch.no_grad()
def future_influence(model: GPT, windows: Tensor) -> float:
    """Relative change of the logits of past characters when those after them are drawn anew: 0 for a causal model."""
    ids = windows[:EVALUATED, :-1]
    before, worst = model(ids), 0.0
    for cut in (cut for cut in CUTS if cut < ids.shape[1]):
        changed = torch.cat([ids[:, :cut], ids[:, cut:].flip(0)], 1)
        worst = max(worst, relative_change(model(changed)[:, :cut], before[:, :cut]))
    return worst


def relative_change(after: Tensor, before: Tensor) -> float:
    """||after - before|| / ||before|| of logits, a constant per character taken off: it changes no probability."""
    after, before = (logits - logits.mean(-1, keepdim=True) for logits in (after, before))
    return float((after - before).norm() / before.norm())


@torch.no_grad()
def neighbours_influence(model: GPT, windows: Tensor, *, space: int = 1) -> dict[str, dict[str, float]]:
    """What other neighbours do to samples that stay the same.

    Every sample is kept at its place in its tile while the three others become: other samples ("strangers"), characters at
    random ("noise"), nothing but `space` ("blank"), or copies of the sample ("copies"). "alone" is a batch of one, which the layers
    fill up with zeros.

    Returns:
        For each, and for the batch as it was ("before"): the perplexity, the relative change of the logits, and the part of
        the characters whose likeliest successor is another one.
    """
    samples = min(EVALUATED, len(windows) // 2) // TILE * TILE
    kept, strangers = windows[:samples], windows[-samples:, :-1]
    ids = kept[:, :-1]
    noise = torch.randint(model.config.vocabulary, ids.shape, generator=torch.Generator().manual_seed(0))
    before = model(ids)

    def beside(others: Tensor) -> Tensor:
        logits = torch.empty_like(before)
        for place in range(TILE):
            here = torch.arange(len(ids)) % TILE == place
            logits[here] = model(torch.where(here[:, None], ids, others))[here]
        return logits

    after = {
        "before": before,
        "strangers": beside(strangers),
        "noise": beside(noise),
        "blank": beside(torch.full_like(ids, space)),
        "copies": torch.cat([model(one.expand(TILE, -1))[:1] for one in ids]),
        "alone": torch.cat([model(one[None]) for one in ids]),
    }
    return {
        name: {
            "perplexity": float(losses(logits, kept).mean().exp()),
            "change": relative_change(logits, before),
            "other_choice": float((logits.argmax(-1) != before.argmax(-1)).float().mean()),
        }
        for name, logits in after.items()
    }

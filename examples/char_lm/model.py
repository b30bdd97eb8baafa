"""A small GPT over characters whose linear layers are whatever `linear` makes: `torch.nn.Linear`, or Strassen-Tile products.

With ``rows="batch"`` a tile holds the same character of four samples, so time stays causal. With ``rows="tokens"`` it holds four
neighbouring characters of one sample, and each sees up to three of its future: `GPT` lets you build that to see what it looks like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.nn import STLLinear
from stlsearch.targets import Target

Linear = Callable[[int, int], nn.Module]  # (inputs K, outputs N) -> a layer (..., K) -> (..., N)


@dataclass(frozen=True)
class Config:
    dim: int = 128  # C, channels
    layers: int = 2
    heads: int = 4  # H
    context: int = 64  # characters the model sees
    vocabulary: int = 128


def stl(algorithm: BilinearAlgorithm, *, rows: str = "batch", learn: str = "") -> Linear:
    """Makes Strassen-Tile layers. Only rows="tokens" may leak the future, for that is what it is here to show."""
    return lambda inputs, outputs: STLLinear(inputs, outputs, algorithm, rows=rows, learn=learn, causal_safe=rows != "tokens")


def kept_products(rank: int) -> BilinearAlgorithm:
    """The <4,4,4> algorithm that keeps rank/4 of the 16 products of every row of a tile, the same ones, and drops the others.

    It mixes nothing: no row depends on another. A layer by it is a dense one with rank/64 of its weights, in a fixed pattern, which
    differ, once trained, between the four places of a tile.
    """
    places = [(shift, channel) for shift in range(4) for channel in range(4)][: rank // 4]  # whole diagonals of the tile first
    U, V, W = torch.zeros(3, rank, 4, 4).unbind()
    for term, (row, (shift, channel)) in enumerate((row, place) for row in range(4) for place in places):
        output = (channel + shift) % 4
        U[term, row, channel] = V[term, channel, output] = W[term, row, output] = 1
    return BilinearAlgorithm.from_floats(Target.matmul(4, 4, 4), *(factor.flatten(1).double().numpy() for factor in (U, V, W)))


class Block(nn.Module):
    """Attention, then two linear layers with a GELU between, each after a norm and added to what came in."""

    def __init__(self, config: Config, linear: Linear) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = linear(dim, 3 * dim), linear(dim, dim)
        self.fc1, self.fc2 = linear(dim, 4 * dim), linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.proj(self.attend(self.qkv(self.norm1(x))))  # (B, T, C)
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))  # (B, T, C) -> (B, T, 4C) -> (B, T, C)

    def attend(self, qkv: Tensor) -> Tensor:
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, T, 3C) -> three of (B, H, T, C/H)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, C/H)
        return y.transpose(1, 2).flatten(2)  # (B, T, C)


class GPT(nn.Module):
    """Characters and places to channels, some blocks, a norm, one score per character. Embeddings and scores stay dense."""

    def __init__(self, config: Config, linear: Linear = nn.Linear) -> None:
        super().__init__()
        self.config = config
        self.characters = nn.Embedding(config.vocabulary, config.dim)
        self.places = nn.Embedding(config.context, config.dim)
        for embedding in (self.characters, self.places):
            nn.init.normal_(embedding.weight, std=0.3)  # at 0.02 the large steps of a short run swamp it
        self.blocks = nn.ModuleList(Block(config, linear) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, config.vocabulary, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)  # (T,)
        x = self.characters(ids) + self.places(places)  # (B, T) -> (B, T, C)
        for block in self.blocks:
            x = block(x)  # (B, T, C)
        return self.head(self.norm(x))  # (B, T, vocabulary)


@torch.no_grad()
def sample(model: GPT, ids: Tensor, length: int, *, temperature: float = 0.8, generator: torch.Generator | None = None) -> Tensor:
    """ids (B, T) continued to (B, T + length), the likeliest character at temperature 0. Each row depends on its batch."""
    for _ in range(length):
        scores = model(ids[:, -model.config.context :])[:, -1]  # (B, vocabulary)
        if temperature > 0:
            following = torch.multinomial(torch.softmax(scores / temperature, -1), 1, generator=generator)  # (B, 1)
        else:
            following = scores.argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], 1)
    return ids

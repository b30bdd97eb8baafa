"""A small vision transformer whose backbone is dense or Strassen-Tile, and what it costs.

Per block and token, D channels: qkv D -> 3D, attention over 16 tokens in four heads, D -> D, and an MLP D -> 2D -> D (the
ratio of T2T-ViT-7, the network of arXiv 2503.12211). The embedding of patches and the head are dense in every network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from tasks import TOKENS, Task
from torch import Tensor, nn
from torch.nn import functional

from stlsearch.nn import STLLinear

HEADS, GROWTH = 4, 2
Linear = Callable[[int, int], nn.Module]
"""(K, N) -> a layer of the backbone."""


class SmallSTL(STLLinear):
    """`STLLinear` for tokens and sizes that are multiples of the tile, its stages left to autograd.

    That keeps encoded activations and products for the backward pass, which the operator recomputes. At the sizes of these examples,
    some thousand rows of 64 channels, a step then takes a third of the time; the result is the same.
    """

    def _product(self, x: Tensor) -> Tensor:
        count, tokens, _ = x.shape
        basis, E = self.basis(), self.encoded.tensor
        (n, m, p), (r, inner, outputs) = basis.shape, E.shape
        tiles = x.view(-1, n, inner, m).transpose(1, 2).reshape(-1, n * m)
        planes = (tiles @ basis.U.T).view(-1, inner, r).permute(2, 0, 1)
        y = torch.bmm(planes, E).view(r, -1).T @ basis.W
        y = y.view(-1, outputs, n, p).transpose(1, 2).reshape(count, tokens, p * outputs)
        return y if self.bias is None else y + self.bias


class Block(nn.Module):
    """Attention and an MLP, each after a norm and added to what came in."""

    def __init__(self, width: int, linear: Linear) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = linear(width, 3 * width), linear(width, width)
        self.grow, self.shrink = linear(width, GROWTH * width), linear(GROWTH * width, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, tokens, D)
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.shrink(functional.gelu(self.grow(self.norm2(x))))


class Network(nn.Module):
    """Patches to D channels, blocks, a norm, and classes of the mean token or values of every token."""

    def __init__(self, task: Task, width: int, blocks: int, linear: Linear = nn.Linear) -> None:
        super().__init__()
        self.embed = nn.Linear(task.inputs, width)
        self.places = nn.Parameter(0.1 * torch.randn(TOKENS, width))
        self.blocks = nn.Sequential(*(Block(width, linear) for _ in range(blocks)))
        self.norm, self.head, self.pooled = nn.LayerNorm(width), nn.Linear(width, task.outputs), task.pooled

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.embed(x) + self.places))
        return self.head(x.mean(1) if self.pooled else x)


def layer_macs(rows: int, inner: int, outputs: int, rank: int | None) -> float:
    """Multiply-accumulates of x (M, K) times an encoded weight (K, N) of 4 x 4 tiles: r K M + M K N r/64 + r M N; dense (None): M K N."""
    if rank is None:
        return rows * inner * outputs
    return rank * rows * inner + rows * inner * outputs * rank / 64 + rank * rows * outputs


def backbone_macs(width: int, blocks: int, rank: int | None) -> float:
    """Of one image through the blocks: four layers each, and 2 T^2 D for attention."""
    shapes = ((width, 3 * width), (width, width), (width, GROWTH * width), (GROWTH * width, width))
    return blocks * (sum(layer_macs(TOKENS, inner, outputs, rank) for inner, outputs in shapes) + 2 * TOKENS**2 * width)


def backbone_weights(width: int, blocks: int, rank: int | None) -> float:
    """Values in the backbone's matrices: K N each, r/16 times as many encoded. Bases, 48 r values a layer, are left out."""
    return blocks * (4 + 2 * GROWTH) * width**2 * (1 if rank is None else rank / 16)


def equal_width(cost: Callable[[int, int, int | None], float], width: int, blocks: int, rank: int) -> int:
    """The width of the dense network whose cost is nearest that of an STL one; a multiple of 4."""
    wanted = cost(width, blocks, rank)
    return min(range(4, 4 * width, 4), key=lambda candidate: abs(cost(candidate, blocks, None) - wanted))

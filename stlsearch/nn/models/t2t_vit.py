"""Tokens-to-Token ViT (arXiv 2101.11986) whose token transformer is a Performer (arXiv 2009.14794).

    image (B, C, H, W)
      soft split       overlapping k x k patches are the tokens                     (B, T1, C k k)
      performer        linear attention over them; a token is a pixel again         (B, T1, token_dim)
      soft split ...   as often as there are splits, the last without a performer   (B, T, token_dim k k)
      project          one linear layer                                             (B, T, dim)
    class token, frozen sinusoidal positions                                        (B, 1 + T, dim)
    blocks             pre-norm attention and MLP, depth times                      (B, 1 + T, dim)
    norm, head         of the class token                                           (B, classes)

T2T-ViT-7 of 224 x 224 images has T1, T2, T = 56^2, 28^2, 14^2 tokens, 4,310,222 parameters (4,255,694 trained) and 1,146.9 million
multiply-accumulates an image, see `mac_breakdown`. Every matrix product with a weight is a plain `torch.nn.Linear`, so that it can
be replaced: the 28 of the backbone are ``blocks.*``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlsearch.errors import InputError
from stlsearch.nn.count import layer_macs
from stlsearch.nn.linear import STLLinear

SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
"""Kernel, stride and padding of T2T-ViT's soft splits, in pixels."""

EPSILON = 1e-8  # keeps a token whose features all underflow from dividing by zero


class T2TViT(nn.Module):
    """Images (B, channels, image_size, image_size) to logits (B, classes).

    Args:
        image_size: height and width in pixels.
        channels: colours of the image.
        classes: number of logits.
        splits: (kernel, stride, padding) of the soft splits; a performer follows each but the last.
        token_dim: width of the performers, which draw token_dim / 2 random features.
        dim, depth, heads: width, number and attention heads of the blocks.
        mlp_ratio: hidden width of a block's MLP over dim.
        drop_path: probability that a sample skips a branch of the last block; it grows linearly from 0 in the first.
        token_dropout: dropout of the performers' two branches.

    Attributes:
        grids: height (= width) in tokens after each soft split.

    Raises:
        InputError: a size below 1, heads that do not divide dim, odd widths, a probability outside [0, 1), or images that the splits
            leave nothing of.
    """

    positions: nn.Parameter

    def __init__(
        self,
        *,
        image_size: int = 224,
        channels: int = 3,
        classes: int = 1000,
        splits: Iterable[tuple[int, int, int]] = SPLITS,
        token_dim: int = 64,
        dim: int = 256,
        depth: int = 7,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.0,
        token_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        splits = tuple(splits)
        if min(image_size, channels, classes, token_dim, dim, depth, heads, len(splits)) < 1 or mlp_ratio <= 0:
            raise InputError("every size of a T2T-ViT is at least 1")
        if dim % heads or dim % 2 or token_dim % 2:
            raise InputError(f"dim and token_dim are even and heads divide dim, unlike {dim}, {token_dim} and {heads}")
        if not (0 <= drop_path < 1 and 0 <= token_dropout < 1):
            raise InputError(f"probabilities of dropping are in [0, 1), not {drop_path} and {token_dropout}")
        self.image_size, self.channels, self.classes, self.heads = image_size, channels, classes, heads
        self.grids = _grids(image_size, splits)

        self.splits = nn.ModuleList(SoftSplit(*split) for split in splits)
        widths = [channels] + [token_dim] * (len(splits) - 1)  # of a pixel before each split
        inputs = [width * kernel * kernel for width, (kernel, _, _) in zip(widths, splits, strict=True)]
        self.performers = nn.ModuleList(TokenPerformer(width, token_dim, token_dropout) for width in inputs[:-1])
        self.project = nn.Linear(inputs[-1], dim)

        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(sinusoids(1 + self.grids[-1] ** 2, dim)[None], requires_grad=False)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, round(dim * mlp_ratio), rate) for rate in rates)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all trained parameters anew: weights of linear layers and the class token normal of deviation 0.02, biases 0."""
        nn.init.trunc_normal_(self.class_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def tokens(self, images: Tensor) -> Tensor:
        """The tokens-to-token module: (B, channels, image_size, image_size) to (B, T, dim)."""
        for split, performer, grid in zip(self.splits, self.performers, self.grids, strict=False):  # all but the last split
            x = performer(split(images))  # (B, grid^2, token_dim)
            images = x.mT.unflatten(2, (grid, grid))  # (B, token_dim, grid, grid): tokens are pixels again
        return self.project(self.splits[-1](images))

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, image_size, image_size) to (B, classes)."""
        if images.shape[1:] != (self.channels, self.image_size, self.image_size):
            raise InputError(f"images of {self.channels} x {self.image_size}^2 are needed, not {tuple(images.shape[1:])}")
        x = self.tokens(images)
        x = torch.cat([self.class_token.expand(len(x), -1, -1).to(x.dtype), x], 1) + self.positions  # (B, 1 + T, dim)
        for block in self.blocks:
            x = block(x)
        # The head gets a sequence of one token, not a matrix of samples: a layer of tiles in its place pads it and mixes no samples.
        return self.head(self.norm(x[:, :1]))[:, 0]


class SoftSplit(nn.Module):
    """Overlapping patches as tokens: (B, C, H, W) to (B, H' W', C kernel^2), H' = floor((H + 2 padding - kernel) / stride) + 1."""

    def __init__(self, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def forward(self, images: Tensor) -> Tensor:
        return F.unfold(images, self.kernel, padding=self.padding, stride=self.stride).mT

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}, padding={self.padding}"


class TokenPerformer(nn.Module):
    """One transformer layer of one head with linear attention: (B, T, inputs) to (B, T, dim).

    The branch that attention is added to is the value v, not the input, whose width differs.

    Attributes:
        projections: (dim/2, dim), drawn once and never trained. Saved with the model: without them its weights mean nothing.
    """

    def __init__(self, inputs: int, dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(inputs)
        self.kqv = nn.Linear(inputs, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.dropout = nn.Dropout(dropout)
        self.projections = nn.Parameter(random_projections(dim // 2, dim), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        key, query, value = self.kqv(self.norm1(x)).chunk(3, -1)  # (B, T, dim) each
        x = value + self.dropout(self.proj(performer_attention(query, key, value, self.projections)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class Block(nn.Module):
    """A pre-norm transformer block: (B, T, dim) to (B, T, dim), softmax attention and an MLP, each added to what came in."""

    def __init__(self, dim: int, heads: int, hidden: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, hidden)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._skip(self.attention(self.norm1(x)))
        return x + self._skip(self.mlp(self.norm2(x)))

    def _skip(self, branch: Tensor) -> Tensor:
        """Stochastic depth (arXiv 1603.09382): whole samples of the branch are dropped, what stays is scaled up."""
        if not self.training or self.drop_path == 0:
            return branch
        kept = 1 - self.drop_path
        return branch * (torch.rand(len(branch), 1, 1, device=branch.device) < kept).to(branch.dtype) / kept


class Attention(nn.Module):
    """Softmax attention of `heads` heads: (B, T, dim) to (B, T, dim); queries, keys and values have no bias."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        split = self.qkv(x).unflatten(2, (3, self.heads, -1))  # (B, T, 3, heads, dim/heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # (B, heads, T, dim/heads) each
        y = F.scaled_dot_product_attention(query, key, value)
        return self.proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """(B, T, dim) to (B, T, dim) by way of `hidden` units."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def random_projections(features: int, dim: int) -> Tensor:
    """Rows to project keys and queries on: (features, dim), orthogonal directions, sqrt(features) times an orthonormal matrix.

    As features grow past dim they become normal of variance 1, for which `positive_features` are unbiased. T2T-ViT draws
    features = dim/2, where the rows have the length sqrt(features) and not sqrt(dim): what it approximates is then the softmax of
    shorter queries and keys.
    """
    return nn.init.orthogonal_(torch.empty(features, dim)) * math.sqrt(features)


def positive_features(x: Tensor, projections: Tensor) -> Tensor:
    """phi(x) = exp(P x - |x|^2/2) / sqrt(features): (B, T, dim) and P (features, dim) give (B, T, features), all positive.

    With rows of P normal of variance 1, E phi(q).phi(k) = exp(q.k), the softmax kernel (arXiv 2009.14794, lemma 1).
    """
    return torch.exp(x @ projections.T - x.square().sum(-1, keepdim=True) / 2) / math.sqrt(len(projections))


def performer_attention(query: Tensor, key: Tensor, value: Tensor, projections: Tensor) -> Tensor:
    """sum_j phi(q_i).phi(k_j) v_j / sum_j phi(q_i).phi(k_j): (B, T, dim) thrice to (B, T, dim), in time linear in T.

    An estimate of the softmax over q.k, which is not divided by sqrt(dim). Under autocast it is computed in float32: the exponents
    are differences of large numbers.
    """
    dtype = torch.promote_types(value.dtype, torch.float32)
    with torch.autocast(value.device.type, enabled=False):
        projections = projections.to(dtype)
        queries, keys = positive_features(query.to(dtype), projections), positive_features(key.to(dtype), projections)
        context = keys.mT @ value.to(dtype)  # (B, features, dim)
        weight = queries @ keys.sum(1)[..., None]  # (B, T, 1)
        return (queries @ context / (weight + EPSILON)).to(value.dtype)


def sinusoids(count: int, dim: int) -> Tensor:
    """Positions (count, dim): sin(t / 10000^(i/dim)) at even i, the cosine of the same angle at i + 1 (arXiv 1706.03762)."""
    rates = 10000 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.arange(count, dtype=torch.float64)[:, None] * rates  # (count, dim/2)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1).float()


def t2t_vit_7(**options: object) -> T2TViT:
    """T2T-ViT-7 for 224 x 224 images and 1000 classes; any argument of `T2TViT` replaces its own."""
    return T2TViT(**options)  # type: ignore[arg-type]


def t2t_vit_digits(**options: object) -> T2TViT:
    """The same network in small, for scikit-learn's digits at 16 x 16 pixels: 8^2, 8^2, 4^2 tokens and four blocks of width 64."""
    small = {"image_size": 16, "channels": 1, "classes": 10, "splits": ((3, 2, 1), (3, 1, 1), (3, 2, 1))}
    return T2TViT(**(small | {"token_dim": 32, "dim": 64, "depth": 4} | options))  # type: ignore[arg-type]


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(all parameters, trained ones). Fixed bases of Strassen-Tile layers are buffers, and no parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def mac_breakdown(model: T2TViT, *, padded: bool = False) -> dict[str, int]:
    """Multiply-accumulates of one image, counted from the shapes of the layers: the matrix products, and nothing element by element.

    - ``t2t_linears``: of the performers and `project`; ``backbone_linears``: of the blocks; ``head``; M K N each, or for a
      Strassen-Tile layer of tile n x m x p and rank r the sum r M K (encoding) + r M K N / (nmp) + r M N (decoding).
    - ``attention``: Q K^T and its product with V, 2 T^2 dim a block.
    - ``performer``: features of queries and keys, the context, its product with the queries and the normaliser,
      F T (4 token_dim + 1) a performer with F features and T tokens.
    - ``total``: their sum.

    Args:
        padded: count Strassen-Tile layers with M, K and N padded to multiples of the tile, as they are computed, and not as if parts of
            tiles cost their part.
    """
    tokens = 1 + model.grids[-1] ** 2
    places = [grid * grid for grid in model.grids]
    performers = list(zip(model.performers, places, strict=False))  # no performer after the last split
    dim = model.positions.shape[-1]
    shapes = [(module.projections.shape, rows) for module, rows in performers if isinstance(module, TokenPerformer)]
    counts = {
        "t2t_linears": sum(_linear_macs(module, rows, padded) for module, rows in [*performers, (model.project, places[-1])]),
        "backbone_linears": _linear_macs(model.blocks, tokens, padded),
        "attention": len(model.blocks) * 2 * tokens * tokens * dim,
        "performer": sum(features * rows * (4 * width + 1) for (features, width), rows in shapes),
        "head": _linear_macs(model.head, 1, padded),
    }
    return counts | {"total": sum(counts.values())}


def _linear_macs(module: nn.Module, rows: int, padded: bool) -> int:
    """MACs of all linear layers within a module, all of which see `rows` rows an image."""
    total = 0
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            total += rows * layer.in_features * layer.out_features
        elif isinstance(layer, STLLinear):
            # Tiles over the batch are full of the rows of n images, whatever `rows` is.
            images = layer.basis.tile[0] if layer.rows == "batch" else 1
            sizes = (rows * images, layer.in_features, layer.out_features)
            total += layer_macs(layer.basis.tile, layer.basis.rank, *sizes, padded=padded) // images
    return total


def _grids(size: int, splits: tuple[tuple[int, int, int], ...]) -> list[int]:
    grids = []
    for kernel, stride, padding in splits:
        if kernel < 1 or stride < 1 or padding < 0:
            raise InputError(f"a soft split has a kernel and a stride of at least 1, unlike {kernel}/{stride}/{padding}")
        size = (size + 2 * padding - kernel) // stride + 1
        if size < 1:
            raise InputError(f"the soft split {kernel}/{stride}/{padding} leaves no token: the image is too small")
        grids.append(size)
    return grids

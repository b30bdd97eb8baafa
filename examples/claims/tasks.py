"""Two tasks on real data that scikit-learn ships, with fresh distortions in every batch so that small networks cannot learn them by heart.

Both give 16 tokens, the 4 x 4 patches of an image row by row: the four tokens of a tile are a row of patches.

- **digits**: 1797 images of 8 x 8 pixels, turned, moved, scaled and under noise; 2 x 2 patches (B, 16, 4), ten classes. 400 images
  are held out, others for every seed. Score: accuracy in %, over four distortions of each.
- **photos**: 16 x 16 colour cuts of the two photographs under noise; 4 x 4 x 3 patches (B, 16, 48), the noise to be removed. The right
  fifth of each photograph is held out, the same for every seed. Score: PSNR in dB = -10 log10 of the mean squared error, values in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor
from torch.nn import functional

TOKENS = 16
HELD_OUT_DIGITS, DISTORTIONS = 400, 4
HELD_OUT_COLUMNS, TEST_CUTS, SIDE = 128, 2048, 16
DIGIT_NOISE, PHOTO_NOISE = 0.25, 0.2


@dataclass(frozen=True)
class Task:
    """Data of one seed.

    Attributes:
        name, unit: what is scored, and in what.
        inputs: values of a token.
        outputs: classes of an image if `pooled`, else values of a token.
        batch: (B, generator) -> x (B, 16, inputs) and y, (B,) or (B, 16, outputs).
        test: x and y of the held-out data.
        loss, score: of the network's output and y; more score is better.
    """

    name: str
    unit: str
    inputs: int
    outputs: int
    pooled: bool
    batch: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    test: tuple[Tensor, Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], float]


def digits(seed: int) -> Task:
    """See the module."""
    data = load_digits()
    generator = torch.Generator().manual_seed(1000 + seed)
    order = torch.randperm(len(data.images), generator=generator)
    images = torch.tensor(data.images, dtype=torch.float32)[order] / 16
    labels = torch.tensor(data.target)[order]
    train, train_labels = images[HELD_OUT_DIGITS:], labels[HELD_OUT_DIGITS:]

    def batch(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(train), (count,), generator=source)
        return _digit_tokens(_distorted(train[chosen], source)), train_labels[chosen]

    held = images[:HELD_OUT_DIGITS].repeat(DISTORTIONS, 1, 1)
    test = _digit_tokens(_distorted(held, generator)), labels[:HELD_OUT_DIGITS].repeat(DISTORTIONS)

    def score(logits: Tensor, y: Tensor) -> float:
        return 100 * float((logits.argmax(1) == y).float().mean())

    return Task("digits", "accuracy, %", 4, 10, True, batch, test, functional.cross_entropy, score)


def _distorted(images: Tensor, source: torch.Generator) -> Tensor:
    """(B, 8, 8) turned by up to 17 degrees, scaled by up to 15 %, moved by up to 0.8 pixels, and noise added."""
    turn, scale, right, down = (2 * torch.rand(4, len(images), generator=source) - 1) * torch.tensor([0.3, 0.15, 0.2, 0.2])[:, None]
    cosine, sine = (1 + scale) * turn.cos(), (1 + scale) * turn.sin()
    maps = torch.stack([torch.stack([cosine, -sine, right], 1), torch.stack([sine, cosine, down], 1)], 1)
    grid = functional.affine_grid(maps, [len(images), 1, 8, 8], align_corners=False)
    moved = functional.grid_sample(images[:, None], grid, align_corners=False)[:, 0]
    return moved + DIGIT_NOISE * torch.randn(moved.shape, generator=source)


def _digit_tokens(images: Tensor) -> Tensor:
    """(B, 8, 8) -> (B, 16, 4), about centred."""
    return _cut(images[..., None], 2) - 0.3


def photos(seed: int) -> Task:
    """See the module."""
    pictures = _pictures()
    columns = pictures.shape[2] - HELD_OUT_COLUMNS

    def cuts(count: int, source: torch.Generator, low: int, high: int) -> tuple[Tensor, Tensor]:
        which = torch.randint(len(pictures), (count,), generator=source)
        top = torch.randint(pictures.shape[1] - SIDE + 1, (count,), generator=source)
        left = torch.randint(low, high - SIDE + 1, (count,), generator=source)
        steps = torch.arange(SIDE)
        clean = pictures[which[:, None, None], (top[:, None] + steps)[:, :, None], (left[:, None] + steps)[:, None, :]]
        noisy = clean + PHOTO_NOISE * torch.randn(clean.shape, generator=source)
        x = _cut(noisy, 4)
        return x - 0.5, _cut(clean, 4) - 0.5

    def batch(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        return cuts(count, source, 0, columns)

    test = cuts(TEST_CUTS, torch.Generator().manual_seed(1), columns, pictures.shape[2])

    def score(output: Tensor, y: Tensor) -> float:
        return -10 * float(functional.mse_loss(output, y).log10())

    return Task("photos", "PSNR, dB", 48, 48, False, batch, test, functional.mse_loss, score)


@lru_cache(maxsize=1)
def _pictures() -> Tensor:
    """(2, 427, 640, 3) in [0, 1]."""
    return torch.from_numpy(np.stack(load_sample_images().images)).float() / 255


def _cut(images: Tensor, side: int) -> Tensor:
    """(B, 4 side, 4 side, C) -> (B, 16, side^2 C): patches row by row."""
    count, _, _, colours = images.shape
    return images.reshape(count, 4, side, 4, side, colours).permute(0, 1, 3, 2, 4, 5).reshape(count, TOKENS, -1)


TASKS = {"digits": digits, "photos": photos}

"""Augmentation of whole batches, on the device: mixup (arXiv 1710.09412), CutMix (arXiv 1905.04899), erasing (arXiv 1708.04896).

They draw from PyTorch's default generators, which train.py seeds before every epoch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def mix(images: Tensor, labels: Tensor, classes: int, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Every image mixed with one other of the batch: images as they came, and targets (B, classes) that sum to 1.

    One share lambda ~ Beta(alpha, alpha) for the batch, by mixup or by CutMix, each half of the times where both are on.

    Args:
        mixup, cutmix: their alphas; 0 is off.
    """
    targets = F.one_hot(labels, classes).to(images.dtype)
    if mixup == 0 and cutmix == 0:
        return images, targets
    cut = cutmix > 0 and (mixup == 0 or bool(torch.rand(()) < 0.5))
    alpha = torch.tensor(cutmix if cut else mixup)
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    others = images.flip(0)
    if cut:
        top, bottom, left, right = rectangle(images.shape[2], images.shape[3], 1 - share)
        images = images.clone()
        images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])  # what the border left of the rectangle
    else:
        images = images * share + others * (1 - share)
    return images, targets * share + targets.flip(0) * (1 - share)


def erase(images: Tensor, probability: float) -> Tensor:
    """A rectangle of 2 to 33 % of an image replaced by normal noise, in each image with that probability."""
    if probability == 0:
        return images
    images = images.clone()
    for index in (torch.rand(len(images)) < probability).nonzero()[:, 0].tolist():
        top, bottom, left, right = rectangle(images.shape[2], images.shape[3], 0.02 + 0.31 * float(torch.rand(())))
        images[index, :, top:bottom, left:right].normal_()
    return images


def rectangle(height: int, width: int, area: float) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a rectangle with the image's aspect and that part of its area, cut off at the border."""
    across, down = int(width * math.sqrt(area)), int(height * math.sqrt(area))
    middle, centre = int(torch.randint(height, ())), int(torch.randint(width, ()))
    top, left = max(middle - down // 2, 0), max(centre - across // 2, 0)
    return top, min(middle - down // 2 + down, height), left, min(centre - across // 2 + across, width)

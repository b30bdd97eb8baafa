"""Images read from files and augmented one by one, with Pillow: random crops, mirroring and RandAugment (arXiv 1909.13719)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from data import generator
from PIL import Image, ImageEnhance, ImageOps, UnidentifiedImageError
from torch import Tensor

from stlsearch.errors import InputError

MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of ImageNet's RGB in [0, 1]
GREY = (124, 116, 104)  # that mean in bytes: what an image is surrounded by
CROP = 0.9  # of the shorter side, for testing
OPERATIONS = 2  # of RandAugment an image


class Images(torch.utils.data.Dataset):
    """(path, class) pairs as (image (3, size, size) of mean 0 and deviation 1, class).

    Args:
        magnitude: of RandAugment, 0 to 10; 0 crops and mirrors only, None takes the centre for testing.
    """

    def __init__(self, items: list[tuple[str, int]], size: int, seed: int, magnitude: float | None) -> None:
        self._items, self._size, self._seed, self._magnitude = items, size, seed, magnitude
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self._items[index]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise InputError(f"cannot read the image {path}: {error}") from None
        if self._magnitude is None:
            return _tensor(_centre(image, self._size)), label
        draws = generator(self._seed, self.epoch, index)
        image = _random_crop(image, self._size, draws)
        if _uniform(draws) < 0.5:
            image = ImageOps.mirror(image)
        return _tensor(randaugment(image, self._magnitude, draws)), label


def randaugment(image: Image.Image, magnitude: float, draws: torch.Generator) -> Image.Image:
    """Two operations drawn from `AUGMENTATIONS`, each with probability 1/2, at magnitude + N(0, 0.5^2) cut to 0..10; 0 is none."""
    if magnitude == 0:
        return image
    for _ in range(OPERATIONS):
        operation = AUGMENTATIONS[int(torch.randint(len(AUGMENTATIONS), (), generator=draws))]
        noise = 0.5 * float(torch.randn((), generator=draws))
        strength = min(max(magnitude + noise, 0.0), 10.0) / 10
        sign = 1.0 if _uniform(draws) < 0.5 else -1.0
        if _uniform(draws) < 0.5:
            image = operation(image, strength, sign)
    return image


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=GREY)


def _enhance(kind: type) -> Callable[[Image.Image, float, float], Image.Image]:
    return lambda image, strength, sign: kind(image).enhance(1 + 0.9 * strength * sign)


def _solarize_add(image: Image.Image, strength: float, _: float) -> Image.Image:
    added = int(110 * strength)
    return image.point([min(255, value + added) if value < 128 else value for value in range(256)] * 3)


# Each takes (image, strength in [0, 1], sign); a larger strength always means a larger change.
AUGMENTATIONS: list[Callable[[Image.Image, float, float], Image.Image]] = [
    lambda image, strength, sign: ImageOps.autocontrast(image),
    lambda image, strength, sign: ImageOps.equalize(image),
    lambda image, strength, sign: ImageOps.invert(image),
    lambda image, strength, sign: image.rotate(30 * strength * sign, Image.Resampling.BICUBIC, fillcolor=GREY),
    lambda image, strength, sign: ImageOps.posterize(image, 8 - int(7 * strength)),
    lambda image, strength, sign: ImageOps.solarize(image, 256 - int(256 * strength)),
    _solarize_add,
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    lambda image, strength, sign: _affine(image, 1, 0.3 * strength * sign, 0, 0, 1, 0),
    lambda image, strength, sign: _affine(image, 1, 0, 0, 0.3 * strength * sign, 1, 0),
    lambda image, strength, sign: _affine(image, 1, 0, 0.45 * strength * sign * image.width, 0, 1, 0),
    lambda image, strength, sign: _affine(image, 1, 0, 0, 0, 1, 0.45 * strength * sign * image.height),
]


def _random_crop(image: Image.Image, size: int, draws: torch.Generator) -> Image.Image:
    """A rectangle of 8 to 100 % of the area and an aspect of 3/4 to 4/3, scaled to size x size (the Inception crop)."""
    for _ in range(10):
        area = image.width * image.height * (0.08 + 0.92 * _uniform(draws))
        aspect = math.exp(math.log(4 / 3) * (2 * _uniform(draws) - 1))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= image.width and 0 < height <= image.height:
            left = int(_uniform(draws) * (image.width - width + 1))
            top = int(_uniform(draws) * (image.height - height + 1))
            return image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)  # a very long image: no rectangle fitted


def _centre(image: Image.Image, size: int) -> Image.Image:
    """The central square of 90 % of the shorter side, scaled to size x size."""
    side = CROP * min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))


def _tensor(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)) / 255  # (size, size, 3)
    return ((pixels - MEAN) / DEVIATION).permute(2, 0, 1).contiguous()


def _uniform(draws: torch.Generator) -> float:
    return float(torch.rand((), generator=draws))

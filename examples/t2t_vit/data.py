"""Images in batches: a folder of classes, scikit-learn's digits, or random numbers.

Every source gives ``steps`` a training epoch, ``train(epoch)`` and ``test()``, iterators of (images (B, C, H, W) float32, labels (B,))
on the device. Order and augmentation follow from (seed, epoch, image), so a resumed run sees what an uninterrupted one sees, and the
number of reading processes changes nothing. With several processes each takes its share of every batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from stlsearch.errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}
TEST = 297  # of the 1797 digits

Batches = Iterator[tuple[Tensor, Tensor]]


class Source(Protocol):
    """What train.py asks of its data."""

    classes: int
    channels: int
    steps: int

    def train(self, epoch: int) -> Batches: ...
    def test(self) -> Batches: ...


@dataclass(frozen=True)
class Share:
    """One process's part of every batch: images `rank`, `rank` + `world`, ... of the `batch` images of a step."""

    batch: int
    seed: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch % self.world:
            raise InputError(f"--batch {self.batch} cannot be shared by {self.world} processes")

    @property
    def local(self) -> int:
        """Images a step in this process."""
        return self.batch // self.world

    def order(self, images: int, epoch: int) -> Tensor:
        """The images of an epoch for this process, in order; what fills no batch is left out."""
        shuffled = torch.randperm(images, generator=generator(self.seed, epoch))
        return shuffled[: images - images % self.batch][self.rank :: self.world]

    def steps(self, images: int) -> int:
        """Batches an epoch.

        Raises:
            InputError: there are not enough images for one.
        """
        if images < self.batch:
            raise InputError(f"{images} training images do not fill a batch of {self.batch}; pass a smaller --batch")
        return images // self.batch


def generator(*numbers: int) -> torch.Generator:
    """A random generator of its own for every tuple of numbers."""
    seed = 0
    for number in numbers:  # one step of a congruential generator each: neighbouring tuples get seeds far apart
        seed = (seed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(seed)


class InMemory:
    """Images (N, C, H, W) and labels (N,) that lie on the device; training images are shifted by up to `shift` pixels."""

    def __init__(self, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int, share: Share, shift: int) -> None:
        self._train, self._test, self._share, self._shift = train, test, share, shift
        self.classes, self.channels = classes, train[0].shape[1]
        self.steps = share.steps(len(train[0]))

    def train(self, epoch: int) -> Batches:
        images, labels = self._train
        draws = generator(self._share.seed, epoch, self._share.rank)
        for chosen in self._share.order(len(images), epoch).to(images.device).split(self._share.local):
            yield shifted(images[chosen], self._shift, draws), labels[chosen]

    def test(self) -> Batches:
        images, labels = (part[self._share.rank :: self._share.world] for part in self._test)
        yield from zip(images.split(self._share.local), labels.split(self._share.local), strict=True)


def shifted(images: Tensor, most: int, draws: torch.Generator) -> Tensor:
    """Every image (B, C, H, W) moved by up to `most` pixels each way; its border is continued."""
    if most == 0:
        return images
    size = images.shape[-2:]
    windows = F.pad(images, (most,) * 4, mode="replicate").unfold(2, size[0], 1).unfold(3, size[1], 1)  # (B, C, 2m+1, 2m+1, H, W)
    down, across = torch.randint(2 * most + 1, (2, len(images)), generator=draws).to(images.device)
    return windows[torch.arange(len(images), device=images.device), :, down, across]


def digits(size: int, samples: int | None, share: Share, shift: int, device: torch.device) -> InMemory:
    """scikit-learn's digits, scaled from 8 x 8 pixels: up to 1500 to train and 297 others for testing, the same for every seed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("--data digits needs scikit-learn: pip install -c constraints.txt '.[examples]'") from None
    loaded = load_digits()
    images = torch.tensor(loaded.images, dtype=torch.float32)[:, None] / 16  # (N, 1, 8, 8) in [0, 1]
    images = (F.interpolate(images, (size, size), mode="bilinear") - 0.3) / 0.35  # about white
    order = torch.randperm(len(images), generator=generator(0))
    images, labels = images[order].to(device), torch.tensor(loaded.target)[order].to(device)
    used = len(images) - TEST if samples is None else min(samples, len(images) - TEST)
    return InMemory((images[:used], labels[:used]), (images[-TEST:], labels[-TEST:]), 10, share, shift)


def synthetic(size: int, channels: int, classes: int, samples: int | None, share: Share, device: torch.device) -> InMemory:
    """Random images and labels: nothing to learn, but every step costs what a real one costs, reading aside."""
    samples = 1024 if samples is None else samples
    draws = generator(share.seed)
    images = torch.randn(samples, channels, size, size, generator=draws).to(device)
    labels = torch.randint(classes, (samples,), generator=draws).to(device)
    held_out = min(samples, 256)
    return InMemory((images, labels), (images[:held_out], labels[:held_out]), classes, share, 0)


class ImageFolder:
    """root/train/CLASS/* and root/val/CLASS/*: classes are the sorted names of the folders in train.

    Raises:
        InputError: a missing folder, no class or no image, a class in val that train does not have, no Pillow.
    """

    channels = 3

    def __init__(self, root: Path, size: int, share: Share, magnitude: float, workers: int, device: torch.device) -> None:
        try:
            from folder import Images
        except ImportError as error:
            if (error.name or "").split(".")[0] != "PIL":
                raise
            raise InputError("--data imagenet reads images with Pillow: pip install pillow") from None
        names = _subfolders(root / "train")
        self.classes = len(names)
        self._train = Images(_images(root / "train", names), size, share.seed, magnitude)
        self._test = Images(_images(root / "val", names), size, share.seed, None)
        self._share, self._workers, self._device = share, workers, device
        self.steps = share.steps(len(self._train))

    def train(self, epoch: int) -> Batches:
        self._train.epoch = epoch  # the reading processes are started anew for every epoch, and see it
        return self._read(self._train, self._share.order(len(self._train), epoch).tolist())

    def test(self) -> Batches:
        return self._read(self._test, list(range(self._share.rank, len(self._test), self._share.world)))

    def _read(self, images: torch.utils.data.Dataset, order: list[int]) -> Batches:
        loader = torch.utils.data.DataLoader(
            images, self._share.local, sampler=order, num_workers=self._workers, pin_memory=self._device.type == "cuda"
        )
        for batch, labels in loader:
            yield batch.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; --root has to hold train/CLASS/*.jpg and val/CLASS/*.jpg")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not names:
        raise InputError(f"{folder} holds no folder of a class")
    return names


def _images(folder: Path, names: list[str]) -> list[tuple[str, int]]:
    """(path, class) of all images in a folder of classes; sorted, so that an image has the same number everywhere."""
    unknown = sorted(set(_subfolders(folder)) - set(names))
    if unknown:
        raise InputError(f"{folder} holds the class {unknown[0]!r}, which the training images do not have")
    number = {name: index for index, name in enumerate(names)}
    found = [
        (str(path), number[name])
        for name in names
        if (folder / name).is_dir()
        for path in sorted((folder / name).iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise InputError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))})")
    return found

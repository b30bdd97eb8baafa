"""Real activations to fit a basis for: a small MLP-mixer trained on scikit-learn's digits.

    pip install -c constraints.txt '.[examples]'
    python examples/digits_activations.py --out digits

trains it in some ten seconds on one core (same seed, same files for the same versions) and writes, per layer,
digits/NAME.npy, the layer's input of shape (images, tokens, channels), and digits/weights.safetensors with the tensors NAME
of shape (channels, outputs), so that input @ weight is what the layer multiplies:

    stlsearch fit --tile 4 --rank 24 --metric data --activations digits/mlp2.npy --weights digits/weights.safetensors:mlp2

The 8 x 8 images become 16 tokens, the 2 x 2 patches row by row: neighbouring tokens are neighbouring patches.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

CHANNELS, HIDDEN, TOKENS, CLASSES = 64, 128, 16, 10
TEST = 297  # of 1797 images


class Block(nn.Module):
    """Tokens mixed, then channels, each after a norm and added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(CHANNELS), nn.LayerNorm(CHANNELS)
        self.mix = nn.Linear(TOKENS, TOKENS)
        self.grow = nn.Linear(CHANNELS, HIDDEN)
        self.shrink = nn.Linear(HIDDEN, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:  # (B, tokens, channels)
        x = x + self.mix(self.norm1(x).mT).mT
        return x + self.shrink(torch.relu(self.grow(self.norm2(x))))


class Mixer(nn.Module):
    """Patches to channels, two blocks, the mean over tokens, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, CHANNELS)
        self.places = nn.Parameter(torch.zeros(TOKENS, CHANNELS))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(CHANNELS)
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, patches: Tensor) -> Tensor:  # (B, tokens, 4) -> (B, classes)
        x = self.embed(patches) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def patches_of(images: np.ndarray) -> Tensor:
    """(B, 8, 8) -> (B, 16, 4): the 2 x 2 patches row by row."""
    cut = torch.tensor(images, dtype=torch.float32).reshape(-1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4)
    return cut.reshape(-1, TOKENS, 4) / 16 - 0.5


def train(patches: Tensor, labels: Tensor, epochs: int) -> Mixer:
    model = Mixer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    steps = epochs * (len(patches) // 100)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _epoch in range(epochs):
        for batch in torch.randperm(len(patches)).split(100):
            if len(batch) < 100:
                continue
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(patches[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("digits"), help="folder to write to")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)

    digits = load_digits()
    order = torch.randperm(len(digits.images))
    patches, labels = patches_of(digits.images)[order], torch.tensor(digits.target)[order]
    model = train(patches[:-TEST], labels[:-TEST], options.epochs).eval()

    linears = [layer for block in model.blocks for layer in (block.grow, block.shrink)]
    layers = {f"mlp{number}": layer for number, layer in enumerate(linears, 1)}
    inputs: dict[str, Tensor] = {}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, args, name=name: inputs.__setitem__(name, args[0].detach()))
    with torch.no_grad():
        correct = (model(patches[-TEST:]).argmax(1) == labels[-TEST:]).float().mean()

    options.out.mkdir(parents=True, exist_ok=True)
    for name, x in inputs.items():
        np.save(options.out / f"{name}.npy", x.numpy())
        print(f"{options.out / name}.npy  {tuple(x.shape)} (images, tokens, channels), weight {tuple(layers[name].weight.T.shape)}")
    save_file({name: layer.weight.detach().T.contiguous() for name, layer in layers.items()}, options.out / "weights.safetensors")
    print(f"test accuracy {correct:.3f}; weights in {options.out / 'weights.safetensors'}")


if __name__ == "__main__":
    main()

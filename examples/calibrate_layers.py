"""Layers of a trained network made cheaper without retraining: calibrated Strassen-Tile layers beside 2:4 pruning and low rank.

    pip install -c constraints.txt '.[examples]'
    python examples/calibrate_layers.py --network vit --rank 24

trains a small network on scikit-learn's digits and replaces its four MLP layers by each method in turn. Every method sees the inputs
of those layers on the training images (the ridges of calibration are chosen on a quarter of them), is measured on test images, and then
all four layers run in it at once. Networks: `mixer`, the MLP-mixer of digits_activations.py (64 channels, 128 hidden), and `vit`, a
transformer of 128 channels and 256 hidden.

Printed: multiply-accumulates as a share of the dense product's, everything counted but the encoding of weights, which is done beforehand;
the relative squared error of the four products, ||XB - layer||^2/||XB||^2, averaged, on training and on test images; test accuracy.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from digits_activations import TEST, TOKENS, Mixer, patches_of, train
from sklearn.datasets import load_digits
from torch import Tensor, nn

from stlsearch.baselines import truncation
from stlsearch.fit import fit
from stlsearch.grouping import group_channels
from stlsearch.nn import STLLinear
from stlsearch.nn.calibration import Calibration, fit_encoded, gather, improve_basis, system_of
from stlsearch.nn.least_squares import Moments
from stlsearch.nn.pruning import (
    TWO_FOUR_COST,
    low_rank,
    low_rank_cost,
    rank_at,
    sparse_gpt,
    stl_cost,
    two_four,
    two_four_calibrated,
)
from stlsearch.registry.store import open_registry
from stlsearch.samples import Samples
from stlsearch.targets import Target

WIDTH, WIDE = 128, 256
TARGET = Target.matmul(4, 4, 4)


class Attention(nn.Module):
    """Tokens attend to each other, then an MLP; each after a norm and added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.grow, self.shrink = nn.Linear(WIDTH, WIDE), nn.Linear(WIDE, WIDTH)

    def forward(self, x: Tensor) -> Tensor:  # (B, tokens, channels)
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.shrink(nn.functional.gelu(self.grow(self.norm2(x))))


class Transformer(nn.Module):
    """Patches to channels, two blocks, the mean over tokens, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(TOKENS, WIDTH))
        self.blocks = nn.ModuleList([Attention(), Attention()])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, patches: Tensor) -> Tensor:  # (B, tokens, 4) -> (B, classes)
        x = self.embed(patches) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, float]] = {"mixer": (Mixer, 60, 3e-3), "vit": (Transformer, 16, 1e-3)}


@dataclass
class Layer:
    """One dense layer and what it is fed: (images, tokens, channels)."""

    path: str
    linear: nn.Linear
    fitted: Tensor
    test: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="mixer")
    parser.add_argument("--rank", type=int, default=24, help="of the 4 x 4 x 4 algorithms")
    parser.add_argument("--seed", type=int, default=0, help="of the training and the split of images")
    parser.add_argument("--seeds", type=int, default=1, help="average over this many, the first being --seed")
    parser.add_argument("--steps", type=int, default=100, help="of the improvement of bases")
    parser.add_argument("--json", action="store_true", help="all figures, seed by seed and layer by layer, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)

    studies = [study(options.network, options.rank, seed, options.steps) for seed in range(options.seed, options.seed + options.seeds)]
    if options.json:
        print(json.dumps(studies))
        return
    print(f"{'method':48}{'MACs':>7}{'training':>11}{'test':>11}{'accuracy':>10}")
    for lines in zip(*(rows for _, rows in studies), strict=True):
        macs, training, test, accuracy = (np.mean([line[key] for line in lines]) for key in ("macs", "training", "test", "accuracy"))
        print(f"{lines[0]['method']:48}{macs:7.3f}{training:11.5f}{test:11.5f}{accuracy:10.3f}")


def study(network: str, rank: int, seed: int, steps: int) -> tuple[dict[str, object], list[dict[str, Any]]]:
    """(what was run, a row for every method)."""
    model, patches, labels = trained(network, seed)
    layers = observed(model, patches)
    methods: dict[str, list[tuple[nn.Module, float]]] = {"dense": [(layer.linear, 1.0) for layer in layers]}
    for layer in layers:
        for name, module, cost in compressed(layer, rank, steps):
            methods.setdefault(name, []).append((module, cost))
            print(f"{network} {seed}, {layer.path}: {name}", file=sys.stderr)
    rows = [row(name, modules, layers, model, patches, labels) for name, modules in methods.items()]
    return {"network": network, "rank": rank, "seed": seed, "steps": steps}, rows


def trained(name: str, seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """(network, patches, labels), the last `TEST` images being test images."""
    torch.manual_seed(seed)
    digits = load_digits()
    order = torch.randperm(len(digits.images))
    patches, labels = patches_of(digits.images)[order], torch.tensor(digits.target)[order]
    make, epochs, rate = NETWORKS[name]
    if make is Mixer:
        return train(patches[:-TEST], labels[:-TEST], epochs).eval(), patches, labels
    model = make()
    steps = epochs * ((len(patches) - TEST) // 100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(patches) - TEST).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(patches[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval(), patches, labels


@torch.no_grad()
def observed(model: nn.Module, patches: Tensor) -> list[Layer]:
    """The layers of the MLPs with their inputs on training and on test images."""
    inputs: dict[str, Tensor] = {}
    linears = {name: module for name, module in model.named_modules() if name.endswith(("grow", "shrink"))}
    hooks = [
        linear.register_forward_pre_hook(lambda _, args, name=name: inputs.__setitem__(name, args[0])) for name, linear in linears.items()
    ]
    model(patches)
    for hook in hooks:
        hook.remove()
    return [Layer(name, linear, inputs[name][:-TEST], inputs[name][-TEST:]) for name, linear in linears.items()]


def compressed(layer: Layer, rank: int, steps: int) -> Iterator[tuple[str, nn.Module, float]]:
    """(method, module, MACs as a share) for every method."""
    linear, weight = layer.linear, layer.linear.weight.detach().T
    inner, outputs = weight.shape
    cost = stl_cost(rank, (4, 4, 4), inner, outputs)
    found: list[tuple[STLLinear, Calibration]] = []
    systems = None
    registered = open_registry().best(TARGET, rank)
    if registered is None:
        raise SystemExit(f"no basis of rank {rank} is registered; fit one: stlsearch fit --tile 4 --rank {rank}")
    samples = Samples.of(layer.fitted.numpy(), weight.numpy())
    order = group_channels(samples, TARGET, rank)
    metric = samples.metric(TARGET, order)
    bases = {
        "isotropic": (registered.algorithm, np.arange(inner)),
        "isotropic, channels grouped": (registered.algorithm, order),
        f"truncation to {rank / 4:g} modes": (truncation(metric, TARGET, rank), order),
        "fitted under the metric": (fit(TARGET, rank, metric=metric, restarts=8, iterations=150, polished=1).algorithm, order),
    }
    for label, (basis, channels) in bases.items():
        stl = STLLinear.from_linear(linear, basis, channels=channels)
        yield f"STL, {label}", copy.deepcopy(stl), cost
        moments = gather(stl, layer.fitted)
        systems = tuple(system_of(stl, each, weight) for each in moments)
        found.append((stl, fit_encoded(stl, *systems, weight)))
        yield f"STL, {label}, calibrated", copy.deepcopy(stl), cost
    best, calibration = min(found[1:], key=lambda pair: pair[1].held_out)
    improve_basis(best, *systems, weight, calibration, steps)
    yield "STL, the best of them, its basis calibrated too", best, cost

    gram = Moments(1, inner).add(layer.fitted).gram
    pruned = {
        "2:4, magnitude": weight * two_four(weight),
        "2:4, SparseGPT": sparse_gpt(weight, gram),
        "2:4, least squares on the better mask": two_four_calibrated(weight, gram),
    }
    for label, other in pruned.items():
        yield label, dense(linear, other), TWO_FOUR_COST
    for label, share, data in (
        ("low rank, SVD", cost, None),
        ("low rank for the activations", cost, gram),
        ("low rank for the activations, MACs r/64", rank / 64, gram),
    ):
        k = rank_at(share, inner, outputs)
        left, right = low_rank(weight, k, data)
        yield label, dense(linear, left @ right), low_rank_cost(k, inner, outputs)


def dense(linear: nn.Linear, weight: Tensor) -> nn.Linear:
    """The layer with another weight (K, N)."""
    other = copy.deepcopy(linear)
    other.weight.data = weight.T.contiguous()
    return other


@torch.no_grad()
def row(
    name: str, modules: list[tuple[nn.Module, float]], layers: list[Layer], model: nn.Module, patches: Tensor, labels: Tensor
) -> dict[str, Any]:
    """What a method costs and how wrong it is; "layers" are the errors on test images."""
    replaced = copy.deepcopy(model)
    for layer, (module, _) in zip(layers, modules, strict=True):
        replaced.set_submodule(layer.path, module)
    fitted = [error(layer.linear, module, layer.fitted) for layer, (module, _) in zip(layers, modules, strict=True)]
    test = [error(layer.linear, module, layer.test) for layer, (module, _) in zip(layers, modules, strict=True)]
    return {
        "method": name,
        "macs": float(np.mean([cost for _, cost in modules])),
        "training": float(np.mean(fitted)),
        "test": float(np.mean(test)),
        "accuracy": accuracy_of(replaced, patches[-TEST:], labels[-TEST:]),
        "layers": {layer.path: value for layer, value in zip(layers, test, strict=True)},
    }


def error(linear: nn.Linear, module: nn.Module, x: Tensor) -> float:
    """||XB - layer||^2/||XB||^2, the bias aside."""
    exact = linear(x)
    return float((module(x) - exact).double().square().sum() / (exact - linear.bias).double().square().sum())


@torch.no_grad()
def accuracy_of(model: nn.Module, patches: Tensor, labels: Tensor) -> float:
    """The share of images that are classified correctly."""
    return float((model(patches).argmax(1) == labels).float().mean())


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)

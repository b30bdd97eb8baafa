"""2:4 sparsity by magnitude: of every four neighbouring inputs of an output, the two largest weights stay."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stlsearch.nn.pruning import two_four

Masks = dict[nn.Parameter, Tensor]


def find_masks(blocks: nn.Module) -> Masks:
    """A mask for the weight of every `torch.nn.Linear` within."""
    return {layer.weight: two_four(layer.weight.detach().T).T for layer in blocks.modules() if isinstance(layer, nn.Linear)}


@torch.no_grad()
def apply_masks(masks: Masks) -> None:
    """Set to zero what is masked: once to prune, and after every step of the optimiser to keep it so."""
    for weight, mask in masks.items():
        weight.mul_(mask)

"""The network that is trained, and its files: checkpoints to go on from, and the finished model.

OUT/checkpoint.pt   tensors and plain values only (`torch.load(weights_only=True)`), replaced after every epoch
OUT/model.safetensors, OUT/config.json   the finished model, and all that is needed to build it again: see `load_model`
"""

from __future__ import annotations

import copy
import io
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.nn import convert, load, save
from stlsearch.nn.folder import table_of
from stlsearch.nn.models import T2TViT, t2t_vit_7, t2t_vit_digits
from stlsearch.nn.survey import best_registered
from stlsearch.registry.atomic import write_atomic
from stlsearch.registry.store import open_registry

MODELS = {"t2t_vit_7": t2t_vit_7, "t2t_vit_digits": t2t_vit_digits}


def find_basis(name: str | None, rank: int, tile: int) -> BilinearAlgorithm | None:
    """The basis by its name, else the best registered one of a rank, else None for a dense network.

    Raises:
        InputError: there is none, or the named one has another rank than asked for.
    """
    if name is not None:
        algorithm = open_registry().get(name).algorithm
        if rank not in (0, algorithm.rank):
            raise InputError(f"{algorithm.name} has rank {algorithm.rank}, not {rank}; give --basis or --rank")
        return algorithm
    if rank == 0:
        return None
    return best_registered(rank, tile)


def build(config: dict[str, Any], algorithm: BilinearAlgorithm | None = None, *, layers: str = "backbone", learn: str = "") -> T2TViT:
    """The network of a configuration, drawn from the default generator; converted if there is an algorithm.

    Args:
        config: ``model`` (one of `MODELS`) and ``options`` (its arguments).
        layers: "backbone", the linear layers of the blocks, or "all" of the network.
        learn: factors of the bases that are trained, each layer its own.
    """
    model = MODELS[config["model"]](**config["options"])
    if algorithm is not None:
        convert(model, basis=algorithm, include="blocks.*" if layers == "backbone" else "*", exclude=(), learn=learn)
    return model


class MovingAverage:
    """The exponential moving average of a network's parameters, as a network to evaluate.

    After step n it is decay times what it was plus 1 - decay times the parameters, decay being min(decay, (1 + n) / (10 + n)): the
    random start is forgotten early. Buffers of these networks never change.
    """

    def __init__(self, model: T2TViT, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the parameters after optimiser step number `step`, counted from 0."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), share)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; whatever interrupts it, the file is the old one or the new one."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())


def load_checkpoint(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Inverse of `save_checkpoint`; nothing in the file is executed.

    Raises:
        InputError: not a checkpoint, or one of a run with other settings.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = dict(state["settings"])
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is not a checkpoint of this script: {reason:.120}") from None
    for name in sorted(saved.keys() | settings.keys()):
        if saved.get(name) != settings.get(name):
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{path} was trained with {flag} {saved.get(name)}, not {settings.get(name)}; give the same or another --out")
    return state


def save_model(folder: Path, model: T2TViT, config: dict[str, Any]) -> None:
    """Write model.safetensors and config.json, which `load_model` and the commands `stlsearch convert` and `count` read."""
    model.eval()
    device = model.class_token.device
    table = table_of(model, torch.zeros(1, model.channels, model.image_size, model.image_size, device=device))
    save(model, folder, config=config | {"stlsearch": {"version": 1, "layers": table}})


def load_model(folder: Path) -> T2TViT:
    """The trained network of a folder, ready to evaluate.

    Raises:
        InputError: no model in it, or files that do not belong together.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = build(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no config.json of this script: {error!r:.120}") from None
    load(model, folder)
    return model.eval()

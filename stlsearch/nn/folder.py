"""Models as folders: config.json beside model.safetensors, dense or converted. Nothing is ever unpickled.

config.json is that of transformers or of timm where the model is one of theirs. For any other it holds under the key "stlsearch" the
model's layers that multiply by a matrix, so that `stlsearch convert` and `count` know them without the program that owns the class:

    version  1
    layers   {name: {kind, inner, outputs, bias, aliases, calls, vectors}}: other names of the same module, and `stlsearch.nn.observe.Seen`
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stlsearch.errors import InputError, RegistryError
from stlsearch.nn.layers import kind_of, matrix, names_of, obstacle, swap
from stlsearch.nn.observe import Seen, observe
from stlsearch.nn.state import KEY, VERSION, State, read_state, write_state
from stlsearch.nn.table import Builder, check_same, describe, layers_of
from stlsearch.registry.atomic import write_atomic


def save(model: torch.nn.Module, folder: str | Path, *, example: Any = None, config: Mapping[str, Any] | None = None) -> None:
    """Write a model, dense or converted, to a folder: `load` gives back every bit of it.

    Files of the same names are replaced, each as a whole.

    Args:
        folder: made where it does not exist.
        example: an input of the model, to note how many rows each dense layer multiplies.
        config: what config.json is to hold. None leaves it to the model: its own one if it comes from transformers, else the table above,
            and also for timm's, whose classes do not know how they were made: pass the one it came with.

    Raises:
        InputError: an example of another type than `plan` takes, a config that is no JSON, or a tensor that safetensors cannot hold.
        RegistryError: something cannot be written.
    """
    folder = Path(folder)
    document = dict(config) if config is not None else _config_of(model, example)
    try:
        text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"the config is no JSON object: {error}") from None
    layers, bases = describe(model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RegistryError(f"cannot create {folder}: {error.strerror or error}") from None
    write_state(folder / "model.safetensors", State(model.state_dict(), layers, bases))
    write_atomic(folder / "config.json", text.encode())


def load(model: torch.nn.Module, folder: str | Path) -> torch.nn.Module:
    """Load a saved model into a freshly made dense one, whose layers become Strassen-Tile ones where the saved ones were.

    Values are cast to the dtypes of the model. Nothing changes unless everything fits.

    Args:
        model: as the saved one was made before it was converted, or Strassen-Tile itself in the same places.
        folder: what `save` or `stlsearch convert` wrote, or any folder or file of safetensors with the model's own names.

    Returns:
        The model.

    Raises:
        InputError: a missing, damaged or changed file, an algorithm of another id, or names or sizes that are not the model's.
    """
    state = read_state(Path(folder))
    ours, names = layers_of(model), {known[0]: (known, module) for module, known in names_of(model).items()}
    builder = Builder(state.layers, state.bases, state.tensors)
    made, own = {}, describe(model)[0]
    for name, entry in state.layers.items():
        if name in ours:
            check_same(name, entry, own[name])
            continue
        if name not in names:
            raise InputError(f"{folder}: the model has no layer {name}")
        made[name] = builder.build(name, names[name][1])
    replaced = {f"{alias}." for name in made for alias in names[name][0]}
    expected = {key: value for key, value in model.state_dict().items() if not key.startswith(tuple(replaced))}
    for name, layer in made.items():
        for alias in names[name][0]:
            expected |= {f"{alias}.{key}": value for key, value in layer.state_dict().items()}
    _check(Path(folder), expected, state)
    for name, layer in made.items():
        swap(model, names[name][0], layer)
    model.load_state_dict(state.tensors)
    return model


def table_of(model: torch.nn.Module, example: Any = None) -> dict[str, dict]:
    """The dense layers of a model that multiply by a matrix and can be replaced, as config.json holds them."""
    layers = {module: known for module, known in names_of(model).items() if kind_of(module) and known[0] and not obstacle(module)}
    seen = {} if example is None else observe(model, example, dict.fromkeys(layers))
    found = {}
    for module, (name, *aliases) in layers.items():
        inner, outputs = matrix(module).shape
        each = seen.get(module, Seen())
        calls = None if example is None else [list(call) for call in each.calls]
        bias = getattr(module, "bias", None) is not None
        sizes = {"kind": kind_of(module), "inner": inner, "outputs": outputs, "bias": bias}
        found[name] = {**sizes, "aliases": aliases, "calls": calls, "vectors": each.vectors}
    return found


def _config_of(model: torch.nn.Module, example: Any) -> dict[str, Any]:
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) and hasattr(config, "to_json_string"):
        return json.loads(config.to_json_string()) | {"architectures": [type(model).__name__]}  # type: ignore[union-attr]
    return {KEY: {"version": VERSION, "layers": table_of(model, example)}}


def _check(folder: Path, expected: Mapping[str, Any], state: State) -> None:
    """Raise `InputError` unless a state holds exactly the tensors that are expected, of their shapes."""
    missing, unknown = sorted(expected.keys() - state.tensors.keys()), sorted(state.tensors.keys() - expected.keys())
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"holds {unknown[0]}, which the model does not have"
        raise InputError(f"{folder} {what} ({len(missing)} missing, {len(unknown)} unknown)")
    for name, value in expected.items():
        if not name.endswith("_extra_state") and value.shape != state.tensors[name].shape:
            raise InputError(f"{folder}: {name} is {tuple(state.tensors[name].shape)}, the model's {tuple(value.shape)}")

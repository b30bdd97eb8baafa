"""Models as safetensors files: tensors, the table of what is Strassen-Tile in them, and the algorithms. Nothing is ever unpickled.

The metadata of the file holds under the key "stlsearch" a JSON object:

    version  1
    sha256   of all tensors (names, dtypes, shapes and bytes, in the order of the names) and of the rest of this table
    shared   tensors that are stored under another name, such as tied weights and the bases of further layers: {name: stored name}
    layers   {name: how the Strassen-Tile layer is made, see `stlsearch.nn.table`}
    bases    {id: the algorithm, as `stlsearch.registry.codec` writes it}

Names are those of ``state_dict``. Whatever does not agree is refused before a tensor is used.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from stlsearch.errors import InputError, RegistryError
from stlsearch.registry.text import parse

KEY = "stlsearch"
VERSION = 1


@dataclass(frozen=True)
class State:
    """A state dict, with what makes Strassen-Tile layers of it.

    Attributes:
        tensors: by name; shared ones under each of their names.
        layers, bases: as in the file; empty for a dense model, and for a file that stlsearch has not written.
    """

    tensors: dict[str, Tensor]
    layers: dict[str, dict] = field(default_factory=dict)
    bases: dict[str, object] = field(default_factory=dict)


def write_state(path: Path, state: State) -> None:
    """Write a file, under a temporary name first.

    Raises:
        InputError: a value that is no tensor, is on the meta device or of a dtype that safetensors does not know.
        RegistryError: it cannot be written.
    """
    for name, value in state.tensors.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
            raise InputError(f"{name} is no dense tensor with values; safetensors holds nothing else")
    stored: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    memory: set[int] = set()
    first: dict[tuple, str] = {}
    for name, tensor in state.tensors.items():
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
        if tensor.numel() and place in first:
            shared[name] = first[place]
            continue
        first[place] = name
        kept = tensor.detach().cpu().contiguous()
        # Views of one memory that are not the same tensor: safetensors wants each to have its own.
        own = kept.untyped_storage().nbytes() == kept.nbytes and kept.data_ptr() not in memory
        stored[name] = kept if own else kept.clone()
        memory.add(kept.data_ptr())
    table = {"version": VERSION, "shared": shared, "layers": state.layers, "bases": state.bases}
    table["sha256"] = digest(stored, table)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            temporary.touch()
            mode = temporary.stat().st_mode  # as of any other file: safetensors would make it for its owner alone
            save_file(stored, temporary, metadata={"format": "pt", KEY: json.dumps(table, allow_nan=False)})
            temporary.chmod(mode)
            temporary.replace(path)
        except BaseException:  # Ctrl-C too leaves nothing behind
            temporary.unlink(missing_ok=True)
            raise
    except KeyError as error:
        raise InputError(f"safetensors does not hold {error}") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise RegistryError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None


def read_state(path: Path) -> State:
    """A model's tensors: of a .safetensors file, or of a folder with model.safetensors or its parts and their index.

    Raises:
        InputError: no such file, one that is damaged or was changed, or a table that is none.
    """
    tensors: dict[str, Tensor] = {}
    table: object = None
    for file in weight_files(path):
        try:
            with safetensors.safe_open(file, framework="pt") as stream:
                text = (stream.metadata() or {}).get(KEY)
                tensors |= {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  it is no mapping
        except (safetensors.SafetensorError, OSError) as error:
            raise InputError(f"{file}: not a readable safetensors file: {error!s:.120}") from None
        table = _parsed(file, text) if text is not None else table
    if not isinstance(table, dict):
        return State(tensors)
    if table.get("version") != VERSION:
        raise InputError(f"{path}: version {table.get('version')!r:.20} of the table; this stlsearch reads {VERSION}")
    shared, layers, bases = (table.get(key) for key in ("shared", "layers", "bases"))
    if not (isinstance(shared, dict) and isinstance(layers, dict) and isinstance(bases, dict)):
        raise InputError(f"{path}: the table lacks 'shared', 'layers' or 'bases'")
    if table.get("sha256") != (found := digest(tensors, table)):
        raise InputError(f"{path}: damaged or changed: the table says {table.get('sha256')!s:.16}, the content hashes to {found[:16]}")
    for name, source in shared.items():
        if not isinstance(source, str) or source not in tensors:
            raise InputError(f"{path}: {name} is to be stored as {source!r:.80}, which is not there")
        tensors[name] = tensors[source]
    return State(tensors, layers, bases)


def is_converted(path: Path) -> bool:
    """Whether a model's files say that some of its layers are Strassen-Tile ones; nothing is checked.

    Raises:
        InputError: there are no files.
    """
    try:
        metadata = [safetensors.safe_open(file, framework="pt").metadata() or {} for file in weight_files(path)]
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {error!s:.120}") from None
    tables = [_parsed(path, each[KEY]) for each in metadata if KEY in each]
    return any(isinstance(table, dict) and table.get("layers") for table in tables)


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model.

    Raises:
        InputError: there are none, or an index that names anything but files beside it.
    """
    if path.is_file():
        return [path]
    if (single := path / "model.safetensors").is_file():
        return [single]
    if (index := path / "model.safetensors.index.json").is_file():
        document = read_json(index)
        names = document.get("weight_map")
        parts = sorted({*names.values()}, key=str) if isinstance(names, dict) else []
        if not parts or not all(isinstance(part, str) and Path(part).name == part and part.endswith(".safetensors") for part in parts):
            raise InputError(f"{index}: 'weight_map' has to name .safetensors files beside it")
        if missing := [part for part in parts if not (path / part).is_file()]:
            raise InputError(f"{index}: {missing[0]} is missing")
        return [path / part for part in parts]
    if not path.exists():
        raise InputError(f"there is no file or folder {path}")
    raise InputError(f"{path} holds no model.safetensors and no model.safetensors.index.json (pickled weights are never read)")


def read_json(path: Path) -> dict:
    """The object in a JSON file.

    Raises:
        InputError: it cannot be read, or holds anything else.
    """
    try:
        document = parse(path.read_bytes())
    except (OSError, InputError) as error:
        raise InputError(f"{path}: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: a JSON object is needed")
    return document


def digest(tensors: Mapping[str, Tensor], table: Mapping[str, object]) -> str:
    """sha256 of tensors and of the table they come with, see the module's docstring."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)  # a tensor without axes has no bytes to view
    total.update(json.dumps([table.get(key) for key in ("shared", "layers", "bases")], sort_keys=True).encode())
    return total.hexdigest()


def _parsed(file: Path, text: str) -> object:
    try:
        return parse(text)
    except InputError as error:
        raise InputError(f"{file}: the table of its metadata: {error}") from None

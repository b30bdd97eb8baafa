"""File formats, one a module: `EXPORTERS` write an algorithm, `IMPORTERS` read our own exports back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry.formats import json_, latex, npz, python_source, safetensors_
from stlsearch.registry.text import read_bytes


@dataclass(frozen=True)
class Exporter:
    """A format that can be written: its bytes, the extension of its files, and whether it is text."""

    write: Callable[[BilinearAlgorithm], bytes]
    extension: str
    is_text: bool


EXPORTERS = {
    "json": Exporter(json_.write, ".json", True),
    "npz": Exporter(npz.write, ".npz", False),
    "safetensors": Exporter(safetensors_.write, ".safetensors", False),
    "python": Exporter(python_source.write, ".py", True),
    "latex": Exporter(latex.write, ".tex", True),
}

IMPORTERS: dict[str, Callable[[bytes], BilinearAlgorithm]] = {
    "json": json_.read,
    "npz": npz.read,
    "safetensors": safetensors_.read,
}


def exporter(name: str) -> Exporter:
    """The exporter called `name`.

    Raises:
        InputError: unknown name, with the valid ones.
    """
    if name not in EXPORTERS:
        raise InputError(f"unknown export format {name!r:.40}; valid: {', '.join(EXPORTERS)}")
    return EXPORTERS[name]


def format_of(path: Path) -> str | None:
    """The format that a file's extension names, None when it names none."""
    return next((name for name, exporter in EXPORTERS.items() if exporter.extension == path.suffix.lower()), None)


def read_file(path: Path, name: str | None = None) -> BilinearAlgorithm:
    """The algorithm in a file of the named format, by default the one its extension names.

    Raises:
        InputError: an unreadable file, an unknown format, or content that is not what the format says.
    """
    if not path.is_file():
        raise InputError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    name = name or format_of(path)
    if name not in IMPORTERS:
        found = f"the format {name!r:.40}" if name else f"the extension {path.suffix!r:.40}"
        raise InputError(f"{path}: {found} cannot be imported; valid: {', '.join(IMPORTERS)}")
    try:
        return IMPORTERS[name](read_bytes(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None

"""File formats, one a module: `EXPORTERS` write an algorithm, `READERS` read files.

Our own formats (json, npz, safetensors) hold every algorithm and lose nothing. Those of other programs hold algorithms for
matrix products, mostly with integer coefficients, in one convention or another: what is read is verified (`scheme.verify`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry.formats import (
    alphaevolve,
    alphatensor,
    exp,
    fast_matmul,
    flip_cpd,
    json_,
    kauers,
    latex,
    maple,
    npz,
    perminov_json,
    perminov_txt,
    plinopt,
    python_source,
    safetensors_,
)
from stlsearch.registry.formats.recognise import recognised
from stlsearch.registry.formats.scheme import Scheme, Source, verify
from stlsearch.registry.text import read_bytes


@dataclass(frozen=True)
class Exporter:
    """A format that can be written.

    Attributes:
        write: the bytes of its file, or the bytes of its files by the ends of their names.
        extension: of its files, "" when they have none of their own.
        is_text: whether it can go to standard output: text in one file.
    """

    write: Callable[[BilinearAlgorithm], bytes | dict[str, bytes]]
    extension: str
    is_text: bool


@dataclass(frozen=True)
class Read:
    """One algorithm of a file.

    Attributes:
        algorithm: verified.
        format: the name of the file's format.
        label: which of the file's algorithms it is, "" when there is but one.
        remarks: what had to be found out to read it, the convention first; empty for our own formats.
    """

    algorithm: BilinearAlgorithm
    format: str
    label: str
    remarks: tuple[str, ...]


Shape = tuple[int, int, int]
Reader = Callable[[Source], Sequence[BilinearAlgorithm | Scheme]]

EXPORTERS = {
    "json": Exporter(json_.write, ".json", True),
    "npz": Exporter(npz.write, ".npz", False),
    "safetensors": Exporter(safetensors_.write, ".safetensors", False),
    "python": Exporter(python_source.write, ".py", True),
    "latex": Exporter(latex.write, ".tex", True),
    "alphatensor": Exporter(alphatensor.write, ".npz", False),
    "alphaevolve": Exporter(alphaevolve.write, ".py", True),
    "maple": Exporter(maple.write, ".mpl", True),
    "exp": Exporter(exp.write, ".exp", True),
    "kauers": Exporter(kauers.write, ".m", True),
    "perminov-json": Exporter(perminov_json.write, ".json", True),
    "perminov-txt": Exporter(perminov_txt.write, ".txt", True),
    "fast-matmul": Exporter(fast_matmul.write, "", True),
    "plinopt": Exporter(plinopt.write, ".sms", False),
    "flip-cpd": Exporter(flip_cpd.write, ".npy", False),
}

READERS: dict[str, Reader] = {
    "json": json_.read,
    "npz": lambda source: [npz.read(source.data)],
    "safetensors": lambda source: [safetensors_.read(source.data)],
    "alphatensor": alphatensor.read,
    "alphaevolve": alphaevolve.read,
    "maple": maple.read,
    "exp": exp.read,
    "kauers": kauers.read,
    "perminov-json": perminov_json.read,
    "perminov-txt": perminov_txt.read,
    "fast-matmul": fast_matmul.read_source,
    "plinopt": plinopt.read,
    "flip-cpd": flip_cpd.read,
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
    """The format that a file's extension names, None when it names none; of several the first of `EXPORTERS`."""
    ending = path.suffix.lower()
    return next((name for name, exporter in EXPORTERS.items() if ending and exporter.extension == ending), None)


def load(path: Path, name: str | None = None, shape: Shape | None = None) -> tuple[str | None, list[BilinearAlgorithm | Scheme]]:
    """The format of a file and what it holds, schemes of other programs not yet verified: see `read_all`.

    The format is None, and the list empty, when it looks like no format and none is named.

    Args:
        name: the format, by default recognised by the file's ending and content.
        shape: (n, m, p), for files that do not say them.

    Raises:
        InputError: an unreadable file, an unknown format, or content that is not what the format says.
    """
    if name is not None and name not in READERS:
        raise InputError(f"{path}: the format {name!r:.40} cannot be imported; valid: {', '.join(READERS)}")
    try:
        file = plinopt.paths(path)[0] if name in (None, "plinopt") and plinopt.is_beginning(path) else path
        if not file.is_file():
            raise InputError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        source = Source(read_bytes(file), file)
        found = name or recognised(source)
        if found is None:
            return None, []
        if found == "flip-cpd":
            return found, list(flip_cpd.read(source, shape))
        return found, list(READERS[found](source))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from None


def finished(item: BilinearAlgorithm | Scheme, format_name: str, ring: str | None = None, shape: Shape | None = None) -> Read:
    """One of the items of `load`, verified.

    Raises:
        InputError: as `scheme.verify`; a ring or sizes asked for that are not those of an algorithm of ours.
    """
    if isinstance(item, Scheme):
        found = verify(item, ring, shape)
        return Read(found.algorithm, format_name, item.label, found.remarks)
    if ring is not None and ring != item.ring:
        raise InputError(f"{item.name} is over {item.ring}, not over {ring}: a ring can be asked for only of other programs' files")
    if shape is not None and shape != item.target.shape:
        raise InputError(f"{item.name} is not for {'x'.join(map(str, shape))}")
    return Read(item, format_name, "", ())


def read_all(path: Path, name: str | None = None, ring: str | None = None, shape: Shape | None = None) -> list[Read]:
    """Every algorithm in a file of any format, verified.

    Args:
        path: the file; for PLinOpt one of the three, or the beginning of their names.
        name: the format, by default recognised by the file's ending and content.
        ring: to read it over, by default what the file claims, or the smallest that holds its coefficients.
        shape: (n, m, p), for files that do not say them.

    Raises:
        InputError: an unreadable file, no known format, or an algorithm that does not verify: which, and why.
    """
    label = ""
    try:
        found, items = load(path, name, shape)
        if found is None:
            raise InputError(f"it looks like no format that can be imported; valid: {', '.join(READERS)} (name one with --format)")
        result = []
        for item in items:
            label = f"{item.label}: " if isinstance(item, Scheme) and item.label else ""
            result.append(finished(item, found, ring, shape))
        return result
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(f"{path}: ") else f"{path}: {label}{message}") from None

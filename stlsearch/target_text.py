"""Targets as people write them: ``matmul:2x3x4``, ``polymul:4``, ``cyclic:5``, ``complex``, ``aat:3``, ``tensor.npz``."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

import numpy as np

from stlsearch.errors import InputError
from stlsearch.targets import MAX_ENTRIES, MAX_MODE, Target, parse_tile

FORMS = "matmul:2x3x4, polymul:4, polymul:3x2, cyclic:5, complex, aat:3, aat:2x3, abt:2x3, or a tensor in FILE.npz or FILE.npz:NAME"
PARAMETERS = {"polymul": ("m", "n"), "cyclic": ("n",), "aat": ("n", "m"), "abt": ("n", "m")}  # one size stands for both


def parse_target(text: str) -> Target:
    """The target a text names; a slug such as polymul4x4 or 4x4x4 does too.

    Raises:
        InputError: none of `FORMS`, sizes that are not valid, or a file that holds no such tensor.
    """
    text = text.strip()
    if text.endswith(".npz"):
        return load_tensor(Path(text), None)
    if ".npz:" in text:
        path, _, name = text.rpartition(".npz:")
        return load_tensor(Path(path + ".npz"), name)
    if text == "complex":
        return Target.make("complex", {})
    match = re.fullmatch(r"(?:matmul:)?([0-9x]+)", text)
    if match:
        return Target.matmul(*parse_tile(match[1]))
    match = re.fullmatch(r"([a-z]+):?([0-9]{1,4})(?:x([0-9]{1,4}))?", text)
    if match and match[1] in PARAMETERS:
        names = PARAMETERS[match[1]]
        sizes = [int(match[2]), int(match[3] or match[2])][: len(names)]
        if not (match[3] and len(names) == 1) and min(sizes) > 0:
            return Target.make(match[1], dict(zip(names, sizes, strict=True)))
    raise InputError(f"target {text!r:.60} is not valid: give {FORMS}")


def load_tensor(path: Path, name: str | None) -> Target:
    """The tensor of shape (a, b, c) in an npz file: its only array, or the one called `name`. Nothing is unpickled.

    Raises:
        InputError: an unreadable file, no such array, or one that is no finite real tensor of a size we take.
    """
    if not os.path.isfile(path):  # noqa: PTH113 (the methods of Path raise on names that are too long)
        raise InputError(f"{path}: {'not a file' if os.path.exists(path) else 'no such file'}")  # noqa: PTH110
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > 16 * MAX_ENTRIES:
                raise InputError(f"{path}: the archive unpacks to more than {16 * MAX_ENTRIES // 2**20} MiB")
        with np.load(path, allow_pickle=False) as archive:
            if name is None and len(archive.files) != 1:
                raise InputError(
                    f"{path}: name one of its {len(archive.files)} arrays as {path.name}:NAME, {', '.join(archive.files):.200}"
                )
            if name is not None and name not in archive.files:
                raise InputError(f"{path}: has no array {name!r:.40}; valid: {', '.join(archive.files):.200}")
            tensor = archive[name or archive.files[0]]
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds on damaged bytes, all of one meaning
        raise InputError(f"{path}: not a readable npz archive: {error!s:.120}") from None
    if not isinstance(tensor, np.ndarray) or tensor.dtype.kind not in "iufb":
        raise InputError(f"{path}: a tensor of real numbers is needed, not of {getattr(tensor, 'dtype', 'bytes')}")
    if tensor.ndim != 3 or not all(1 <= extent <= MAX_MODE for extent in tensor.shape) or tensor.size > MAX_ENTRIES:
        raise InputError(f"{path}: a tensor of shape (a, b, c) of at most {MAX_ENTRIES} entries is needed, not {tensor.shape}")
    if not np.isfinite(tensor).all():
        raise InputError(f"{path}: the tensor holds NaN or infinite values")
    if not (np.abs(tensor.astype(np.float64)) > 1e-90).any():
        raise InputError(f"{path}: the tensor is zero")
    try:
        return Target.explicit(tensor if tensor.dtype.kind != "b" else tensor.astype(np.int64))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None

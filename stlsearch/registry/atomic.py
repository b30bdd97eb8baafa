"""Atomic writes: a file is the old one or the new one, whatever interrupts the writer."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from stlsearch.errors import InputError, RegistryError


def check_destination(path: Path) -> None:
    """Refuse a file that could not be written, before the work whose result it is to hold.

    Raises:
        InputError: its folder does not exist or is not writable, or it is a folder itself.
    """
    folder = path.resolve().parent
    if not folder.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {folder}")
    if path.is_dir() or not path.name:
        raise InputError(f"cannot write {path}: it is a folder")
    if path.exists() and not path.is_file():  # a device, a pipe: the rename would put a file in its place
        raise InputError(f"cannot write {path}: it is not a plain file")
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write {path}: the folder {folder} is not writable")


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to a new file beside `path`, flush it to the disk and rename it over `path`.

    Raises:
        RegistryError: not a name for a plain file, the folder is missing or unwritable, or the disk is full; nothing is left behind.
    """
    if not path.name or (path.exists() and not path.is_file()):
        raise RegistryError(f"cannot write {path}: it is not a plain file")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # unique: two writers never share one
    try:
        try:
            with temporary.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:  # Ctrl-C too leaves nothing behind
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RegistryError(f"cannot write {path}: {error.strerror or error}") from None

"""NumPy's npz archive, without Python objects: the arrays of `arrays` and the header as text."""

from __future__ import annotations

import io
import zipfile

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry.formats.arrays import HEADER, join, split
from stlsearch.registry.text import MAX_BYTES


def write(algorithm: BilinearAlgorithm) -> bytes:
    """The archive's bytes."""
    header, arrays = split(algorithm)
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **{HEADER: np.frombuffer(header.encode(), dtype=np.uint8)}, **arrays)
    return stream.getvalue()


def read(data: bytes) -> BilinearAlgorithm:
    """Inverse of `write`. Nothing is unpickled.

    Raises:
        InputError: not such an archive, or as `stlsearch.registry.codec.decode`.
    """
    arrays = {name: load_array(member) for name, member in members(data).items()}
    header = arrays.pop(HEADER, None)
    if not isinstance(header, np.ndarray) or header.dtype != np.uint8:
        raise InputError(f"not written by stlsearch: the archive lacks the array {HEADER!r}")
    return join(header.tobytes(), arrays)


def names(data: bytes) -> list[str]:
    """The arrays that an archive names, none when it is no archive."""
    try:
        return [name.removesuffix(".npy") for name in zipfile.ZipFile(io.BytesIO(data)).namelist()]
    except Exception:  # zipfile raises a dozen kinds on damaged bytes, all of one meaning
        return []


def members(data: bytes) -> dict[str, bytes]:
    """The unpacked .npy files of an archive by the names of their arrays.

    Raises:
        InputError: not a zip archive, a damaged one, or one that unpacks to more than `MAX_BYTES`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            listed = archive.infolist()
            if sum(member.file_size for member in listed) > MAX_BYTES:  # zipfile reads no more than a member claims
                raise InputError(f"the archive unpacks to more than {MAX_BYTES // 2**20} MiB")
            return {member.filename.removesuffix(".npy"): archive.read(member) for member in listed}
    except InputError:
        raise
    except Exception as error:  # as above
        raise InputError(f"not a readable npz archive: {error!s:.120}") from None


def load_array(data: bytes, what: str = "npz archive") -> np.ndarray:
    """The array in the bytes of a .npy file, which an error calls `what`.

    Raises:
        InputError: damaged, of Python objects, or shorter than its header says.
    """
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # NumPy raises as many
        raise InputError(f"not a readable {what}: {error!s:.120}") from None

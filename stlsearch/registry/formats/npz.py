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
    try:
        if sum(member.file_size for member in zipfile.ZipFile(io.BytesIO(data)).infolist()) > MAX_BYTES:
            raise InputError(f"the archive unpacks to more than {MAX_BYTES // 2**20} MiB")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds on damaged bytes, all of one meaning
        raise InputError(f"not a readable npz archive: {error!s:.120}") from None
    header = arrays.pop(HEADER, None)
    if not isinstance(header, np.ndarray) or header.dtype != np.uint8:
        raise InputError(f"not written by stlsearch: the archive lacks the array {HEADER!r}")
    return join(header.tobytes(), arrays)

"""safetensors: the arrays of `arrays`, the header in the file's metadata."""

from __future__ import annotations

import safetensors
import safetensors.numpy

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry.formats.arrays import HEADER, join, split
from stlsearch.registry.text import parse


def write(algorithm: BilinearAlgorithm) -> bytes:
    """The file's bytes."""
    header, arrays = split(algorithm)
    return safetensors.numpy.save(arrays, metadata={HEADER: header})


def read(data: bytes) -> BilinearAlgorithm:
    """Inverse of `write`.

    Raises:
        InputError: not such a file, or as `stlsearch.registry.codec.decode`.
    """
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:  # KeyError: a dtype that NumPy lacks
        raise InputError(f"not a readable safetensors file: {error!s:.120}") from None
    # The library reads metadata from files only; the layout is 8 bytes of length, then a JSON object.
    length = int.from_bytes(data[:8], "little")
    fields = parse(data[8 : 8 + length])
    metadata = fields.get("__metadata__") if isinstance(fields, dict) else None
    if not isinstance(metadata, dict) or not isinstance(metadata.get(HEADER), str):
        raise InputError(f"not written by stlsearch: the metadata lacks {HEADER!r}")
    return join(metadata[HEADER], arrays)

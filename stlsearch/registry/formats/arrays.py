"""The document taken apart for formats made of named arrays: a JSON header and the matrices.

Arrays are called U_real, U_imaginary, V_real, ... and metric_activation, metric_weight; they are
int64 over exact rings and float64 otherwise. The header is the document without them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry import codec
from stlsearch.registry.text import MAX_BYTES, dumps, parse

HEADER = "stlsearch"
PARTS = ("real", "imaginary")
MOMENTS = ("activation", "weight")


def split(algorithm: BilinearAlgorithm) -> tuple[str, dict[str, np.ndarray]]:
    """(header text, arrays by name)."""
    document: dict = codec.encode(algorithm)
    arrays = {}
    dtype = np.int64 if algorithm.is_exact else np.float64
    for name, factor in document["factors"].items():
        for part in PARTS:
            if part in factor:
                arrays[f"{name}_{part}"] = np.array(factor.pop(part), dtype=dtype)
    for name in MOMENTS:
        if document["metric"]:
            arrays[f"metric_{name}"] = np.array(document["metric"].pop(name), dtype=np.float64)
    return dumps(document), arrays


def join(header: str | bytes, arrays: Mapping[str, np.ndarray]) -> BilinearAlgorithm:
    """Inverse of `split`.

    Raises:
        InputError: as `stlsearch.registry.codec.decode`, or arrays missing, unknown or of another type.
    """
    document = parse(header)
    if not isinstance(document, dict):
        raise InputError("the header must be an object")
    for name, array in arrays.items():
        owner, _, part = name.partition("_")
        parent = document.get("metric") if owner == "metric" else _factor(document, owner)
        valid = MOMENTS if owner == "metric" else PARTS
        if not isinstance(parent, dict) or part not in valid or part in parent:
            raise InputError(f"unexpected array {name!r:.60}; valid: U_real, U_imaginary, V_..., W_..., metric_activation, metric_weight")
        if array.dtype not in (np.int64, np.float64) or array.nbytes > MAX_BYTES:
            raise InputError(f"array {name} must be int64 or float64 of at most {MAX_BYTES // 2**20} MiB, not {array.dtype}")
        parent[part] = array.tolist()
    return codec.decode(document)


def _factor(document: dict, owner: str) -> object:
    factors = document.get("factors")
    return factors.get(owner) if isinstance(factors, dict) else None

"""Applying bilinear algorithms to matrices of any size."""

from stlsearch.ops.batched import DTYPES, Bases, EncodedWeight, decode, encode_activations, encode_weights, multiply, stl_matmul
from stlsearch.ops.reference import reference_matmul
from stlsearch.ops.tiles import tile_of

__all__ = [
    "DTYPES",
    "Bases",
    "EncodedWeight",
    "decode",
    "encode_activations",
    "encode_weights",
    "multiply",
    "reference_matmul",
    "stl_matmul",
    "tile_of",
]

"""Applying bilinear algorithms to matrices of any size."""

from stlsearch.ops.bases import DTYPES, Bases
from stlsearch.ops.encoded import EncodedWeight, encode_weights
from stlsearch.ops.fast import fast_matmul
from stlsearch.ops.fp8 import quantise
from stlsearch.ops.layout import Layout
from stlsearch.ops.library import BACKENDS, backend
from stlsearch.ops.operator import decode, encode_activations, multiply, stl_matmul
from stlsearch.ops.parameter import EncodedParameter
from stlsearch.ops.reference import reference_matmul
from stlsearch.ops.tiles import tile_of

__all__ = [
    "BACKENDS",
    "DTYPES",
    "Bases",
    "EncodedParameter",
    "EncodedWeight",
    "Layout",
    "backend",
    "decode",
    "encode_activations",
    "encode_weights",
    "fast_matmul",
    "multiply",
    "quantise",
    "reference_matmul",
    "stl_matmul",
    "tile_of",
]

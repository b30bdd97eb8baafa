"""Layers for networks whose matrix products are Strassen-Tile ones."""

from stlsearch.nn.basis import Basis
from stlsearch.nn.conv import STLConv2d
from stlsearch.nn.linear import STLLinear
from stlsearch.nn.rates import parameter_groups, precondition

__all__ = ["Basis", "STLConv2d", "STLLinear", "parameter_groups", "precondition"]

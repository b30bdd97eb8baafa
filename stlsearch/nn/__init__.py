"""Layers for networks whose matrix products are Strassen-Tile ones, and what makes such layers of dense ones."""

from stlsearch.nn.basis import Basis
from stlsearch.nn.calibration import Calibration, calibrate_layer, calibrated_linear
from stlsearch.nn.conv import STLConv2d
from stlsearch.nn.convert import convert
from stlsearch.nn.count import Count, count
from stlsearch.nn.export import export_onnx
from stlsearch.nn.folder import load, save
from stlsearch.nn.linear import STLLinear
from stlsearch.nn.plan import LayerPlan, Plan
from stlsearch.nn.rates import parameter_groups, precondition, steady_rate
from stlsearch.nn.survey import DEFAULT_EXCLUDE, plan

__all__ = [
    "DEFAULT_EXCLUDE",
    "Basis",
    "Calibration",
    "Count",
    "LayerPlan",
    "Plan",
    "STLConv2d",
    "STLLinear",
    "calibrate_layer",
    "calibrated_linear",
    "convert",
    "count",
    "export_onnx",
    "load",
    "parameter_groups",
    "plan",
    "precondition",
    "save",
    "steady_rate",
]

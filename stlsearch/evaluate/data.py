"""How wrong products are under a metric: a fitted basis beside what it has to beat, modelled and measured.

The model assumes that tiles along the inner dimension err independently. Measuring on real activations and the real weight
does not: neighbouring tiles of real data are correlated, and their errors may add up or cancel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.baselines import best_rotation, truncation
from stlsearch.evaluate.error import rel_sq_error
from stlsearch.metric import Metric
from stlsearch.ops import Bases, Layout, encode_weights, stl_matmul, tile_of
from stlsearch.samples import Samples

MAX_ROWS = 16384  # of activations, drawn evenly over the samples
WHITE_OUTPUTS = 256  # columns of the Gaussian weight that stands in for an unknown one


@dataclass(frozen=True)
class Line:
    """One basis under a metric.

    Attributes:
        label: what it is.
        algorithm: the basis.
        error: e_metric.
        amplification: g_metric.
        held_out: e under the moments of the samples held out, None without samples.
        measured: the relative squared error of the product of those samples, None without samples, NaN when it is zero.
    """

    label: str
    algorithm: BilinearAlgorithm
    error: float
    amplification: float
    held_out: float | None = None
    measured: float | None = None

    def to_dict(self) -> dict[str, object]:
        """JSON values."""
        return {
            "label": self.label,
            "name": self.algorithm.name,
            "metric_rel_sq_error": self.error,
            "metric_amplification": self.amplification,
            "held_out_rel_sq_error": self.held_out,
            "measured_rel_sq_error": None if self.measured is None or math.isnan(self.measured) else self.measured,
        }


def beside_baselines(
    algorithm: BilinearAlgorithm, isotropic: BilinearAlgorithm | None, metric: Metric, held_out: Samples | None = None
) -> list[Line]:
    """The fitted basis, an isotropic one as it is and at its best rotation, and truncation to the leading modes.

    Args:
        isotropic: a basis fitted for white inputs at the same rank, if there is one.
        held_out: samples that the metric has not seen.
    """
    bases = [("fitted under the metric", algorithm)]
    if isotropic is not None:
        bases.append(("isotropic basis as it is", isotropic))
        bases.append(("its best rotation", best_rotation(isotropic, metric)[0]))
    cut = truncation(metric, algorithm.target, algorithm.rank)
    bases.append((f"truncation, {algorithm.rank / tile_of(algorithm)[2]:g} leading modes", cut))
    seen = None if held_out is None else held_out.metric(algorithm.target, metric.channels, enough=False)
    lines = []
    for label, basis in bases:
        modelled = None if seen is None else seen.error(basis)
        measured = None
        if held_out is not None:
            found = measured_error(basis, held_out, metric.channels)
            measured = math.nan if found is None else found
        lines.append(Line(label, basis, metric.error(basis), metric.amplification(basis), modelled, measured))
    return lines


def measured_error(algorithm: BilinearAlgorithm, samples: Samples, channels: np.ndarray | None = None, *, seed: int = 0) -> float | None:
    """||Y - X B||^2/||X B||^2 of the product of samples with their weight by an algorithm, in float64; None when X B = 0.

    Tiles take neighbouring tokens of one sample; tokens that fill no tile are left out, channels and outputs are padded.

    Args:
        channels: the order in which channels are cut into tiles.
        seed: of the Gaussian weight used when the samples have none.
    """
    n, _, _ = tile_of(algorithm)
    count, tokens, inner = samples.activations.shape
    whole = tokens // n * n
    chosen = np.linspace(0, count - 1, max(1, min(count, MAX_ROWS // whole))).round().astype(int)
    x = samples.activations[chosen, :whole].reshape(-1, inner)
    weight = samples.weight
    if weight is None:
        weight = np.random.default_rng(seed).normal(size=(inner, WHITE_OUTPUTS))
    if channels is not None:
        x, weight = x[:, channels], weight[channels]
    rows, matrix = torch.tensor(x), torch.tensor(weight)
    exact = rows @ matrix
    if not exact.any():
        return None
    bases = Bases.prepare(algorithm, dtype=torch.float64)
    return rel_sq_error(stl_matmul(rows, encode_weights(matrix, bases, layout=Layout()), bases), exact)

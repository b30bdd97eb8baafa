"""Calibration without retraining: the encoded weight of a layer that errs least on what the layer is really fed.

Plain encoding puts E = V vec B into a layer, the best there is for white inputs. Given sample activations, the E of least output
error follows from one linear system (`stlsearch.nn.least_squares`). A ridge pulls towards the plain encoding, and samples that the
fit has not seen decide how hard: at an infinite ridge the layer stays as it is, so that calibration does no harm on them.

It is the idea of SparseGPT (arXiv 2301.00774) for Strassen-Tile layers (arXiv 2503.12211): layer by layer, second moments of the
inputs, no gradients of the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.baselines import best_rotation, truncation
from stlsearch.errors import InputError
from stlsearch.fit import fit
from stlsearch.grouping import group_channels
from stlsearch.metric import Metric
from stlsearch.nn.basis import Basis
from stlsearch.nn.least_squares import STEPS, Moments, System, fit_basis
from stlsearch.nn.linear import STLLinear
from stlsearch.nn.survey import best_registered
from stlsearch.ops import EncodedParameter, EncodedWeight
from stlsearch.ops.library import encode
from stlsearch.samples import Samples
from stlsearch.targets import Target

RIDGES = (1e-8, 1e-6, 1e-4, 1e-2, 1.0)
"""Tried by default, relative to the mean diagonal of the normal equations; an infinite one, the plain encoding, always is too."""

RIDGE_OF_BASES = 1e-4  # at most, when U and W move: they start from an E that is calibrated already
HELD_OUT = 4  # every fourth sample is held out
STARTS = ("given", "rotated", "truncated", "fitted")
"""Bases that `calibrated_linear` starts from: the given one, its best rotation, truncation to leading modes, a fit under the metric."""

FIT: dict[str, Any] = {"restarts": 8, "iterations": 150, "polished": 1}  # shorter than `fit` by default: its basis is improved after
IMPROVED = 2  # starts whose bases are improved
TILES = 16384  # rows of tiles for the metric and the grouping of channels
LEAST = 1.0  # equations per unknown, below which calibration is refused


@dataclass(frozen=True)
class Calibration:
    """What a calibration did. Errors are relative squared ones of the product, ||XB - layer||^2/||XB||^2, bias aside.

    Attributes:
        before, after: on the rows it was fitted to, with the plain encoding and now.
        held_out_before, held_out: the same on the rows held out. They chose among a few ridges, so `held_out` flatters slightly.
        ridge: the one chosen; infinite when the plain encoding was best.
        rows, held_out_rows: rows of activations.
        unknowns: r K/m, of each column of output tiles.
        equations: per unknown: rows p/unknowns.
        basis: where the basis comes from: "as it was", "calibrated" when U and W were changed as well, or one of `STARTS` and what
            became of it.
        amplification: sum_rho |w_rho|^2 ||P_rho||^2 / ||Y||^2 over the decoded products P_rho: how much rounding them weighs. Rounding
            values at unit roundoff u adds about amplification u^2 to the error.
    """

    before: float
    after: float
    held_out_before: float
    held_out: float
    ridge: float
    rows: int
    held_out_rows: int
    unknowns: int
    equations: float
    amplification: float
    basis: str = "as it was"

    def to_dict(self) -> dict[str, object]:
        """JSON values: an infinite ridge is None."""
        return asdict(self) | {"ridge": self.ridge if math.isfinite(self.ridge) else None}


Inputs = Tensor | Sequence[Tensor]


def calibrate_layer(
    layer: STLLinear,
    inputs: Inputs,
    weight: Tensor,
    *,
    held_out: Inputs | None = None,
    ridge: float | Sequence[float] = RIDGES,
    least: float = LEAST,
    bases: bool = False,
    steps: int = STEPS,
) -> Calibration:
    """Replace the encoded weight of a layer, in place, by the one that errs least on sample inputs.

    Args:
        layer: any `STLLinear`; its dtype and device stay, the computation is in float64.
        inputs: x as the layer is called with, (..., tokens, K), or a list of such.
        weight: the dense weight (K, N) it stands for; `torch.nn.Linear` stores the transpose. What the layer holds does not count.
        held_out: further inputs to choose the ridge on. By default every fourth sample of `inputs` is kept for that (of tiles
            over the batch every fourth tile; of a single sample its last quarter).
        ridge: one, or those to choose from.
        least: equations per unknown, rows p/(r K/m), that there have to be. Well above 1 the rows determine E, which is rows well
            above r K/t^2 for a t x t x t tile; below 1 only the ridge does. 0 never refuses.
        bases: improve U and W as well (`stlsearch.nn.least_squares.fit_basis`), where that errs less on the rows held out. The layer
            then gets a basis of its own, and new parameters: calibrate before an optimiser is made. A basis shared with other layers
            is left to them.
        steps: of that improvement.

    Raises:
        InputError: shapes that do not fit, no or non-finite or all-zero activations, too few rows, a negative ridge, or sizes beyond
            what `Moments` or the memory hold.
    """
    ridges = check_ridges(ridge)
    check_weight(layer, weight)
    fitted, seen = gather(layer, inputs, held_out)
    systems = system_of(layer, fitted, weight), system_of(layer, seen, weight)
    result = fit_encoded(layer, *systems, weight, ridges, least)
    return improve_basis(layer, *systems, weight, result, steps) if bases else result


@torch.no_grad()
def fit_encoded(
    layer: STLLinear, system: System, held_out: System, weight: Tensor, ridges: Sequence[float] = RIDGES, least: float = LEAST
) -> Calibration:
    """`calibrate_layer` for moments gathered before."""
    rank, (_, m, p) = layer.basis.rank, layer.basis.tile
    unknowns = rank * -(-layer.in_features // m)
    equations = system.rows * p / unknowns
    if equations < least:
        raise InputError(
            f"{system.rows} rows give {system.rows * p} equations for r K/m = {unknowns} unknowns per output; at least "
            f"{math.ceil(least * unknowns / p)} rows are needed (several times as many to gain), or least=0"
        )
    layer.load_dense(weight, layer.bias)
    plain = layer.encoded.tensor.detach().double()
    U, W = layer.basis.U.detach().double(), layer.basis.W.detach().double()
    normal, seen = system.normal(U, W), held_out.normal(U, W)
    best, chosen = (seen.error(plain), math.inf), plain
    before = normal.error(plain), best[0]
    for value in ridges:
        candidate = normal.solve(plain, value).to(layer.encoded.tensor.dtype).double()  # as it will be stored
        error = seen.error(candidate)
        if error < best[0]:
            best, chosen = (error, value), candidate
    layer.encoded.tensor.copy_(chosen)
    growth = normal.amplification(chosen)
    return Calibration(
        before[0], normal.error(chosen), before[1], best[0], best[1], system.rows, held_out.rows, unknowns, equations, growth
    )


@torch.no_grad()
def improve_basis(
    layer: STLLinear, system: System, held_out: System, weight: Tensor, found: Calibration, steps: int = STEPS
) -> Calibration:
    """Improve U, W and E of a calibrated layer, in place, unless that errs more on the rows held out or the algorithm is exact.

    V, which no product needs once the weight is encoded, becomes the one whose plain encoding is nearest to E.
    """
    basis, stored = layer.basis, layer.encoded.tensor
    if basis.exact:
        return found
    U, W, start = basis.U.detach().double(), basis.W.detach().double(), stored.detach().double()
    descended = fit_basis(system, U, W, start, ridge=min(found.ridge, RIDGE_OF_BASES), steps=steps)
    U, W, E = (value.to(stored.dtype).double() for value in (descended.U, descended.W, descended.encoded))  # as they will be stored
    seen = held_out.normal(U, W).error(E)
    if not seen < found.held_out:
        return found
    V = nearest_encoder(layer, weight, E)
    provenance = {"solver": "calibrated to a layer", "parents": [{"id": basis.algorithm_id}]}
    factors = [factor.cpu().numpy() for factor in (U, V, W)]
    algorithm = BilinearAlgorithm.from_floats(Target.matmul(*basis.tile), *factors, provenance=provenance, balance=False)
    layer.basis = Basis(algorithm, learn=basis.learn, device=stored.device, dtype=stored.dtype)
    encoded = EncodedWeight(E.to(stored.dtype), (layer.in_features, layer.out_features), algorithm.id, layer.layout, layer.encoded.channels)
    layer.encoded = EncodedParameter(encoded, requires_grad=stored.requires_grad)
    normal = system.normal(U, W)
    return replace(found, after=normal.error(E), held_out=seen, amplification=normal.amplification(E), basis="calibrated")


def nearest_encoder(layer: STLLinear, weight: Tensor, encoded: Tensor) -> Tensor:
    """V (r, mp) of least sum |E - V vec B|^2 over the tiles B of a weight (K, N)."""
    _, m, p = layer.basis.tile
    dense, order = weight.detach().to(encoded), layer.encoded.channels
    if order is not None:
        dense = dense.index_select(0, order)
    unit = torch.eye(m * p, dtype=encoded.dtype, device=encoded.device)
    blocked = layer.layout.channels == "blocked", layer.layout.outputs == "blocked"
    tiles = encode(dense[None].contiguous(), unit, m, p, *blocked).flatten(1)
    return encoded.flatten(1) @ torch.linalg.pinv(tiles)


def calibrated_linear(
    linear: torch.nn.Linear,
    algorithm: BilinearAlgorithm | int,
    inputs: Inputs,
    *,
    tile: tuple[int, int, int] = (4, 4, 4),
    group: bool = True,
    starts: Sequence[str] = STARTS,
    bases: bool = True,
    held_out: Inputs | None = None,
    ridge: float | Sequence[float] = RIDGES,
    least: float = LEAST,
    steps: int = STEPS,
    seed: int = 0,
    **options: Any,
) -> tuple[STLLinear, Calibration]:
    """A Strassen-Tile layer for a dense one: the order of channels, the basis and the encoded weight chosen for sample inputs.

    First the channels (`stlsearch.grouping`), then bases to start from, each with its encoded weight calibrated; the two of least error
    on the rows held out are improved (`improve_basis`), and the better one is returned.

    Args:
        linear: the dense layer; dtype and device are its own.
        algorithm: the basis, or a rank: the best registered one for white inputs is then the given one.
        inputs, held_out, ridge, least, steps: as for `calibrate_layer`.
        tile: (n, m, p), when `algorithm` is a rank.
        group: choose which channels share a tile. An exact algorithm and one fitted to an order of its own keep theirs.
        starts: of `STARTS`; all but "given" follow from the second moments of tiles (`stlsearch.metric`). "fitted" takes longest.
        bases: improve U and W.
        seed: of rotations and fits.
        options: for `STLLinear`, a layout aside.

    Raises:
        InputError: what `calibrate_layer` refuses, an unknown start, or no registered basis of that rank.
    """
    ridges = check_ridges(ridge)
    starts = tuple(dict.fromkeys(starts))
    if not starts or (unknown := [name for name in starts if name not in STARTS]):
        raise InputError(f"unknown start {unknown[0]!r}; valid: {', '.join(STARTS)}" if starts else f"give one of {', '.join(STARTS)}")
    if options.keys() & {"layout", "channels"}:
        raise InputError("channels and layout are chosen here; make an STLLinear of your own and use calibrate_layer")
    if isinstance(algorithm, BilinearAlgorithm):
        given, target = algorithm, algorithm.target
    else:
        given = best_registered(algorithm, tile)
        target = given.target
    probe = STLLinear.from_linear(linear, given, **options)
    weight = linear.weight.detach().T
    fitted, seen = gather(probe, inputs, held_out)
    order, bases_to_try = None, {"given": given}
    if not given.is_exact:
        samples = _tiles(probe, inputs, weight)
        own = None if given.metric is None else given.metric.channels
        order = own if own is not None else group_channels(samples, target, given.rank) if group else np.arange(linear.in_features)
        bases_to_try = _starts(given, samples.metric(target, order, enough=False), starts, seed)
    systems = None
    found: list[tuple[STLLinear, Calibration]] = []
    for label, basis in bases_to_try.items():
        layer = STLLinear.from_linear(linear, basis, **options, channels=order)
        systems = systems or (system_of(layer, fitted, weight), system_of(layer, seen, weight))
        found.append((layer, replace(fit_encoded(layer, *systems, weight, ridges, least), basis=label)))
    found.sort(key=lambda pair: pair[1].held_out)
    if bases and systems is not None:
        improved = []
        for layer, first in found[:IMPROVED]:
            after = improve_basis(layer, *systems, weight, first, steps)
            improved.append((layer, after if after is first else replace(after, basis=f"{first.basis}, calibrated")))
        found = sorted(improved, key=lambda pair: pair[1].held_out)
    return found[0]


def _starts(given: BilinearAlgorithm, metric: Metric, starts: Sequence[str], seed: int) -> dict[str, BilinearAlgorithm]:
    target, rank = given.target, given.rank
    make: dict[str, Callable[[], BilinearAlgorithm]] = {
        "given": lambda: given,
        "rotated": lambda: best_rotation(given, metric, seed=seed)[0],
        "truncated": lambda: truncation(metric, target, rank),
        "fitted": lambda: fit(target, rank, metric=metric, seed=seed, **FIT).algorithm,
    }
    return {name: make[name]() for name in starts}


def _tiles(layer: STLLinear, inputs: Inputs, weight: Tensor) -> Samples:
    """Up to `TILES` rows of tiles, each as a sample of n tokens: what the metric and the grouping of channels ask for."""
    n, blocks = layer.basis.tile[0], layer.layout.rows == "blocks"
    unit = torch.eye(n, dtype=torch.float64)
    parts = [rows_of(layer, x) for x in _listed(inputs)]
    step = max(1, sum(-(-part.shape[1] // n) * len(part) for part in parts) // TILES)
    cut = [encode(part.cpu().double().contiguous(), unit, n, 1, blocks, False)[:, ::step] for part in parts]
    return Samples.of(torch.cat(cut, 1).transpose(0, 1).numpy(), weight.double().cpu().numpy())


def gather(layer: STLLinear, inputs: Inputs, held_out: Inputs | None = None) -> tuple[Moments, Moments]:
    """The moments of what a layer is fed: (fitted, held out).

    Raises:
        InputError: inputs that do not fit the layer, or too few to hold any out.
    """
    fitted, seen = (Moments(layer.basis.tile[0], layer.in_features, layer.layout, layer.basis.U.device) for _ in range(2))
    kept = [rows_of(layer, x) for x in _listed(inputs)]
    if held_out is not None:
        for moments, parts in ((fitted, kept), (seen, [rows_of(layer, x) for x in _listed(held_out)])):
            for part in parts:
                moments.add(part)
    else:
        _split(kept, fitted, seen, axis=1 if layer.layout.rows == "batch" or sum(map(len, kept)) < HELD_OUT else 0)
    if not fitted.rows or not seen.rows:
        raise InputError(
            f"{fitted.rows + seen.rows} rows of activations are too few to hold any out: give at least {HELD_OUT} tiles of rows, "
            f"so {HELD_OUT * fitted.height} {'samples' if layer.layout.rows == 'batch' else 'rows'}"
        )
    return fitted, seen


def _split(parts: list[Tensor], fitted: Moments, seen: Moments, axis: int) -> None:
    """Add every fourth sample (batch, rows, K) to `seen`; along rows, the last quarter of tiles of one sample, or every fourth."""
    unit = fitted.height if axis else 1
    number = 0
    for part in parts:
        count = -(-part.shape[axis] // unit)
        tile = torch.arange(part.shape[axis], device=part.device) // unit
        if fitted.layout.rows == "batch" or not axis:  # samples: neighbours have nothing to do with each other
            out = (tile + number) % HELD_OUT == HELD_OUT - 1
        else:
            out = tile >= part.shape[axis] // unit * (HELD_OUT - 1) // HELD_OUT
        number += count
        for moments, chosen in ((fitted, ~out), (seen, out)):
            if chosen.any():
                moments.add(part.index_select(axis, chosen.nonzero()[:, 0]))


def rows_of(layer: STLLinear, x: Tensor) -> Tensor:
    """Inputs of a layer as (batch, rows, K), tiles being cut from the rows: what `STLLinear.forward` does, channels as they stand."""
    if not isinstance(x, Tensor) or x.ndim < 1 or x.shape[-1] != layer.in_features or not x.is_floating_point():
        shape = f"of shape {tuple(x.shape)}, {x.dtype}" if isinstance(x, Tensor) else f"of type {type(x).__name__}"
        raise InputError(f"inputs (..., {layer.in_features}) of floating point are needed, not one {shape}")
    x = x.detach()
    if x.ndim == 1:
        x = x[None]
    if layer.group_axis is not None:
        x = x.movedim(layer.axis_of(x), -2)
    elif layer.rows == "batch" and x.ndim == 2:
        x = x[:, None]
    return layer.layout.samples(x)


def system_of(layer: STLLinear, moments: Moments, weight: Tensor) -> System:
    """The least-squares problem of a layer under moments of its inputs."""
    return System.of(moments, weight.detach(), layer.basis.tile, layer.layout, layer.encoded.channels)


def check_ridges(ridge: float | Sequence[float]) -> tuple[float, ...]:
    """The ridges to try.

    Raises:
        InputError: none, or a negative or non-finite one.
    """
    ridges = (float(ridge),) if isinstance(ridge, int | float) else tuple(float(value) for value in ridge)
    if not ridges or not all(math.isfinite(value) and value >= 0 for value in ridges):
        raise InputError(f"a ridge is a finite number of at least 0, or several; got {ridge!r:.60}")
    return ridges


def check_weight(layer: STLLinear, weight: Tensor) -> None:
    """Raise `InputError` unless a dense weight fits a layer."""
    shape = (layer.in_features, layer.out_features)
    if not isinstance(weight, Tensor) or tuple(weight.shape) != shape:
        given = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        turned = "; transpose it, torch.nn.Linear stores (N, K)" if given == shape[::-1] else ""
        raise InputError(f"a weight (K, N) of shape {shape} is needed, not {given}{turned}")


def _listed(inputs: Inputs) -> list[Tensor]:
    return [inputs] if isinstance(inputs, Tensor) else list(inputs)

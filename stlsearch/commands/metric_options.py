"""The options that name a metric, shared by the commands that take one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click

from stlsearch.commands.options import Decorator
from stlsearch.errors import InputError
from stlsearch.grouping import group_channels
from stlsearch.metric import Metric
from stlsearch.samples import Samples, load_samples
from stlsearch.targets import Target

CONTIGUOUS, GROUPED = "contiguous", "grouped"
ASSUMPTIONS = "uncentred second moments; weights of zero mean; tiles along the inner dimension independent"


@dataclass(frozen=True)
class MetricChoice:
    """What the options ask for.

    Attributes:
        metric: None for white inputs.
        held_out: samples that the metric has not seen, when it comes from samples.
    """

    metric: Metric | None
    held_out: Samples | None = None


def metric_options() -> Decorator:
    """``--metric``, ``--activations``, ``--weights`` and ``--channels``, passed under these names, for `resolve_metric`."""

    def decorate(function: Callable) -> Callable:
        for option in (
            click.option(
                "--channels",
                type=click.Choice([CONTIGUOUS, GROUPED]),
                default=CONTIGUOUS,
                show_default=True,
                help="With --metric data, which channels share a tile: those side by side, or an order searched for.",
            ),
            click.option(
                "--weights",
                metavar="FILE[:NAME]",
                help="With --metric data, the (channels, outputs) weight in an .npy or .safetensors file; white by default.",
            ),
            click.option(
                "--activations",
                type=click.Path(dir_okay=False, path_type=Path),
                help="With --metric data, an .npy file of shape (..., tokens, channels).",
            ),
            click.option(
                "--metric",
                metavar="NAME",
                help="Second moments to measure errors by: ar1:TOKENS,CHANNELS (correlations of neighbours), or data.  [default: white]",
            ),
        ):
            function = option(function)
        return function

    return decorate


def resolve_metric(
    tile: Target, rank: int, metric: str | None, activations: Path | None, weights: str | None, channels: str
) -> MetricChoice:
    """The metric that the options name; moments come from three of four samples, the others are held out.

    Raises:
        InputError: an unknown name, options that do not go together, or files that cannot be used.
    """
    if metric != "data":
        for name, given in (("--activations", activations), ("--weights", weights), ("--channels", channels != CONTIGUOUS or None)):
            if given is not None:
                raise InputError(f"{name} goes with --metric data")
        return MetricChoice(None if metric is None or metric == "white" else Metric.named(metric, tile))
    if activations is None:
        raise InputError("--metric data needs --activations FILE.npy")
    if tile.shape is None:
        raise InputError(f"--metric data is for matrix products, not for {tile.slug}")
    fitted, held_out = load_samples(activations, weights).split(tile.shape[0])
    order = group_channels(fitted, tile, rank) if channels == GROUPED else None
    found = fitted.metric(tile, order, f"data: {activations.name}" + (f", {Path(weights).name}" if weights else ""))
    digest = hashlib.sha256(activations.read_bytes()).hexdigest()
    return MetricChoice(replace(found, layout={**found.layout, "activations_sha256": digest}), held_out)

"""`stlsearch best`: the best registered algorithm of a tile and rank."""

from __future__ import annotations

from pathlib import Path

import click

from stlsearch.commands.metric_options import metric_options, resolve_metric
from stlsearch.commands.options import (
    amplification_option,
    emit_json,
    json_option,
    rank_option,
    registry_option,
    target_option,
)
from stlsearch.commands.summary import report_broken, summary
from stlsearch.errors import InputError
from stlsearch.registry.store import Registry
from stlsearch.targets import Target


@click.command("best")
@target_option()
@rank_option()
@click.option("--exact/--inexact", "exact", default=None, help="Only exact algorithms, or only inexact ones.")
@amplification_option()
@metric_options()
@registry_option()
@json_option()
def command(
    target: Target,
    rank: int,
    exact: bool | None,
    max_amplification: float | None,
    metric: str | None,
    activations: Path | None,
    weights: str | None,
    channels: str,
    registry: Registry,
    as_json: bool,
) -> None:
    """Name the registered algorithm of that tile and rank with the lowest error, then the lowest amplification.

    Only algorithms for real matrices count, none over Z2, Zp or complex numbers. Without --metric, errors are those on white
    inputs, and bases made for a metric do not count; with it, all count by their error under that metric.
    """
    target.check_rank(rank)
    measure = resolve_metric(target, rank, metric, activations, weights, channels).metric
    entry = registry.best(target, rank, max_amplification=max_amplification, exact=exact, metric=measure)
    if entry is None:
        found, broken = registry.find(target, exact=exact, max_amplification=max_amplification)
        report_broken(broken)
        ranks = sorted({other.algorithm.rank for other in found if other.algorithm.is_real})
        there = f"ranks that do: {', '.join(map(str, ranks))}" if ranks else f"none of {target.slug} does"
        raise InputError(f"no registered algorithm of {target.slug} and rank {rank} meets the request; {there}")
    algorithm = entry.algorithm
    e, g = algorithm.error, algorithm.amplification
    if measure is not None:
        e, g = measure.error(algorithm), measure.amplification(algorithm)
    if as_json:
        under = {} if measure is None else {"under_the_metric": {"metric": measure.source, "rel_sq_error": e, "amplification": g}}
        emit_json({"algorithm": summary(entry), **under})
    else:
        click.echo(f"{algorithm.name}  rel_sq_error {e:.6g}  g {g:.6g}  {entry.layer}")

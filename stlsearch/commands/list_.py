"""`stlsearch list`: what is registered."""

from __future__ import annotations

import click

from stlsearch.commands.options import amplification_option, emit_json, json_option, rank_option, registry_option, target_option
from stlsearch.commands.summary import printable, report_broken, summary, table
from stlsearch.registry.store import Registry
from stlsearch.targets import Target


@click.command("list")
@target_option(required=False)
@rank_option(required=False)
@click.option("--exact/--inexact", "exact", default=None, help="Only exact algorithms, or only inexact ones.")
@amplification_option()
@registry_option()
@json_option()
def command(
    target: Target | None, rank: int | None, exact: bool | None, max_amplification: float | None, registry: Registry, as_json: bool
) -> None:
    """List registered algorithms, sorted by target, rank, error and amplification.

    rel_sq_error is e = |T - [[U,V,W]]|^2/|T|^2, a squared relative error; g is the amplification of rounding. A basis
    made for a metric has e_metric too, its error under that one.
    Files that are broken or tampered with are named on stderr and skipped.
    """
    found, broken = registry.find(target, rank, exact=exact, max_amplification=max_amplification)
    report_broken(broken)
    if as_json:
        reports = [{"path": str(file.path), "reason": file.reason} for file in broken]
        emit_json({"algorithms": [summary(entry) for entry in found], "broken": reports})
        return
    header = ("name", "tile", "rank", "ring", "rel_sq_error", "g", "metric", "e_metric", "where")
    rows = [
        (
            entry.algorithm.name,
            entry.algorithm.target.slug,
            str(entry.algorithm.rank),
            entry.algorithm.ring,
            f"{entry.algorithm.error:.4g}",
            f"{entry.algorithm.amplification:.4g}",
            "white" if entry.algorithm.metric is None else printable(entry.algorithm.metric.source)[:24],
            "" if entry.algorithm.metric_error is None else f"{entry.algorithm.metric_error:.4g}",
            entry.layer,
        )
        for entry in found
    ]
    click.echo(table([header, *rows], right=(2, 4, 5, 7)) if rows else "no algorithm matches")

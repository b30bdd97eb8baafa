"""Which multiple of AdamW's rate encoded weights and learned bases want.

    python examples/claims/rates.py --plot rates.png

trains, on each task, a dense network of width 64 at several rates, then networks of rank 24 at the best of them, with
encoded weights at several multiples of it, for bases of different amplification; then learned bases at several multiples, encoded
weights at the best one. Beside the best multiple stands what the rule of `stlsearch.nn.steady_rate` expects, which knows only the basis.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from command import checked, opened, parser, run, show
from intervals import Interval, interval
from starts import basis_named
from training import Results, Run

from stlsearch.nn import Basis, steady_rate

WIDTH, RANK = 64, 24
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
ENCODED = (0.04, 0.12, 0.4, 1.2)
BASES = (0.1, 0.3, 1.0, 3.0)
KINDS = ("front", "calm", "gaussian")
LEARNED = ("front",)


def main() -> None:
    """Train what is missing, print the table, draw the picture."""
    options = parser(__doc__, "claims-rates.json", seeds=3, steps=200).parse_args()
    tasks, results = checked(options), opened(options)
    rows = [row for task in tasks for row in measure(task, options, results)]
    columns = {
        "task": lambda row: row["task"],
        "what": lambda row: row["what"],
        "basis": lambda row: row["basis"],
        "rule": lambda row: "-" if row["rule"] is None else f"{row['rule']:.3f}",
        "value": lambda row: f"{row['value']:g}",
        "score": lambda row: Interval(row["score"], row["half"], options.seeds).show(),
        "best": lambda row: "<" if row["best"] else "",
    }
    show(rows, columns, as_json=options.json)
    if options.plot:
        draw(rows, options)


def measure(task: str, options: argparse.Namespace, results: Results) -> list[dict]:
    """The rows of one task: each step takes the best of the one before."""

    def sweep(what: str, basis: str, rule: float | None, choices: Sequence[tuple[float, Run]]) -> tuple[list[dict], float]:
        seeded = {value: [first.of_seed(seed) for seed in range(options.seeds)] for value, first in choices}
        results.complete(run for runs in seeded.values() for run in runs)
        means = {value: interval([results.of(run)["score"] for run in runs]) for value, runs in seeded.items()}
        best = max(means, key=lambda value: -math.inf if math.isnan(means[value].mean) else means[value].mean)
        made = [
            {"task": task, "what": what, "basis": basis, "rule": rule, "value": value, "score": found.mean, "half": found.half}
            | {"best": value == best}
            for value, found in means.items()
        ]
        return made, best

    def stl(rate: float, basis: str, **options_of_run) -> Run:
        return Run(task, WIDTH, 0, options.steps, rate, basis, RANK, **options_of_run)

    rows, rate = sweep("rate", "dense", None, [(rate, Run(task, WIDTH, 0, options.steps, rate)) for rate in RATES])
    for basis in KINDS:
        rule = steady_rate(Basis(basis_named(basis, RANK, 0)))
        made, encoded = sweep("encoded", basis, rule, [(value, stl(rate, basis, encoded=value)) for value in ENCODED])
        rows += made
        if basis in LEARNED:
            choices = [(value, stl(rate, basis, learn="UW", encoded=encoded, bases=value)) for value in BASES]
            rows += sweep("bases", basis, None, choices)[0]
    return rows


def draw(rows: list[dict], options: argparse.Namespace) -> None:
    """Score against the multiple of the rate, one panel per task; a dotted line where the rule expects the best one."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure = Figure(figsize=(5 * len(tasks), 3.8), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for colour, basis in enumerate(KINDS):
            chosen = [row for row in rows if (row["task"], row["what"], row["basis"]) == (task, "encoded", basis)]
            values, scores, halves = zip(*((row["value"], row["score"], row["half"]) for row in chosen), strict=True)
            axes.errorbar(values, scores, halves, marker="o", capsize=3, color=f"C{colour}", label=basis)
            axes.axvline(chosen[0]["rule"], color=f"C{colour}", linestyle=":")
        dense = max(row["score"] for row in rows if (row["task"], row["what"]) == (task, "rate"))
        axes.axhline(dense, color="grey", linestyle="--", label="dense, best rate")
        axes.set(
            xscale="log", xlabel="rate of encoded weights / rate", title=task, ylabel="accuracy, %" if task == "digits" else "PSNR, dB"
        )
        axes.legend(fontsize=8)
    figure.savefig(options.plot, dpi=130)


if __name__ == "__main__":
    run(main)

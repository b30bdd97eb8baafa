"""Do theory-backed bases beat random ones in a network, fixed and learned?

    python examples/claims/bases.py --plot bases.png

trains one network from several bases of the same rank (`starts`), whose encoded weights start at random (`--starts encoded`, or
`independent`) or as the encoding of a trained dense network (`dense`: fine-tuning). Differences to the two random bases are paired by
seed: networks of one seed see the same batches.
"""

from __future__ import annotations

import argparse

from command import checked, numbers, opened, parser, run, show
from intervals import difference, interval
from starts import BASES, REGISTERED, basis_named
from training import RATE, Results, Run, tuned

from stlsearch.errors import InputError

WIDTH = 64
RANDOM = ("als", "gaussian")
MODES = {"encoded": ("", "UW"), "independent": ("", "UW"), "dense": ("",)}
"""What is learned by how encoded weights start."""


def main() -> None:
    """Train what is missing, print the table, draw the picture."""
    made = parser(__doc__, "claims-bases.json", seeds=5, steps=200)
    made.add_argument("--ranks", default="24")
    made.add_argument("--bases", default="front,polynomial,als,gaussian", help=f"of {', '.join(BASES)}")
    made.add_argument("--starts", default="encoded,dense", help=f"of {', '.join(MODES)}")
    options = made.parse_args()
    tasks, results, ranks = checked(options), opened(options), numbers(options.ranks, "--ranks")
    names, starts = options.bases.split(","), options.starts.split(",")
    for name, valid in [(name, BASES) for name in names] + [(name, tuple(MODES)) for name in starts]:
        if name not in valid:
            raise InputError(f"unknown name {name!r}; valid: {', '.join(valid)}")
    for rank in ranks:  # before anything is trained
        for name in set(names) & set(REGISTERED):
            basis_named(name, rank, 0)
    rows = [row for task in tasks for rank in ranks for start in starts for row in compare(task, rank, start, names, options, results)]
    columns = {
        "task": lambda row: row["task"],
        "r": lambda row: str(row["rank"]),
        "weights from": lambda row: row["start"],
        "bases": lambda row: row["learn"],
        "basis": lambda row: row["basis"],
        "e": lambda row: "-" if row["error"] is None else f"{row['error']:.3f}",
        "score": lambda row: interval(row["scores"]).show(),
    } | {f"vs {name}": lambda row, name=name: difference(row, name) for name in RANDOM}
    show(rows, columns, as_json=options.json)
    if options.plot:
        draw(rows, options)


def compare(task: str, rank: int, start: str, names: list[str], options: argparse.Namespace, results: Results) -> list[dict]:
    """The rows of one kind of start: the dense network, then fixed and learned bases."""
    seeds = range(options.seeds)
    dense = Run(task, WIDTH, 0, options.steps, RATE[task])
    wanted = {
        (learn, name): tuned(task, WIDTH, options.steps, name, rank, learn, start, RATE[task] if start == "dense" else 0.0)
        for learn in MODES[start]
        for name in names
    }
    results.complete(first.of_seed(seed) for seed in seeds for first in (dense, *wanted.values()))

    def scores(first: Run) -> list[float | None]:
        return [results.of(first.of_seed(seed))["score"] for seed in seeds]

    common = {"task": task, "rank": rank, "start": start}
    rows = [common | {"learn": "", "basis": "dense", "error": None, "scores": scores(dense), "rivals": {}}]
    for (learn, name), first in wanted.items():
        rivals = {rival: scores(wanted[learn, rival]) for rival in RANDOM if rival != name and rival in names}
        error = sum(results.of(first.of_seed(seed))["e"] for seed in seeds) / options.seeds
        made = {"learn": "learned" if learn else "fixed", "basis": name, "error": error, "scores": scores(first), "rivals": rivals}
        rows.append(common | made)
    return rows


def draw(rows: list[dict], options: argparse.Namespace) -> None:
    """Score by basis: one panel per task, a colour for each way to start and to learn."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row["task"], row["rank"]) for row in rows))
    modes = list(dict.fromkeys((row["learn"], row["start"]) for row in rows if row["learn"]))
    figure = Figure(figsize=(5.5 * len(panels), 3.8), layout="constrained")
    for axes, (task, rank) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        chosen = [row for row in rows if (row["task"], row["rank"]) == (task, rank)]
        names = list(dict.fromkeys(row["basis"] for row in chosen if row["learn"]))
        for index, (learn, start) in enumerate(modes):
            found = [(row["basis"], interval(row["scores"])) for row in chosen if (row["learn"], row["start"]) == (learn, start)]
            places = [names.index(name) + 0.15 * (index - (len(modes) - 1) / 2) for name, _ in found]
            label = f"{learn} bases, " + ("from a dense network" if start == "dense" else f"weights {start}")
            axes.errorbar(places, [f.mean for _, f in found], [f.half for _, f in found], fmt="o", capsize=3, label=label)
        axes.axhline(interval(chosen[0]["scores"]).mean, color="grey", linestyle="--", label="dense from scratch")
        axes.set(title=f"{task}, rank {rank}", ylabel="accuracy, %" if task == "digits" else "PSNR, dB")
        axes.set_xticks(range(len(names)), names)
        axes.legend(fontsize=8)
    figure.savefig(options.plot, dpi=130)


if __name__ == "__main__":
    run(main)

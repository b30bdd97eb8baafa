"""Do Strassen-Tile layers match or raise accuracy at fewer multiplications where a network is too small for its task?

    python examples/claims/accuracy.py --plot accuracy.png

trains networks whose backbone is Strassen-Tile, bases fixed or learned, and beside each three dense ones: of the same width, of the
width that has as many multiply-accumulates, and of the width that has as many weights. Differences are paired by seed: networks
of one seed see the same batches.
"""

from __future__ import annotations

import argparse

from command import checked, numbers, opened, parser, run, show
from intervals import difference, interval
from networks import backbone_macs, backbone_weights, equal_width
from starts import basis_named
from training import BLOCKS, RATE, Results, Run, tuned

from stlsearch.errors import InputError

LEARN = {"fixed": "", "learned": "UW"}
RIVALS = ("same width", "equal MACs", "equal weights")


def main() -> None:
    """Train what is missing, print the table, draw the picture."""
    made = parser(__doc__, "claims-accuracy.json", seeds=5, steps=200)
    made.add_argument("--widths", default="64,128", help="D of the Strassen-Tile networks, multiples of 4")
    made.add_argument("--ranks", default="16,24")
    made.add_argument("--bases", default="learned", help="of fixed, learned")
    options = made.parse_args()
    tasks, results = checked(options), opened(options)
    widths, ranks = numbers(options.widths, "--widths", 4), numbers(options.ranks, "--ranks")
    kinds = options.bases.split(",")
    if unknown := [kind for kind in kinds if kind not in LEARN]:
        raise InputError(f"unknown bases {unknown[0]!r}; valid: {', '.join(LEARN)}")
    for rank in ranks:  # before anything is trained
        basis_named("front", rank, 0)
    rows = [row for task in tasks for width in widths for row in compare(task, width, ranks, kinds, options, results)]
    columns = {
        "task": lambda row: row["task"],
        "network": lambda row: row["network"],
        "D": lambda row: str(row["width"]),
        "MMACs": lambda row: f"{row['macs'] / 1e6:.2f}",
        "weights": lambda row: f"{row['weights'] / 1e3:.0f}k",
        "score": lambda row: interval(row["scores"]).show(),
        "loss in training": lambda row: interval(row["train_losses"]).show(4),
        "in test": lambda row: interval(row["losses"]).show(4),
    } | {f"vs {name}": lambda row, name=name: difference(row, name) for name in RIVALS}
    show(rows, columns, as_json=options.json)
    if options.plot:
        draw(rows, options)


def compare(task: str, width: int, ranks: list[int], kinds: list[str], options: argparse.Namespace, results: Results) -> list[dict]:
    """The rows of one width: the dense network, then each Strassen-Tile one after its dense rivals."""

    def dense(columns: int) -> Run:
        return Run(task, columns, 0, options.steps, RATE[task])

    def rivals(rank: int) -> dict[str, int]:
        costs = {"equal MACs": backbone_macs, "equal weights": backbone_weights}
        return {"same width": width} | {name: equal_width(cost, width, BLOCKS, rank) for name, cost in costs.items()}

    wanted = [("dense", dense(width), {})]
    for rank in ranks:
        wanted += [(f"dense, {name} as r={rank}", dense(other), {}) for name, other in rivals(rank).items() if other != width]
        for kind in kinds:
            wanted.append((f"STL r={rank}, {kind}", tuned(task, width, options.steps, "front", rank, LEARN[kind]), rivals(rank)))
    results.complete(first.of_seed(seed) for seed in range(options.seeds) for _, first, _ in wanted)

    def finished(first: Run, key: str) -> list[float | None]:
        return [results.of(first.of_seed(seed))[key] for seed in range(options.seeds)]

    return [
        {
            "task": task,
            "network": name,
            "width": first.width,
            "rank": first.rank,
            "macs": results.of(first)["macs"],
            "weights": results.of(first)["weights"],
            "scores": finished(first, "score"),
            "losses": finished(first, "loss"),
            "train_losses": finished(first, "train_loss"),
            "rivals": {rival: finished(dense(other), "score") for rival, other in against.items()},
        }
        for name, first, against in wanted
    ]


def draw(rows: list[dict], options: argparse.Namespace) -> None:
    """Score against multiply-accumulates, and against weights."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure = Figure(figsize=(11, 3.8 * len(tasks)), layout="constrained")
    costs = {"macs": "multiply-accumulates of the backbone per image", "weights": "values in the backbone's matrices"}
    for line, task in zip(figure.subplots(len(tasks), 2, squeeze=False), tasks, strict=True):
        for axes, (cost, label) in zip(line, costs.items(), strict=True):
            families = {"dense": []} | {row["network"]: [] for row in rows if row["rank"]}
            for row in rows:
                if row["task"] == task:
                    families[row["network"] if row["rank"] else "dense"].append(row)
            for family, members in families.items():
                points = sorted(
                    {row["width"]: (row[cost], interval(row["scores"])) for row in members}.values(), key=lambda point: point[0]
                )
                across, means, halves = zip(*((value, found.mean, found.half) for value, found in points), strict=True)
                style = {"color": "black", "linestyle": "--"} if family == "dense" else {}
                axes.errorbar(across, means, halves, marker="o", capsize=3, label=family, **style)
            axes.set(xscale="log", xlabel=label, title=task, ylabel="accuracy, %" if task == "digits" else "PSNR, dB")
            axes.legend(fontsize=8)
    figure.savefig(options.plot, dpi=130)


if __name__ == "__main__":
    run(main)

"""The tables of docs/language.md, from the records of `train.py`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import stats


def interval(values: Sequence[float], digits: int) -> str:
    """Mean and half of its 95 % interval by Student's t: it says how seeds scatter, and nothing about other texts."""
    values = np.asarray(values)
    if len(values) < 2:
        return f"{values.mean():.{digits}f}"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():.{digits}f} ± {half:.{digits}f}"


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table, aligned."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for number, line in enumerate(lines):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def print_report(document: dict, *, samples: bool = False) -> None:
    """Costs and perplexities; then the leak and the influence of neighbours, of the kinds that have them."""
    groups: dict[str, list[dict]] = {}
    for record in document["runs"]:
        groups.setdefault(record["kind"], []).append(record)
    if not groups:
        print("no run is finished")
        return
    text, settings = document["text"], document["settings"]
    print(f"text: {text['characters']} characters, sha256 {text['sha256'][:16]}; {text['train']} train, {text['validation']} validate")
    print(f"model: {settings['config']}; {settings['steps']} steps of {settings['batch']} samples")
    print(f"perplexity: mean over seeds (at most {max(map(len, groups.values()))}) ± half of its 95 % interval\n")
    dense = groups["dense"][0]["macs"]["total"] if "dense" in groups else math.nan
    print_table(
        ("model", "perplexity", "bits per character", "MACs", "of dense", "of it at batch 1", "parameters", "s a run"),
        [_row(name, records, dense) for name, records in groups.items()],
    )
    leaking = {name: records for name, records in groups.items() if "leak" in records[0]}
    if leaking:
        print("\nperplexity of what leaks, the whole window at once, and from nothing but the past; by the place in the tile\n")
        rows = []
        for name, records in leaking.items():
            for how in ("falsely", "honestly"):
                places = [[math.exp(r["leak"]["places"][how][place]) for r in records] for place in range(4)]
                totals = [math.exp(r["leak"][how]) for r in records]
                how = "at once (leaks)" if how == "falsely" else "from the past"
                rows.append((name, how, interval(totals, 2), *(interval(values, 2) for values in places)))
        print_table(("model", "predicted", "all", "place 1", "place 2", "place 3", "place 4"), rows)
    measured = {name: records for name, records in groups.items() if "neighbours" in records[0]}
    print("\nrelative change of past logits when the future changes, of all when the neighbours in the batch do; (perplexity)\n")
    names = ("strangers", "noise", "blank", "copies", "alone")
    print_table(
        ("model", "future", "before", *names, "other choice beside strangers"),
        [
            (
                name,
                f"{max(r['future_influence'] for r in records):.2g}",
                f"({_mean(records, 'before', 'perplexity'):.2f})",
                *(f"{_mean(records, other, 'change'):.3f} ({_mean(records, other, 'perplexity'):.2f})" for other in names),
                f"{100 * _mean(records, 'strangers', 'other_choice'):.1f} %",
            )
            for name, records in measured.items()
        ],
    )
    for name, records in groups.items() if samples else ():
        if "sample" in records[0]:
            print(f"\n{name}:\n{records[0]['sample']}")


def _row(name: str, records: list[dict], dense: float) -> tuple[str, ...]:
    first = records[0]
    return (
        f"{name} (dim {first['dim']})" if name.startswith("narrow") else name,
        interval([math.exp(r["nats"]) for r in records], 3),
        interval([r["nats"] / math.log(2) for r in records], 3),
        f"{first['macs']['total']:.0f}",
        f"{first['macs']['total'] / dense:.2f}",
        f"{first['macs_alone'] / dense:.2f}",
        str(first["parameters"]),
        f"{sum(r['seconds'] for r in records) / len(records):.0f}",
    )


def _mean(records: list[dict], other: str, what: str) -> float:
    return sum(r["neighbours"][other][what] for r in records) / len(records)

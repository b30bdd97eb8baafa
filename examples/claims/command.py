"""What the three commands have in common: options, tables, and one line for bad input."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tasks import TASKS
from training import Results

from stlsearch.errors import InputError, RegistryError
from stlsearch.registry.atomic import check_destination


def parser(description: str | None, results: str, *, seeds: int, steps: int) -> argparse.ArgumentParser:
    """Options of every command; `results` is the default file of runs."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--tasks", default=",".join(TASKS), help=f"of {', '.join(TASKS)}")
    made.add_argument("--seeds", type=int, default=seeds, help="runs of each network")
    made.add_argument("--steps", type=int, default=steps, help="of AdamW, 32 images each")
    made.add_argument("--results", type=Path, default=Path(results), help="where finished runs are kept; those in it are not trained again")
    made.add_argument("--from", dest="source", type=Path, help="take all runs from this file, train nothing")
    made.add_argument("--plot", type=Path, help="also draw a picture to this file")
    made.add_argument("--json", action="store_true", help="print the table as JSON")
    made.add_argument("--quick", action="store_true", help="two seeds of two steps: to see that it runs")
    return made


def checked(options: argparse.Namespace) -> list[str]:
    """The tasks asked for, other options checked and --quick applied.

    Raises:
        InputError: an unknown task, or numbers below 1.
    """
    if options.quick:
        options.seeds, options.steps = 2, 2
    if min(options.seeds, options.steps) < 1:
        raise InputError("--seeds and --steps are at least 1")
    names = options.tasks.split(",")
    for name in names:
        if name not in TASKS:
            raise InputError(f"unknown task {name!r}; valid: {', '.join(TASKS)}")
    if options.plot:
        check_destination(options.plot)
    return names


def numbers(text: str, option: str, step: int = 1) -> list[int]:
    """``"64,128"`` -> [64, 128].

    Raises:
        InputError: something else than positive multiples of `step`.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [0]
    if any(number < 1 or number % step for number in found):
        raise InputError(f"{option} takes positive multiples of {step} separated by commas, not {text!r}")
    return found


def opened(options: argparse.Namespace) -> Results:
    """The file of runs, to be read or to be added to."""
    command = "python examples/claims/" + Path(sys.argv[0]).name + "".join(f" {argument}" for argument in sys.argv[1:])
    return Results(options.source or options.results, command, readonly=options.source is not None)


def show(rows: Sequence[dict], columns: dict[str, Callable[[dict], str]], *, as_json: bool) -> None:
    """Print rows as a table with these columns, or as JSON."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    cells = [list(columns)] + [[write(row) for write in columns.values()] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def run(main: Callable[[], None]) -> None:
    """Call it; bad input is one line and exit code 2, Ctrl-C exit code 130."""
    torch.set_num_threads(1)  # networks this small gain nothing from more, and results do not depend on how many there are
    try:
        main()
    except (InputError, RegistryError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; finished runs are kept, and the same command continues", file=sys.stderr)
        raise SystemExit(130) from None

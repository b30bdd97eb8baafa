"""Flips per second and time to a rank of the compiled walks, one core.

    python benchmarks/flips.py --json benchmarks/results/flips.json

Process times after everything is compiled. A flip is one that was made: over Z nearly half of those tried would leave {-1, 0, 1}. Times
to a rank are over seeds, one walker each, from the standard algorithm; "found" counts the seeds that came to it within the budget.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

from stlsearch.constructions.classical import standard
from stlsearch.search.flip_state import RINGS
from stlsearch.search.flips import FlipWalk, flip_search
from stlsearch.targets import Target

SPEED_SHAPES = ((3, 3, 3), (4, 4, 4), (5, 5, 5))
RACES = (
    ((2, 2, 2), 7, "Z", "cyclic"),
    ((3, 3, 3), 23, "Z2", "none"),
    ((3, 3, 3), 23, "Z", "none"),
    ((3, 3, 3), 23, "Z", "cyclic"),
    ((2, 3, 4), 20, "Z", "none"),
    ((3, 3, 4), 29, "Z", "none"),
    ((3, 4, 4), 38, "Z", "none"),
    ((4, 4, 4), 49, "Z2", "none"),
    ((4, 4, 4), 49, "Z", "none"),
    ((4, 4, 4), 49, "Z2", "cyclic"),
    ((4, 4, 4), 49, "Z", "cyclic"),
    ((4, 4, 4), 49, "Z", "(12)(34),(13)(24)"),
    ((4, 4, 4), 47, "Z2", "(234),(23)"),
    ((4, 4, 4), 47, "Z2", "(234)"),
)


def speed(shape: tuple[int, int, int], ring: str, flips: int) -> dict[str, object]:
    """Flips made and tried per second, from the standard algorithm."""
    walk = FlipWalk(standard(*shape), 1, ring)
    walk.run(10_000)
    made, began = walk.flips, time.process_time()
    tried = walk.run(flips)
    seconds = time.process_time() - began
    name = "x".join(map(str, shape))
    return {"tile": name, "ring": ring, "flips_per_second": (walk.flips - made) / seconds, "tries_per_second": tried / seconds}


def race(shape: tuple[int, int, int], rank: int, ring: str, symmetry: str, seeds: int, budget: int) -> dict[str, object]:
    """Seconds and flips to a rank, for as many seeds."""
    seconds, flips = [], []
    for seed in range(seeds):
        began = time.process_time()
        found = flip_search(Target.matmul(*shape), rank, seed, budget, ring=ring, symmetry=symmetry)
        if found.rank <= rank:
            seconds.append(time.process_time() - began)
            flips.append(int(str(found.provenance["flips"])))
    return {
        "tile": "x".join(map(str, shape)),
        "rank": rank,
        "ring": ring,
        "symmetry": symmetry,
        "seeds": seeds,
        "budget": budget,
        "found": len(seconds),
        "median_seconds": statistics.median(seconds) if seconds else None,
        "least_seconds": min(seconds, default=None),
        "median_flips": statistics.median(flips) if flips else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=30_000_000, help="for every measurement of speed")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=int, default=400_000_000, help="flips tried for every seed of a race")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if min(options.flips, options.seeds, options.budget) < 1:
        parser.error("--flips, --seeds and --budget must be at least 1")
    for ring in RINGS:
        FlipWalk(standard(2, 2, 2), 0, ring).search(1000, 8, 100, 1)  # compiles
        flip_search(Target.matmul(2, 2, 2), 7, 0, 10_000, ring=ring)
    flip_search(Target.matmul(2, 2, 2), 7, 0, 10_000, symmetry="(12)")

    speeds = []
    print("| | ring | flips/s | tried/s |\n|---|---|---|---|")
    for shape in SPEED_SHAPES:
        for ring in RINGS:
            speeds.append(found := speed(shape, ring, options.flips))
            print(
                f"| {found['tile']} | {ring} | {found['flips_per_second'] / 1e6:.1f} M | {found['tries_per_second'] / 1e6:.1f} M |",
                flush=True,
            )

    races = []
    print("\n| | rank | ring | symmetry | found | median seconds | least | median flips tried |\n|---|---|---|---|---|---|---|---|")
    for shape, rank, ring, symmetry in RACES:
        print(f"{shape} {rank} {ring} {symmetry}", file=sys.stderr)
        races.append(found := race(shape, rank, ring, symmetry, options.seeds, options.budget))
        figures = ["-", "-", "-"]
        if found["found"]:
            figures = [f"{found['median_seconds']:.3g}", f"{found['least_seconds']:.2g}", f"{found['median_flips']:.3g}"]
        start = f"| {found['tile']} | {rank} | {ring} | {symmetry} | {found['found']} of {options.seeds}"
        print(start, *figures, sep=" | ", end=" |\n", flush=True)

    if options.json:
        document = {"cpu": platform.processor() or platform.machine(), "python": platform.python_version(), "speed": speeds, "races": races}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

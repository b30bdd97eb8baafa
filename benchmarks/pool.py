"""A search for a front with and without a pool of distinct bases, from an empty registry, for the same process time.

    OMP_NUM_THREADS=1 python benchmarks/pool.py [--tile 3 --ranks 10-19] [--pools 1,3] [--seconds 160] [--seed 0]

Prints, after a quarter, half and all of the time: fits, improvements, members found for the pool, and the sum of e over the ranks.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from stlsearch.frontier import Step, improve_front
from stlsearch.parents import best_by_rank, usable_algorithms
from stlsearch.registry.store import Registry
from stlsearch.solvers.polish import Goal
from stlsearch.targets import Target


def search(target: Target, ranks: list[int], pool: int, seconds: float, seed: int, folder: Path) -> None:
    """One search, reported as it goes."""
    registry, goal = Registry(folder / "found", folder), Goal()
    taken: list[Step] = []
    began = time.process_time()
    for share in (0.25, 0.5, 1.0):
        while time.process_time() - began < share * seconds:
            taken += improve_front(target, ranks, registry, goal=goal, seed=seed, steps=1, pool=pool)
        front = best_by_rank(usable_algorithms(target, registry), goal)
        counts = f"{len(taken):5d} {sum(step.improved for step in taken):12d} {sum(step.pooled for step in taken):7d}"
        print(f"{pool:4d} {share * seconds:8.0f} {counts} {sum(basis.error for basis in front.values()):9.5f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tile", type=int, default=3)
    parser.add_argument("--ranks", default="10-19", help="the first and the last one")
    parser.add_argument("--pools", default="1,3", help="sizes of the pool, one search each")
    parser.add_argument("--seconds", type=float, default=160, help="process time of each search")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    first, last = map(int, options.ranks.split("-"))
    target = Target.matmul(options.tile, options.tile, options.tile)
    print("pool  seconds  fits improvements members     sum e")
    for pool in map(int, options.pools.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            search(target, list(range(last, first - 1, -1)), pool, options.seconds, options.seed, Path(folder))


if __name__ == "__main__":
    main()

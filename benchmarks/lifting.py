"""How many algorithms of walks modulo 2 and 3 lift, and to what; and whether shipped ones, reduced modulo p, are lifted back.

    python benchmarks/lifting.py

Walks start from the standard algorithm, one walker for every seed; walks that end above the rank do not count, and the same
algorithm met by two seeds counts once. The shipped ones are first moved to a random basis of integers, so that their coefficients
do not fit between -p/2 and p/2. Process times of a whole `lift` with its default attempts, after everything is compiled.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import strassen
from stlsearch.constructions.transforms import sandwich
from stlsearch.registry.store import open_registry
from stlsearch.search.flips import flip_search
from stlsearch.search.lifting import lift
from stlsearch.targets import Target

WALKS = (
    ((2, 2, 2), 7, "Z2", "none", 1_000_000),
    ((2, 3, 4), 20, "Z2", "none", 100_000_000),
    ((3, 3, 3), 23, "Z2", "none", 100_000_000),
    ((3, 3, 4), 29, "Z2", "none", 100_000_000),
    ((3, 4, 4), 38, "Z2", "none", 200_000_000),
    ((4, 4, 4), 49, "Z2", "none", 200_000_000),
    ((4, 4, 4), 49, "Z2", "cyclic", 200_000_000),
    ((3, 3, 3), 23, "Z3", "none", 100_000_000),
)
PRIMES = (2, 3, 5, 7)
OUTCOMES = ("ternary", "Z", "Z[1/2]", "Q", "no lift", "undecided")
HEADER = "| | rank | ring | symmetry | algorithms | " + " | ".join(OUTCOMES) + " | -1, 0, 1 impossible | median seconds |"


def outcome(algorithm: BilinearAlgorithm, seed: int) -> tuple[str, bool, float]:
    """One of `OUTCOMES`, whether it lifts but never to -1, 0, 1 alone, and the seconds it took. A proof of no lift is checked."""
    began = time.process_time()
    found = lift(algorithm, seed=seed)
    seconds = time.process_time() - began
    if found.obstruction is not None and not found.obstruction.verify(algorithm):
        raise AssertionError(f"the proof that {algorithm.name} does not lift is wrong")
    if found.algorithm is None:
        return found.status, False, seconds
    return "ternary" if found.algorithm.is_ternary else found.algorithm.ring, found.ternary_excluded, seconds


def row(label: str, algorithms: Iterable[BilinearAlgorithm], seed: int) -> str:
    """A line of the table."""
    found = [outcome(algorithm, seed) for algorithm in {algorithm.id: algorithm for algorithm in algorithms}.values()]
    counts = Counter(name for name, _, _ in found)
    excluded = sum(never for _, never, _ in found)
    median = f"{statistics.median(seconds for _, _, seconds in found):.2g}" if found else "-"
    return f"| {label} | {len(found)} | " + " | ".join(str(counts[name] or "") for name in OUTCOMES) + f" | {excluded or ''} | {median} |"


def walked(shape: tuple[int, int, int], rank: int, ring: str, symmetry: str, budget: int, seeds: int) -> list[BilinearAlgorithm]:
    """What the walks of all seeds find at the rank."""
    algorithms = [flip_search(Target.matmul(*shape), rank, seed, budget, ring=ring, symmetry=symmetry) for seed in range(seeds)]
    return [algorithm for algorithm in algorithms if algorithm.rank <= rank]


def reduced(algorithm: BilinearAlgorithm, prime: int) -> BilinearAlgorithm:
    """An algorithm over Z modulo p."""
    assert algorithm.exact is not None
    return BilinearAlgorithm.from_exact(algorithm.target, *(factor.real % prime for factor in algorithm.exact), ring=f"Z{prime}")


def moved(algorithm: BilinearAlgorithm, seed: int) -> BilinearAlgorithm:
    """In another basis: X, Y and Z are products of triangular matrices of -1, 0, 1 with ones on the diagonal."""
    assert algorithm.target.shape is not None
    random = np.random.default_rng(seed)

    def triangle(size: int) -> np.ndarray:
        return np.tril(random.integers(-1, 2, (size, size)), -1) + np.eye(size, dtype=np.int64)

    return sandwich(algorithm, *(triangle(size) @ triangle(size).T for size in algorithm.target.shape))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="walks of every kind")
    parser.add_argument("--tile", help="only walks of this size, such as 3x3x3")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    for prime in PRIMES:  # compiles
        lift(reduced(moved(strassen(), 1), prime))

    print(HEADER + "\n" + "|---" * (HEADER.count("|") - 1) + "|")
    for shape, rank, ring, symmetry, budget in WALKS:
        name = "x".join(map(str, shape))
        if options.tile in (None, name):
            print(f"{name} {rank} {ring} {symmetry}", file=sys.stderr)
            found = walked(shape, rank, ring, symmetry, budget, options.seeds)
            print(row(f"{name} | {rank} | {ring} | {symmetry}", found, 0), flush=True)
    if options.tile:
        return
    print()
    shipped = [entry.algorithm for entry in open_registry().find(exact=True)[0] if entry.layer == "shipped"]
    bases = [moved(algorithm, 0) for algorithm in shipped if algorithm.ring == "Z" and algorithm.target.shape]
    for prime in PRIMES:
        print(row(f"shipped | | Z{prime} | none", (reduced(algorithm, prime) for algorithm in bases), 0), flush=True)


if __name__ == "__main__":
    main()

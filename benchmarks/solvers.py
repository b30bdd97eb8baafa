"""Seconds per exact <3,3,3;23> from random starts: ours beside general CP solvers, in one run on one core.

    OMP_NUM_THREADS=1 python benchmarks/solvers.py [--seconds 60] [--json benchmarks/results/solvers.json]
    OMP_NUM_THREADS=1 python benchmarks/solvers.py --parts als,lbfgs

The parts: `search` (ours) and `others` beside it, `kernel` (sweeps beside the machine's matrix product), `als` (the sweeps of fits
beside the same in batched tensor operations), `lbfgs` (L-BFGS beside ALS).

Times are process times, after a warm-up that compiles. Success is e < 1e-10 for solvers that fit, and an algorithm over Z verified
in integers for ours: more, for less time. `pip install -e '.[benchmarks]'` adds TensorLy and pyttb; what is missing is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from stlsearch.search.rounding import discover
from stlsearch.solvers import als, lbfgs
from stlsearch.solvers.anchored import Anchors, anchored_sweeps
from stlsearch.solvers.plan import Plan
from stlsearch.solvers.problem import Problem
from stlsearch.targets import Target

TARGET, RANK, EXACT = Target.matmul(3, 3, 3), 23, 1e-10
TENSOR = TARGET.tensor.astype(np.float64)
PARTS = ("search", "others", "kernel", "als", "lbfgs")
OURS = (((3, 3, 3), 23), ((2, 3, 4), 20), ((3, 3, 4), 29), ((3, 4, 4), 38))
PEERS = {((3, 3, 3), 23): 0.4, ((3, 3, 4), 29): 43 / 6, ((3, 4, 4), 38): 247 / 6}
"""Seconds per exact algorithm of dronperminov/numerical-fast-matmul, measured earlier, not in this run."""


def error(factors: list[np.ndarray]) -> float:
    return float(((TENSOR - np.einsum("ir,jr,kr->ijk", *factors, optimize=True)) ** 2).sum() / (TENSOR**2).sum())


def torch_als(batch: int = 200, sweeps: int = 4000, seed: int = 0) -> Iterator[list[bool]]:
    """The plain baseline: batched ridge ALS in thirty lines, the ridge decaying from 3e-3 to 1e-13."""
    generator = torch.Generator().manual_seed(seed)
    T = torch.tensor(TENSOR)
    unfolded = [T.movedim(mode, 0).reshape(T.shape[mode], -1) for mode in range(3)]
    while True:
        F = [torch.randn(batch, extent, RANK, generator=generator, dtype=torch.float64) * 0.6 for extent in T.shape]
        for ridge in np.geomspace(3e-3, 1e-13, sweeps):
            for mode in range(3):
                A, B = (F[k] for k in range(3) if k != mode)
                gram = (A.mT @ A) * (B.mT @ B) + ridge * torch.eye(RANK, dtype=torch.float64)
                right = unfolded[mode] @ (A.unsqueeze(2) * B.unsqueeze(1)).reshape(batch, -1, RANK)
                F[mode] = torch.cholesky_solve(right.mT, torch.linalg.cholesky(gram)).mT
        yield [error([factor[lane].numpy() for factor in F]) < EXACT for lane in range(batch)]


def tensorly(decay: bool, seed: int = 0) -> Iterator[list[bool]]:
    from tensorly.decomposition import parafac

    while True:
        seed += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not decay:
                cp = parafac(TENSOR, RANK, n_iter_max=2000, init="random", random_state=seed, tol=1e-14)
            else:
                cp = parafac(TENSOR, RANK, n_iter_max=100, init="random", random_state=seed, l2_reg=3e-3, tol=0)
                for ridge in np.geomspace(3e-3, 1e-13, 40)[1:]:
                    cp = parafac(TENSOR, RANK, n_iter_max=100, init=cp, l2_reg=float(ridge), tol=0)
        weights, factors = cp
        yield [error([factors[0] * weights, *factors[1:]]) < EXACT]


def pyttb_als(seed: int = 0) -> Iterator[list[bool]]:
    import pyttb

    tensor = pyttb.tensor(TENSOR)
    while True:
        seed += 1
        np.random.seed(seed)  # noqa: NPY002 (the only seed it takes)
        model, _, _ = pyttb.cp_als(tensor, RANK, maxiters=2000, stoptol=1e-14, printitn=0)
        yield [error([model.factor_matrices[0] * model.weights, *model.factor_matrices[1:]]) < EXACT]


def measured(solver: Iterator[list[bool]], seconds: float) -> dict[str, float]:
    """Starts, successes and seconds until the time is up (at least one batch)."""
    starts = wins = 0
    began = time.process_time()
    for won in solver:
        starts, wins = starts + len(won), wins + sum(won)
        if time.process_time() - began > seconds:
            break
    spent = time.process_time() - began
    return {"starts": starts, "exact": wins, "seconds": spent, "seconds_each": spent / wins if wins else float("inf")}


def ours(shape: tuple[int, int, int], rank: int, seconds: float) -> dict[str, float]:
    """`discover` with its defaults for so many seconds; every algorithm counted is verified over Z."""
    discover(Target.matmul(2, 2, 2), 7)  # compiles
    found = discover(
        Target.matmul(*shape), rank, count=10**6, max_starts=10**9, seed=1, callback=lambda stats: stats.core_seconds > seconds
    )
    stats = found.stats
    return {
        "starts": stats.starts,
        "fits": stats.fits,
        "converged": stats.converged,
        "exact": stats.exact,
        "seconds": stats.core_seconds,
        "seconds_each": stats.core_seconds / stats.exact if stats.exact else float("inf"),
    }


def rate(work: Callable[[], object], flops: float, seconds: float = 0.5) -> float:
    """GFLOP/s of `work`."""
    work()
    began, runs = time.process_time(), 0
    while time.process_time() - began < seconds:
        work()
        runs += 1
    return runs * flops / (time.process_time() - began) / 1e9


def kernel_rows() -> list[dict[str, object]]:
    """Sweeps per second and GFLOP/s of the kernel beside this machine's matrix product and batched Cholesky."""
    rows: list[dict[str, object]] = []
    for dtype, lanes in ((np.float64, 64), (np.float32, 64), (np.float32, 16)):
        square = torch.randn(1024, 1024, dtype=torch.float64 if dtype == np.float64 else torch.float32)
        product = rate(lambda square=square: square @ square, 2 * 1024**3)
        for shape, rank in (*OURS, ((4, 4, 4), 49)):
            tensor = Target.matmul(*shape).tensor.astype(dtype)
            plans = [Plan.of(tensor, mode) for mode in range(3)]
            generator = np.random.default_rng(0)
            factors = [generator.standard_normal((extent, rank, lanes)).astype(dtype) for extent in tensor.shape]
            rows_of = sum(tensor.shape)
            # Gram, Hadamard, factorisation and two triangular solves per mode, and three numbers an entry and term
            flops = rows_of * rank * (rank + 1) + 3 * (rank**2 / 2 + rank**3 / 3) + rows_of * 2 * rank**2 + 9 * tensor.sum() * rank
            sweeps = 50
            own = rate(
                lambda f=factors, p=plans, n=sweeps: anchored_sweeps(f, p, np.full(n, 1e-2), Anchors.free(n)), sweeps * lanes * float(flops)
            )
            grams = torch.eye(rank, dtype=square.dtype).expand(lanes, rank, rank).contiguous() * 2
            cholesky = rate(lambda grams=grams: torch.linalg.cholesky(grams), lanes * rank**3 / 3, 0.2)
            rows.append(
                {
                    "shape": "x".join(map(str, shape)),
                    "rank": rank,
                    "dtype": np.dtype(dtype).name,
                    "lanes": lanes,
                    "sweeps_per_second": own * 1e9 / float(flops),
                    "gflops": own,
                    "matmul_1024_gflops": product,
                    "batched_cholesky_gflops": cholesky,
                }
            )
    return rows


def normal(problem: Problem, rank: int, starts: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """N(0, 1) factors."""
    generator = torch.Generator().manual_seed(0)
    U, V, W = (
        torch.randn(starts, rank, extent, generator=generator, dtype=torch.float64).to(problem.tensor) for extent in problem.tensor.shape
    )
    return U, V, W


def als_rows(restarts: int = 64, sweeps: int = 50) -> Iterator[dict[str, object]]:
    """Sweeps per second of `als.sweeps` on <4,4,4>, packing included, beside `als.sweep`, the same as batched tensor operations."""
    for dtype in (torch.float64, torch.float32):
        problem = Problem.of(Target.matmul(4, 4, 4), dtype=dtype)
        for rank in (7, 24, 48):
            start = normal(problem, rank, restarts)
            levels = torch.full((sweeps, 1), 1e-3, dtype=torch.float64)
            compiled = 1e9 * rate(lambda p=problem, f=start, m=levels: als.sweeps(p, f, m), sweeps * restarts, 2.0)
            plain = 1e9 * rate(lambda p=problem, f=start: als.sweep(p, f, 1e-3), restarts, 2.0)
            yield {"rank": rank, "dtype": str(dtype).removeprefix("torch."), "compiled": compiled, "tensor_operations": plain}


def lbfgs_rows(starts: int = 64, steps: int = 500, penalty: float = 5e-5) -> Iterator[dict[str, object]]:
    """The best F on <4,4,4> of L-BFGS, of ALS from the same starts, and of ALS from as many more as take the same time."""
    problem = Problem.of(Target.matmul(4, 4, 4))

    def best(solve: Callable, rank: int, count: int) -> tuple[float, float]:
        began = time.process_time()
        factors = solve(problem, normal(problem, rank, count), penalty=penalty, iterations=steps)
        return float(problem.objective(factors, penalty).min()), time.process_time() - began

    best(als.solve, 2, 2)  # compiles
    for rank in (7, 8, 10, 12, 24):
        row: dict[str, object] = {"rank": rank}
        row["lbfgs"], taken = best(lbfgs.solve, rank, starts)
        row["als"], short = best(als.solve, rank, starts)
        more = round(starts * taken / short)
        row["als_in_the_same_time"], _ = best(als.solve, rank, more)
        yield row | {"lbfgs_seconds": taken, "als_seconds": short, "starts": more}


def print_search(seconds: float) -> dict[str, dict[str, float]]:
    """Our rows."""
    print(f"{'<n,m,p;r>':12s} {'starts':>8s} {'exact':>6s} {'per start':>9s} {'s each':>9s} {'peer s':>7s} {'ratio':>6s}")
    search = {}
    for shape, rank in OURS:
        row = search[f"{'x'.join(map(str, shape))}_r{rank}"] = ours(shape, rank, seconds)
        peer = PEERS.get((shape, rank))
        compared = f"{peer:7.2f} {peer / row['seconds_each']:6.1f}" if peer else ""
        name = f"<{','.join(map(str, shape))};{rank}>"
        print(
            f"{name:12s} {row['starts']:8d} {row['exact']:6d} {row['exact'] / row['starts']:9.3f} {row['seconds_each']:9.4f} {compared}",
            flush=True,
        )
    return search


def print_others(seconds: float, own: float) -> dict[str, dict[str, float]]:
    """Those of the solvers that are installed, beside our seconds for an exact algorithm."""
    solvers: dict[str, Callable[[], Iterator[list[bool]]]] = {"torch ridge ALS, B=200": torch_als}
    if importlib.util.find_spec("tensorly"):
        solvers["TensorLy parafac"] = lambda: tensorly(False)
        solvers["TensorLy, l2_reg decaying"] = lambda: tensorly(True)
    if importlib.util.find_spec("pyttb"):
        solvers["pyttb cp_als"] = pyttb_als
    print(f"\n<3,3,3;23>, e < {EXACT:g}   {'starts':>8s} {'exact':>6s} {'s each':>9s} {'times ours':>10s}")
    others = {}
    for name, solver in solvers.items():
        row = others[name] = measured(solver(), seconds)
        print(f"{name:26s} {row['starts']:6d} {row['exact']:6d} {row['seconds_each']:9.3f} {row['seconds_each'] / own:10.0f}", flush=True)
    return others


def print_kernel() -> list[dict[str, object]]:
    """`kernel_rows`."""
    rows = kernel_rows()
    print(f"\n{'shape':6s} {'rank':>4s} {'dtype':8s} {'lanes':>5s} {'sweeps/s':>9s} {'GFLOP/s':>8s} {'matmul':>7s} {'cholesky':>8s}")
    for row in rows:
        print(
            f"{row['shape']:6s} {row['rank']:4d} {row['dtype']:8s} {row['lanes']:5d} {row['sweeps_per_second']:9.0f} {row['gflops']:8.1f}"
            f" {row['matmul_1024_gflops']:7.1f} {row['batched_cholesky_gflops']:8.2f}"
        )
    return rows


def print_als() -> list[dict[str, object]]:
    """`als_rows`."""
    print(f"\n<4,4,4>, als {'rank':>4s} {'dtype':8s} {'sweeps/s':>9s} {'tensor operations':>17s} {'ratio':>6s}")
    rows = []
    for row in als_rows():
        rows.append(row)
        ratio = row["compiled"] / row["tensor_operations"]  # type: ignore[operator]
        print(
            f"{'':12s} {row['rank']:4d} {row['dtype']:8s} {row['compiled']:9.0f} {row['tensor_operations']:17.0f} {ratio:6.1f}", flush=True
        )
    return rows


def print_lbfgs() -> list[dict[str, object]]:
    """`lbfgs_rows`."""
    print("\n<4,4,4>, best F    rank  lbfgs, 64 x 500  als, 64 x 500  als in the same time")
    rows = []
    for row in lbfgs_rows():
        rows.append(row)
        print(
            f"{'':18s} {row['rank']:4d}  {row['lbfgs']:.4f} ({row['lbfgs_seconds']:.2f} s)  {row['als']:.4f} ({row['als_seconds']:.3f} s)"
            f"  {row['als_in_the_same_time']:.4f} ({row['starts']} starts)",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="process time for each solver")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure, separated by commas; others needs search")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; valid: {', '.join(PARTS)}")
    if "others" in parts and "search" not in parts:
        parser.error("others are measured beside ours: give search,others")
    torch.set_num_threads(1)
    document: dict[str, object] = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "seconds": options.seconds,
    }

    if "search" in parts:
        search = document["search"] = print_search(options.seconds)
        if "others" in parts:
            document["others"] = print_others(options.seconds, search["3x3x3_r23"]["seconds_each"])
    for name, printed in (("kernel", print_kernel), ("als", print_als), ("lbfgs", print_lbfgs)):
        if name in parts:
            document[name] = printed()
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1).replace("Infinity", "null") + "\n")


if __name__ == "__main__":
    main()

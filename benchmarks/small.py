"""Small products on a CPU: the compiled kernels beside PyTorch's own operators, which `stlsearch.ops.product.SMALL` chooses between.

    python benchmarks/small.py

Lower quartiles of interleaved calls in microseconds, float32, rank 24, weights encoded beforehand; backward is
forward with all gradients but those of the bases.
"""

from __future__ import annotations

import argparse
import time

import torch

from stlsearch.ops import product as module
from stlsearch.ops.bases import bases_of
from stlsearch.registry.store import open_registry
from stlsearch.targets import Target

SIZES = "64x64x64,128x64x128,512x64x128,512x128x256,512x256x256,2048x64x128,2048x256x512,512x1024x1024,2048x1024x1024"
LIMITS = {"kernels": 0, "PyTorch": 1 << 60, "chosen": module.SMALL}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=SIZES, help="(M,K) times (K,N) as MxKxN")
    parser.add_argument("--repeats", type=int, default=60)
    options = parser.parse_args()
    algorithm = open_registry().best(Target.matmul(4, 4, 4), rank=24).algorithm
    bases = bases_of(algorithm, torch.float32, torch.device("cpu"))
    print("| (M, K) x (K, N) | values | pass | kernels | PyTorch | chosen |\n|---|---|---|---|---|---|")
    for size in options.sizes.split(","):
        rows, inner, columns = map(int, size.split("x"))
        x, weight = torch.randn(1, rows, inner), torch.randn(24, -(-inner // 4), -(-columns // 4))
        for backward in (False, True):
            times: dict[str, list[float]] = {name: [] for name in LIMITS}
            for _ in range(options.repeats + 5):
                for name, limit in LIMITS.items():
                    module.SMALL = limit
                    leaves = [tensor.clone().requires_grad_(backward) for tensor in (x, weight)]
                    began = time.perf_counter()
                    y = module.product(leaves[0], bases.U, leaves[1], bases.W, (4, 4, 4), columns, (False,) * 3)
                    if backward:
                        y.sum().backward()
                    times[name].append(time.perf_counter() - began)
            quartiles = [sorted(found[5:])[options.repeats // 4] * 1e6 for found in times.values()]
            values = 24 * -(-rows // 4) * (-(-inner // 4) + -(-columns // 4))
            figures = " | ".join(f"{value:.0f}" for value in quartiles)
            print(f"| {size} | {values / 2**20:.2f} * 2^20 | {'backward' if backward else 'forward'} | {figures} |", flush=True)


if __name__ == "__main__":
    main()

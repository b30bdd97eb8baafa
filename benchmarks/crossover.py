"""From which size on an exact algorithm multiplies faster than torch.matmul, and what it costs in accuracy.

    python benchmarks/crossover.py --sizes 1024,2048,4096 --levels 1,2

Every pair is timed in alternation in this process (`stlsearch.evaluate.timing`); errors are relative Frobenius errors against float64.
On CPUs where the operator's own products are faster than torch.matmul (`stlsearch.ops.blocked`), "same kernel" is the speed-up over an
ordinary product by these: what the algorithm gains.
Matrix products of smaller sizes are slower per operation, and passes over the matrices cost time: where the ratio passes 1 is measured.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from functools import partial
from pathlib import Path

import torch

from stlsearch import __version__
from stlsearch.constructions.expression import construct
from stlsearch.devices import describe_device
from stlsearch.evaluate.error import gaussian_pair
from stlsearch.evaluate.timing import compare_times
from stlsearch.ops import DTYPES, blocked, fast_matmul
from stlsearch.ops.library import multiply as multiply_planes
from stlsearch.registry.atomic import write_atomic


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", default="strassen", help="an expression of `stlsearch construct`")
    parser.add_argument("--sizes", default="1024,2048,4096")
    parser.add_argument("--levels", default="1,2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, help="also write JSON here")
    options = parser.parse_args()
    algorithm = construct(options.algorithm)
    rows = []
    print("size  dtype     levels  speed-up  quartiles      same kernel  quartiles      arithmetic  error     error of torch.matmul")
    for dtype in options.dtype.split(","):
        for size in map(int, options.sizes.split(",")):
            rows += _measure(algorithm, size, dtype, [int(level) for level in options.levels.split(",")], options)
    if options.output:
        document = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "command": "python benchmarks/crossover.py " + " ".join(sys.argv[1:]),
            "stlsearch": __version__,
            "device": describe_device(torch.device(options.device)),
            "algorithm": algorithm.name,
            "rows": rows,
        }
        write_atomic(options.output, (json.dumps(document, indent=1) + "\n").encode())


def _measure(algorithm, size: int, dtype: str, levels: list[int], options) -> list[dict[str, object]]:
    exact_a, exact_b = (matrix.to(options.device) for matrix in gaussian_pair((size, size, size), seed=0))
    exact = exact_a @ exact_b
    a, b = exact_a.to(DTYPES[dtype]), exact_b.to(DTYPES[dtype])

    def error(product: torch.Tensor) -> float:
        return float((product.double() - exact).norm() / exact.norm())

    rows = []
    n, m, p = algorithm.target.shape
    for level in levels:
        with torch.inference_mode():

            def beside(dense, level=level):
                fast = partial(fast_matmul, a, b, algorithm, level)
                return compare_times(fast, dense, device=options.device, repeats=options.repeats, time_limit=60)

            timing = beside(lambda: a @ b)
            same = beside(lambda: multiply_planes(a[None], b[None])) if blocked.faster(a[None], b[None]) else timing
            errors = error(fast_matmul(a, b, algorithm, level)), error(a @ b)
        arithmetic = (n * m * p / algorithm.rank) ** level
        print(
            f"{size:<5} {dtype:<9} {level:<7} {timing.speedup:<9.3f} {timing.low:.3f}..{timing.high:.3f}   "
            f"{same.speedup:<12.3f} {same.low:.3f}..{same.high:.3f}   {arithmetic:<11.3f} "
            f"{errors[0]:<9.2e} {errors[1]:.2e}",
            flush=True,
        )
        rows.append(
            {"size": size, "dtype": dtype, "levels": level, "arithmetic": arithmetic, **timing.to_dict()}
            | {"same_kernel": same.to_dict()}
            | {"rel_error": errors[0], "dense_rel_error": errors[1]}
        )
    return rows


if __name__ == "__main__":
    main()

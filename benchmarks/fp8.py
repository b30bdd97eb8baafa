"""What products in fp8 lose: relative Frobenius errors against float64, on a CPU.

    python benchmarks/fp8.py [--size 512] [--ranks 16,24,32,40,48,49]

Of every rank the 4 x 4 basis of least error whose amplification g is at most 5, 30 and anything. x and the weight are Gaussian; "uneven"
is x with channels of very different size (each times exp(1.5 z), z normal), as activations of networks have them. "basis" is what the
basis itself loses, "rows" what fp8 adds to that with a scale for every row of an encoded plane (`stlsearch.ops.quantise`), "plane" with
one for every plane, "all" is basis and rows together. The first line is the dense product in fp8 with scales of rows and columns.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.ops import Bases, encode_activations, encode_weights, quantise, stl_matmul
from stlsearch.ops import decode as decode_products
from stlsearch.ops.fp8 import multiply, quantise_rows
from stlsearch.registry.store import open_registry
from stlsearch.targets import Target

MOST_AMPLIFIED = (5.0, 30.0, None)


def relative(found: Tensor, exact: Tensor) -> float:
    """Relative Frobenius error."""
    return float((found - exact).norm() / exact.norm())


def with_scales_of_planes(x: Tensor, weight: Tensor, bases: Bases) -> Tensor:
    """The product with one scale for every plane instead of one for every row."""
    planes, encoded = encode_activations(x, bases), encode_weights(weight, bases).tensor
    left, of_left = quantise_rows(planes.flatten(1)[:, None])
    right, of_right = quantise_rows(encoded.flatten(1)[:, None])
    scales = of_left.expand(planes.shape[:2]), of_right.expand(len(encoded), encoded.shape[2])
    products = multiply(left.view(planes.shape), right.view(encoded.shape), scales, x.dtype)
    return decode_products(products, bases, len(x), weight.shape[1])


def errors(algorithm: BilinearAlgorithm, x: Tensor, weight: Tensor) -> tuple[float, float, float, float]:
    """Of the basis, what rows and planes add to it, and basis and rows together."""
    bases = Bases.prepare(algorithm, dtype=torch.float64)
    exact, encoded = x @ weight, encode_weights(weight, bases)
    unquantised, quantised = stl_matmul(x, encoded, bases), stl_matmul(x, quantise(encoded), bases)
    by_plane = with_scales_of_planes(x, weight, bases)
    return relative(unquantised, exact), relative(quantised, unquantised), relative(by_plane, unquantised), relative(quantised, exact)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="of square matrices (default: %(default)s)")
    parser.add_argument("--ranks", default="16,24,32,40,48,49", help="of the 4 x 4 tile's bases (default: %(default)s)")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(options.size, options.size, generator=generator, dtype=torch.float64) for _ in range(2))
    uneven = x * torch.exp(1.5 * torch.randn(options.size, generator=generator, dtype=torch.float64))
    left, right = quantise_rows(x[None]), quantise_rows(weight.mT[None])
    dense = multiply(left[0], right[0].mT, (left[1], right[1]), torch.float64)[0]
    print(f"dense product in fp8: {relative(dense, x @ weight):.3f}\n")
    print("| rank | basis | g | basis | rows | plane | all | uneven: rows | plane |\n|---|---|---|---|---|---|---|---|---|")
    registry = open_registry()
    for rank in map(int, options.ranks.split(",")):
        entries = [registry.best(Target.matmul(4, 4, 4), rank, max_amplification=most) for most in MOST_AMPLIFIED]
        for algorithm in {entry.algorithm.id: entry.algorithm for entry in entries if entry is not None}.values():
            basis, rows, plane, everything = errors(algorithm, x, weight)
            _, uneven_rows, uneven_plane, _ = errors(algorithm, uneven, weight)
            numbers = " | ".join(f"{value:.3f}" for value in (basis, rows, plane, everything, uneven_rows, uneven_plane))
            print(f"| {rank} | {algorithm.name} | {algorithm.amplification:.0f} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()

"""Compiles the Triton kernels for compute capability 9.0, with the very arguments the operator passes; needs no GPU.

The interpreter runs what the compiler refuses, and neither runs out of registers nor of shared memory.

    python tests/triton_compile.py            one of each kind
    python tests/triton_compile.py --all      more dtypes, tiles and layouts, and every candidate of the tuner
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from stlsearch.ops import triton_fp8, triton_kernels, triton_product
from stlsearch.ops.tuning import Choice, key, tuned

FP8 = torch.float8_e4m3fn
TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.int32: "i32", FP8: "fp8e4nv"}
ANY_GPU = 99 * 1024  # bytes of shared memory a program may have
H200 = 227 * 1024
SPILLS = 16  # a few registers in local memory, which differ with the compiler's version, cost nothing that can be seen


class Compiled:
    """Stands for a kernel and compiles it instead of launching it."""

    def __init__(self, kernel: triton.JITFunction) -> None:
        self.kernel = kernel
        self.latest = None

    def __getitem__(self, grid: tuple[int, ...]) -> Callable:
        return self._compile

    def _compile(self, *arguments: Tensor | TensorDescriptor | int | None, **constants: int) -> None:
        options = {name: constants.pop(name) for name in ("num_warps", "num_stages") if name in constants}
        signature: dict[str, str] = dict.fromkeys(constants, "constexpr")
        attributes = {}
        for index, (name, value) in enumerate(zip(self.kernel.arg_names, arguments, strict=False)):
            # As Triton specialises them: integers of 1 are constants, and multiples of 16 are known to be that.
            if value is None or (isinstance(value, int) and value == 1):
                signature[name], constants[name] = "constexpr", value
            elif isinstance(value, TensorDescriptor):
                signature[name] = f"tensordesc<{TYPES[value.base.dtype]}{list(value.block_shape)}>"
            else:
                signature[name] = ("i32" if value < 2**31 else "i64") if isinstance(value, int) else f"*{TYPES[value.dtype]}"
                if isinstance(value, Tensor) or value % 16 == 0:
                    attributes[(index,)] = [["tt.divisibility", 16]]
        ordered = {name: signature[name] for name in self.kernel.arg_names}
        source = ASTSource(fn=self.kernel, signature=ordered, constexprs=constants, attrs=attributes)
        self.latest = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


SIZE = 8192
MAPS = [  # dtype, tile, rank, rows, columns, blocks, transposed; the first two are of each kind
    (torch.bfloat16, (4, 4), 24, SIZE, SIZE, (False, False), False),
    (torch.float32, (3, 3), 23, SIZE - 1, SIZE - 3, (True, False), False),
    (torch.float16, (4, 4), 49, SIZE, SIZE, (False, True), True),
    (torch.float32, (4, 4), 24, SIZE, SIZE, (False, False), False),
    (torch.bfloat16, (3, 3), 23, SIZE - 1, SIZE - 3, (False, False), False),
    (torch.float32, (16, 16), 100, SIZE, SIZE, (False, False), False),
    (torch.float16, (1, 1), 1, 1, 1, (True, False), False),
]
PRODUCTS = [  # dtype, result, size, rank; the first three are of each kind
    (torch.bfloat16, torch.bfloat16, SIZE, 24),
    (torch.float16, torch.float16, 4098, 24),
    (FP8, torch.bfloat16, SIZE, 24),
    (torch.float16, torch.float16, 1024, 49),
    (torch.float32, torch.float32, 4098, 24),
    (FP8, torch.float32, 1024, 24),
    (FP8, torch.float16, 4098, 24),
]


def compile_kinds(everything: bool) -> None:
    """Compile a kernel of every kind, or everything."""
    for dtype, tile, rank, rows, columns, blocks, transposed in MAPS if everything else MAPS[:2]:
        matrix = torch.empty(1, *((columns, rows) if transposed else (rows, columns)), dtype=dtype, device="meta")
        matrix = matrix.mT if transposed else matrix
        factor = torch.empty(rank, tile[0] * tile[1], dtype=dtype, device="meta")
        planes = triton_kernels.encode(matrix, factor, *tile, *blocks)
        report(triton_kernels._encode, ANY_GPU)
        triton_kernels.decode(planes, factor, *tile, *matrix.shape, *blocks)
        report(triton_kernels._decode, ANY_GPU)
        triton_kernels.correlate(matrix, planes, *tile, *blocks)
        report(triton_kernels._correlate, ANY_GPU)
        if triton_kernels.can_quantise(matrix, *tile):
            triton_kernels.encode_fp8(matrix, factor, *tile, *blocks)
            report(triton_fp8._encode_fp8, ANY_GPU)
    for dtype, result, size, rank in PRODUCTS if everything else PRODUCTS[:3]:
        product(dtype, result, size, rank, {}, everything)
    for dtype in (torch.bfloat16, FP8, torch.float32) if everything else ():
        for blocks in triton_product.candidates(dtype, torch.device("meta")):
            product(dtype, torch.float32 if dtype == torch.float32 else torch.bfloat16, SIZE, 24, asdict(blocks), False)


def product(dtype: torch.dtype, result: torch.dtype, size: int, rank: int, choice: Choice, both: bool) -> None:
    """Products as they are launched with a choice of the tuner or, without, by rule, with and without decoding.

    The weight is transposed where it is quantised, and elsewhere in `both` ways, or as it is.
    """
    tiles = -(-size // 4)
    left = torch.empty(rank, tiles, tiles, dtype=dtype, device="meta")
    factor = torch.empty(rank, 16, dtype=result, device="meta")
    scales = (torch.empty(rank, tiles, device="meta"),) * 2 if dtype == FP8 else None
    sizes = (dtype, rank, tiles, tiles, tiles)
    table = {key("multiply", *sizes): {**choice, "vendor": False}, key("product_decode", *sizes): choice}
    for right in (left.mT,) if dtype == FP8 else (left, left.mT) if both else (left,):
        with tuned(table):
            triton_product.product_decode(left, right, factor, 4, 4, 1, size, size, False, False, scales=scales)
        report(triton_product._product, H200)
        # What other multiprocessors have just written is read past the first-level cache.
        assert ("LDGSTS.E.BYPASS.128" if tiles % 16 == 0 else ".STRONG.GPU") in triton_product._product.latest.asm["sass"]
        with tuned(table):
            triton_product.multiply(left, right, scales=scales, into=torch.empty(left.shape, dtype=result, device="meta"))
        report(triton_product._product, H200)


def report(kernel: Compiled, shared: int) -> None:
    """Print what the latest compilation takes; no more than `shared` bytes of shared memory, and registers enough."""
    made = kernel.latest
    assembly = made.asm["sass"]
    spills = assembly.count("STL")
    print(f"{made.metadata.name}: {made.metadata.shared} bytes of shared memory, {spills} spills, {assembly.count('GMMA')} wgmma")
    assert made.metadata.shared <= shared
    assert spills <= SPILLS


if __name__ == "__main__":
    for kernels in (triton_kernels, triton_fp8, triton_product):
        for name in ("_encode", "_decode", "_correlate", "_encode_fp8", "_product"):
            if isinstance(getattr(kernels, name, None), triton.JITFunction):
                setattr(kernels, name, Compiled(getattr(kernels, name)))
    compile_kinds("--all" in sys.argv[1:])

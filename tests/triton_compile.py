"""Compiles the Triton kernels for compute capability 9.0, with the very arguments the operator passes; needs no GPU.

The interpreter runs what the compiler refuses, and neither runs out of registers nor of shared memory.

    python tests/triton_compile.py
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from stlsearch.ops import triton_fused, triton_kernels

TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.int32: "*i32"}
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

    def _compile(self, *arguments: Tensor | int, **constants: int) -> None:
        options = {name: constants.pop(name) for name in ("num_warps", "num_stages") if name in constants}
        signature: dict[str, str] = dict.fromkeys(constants, "constexpr")
        attributes = {}
        for index, (name, value) in enumerate(zip(self.kernel.arg_names, arguments, strict=False)):
            # As Triton specialises them: integers of 1 are constants, and multiples of 16 are known to be that.
            if isinstance(value, int) and value == 1:
                signature[name], constants[name] = "constexpr", 1
                continue
            signature[name] = ("i32" if value < 2**31 else "i64") if isinstance(value, int) else TYPES[value.dtype]
            if isinstance(value, Tensor) or value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
        ordered = {name: signature[name] for name in self.kernel.arg_names}
        source = ASTSource(fn=self.kernel, signature=ordered, constexprs=constants, attrs=attributes)
        self.latest = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def compile_all() -> None:
    """Compile a kernel of every kind."""
    size = 8192
    for dtype, tile, rank, rows, columns, blocks, transposed in (
        (torch.bfloat16, (4, 4), 24, size, size, (False, False), False),
        (torch.float16, (4, 4), 49, size, size, (False, True), True),
        (torch.float32, (4, 4), 24, size, size, (False, False), False),
        (torch.bfloat16, (3, 3), 23, size - 1, size - 3, (False, False), False),
        (torch.float32, (16, 16), 100, size, size, (False, False), False),
        (torch.float16, (1, 1), 1, 1, 1, (True, False), False),
    ):
        matrix = torch.empty(1, *((columns, rows) if transposed else (rows, columns)), dtype=dtype, device="meta")
        matrix = matrix.mT if transposed else matrix
        factor = torch.empty(rank, tile[0] * tile[1], dtype=dtype, device="meta")
        planes = triton_kernels.encode(matrix, factor, *tile, *blocks)
        report(triton_kernels._encode, ANY_GPU)
        triton_kernels.decode(planes, factor, *tile, *matrix.shape, *blocks)
        report(triton_kernels._decode, ANY_GPU)
        triton_kernels.correlate(matrix, planes, *tile, *blocks)
        report(triton_kernels._correlate, ANY_GPU)
    for dtype, size, rank in ((torch.bfloat16, 8192, 24), (torch.float16, 1024, 49), (torch.float32, 4094, 24)):
        tiles = -(-size // 4)
        planes = torch.empty(rank, tiles, tiles, dtype=dtype, device="meta")
        factor = torch.empty(rank, 16, dtype=dtype, device="meta")
        triton_fused.product_decode(planes, planes, factor, 4, 4, 1, size, size, False, False)
        report(triton_fused._product_decode, H200)


def report(kernel: Compiled, shared: int) -> None:
    """Print what the latest compilation takes; no more than `shared` bytes of shared memory, and registers enough."""
    made = kernel.latest
    assembly = made.asm["sass"]
    spills = assembly.count("STL")
    print(f"{made.metadata.name}: {made.metadata.shared} bytes of shared memory, {spills} spills, {assembly.count('GMMA')} wgmma")
    assert made.metadata.shared <= shared
    assert spills <= SPILLS


if __name__ == "__main__":
    for module, names in ((triton_kernels, ("_encode", "_decode", "_correlate")), (triton_fused, ("_product_decode",))):
        for name in names:
            setattr(module, name, Compiled(getattr(module, name)))
    compile_all()

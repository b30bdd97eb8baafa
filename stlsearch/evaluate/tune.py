"""Measuring launch parameters of the Triton kernels, for the tables of `stlsearch.ops.tuning`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stlsearch.errors import InputError
from stlsearch.evaluate.timing import time_alone
from stlsearch.ops import Bases, EncodedWeight, quantise
from stlsearch.ops.encoded import check_not_quantised
from stlsearch.ops.library import INTERPRETED, triton_path
from stlsearch.ops.tuning import Choice, key, tuned

CLOSE = 0.05
"""Relative difference from the rule's result up to which a candidate's is the same: they sum in other orders at most."""

MAPS = [{"bytes": size, "warps": warps} for size in (1 << 13, 1 << 14, 1 << 15) for warps in (2, 4, 8) if size <= warps << 13]
"""Candidates of encoding and decoding: bytes of a block, up to 256 a thread; twice that spills registers."""

TEAMS = (12 << 20, 48 << 20)
"""Candidates of bytes between multiplying and decoding, beside the rule's."""


def time_kernel(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, the fastest of some."""
    return time_alone(function, device=device, time_limit=0.5)


@dataclass
class Tuned:
    """What was measured.

    Attributes:
        table: the fastest candidate by operation and class of sizes, where one is faster than the rule.
        seconds: of the rule and of the fastest by the same keys.
        refused: candidates that the device refused, or whose result was another, with the reason.
    """

    table: dict[str, Choice] = field(default_factory=dict)
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def choose(
        self, name: str, candidates: Sequence[Choice], call: Callable[[], Any], timer: Callable[[Callable[[], object]], float]
    ) -> float:
        """Seconds of the fastest candidate for what the table calls `name`."""
        with tuned({}):
            expected = _values(call())
            rule = fastest = timer(call)
        for candidate in candidates:
            with tuned({name: candidate}):
                try:
                    difference = float((_values(call()) - expected).norm() / expected.norm())
                    seconds = timer(call) if difference <= CLOSE else float("nan")
                except Exception as error:  # whatever a compiler or a driver says to parameters beyond the device
                    self.refused.append(f"{name} {dict(candidate)}: {type(error).__name__}: {str(error)[:200]}")
                    continue
            if not difference <= CLOSE:
                self.refused.append(f"{name} {dict(candidate)}: differs by {difference:.2g}")
            elif seconds < fastest:
                fastest, self.table[name] = seconds, candidate
        self.seconds[name] = {"rule": rule, "fastest": fastest}
        return fastest


def tune(
    x: Tensor,
    encoded: EncodedWeight,
    bases: Bases,
    *,
    fp8: bool = False,
    timer: Callable[[Callable[[], object], torch.device], float] = time_kernel,
) -> Tuned:
    """Measure the stages of x (M, K) times an encoded weight with every candidate, and decoding with the products against after them.

    Args:
        fp8: the products in fp8 instead.
        timer: seconds of a function on a device. Replaying a CUDA graph leaves out the time to launch.

    Raises:
        InputError: the Triton kernels do not run on the device, in fp8 if that is asked for, or in the dtype; the weight is quantised.
    """
    kernels = triton_path()
    if kernels is None or not (x.is_cuda or INTERPRETED) or x.dtype == torch.float64:
        raise InputError(f"the Triton kernels do not run on {x.device} in {x.dtype}: there is nothing to tune")
    check_not_quantised(encoded)
    n, m, p = bases.shape
    layout, columns = encoded.layout, encoded.shape[1]
    matrix = layout.samples(x if encoded.channels is None else x.index_select(-1, encoded.channels))
    rows = matrix.shape[0] * matrix.shape[1]
    if fp8 and not kernels.can_quantise(matrix, n, m):
        raise InputError(f"the Triton kernels do not quantise {n} x {m} tiles on {x.device}: there is nothing to tune")
    tile = (n, m, layout.rows == "blocks", layout.channels == "blocked")
    output = (n, p, *matrix.shape[:2], columns, layout.rows == "blocks", layout.outputs == "blocked")
    found, seconds = Tuned(), partial(_on, x.device, timer)
    with torch.no_grad():
        encoding, name = kernels.encode, "encode"
        weight, scales = encoded.tensor, None
        if fp8:
            quantised = quantise(encoded)
            weight = quantised.tensor.mT
            encoding, name = kernels.encode_fp8, "encode_fp8"
        planes = encoding(matrix, bases.U, *tile)
        if fp8:
            planes, of_rows = planes
            scales = (of_rows, quantised.scales)
        found.choose(key(name, x.dtype, bases.rank, rows, matrix.shape[2]), MAPS, lambda: encoding(matrix, bases.U, *tile), seconds)

        products = torch.empty(*planes.shape[:2], weight.shape[2], dtype=x.dtype, device=x.device)
        multiply = partial(kernels.multiply, planes, weight, scales=scales, into=products)
        decode = partial(kernels.decode, products, bases.W, *output)
        sizes = (planes.dtype, bases.rank, *planes.shape[1:], weight.shape[2])
        blocks = [asdict(each) for each in kernels.candidates(planes.dtype, x.device)]
        by_kernel: list[Choice] = [{**each, "vendor": False} for each in blocks]
        found.choose(key("multiply", *sizes), [{"vendor": True}, *by_kernel] if fp8 else by_kernel, multiply, seconds)
        found.choose(key("decode", x.dtype, bases.rank, rows, columns), MAPS, decode, seconds)
        if not kernels.can_decode(x.dtype, n, p):
            return found

        name = key("product_decode", *sizes)
        fuse = partial(kernels.product_decode, planes, weight, bases.W, *output, scales=scales, products=products)
        fused = found.choose(name, blocks, fuse, seconds)
        if best := found.table.get(name):
            fused = found.choose(name, [best, *({**best, "team_bytes": size} for size in TEAMS)], fuse, seconds)
        with tuned(found.table):
            apart = seconds(lambda: (multiply(), decode()))
        found.seconds[name]["apart"] = apart
        found.table[name] = {**found.table.get(name, {}), "fused": fused < apart}
    return found


def _values(result: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """What a kernel computed, its scales multiplied in."""
    if isinstance(result, tuple):
        planes, scales = result
        return planes.double() * scales[..., None]
    return result.double()


def _on(device: torch.device, timer: Callable, function: Callable[[], object]) -> float:
    return timer(function, device)

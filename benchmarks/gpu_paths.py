"""What benchmarks/gpu.py compares: the paths of the operator, their errors, and the time they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stlsearch.algorithm import UNIT_ROUNDOFF, BilinearAlgorithm
from stlsearch.evaluate.cost import ITEM_BYTES, PASSES
from stlsearch.evaluate.error import gaussian_pair
from stlsearch.evaluate.timing import compare_times, time_alone
from stlsearch.ops import DTYPES, Bases, EncodedWeight, Layout, backend, encode_weights, plain, quantise, reference_matmul, stl_matmul
from stlsearch.ops.fp8 import quantise_rows
from stlsearch.ops.library import INTERPRETED, triton_path
from stlsearch.ops.tiles import tile_of
from stlsearch.ops.tuning import Table, tuned

PATHS = {"plain": PASSES, "unfused": PASSES, "fused": ("forward",), "tuned": PASSES, "fp8": ("forward",)}
"""The passes that every path has."""

BACKENDS = {"plain": "plain", "exact": "plain", "unfused": "unfused", "fused": "fused"}
CHECKED = ((64, 64, 64), (50, 37, 45))
"""Sizes (M, K, N) at which every path is checked."""


def paths_on(device: torch.device) -> dict[str, tuple[str, ...]]:
    """`PATHS` on a device: before compute capability 8.9 there are no kernels in fp8, so nothing to compare."""
    in_fp8 = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9)
    return {path: passes for path, passes in PATHS.items() if in_fp8 or path != "fp8"}


@contextmanager
def on_path(path: str, table: Table | None) -> Iterator[None]:
    """What a path runs on, to be entered around its gradients too. Without a table, "tuned" and "fp8" take the device's own."""
    chosen = backend(BACKENDS.get(path, "unfused" if INTERPRETED else "auto"))
    with chosen, tuned(table if path in ("fused", "tuned", "fp8") else {}):
        yield


def prepared(path: str, weight: Tensor, bases: Bases) -> EncodedWeight:
    """The encoded weight that a path takes."""
    encoded = encode_weights(weight, bases, layout=Layout())
    return quantise(encoded) if path == "fp8" else encoded


def check(path: str, algorithm: BilinearAlgorithm, size: tuple[int, int, int], dtype: str, device: torch.device) -> list[dict]:
    """Relative Frobenius errors of a path's result and gradients against float64, each with what rounding explains.

    The result is held against the oracle, the gradients of x and of the encoded weight against autograd's own through PyTorch's own
    operations, which share no derivative with the path. What is quantised to fp8 is held against the same in float64.
    """
    rows, inner, columns = size
    x, weight = (matrix.to(DTYPES[dtype]) for matrix in gaussian_pair(size, seed=0))
    gradient = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    found = _result_and_gradients(path, *(tensor.to(device) for tensor in (x, weight, gradient)), algorithm)
    expected = _result_and_gradients("exact", x.double(), weight.double(), gradient.double(), algorithm)
    expected["result"] = torch.from_numpy(reference_matmul(x.double().numpy(), weight.double().numpy(), algorithm, Layout()))
    if path == "fp8":
        with on_path(path, {}):  # the very weight: of two that are rounded to bfloat16 differently, some values end up apart in fp8
            encoded = prepared(path, weight.to(device), Bases.prepare(algorithm, dtype=x.dtype, device=device)).to("cpu")
        with backend("plain"):
            expected["result"] = stl_matmul(x.double(), encoded, Bases.prepare(algorithm, dtype=x.dtype).to(torch.float64))
    # Rounding adds about g u^2 to the squared error of the product, which the expected result may be smaller than by 1 - e; the
    # gradient of x is the same trilinear form of the other two factors. Nothing cancels in the encoded weight's: encoded x and encoded
    # gradient are rounded, the factors that encode them are, and the result is. A sum of T terms in the dtype itself, a random walk,
    # adds T/2 times what rounding it once does.
    # Tensor cores keep about 14 bits of a sum of products in fp8, and a value that lies between two numbers may go to either.
    u = max(UNIT_ROUNDOFF[dtype], 2.0**-9 if path == "fp8" else 0)
    of_form = (2 + algorithm.amplification) / max(0.05, 1 - algorithm.error)
    n, m, p = tile_of(algorithm)
    allowed = {}
    for name, rounded, terms in (
        ("result", of_form, inner / m),
        ("gradient of x", of_form, columns / p),
        ("gradient of the encoded weight", 5.0, rows / n),
    ):
        allowed[name] = 4 * u * (rounded * (1 + (terms / 2 if dtype == "float32" else 0))) ** 0.5
    checked = []
    for name, tensor in found.items():
        error = float((tensor.double().cpu() - expected[name]).norm() / expected[name].norm())
        bound = allowed[name]
        about = {"path": path, "rank": algorithm.rank, "size": list(size), "tensor": name}
        checked.append({**about, "rel_error": error, "bound": bound, "right": error <= bound})
    return checked


def _result_and_gradients(path: str, x: Tensor, weight: Tensor, gradient: Tensor, algorithm: BilinearAlgorithm) -> dict[str, Tensor]:
    """By name, of a path or of "exact", PyTorch's own operations on the CPU; the result alone of a path that has no backward pass."""
    bases = Bases.prepare(algorithm, dtype=x.dtype, device=x.device)
    with on_path(path, {}):
        encoded = prepared(path, weight, bases)
        if "backward" not in PATHS.get(path, PASSES):
            with torch.no_grad():
                return {"result": stl_matmul(x, encoded, bases)}
        inputs = tuple(tensor.detach().requires_grad_() for tensor in (x, encoded.tensor))
        x, encoded = inputs[0], replace(encoded, tensor=inputs[1])
        if path == "exact":
            n, m, p = bases.shape
            planes = plain.encode(x[None], bases.U, n, m, False, False)
            result = plain.decode(planes @ encoded.tensor, bases.W, n, p, 1, *gradient.shape, False, False)[0]
        else:
            result = stl_matmul(x, encoded, bases)
        if not result.requires_grad:
            return {"result": result}
        of_x, of_encoded = torch.autograd.grad(result, inputs, gradient)
    return {"result": result.detach(), "gradient of x": of_x, "gradient of the encoded weight": of_encoded}


def dense_fp8(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    """x @ weight by torch._scaled_mm, its factors quantised here and now: with scales of rows and columns or, if faster, none."""
    left, of_rows = quantise_rows(x[None])
    right, of_columns = quantise_rows(weight.mT[None])
    one = torch.ones((), device=x.device)
    seconds = {}
    for scales in ((of_rows[0, :, None], of_columns[0, None, :]), (one, one)):
        way = partial(torch._scaled_mm, left[0], right[0].mT, *scales, out_dtype=x.dtype, use_fast_accum=True)
        try:
            seconds[way] = graph_seconds(way, x.device)
        except (RuntimeError, ValueError):  # not every device has scales of rows
            continue
    return min(seconds, key=seconds.__getitem__)


def timed(
    path: str,
    direction: str,
    x: Tensor,
    weight: Tensor,
    bases: Bases,
    table: Table | None,
    *,
    dense: Callable[[], object] | None = None,
    calls: int = 0,
    repeats: int = 15,
) -> dict[str, object]:
    """A path and a dense product in alternation: medians of one call, the ratio and its quartiles.

    Args:
        dense: the dense product, torch.matmul unless given.
        calls: of a CUDA graph; 0 for single calls without one.
    """
    backward = direction == "backward"
    with on_path(path, table), torch.set_grad_enabled(backward):
        encoded = prepared(path, weight, bases)
        x, weight = (tensor.detach().requires_grad_(backward) for tensor in (x, weight))
        encoded = replace(encoded, tensor=encoded.tensor.detach().requires_grad_(backward))
        candidate: Callable[[], Any] = partial(stl_matmul, x, encoded, bases)
        baseline: Callable[[], Any] = dense or partial(torch.matmul, x, weight)
        if backward:
            gradient = torch.randn(len(x), weight.shape[1], dtype=x.dtype, device=x.device)
            candidate = _with_gradients(candidate, (x, encoded.tensor), gradient)
            baseline = _with_gradients(baseline, (x, weight), gradient)
        if calls:
            candidate, baseline = captured(candidate, calls), captured(baseline, calls)
        timing = compare_times(candidate, baseline, device=x.device, repeats=repeats, time_limit=5.0).to_dict()
    return {**timing, **{name: timing[name] / max(1, calls) for name in ("candidate_s", "baseline_s")}}  # type: ignore[operator]


def _with_gradients(function: Callable[[], Tensor], inputs: tuple[Tensor, Tensor], gradient: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(function(), inputs, gradient)


def captured(function: Callable[[], object], calls: int = 1) -> Callable[[], None]:
    """The kernels of some calls as a CUDA graph to replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles kernels and allocates, neither of which can be captured
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            function()
    return graph.replay


def graph_seconds(function: Callable[[], object], device: torch.device, calls: int = 4) -> float:
    """Seconds of a call, the fastest of some replays of a graph; on a CPU of a single call."""
    if device.type != "cuda":
        return time_alone(function, device=device, repeats=1, time_limit=0)
    return time_alone(captured(function, calls), device=device, repeats=3, time_limit=0.2) / calls


def calls_of(size: int, device: torch.device) -> int:
    """Calls in a graph: some milliseconds of them."""
    return max(1, min(16, (16384 // size) ** 2)) if device.type == "cuda" else 0


def stage_rows(x: Tensor, weight: Tensor, bases: Bases, table: Table | None, dtype: str) -> list[dict[str, object]]:
    """Every forward stage alone, with the operations and bytes per second it reaches; of a fused one the bytes of those it replaces."""
    kernels = triton_path()
    n, m, p = bases.shape
    size = (*x.shape, weight.shape[1])
    item, rank = ITEM_BYTES[dtype], bases.rank
    found = []
    for path in [path for path in paths_on(x.device) if path in ("unfused", "tuned", "fp8")]:
        with on_path(path, table), torch.no_grad():
            encoded = prepared(path, weight, bases)
            planes, right, scales = kernels.encode(x[None], bases.U, n, m, False, False), encoded.tensor, None
            encode = partial(kernels.encode, x[None], bases.U, n, m, False, False)
            if path == "fp8":
                encode = partial(kernels.encode_fp8, x[None], bases.U, n, m, False, False)
                planes, of_rows = encode()
                right, scales = right.mT, (of_rows, encoded.scales)
            output = (n, p, 1, size[0], size[2], False, False)
            products = x.new_empty(*planes.shape[:2], right.shape[2])
            values = {"planes": planes.nbytes, "weight": right.nbytes, "products": products.nbytes, "result": item * size[0] * size[2]}
            macs = planes.numel() * right.shape[2]
            kept = {"scales": scales, "products": products}
            calls = {
                "encode": (encode, item * size[0] * size[1] + values["planes"], rank * n * m * planes[0].numel()),
                "multiply": (
                    partial(kernels.multiply, planes, right, scales=scales, into=products),
                    values["planes"] + values["weight"] + values["products"],
                    macs,
                ),
                "decode": (
                    partial(kernels.decode, products, bases.W, *output),
                    values["products"] + values["result"],
                    rank * n * p * products[0].numel(),
                ),
                "multiply+decode": (
                    partial(kernels.product_decode, planes, right, bases.W, *output, **kept),
                    values["planes"] + values["weight"] + 2 * values["products"] + values["result"],
                    macs + rank * n * p * products[0].numel(),
                ),
            }
            for stage, (call, moved, multiplied) in calls.items():
                seconds = graph_seconds(call, x.device)
                rates = {"bytes_per_s": moved / seconds, "flops_per_s": 2 * multiplied / seconds}
                found.append({"stage": stage, "path": path, "seconds": seconds, **rates})
    return found

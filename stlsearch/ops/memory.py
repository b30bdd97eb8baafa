"""Memory for large results and for what is needed on the way to them, on CPUs."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

LARGE = 1 << 22  # bytes from which it matters
KEPT = 1 << 27  # bytes that a thread keeps from one call to the next
_kept = threading.local()


def empty(like: Tensor, *shape: int) -> Tensor:
    """Uninitialised contiguous memory of a shape, of the dtype and device of `like`.

    The system hands out large memory anew for every tensor and clears it when it is first written, page by page: at 4 KiB a page that
    takes longer than the writing itself (64 MiB: 44 ms against 8 ms, measured). So where the system knows huge pages, as Linux does,
    they are asked for.
    """
    tensor = torch.empty(shape, dtype=like.dtype, device=like.device)
    size = tensor.numel() * tensor.element_size()
    if size >= LARGE and tensor.device.type == "cpu" and (advise := _madvise()):
        first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (tensor.data_ptr() + size) // mmap.PAGESIZE * mmap.PAGESIZE
        advise(first, last - first, mmap.MADV_HUGEPAGE)  # a refusal changes nothing but speed
    return tensor


@cache
def _madvise() -> ctypes._NamedFuncPointer | None:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return function


@contextmanager
def scratch(like: Tensor, *shapes: tuple[int, ...]) -> Iterator[list[Tensor]]:
    """Uninitialised tensors of the dtype and device of `like`, for as long as the block lasts.

    On a CPU a thread keeps their memory for its next call, up to `KEPT` bytes, see `release`: to give it back and be handed it anew
    costs as much as encoding. On GPUs PyTorch does so itself.
    """
    numbers = [torch.Size(shape).numel() for shape in shapes]
    memory = None if like.device.type != "cpu" else _kept.__dict__.pop("memory", None)  # taken, so that a call within has its own
    size = sum(numbers) * like.element_size()
    if memory is None or memory.numel() < size:
        with torch.inference_mode(False):  # it is written to outside that mode too
            memory = empty(torch.empty(0, dtype=torch.uint8, device=like.device), size)
    values = memory[:size].view(like.dtype)
    try:
        yield [part.view(shape) for part, shape in zip(values.split(numbers), shapes, strict=True)]
    finally:
        if like.device.type == "cpu" and memory.numel() <= KEPT:
            _kept.memory = memory


def release() -> None:
    """Give back the memory that this thread keeps for the operator."""
    _kept.__dict__.pop("memory", None)

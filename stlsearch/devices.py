"""Where computations run: choosing a device by name, saying in words what it is, what it can hold."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from stlsearch.errors import InputError

DEVICES = ("auto", "cpu", "cuda")


def resolve_device(name: str) -> torch.device:
    """``"auto"`` (CUDA when there is a CUDA device, else the CPU), ``"cpu"`` or ``"cuda"``.

    Raises:
        InputError: any other name, or ``"cuda"`` where no CUDA device is available.
    """
    if name not in DEVICES:
        raise InputError(f"unknown device {name!r}; valid: {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        reason = "no CUDA device was found" if torch.backends.cuda.is_built() else "this PyTorch is built without CUDA"
        raise InputError(f"device 'cuda' is not available: {reason}; use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def set_threads(count: int | None) -> None:
    """Let PyTorch use `count` CPU threads; None leaves its own choice.

    Raises:
        InputError: a count outside 1..1024.
    """
    if count is None:
        return
    if not 1 <= count <= 1024:
        raise InputError(f"threads must be 1..1024, not {count}")
    torch.set_num_threads(count)


def describe_device(device: torch.device) -> dict[str, object]:
    """What a measurement ran on: type (cpu or cuda), name of the model, CPU threads, PyTorch version."""
    return {
        "type": device.type,
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def available_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on the device, None where the system does not say."""
    if device.type == "cuda":
        # What PyTorch's own allocator holds and does not use counts as taken there, and can be allocated all the same.
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + idle
    lines = _read("/proc/meminfo").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _cpu_name() -> str:
    # platform.processor() is empty or just the architecture on Linux.
    lines = _read("/proc/cpuinfo").splitlines()
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

"""How much memory a function needs beyond what is there when it starts."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch._library import custom_ops
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stlsearch.ops.memory import release


def peak_extra_bytes(function: Callable[[], object], *, device: torch.device | str = "cpu") -> int:
    """The most bytes of new tensors that were alive at once while `function` ran, its result included.

    On CUDA the allocator's own count: the peak of `torch.cuda.max_memory_allocated` above what was allocated before.
    It sees everything, also what kernels allocate inside.

    On the CPU, which keeps no such count, every operation that PyTorch dispatches is watched: the storages of its results
    are counted from then until they are freed, inside operators written in Python too (`torch.library.custom_op`). The same
    number every time. What PyTorch's own kernels allocate and free inside is not seen, and of a function compiled by
    torch.compile nothing is.

    Call `function` once before: first calls allocate workspaces and compile.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    release()  # what the operator keeps from call to call is counted with this one
    with _Watcher() as watcher:
        function()
    return watcher.peak


class _Watcher(TorchDispatchMode):
    """Counts the bytes of storages from the operation that returns them until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = 0
        self.peak = 0
        self.known: dict[int, weakref.ref] = {}  # by id, since storages compare by value

    def __torch_dispatch__(self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping | None = None) -> object:
        kwargs = kwargs or {}
        for storage in _storages((args, kwargs)):
            self._note(storage, 0)  # met as an input first: it was there before
        body = _python_body(func)
        if body is None:
            result = func(*args, **kwargs)
        else:
            with self:  # off while an operation is handled, so what it calls would pass unseen
                result = body(*args, **kwargs)
        for storage in _storages(result):
            self._note(storage, storage.nbytes())
        return result

    def _note(self, storage: torch.UntypedStorage, size: int) -> None:
        key = id(storage)
        if key in self.known:
            return

        def freed(reference: weakref.ref) -> None:
            self.alive -= size
            del self.known[key]

        self.known[key] = weakref.ref(storage, freed)
        self.alive += size
        self.peak = max(self.peak, self.alive)


def _python_body(operator: Callable) -> Callable | None:
    """The function behind an operator made by `torch.library.custom_op`, None for PyTorch's own."""
    found = custom_ops._maybe_get_opdef(operator) if isinstance(operator, torch._ops.OpOverload) else None
    return None if found is None else found._backend_fns.get("cpu", found._backend_fns.get(None))


def _storages(values: object) -> list[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]

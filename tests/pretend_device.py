"""A device with rules like those of CUDA for machines without one: tensors keep their values on the CPU and say they do not.

Under `PretendDevice` tensors of the device ("meta" to PyTorch, which has no values of its own) and of the CPU do not mix, but for
scalars and indices, have no `.numpy()`, and take no random numbers from a generator of the CPU. Every wait of the host for the
device is counted: values that it reads, tensors copied to the CPU, and tensors copied to the device without `non_blocking=True`.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = "meta"
aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class OnDevice(torch.Tensor):
    """A tensor that says it is on the device."""

    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, strides=values.stride(), dtype=values.dtype, device=DEVICE)

    def __init__(self, values):
        self.values_on_cpu = values

    def __repr__(self):
        return f"OnDevice({self.values_on_cpu})"

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} outside of PretendDevice")


class PretendDevice(TorchDispatchMode):
    """Attributes: `waits`, how often the host waited for the device, by reason."""

    def __init__(self):
        super().__init__()
        self.waits = Counter()

    def __enter__(self):
        # PyTorch would not look at the values of a tensor that is made on this device.
        self._before = torch.tensor, torch.as_tensor
        torch.tensor, torch.as_tensor = (_copied_there(make) for make in self._before)
        return super().__enter__()

    def __exit__(self, *error):
        torch.tensor, torch.as_tensor = self._before
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        on_device = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        asked = kwargs.pop("device", None)
        to_device = bool(on_device) if asked is None else torch.device(asked).type == DEVICE
        if function is aten.copy_.default:
            to_device = isinstance(args[0], OnDevice)
            self._copied(isinstance(args[1], OnDevice), to_device, len(args) > 2 and args[2])
        elif function is aten._to_copy.default:
            self._copied(bool(on_device), to_device, kwargs.get("non_blocking", False))
        elif function is aten._local_scalar_dense.default and on_device:
            self.waits["a value is read"] += 1
        elif to_device and isinstance(kwargs.get("generator"), torch.Generator):
            raise RuntimeError(f"{function}: a generator of the CPU")
        elif on_device and not (function in INDEXING and isinstance(args[0], OnDevice)) and any(map(_not_there, tensors)):
            raise RuntimeError(f"{function}: tensors of the device and of the CPU")
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        args, kwargs = pytree.tree_map_only(OnDevice, lambda tensor: tensor.values_on_cpu, (args, kwargs))
        result = function(*args, **kwargs)
        if not to_device:
            return result
        own = {id(tensor.values_on_cpu): tensor for tensor in on_device}  # operations in place give back what they were given
        return pytree.tree_map_only(torch.Tensor, lambda tensor: own[id(tensor)] if id(tensor) in own else OnDevice(tensor), result)

    def _copied(self, from_device, to_device, non_blocking):
        if from_device and not to_device:
            self.waits["a copy to the CPU"] += 1
        elif to_device and not from_device and not non_blocking:
            self.waits["a copy to the device"] += 1


def _not_there(tensor):
    return tensor.dim() > 0 and not isinstance(tensor, OnDevice)


def _copied_there(make):
    def made(data, *, dtype=None, device=None):
        tensor = make(data, dtype=dtype)
        return tensor if device is None else tensor.to(device)

    return made

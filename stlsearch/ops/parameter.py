"""An encoded weight as a parameter of a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stlsearch.errors import InputError
from stlsearch.ops.described import Described
from stlsearch.ops.encoded import EncodedWeight, check_encoded


class EncodedParameter(Described):
    """An encoded weight as a parameter: assign it to a module's attribute, and optimisers, `to` and `state_dict` see it.

    ``state_dict`` holds the tensor, and beside it the algorithm's id, the sizes and the layout, which have to agree when it is
    loaded. Pass `value` to `stl_matmul`, or the module itself.
    """

    channels: Tensor | None
    scales: Tensor | None
    noun = "an encoded weight"

    def __init__(self, encoded: EncodedWeight, *, requires_grad: bool = True) -> None:
        super().__init__()
        check_encoded(encoded)
        if encoded.scales is not None and requires_grad:
            raise InputError("an encoded weight in float8_e4m3fn has no gradients: pass requires_grad=False")
        self.tensor = torch.nn.Parameter(encoded.tensor.detach(), requires_grad)
        # A copy: loading a state writes into it, and the order itself belongs to all weights of the algorithm.
        self.register_buffer("channels", None if encoded.channels is None else encoded.channels.clone())
        self.register_buffer("scales", None if encoded.scales is None else encoded.scales.clone())
        self._fixed = (encoded.shape, encoded.algorithm_id, encoded.layout)

    @property
    def value(self) -> EncodedWeight:
        """The encoded weight, its tensor being the parameter."""
        return EncodedWeight(self.tensor, *self._fixed, self.channels, self.scales)

    def description(self) -> dict[str, Any]:
        """The algorithm's id, the sizes and the layout."""
        shape, algorithm_id, layout = self._fixed
        description = {"algorithm_id": algorithm_id, "shape": list(shape), "layout": [layout.rows, layout.channels, layout.outputs]}
        return description if self.scales is None else {**description, "dtype": "float8_e4m3fn"}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EncodedParameter:
        """As of any module, but what is quantised keeps its dtypes: ``model.to(torch.bfloat16)`` is about x, which may have any."""

        def keeping_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(fn if self.scales is None else keeping_dtype, recurse)

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        shape, algorithm_id, _ = self._fixed
        return f"shape={shape}, algorithm={algorithm_id[:8]}, planes={tuple(self.tensor.shape)}"

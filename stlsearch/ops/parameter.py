"""An encoded weight as a parameter of a module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stlsearch.ops.described import Described
from stlsearch.ops.encoded import EncodedWeight, check_encoded


class EncodedParameter(Described):
    """An encoded weight as a parameter: assign it to a module's attribute, and optimisers, `to` and `state_dict` see it.

    ``state_dict`` holds the tensor, and beside it the algorithm's id, the sizes and the layout, which have to agree when it is
    loaded. Pass `value` to `stl_matmul`, or the module itself.
    """

    channels: Tensor | None
    noun = "an encoded weight"

    def __init__(self, encoded: EncodedWeight, *, requires_grad: bool = True) -> None:
        super().__init__()
        check_encoded(encoded)
        self.tensor = torch.nn.Parameter(encoded.tensor.detach(), requires_grad)
        # A copy: loading a state writes into it, and the order itself belongs to all weights of the algorithm.
        self.register_buffer("channels", None if encoded.channels is None else encoded.channels.clone())
        self._fixed = (encoded.shape, encoded.algorithm_id, encoded.layout)

    @property
    def value(self) -> EncodedWeight:
        """The encoded weight, its tensor being the parameter."""
        return EncodedWeight(self.tensor, *self._fixed, self.channels)

    def description(self) -> dict[str, Any]:
        """The algorithm's id, the sizes and the layout."""
        shape, algorithm_id, layout = self._fixed
        return {"algorithm_id": algorithm_id, "shape": list(shape), "layout": [layout.rows, layout.channels, layout.outputs]}

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        shape, algorithm_id, _ = self._fixed
        return f"shape={shape}, algorithm={algorithm_id[:8]}, planes={tuple(self.tensor.shape)}"

"""An encoded weight as a parameter of a module."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from stlsearch.errors import InputError
from stlsearch.ops.encoded import EncodedWeight, check_encoded


class EncodedParameter(torch.nn.Module):
    """An encoded weight as a parameter: assign it to a module's attribute, and optimisers, `to` and `state_dict` see it.

    ``state_dict`` holds the tensor, and beside it the algorithm's id, the sizes and the layout, which have to agree when it is
    loaded. Pass `value` to `stl_matmul`, or the module itself.
    """

    channels: Tensor | None

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

    def get_extra_state(self) -> Tensor:
        """What the tensor alone does not say: the bytes of a JSON object, in a tensor so that safetensors can hold them too."""
        return torch.tensor(list(json.dumps(self._description()).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Check that a loaded state belongs to the same algorithm, sizes and layout.

        Raises:
            InputError: it does not.
        """
        try:
            saved = dict(json.loads(state.numpy(force=True).tobytes()))
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"the state of an encoded weight holds {type(state).__name__}, not the bytes of a JSON object") from error
        for key, value in self._description().items():
            if saved.get(key) != value:
                raise InputError(f"the state was saved for {key} {saved.get(key)}, not {value}")

    def _description(self) -> dict[str, Any]:
        shape, algorithm_id, layout = self._fixed
        return {"algorithm_id": algorithm_id, "shape": list(shape), "layout": [layout.rows, layout.channels, layout.outputs]}

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest: Any) -> None:
        if (extra := state_dict.get(f"{prefix}_extra_state")) is not None:
            self.set_extra_state(extra)  # before the tensor is overwritten
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        shape, algorithm_id, _ = self._fixed
        return f"shape={shape}, algorithm={algorithm_id[:8]}, planes={tuple(self.tensor.shape)}"

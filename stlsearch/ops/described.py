"""Modules whose state says what its tensors belong to."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from stlsearch.errors import InputError


class Described(torch.nn.Module):
    """A module whose ``state_dict`` holds a description beside the tensors, which has to agree when it is loaded.

    Subclasses say what they are (`noun`, such as "a basis") and give `description`.
    """

    noun = "a module"

    def description(self) -> dict[str, Any]:
        """JSON values that two states must share."""
        raise NotImplementedError

    def get_extra_state(self) -> Tensor:
        """The description: the bytes of a JSON object, in a tensor so that safetensors can hold them too."""
        return torch.tensor(list(json.dumps(self.description()).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Check that a loaded state has the same description.

        Raises:
            InputError: it has not.
        """
        try:
            saved = dict(json.loads(state.numpy(force=True).tobytes()))
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"the state of {self.noun} holds {type(state).__name__}, not the bytes of a JSON object") from error
        for key, value in {**dict.fromkeys(saved), **self.description()}.items():
            if saved.get(key) != value:
                raise InputError(f"the state of {self.noun} was saved for {key} {saved.get(key)}, not {value}")

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest: Any) -> None:
        if (extra := state_dict.get(f"{prefix}_extra_state")) is not None:
            self.set_extra_state(extra)  # before any tensor is overwritten
        super()._load_from_state_dict(state_dict, prefix, *rest)

"""Which rows and columns of a matrix make a tile."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor

from stlsearch.errors import InputError

ROWS = ("tokens", "blocks", "batch")
COLUMNS = ("interleaved", "blocked")


@dataclass(frozen=True)
class Layout:
    """How activations (..., M, K) and a weight (K, N) are cut into tiles.

    Channels and outputs may be regrouped freely: it changes which values an inexact basis mixes, not which rows depend on
    which. Rows may not, for unless the algorithm is exact, **a row of the result depends on all n rows of its tile**:

    - ``"tokens"``: n neighbouring rows of one sample. A causal model leaks the future within a tile.
    - ``"blocks"``: rows i, i + I, i + 2 I, ... of one sample, I = ceil(M/n): contiguous blocks. Leaks over the whole sample, and
      neighbouring tokens, whose likeness data-aware bases live on, fall into different tiles.
    - ``"batch"``: the same token of n neighbouring samples. Nothing leaks in time, but a sample's result depends on the samples
      beside it.

    Samples are padded, never joined: a tile holds rows of one sample only (of n samples with ``"batch"``).

    Attributes:
        rows: one of `ROWS`.
        channels: the K axis. ``"interleaved"``, m neighbouring channels, is the paper's; ``"blocked"`` takes one from each of
            m contiguous blocks.
        outputs: the N axis likewise.
    """

    rows: str = "tokens"
    channels: str = "interleaved"
    outputs: str = "interleaved"

    def __post_init__(self) -> None:
        for name, value, valid in (("rows", self.rows, ROWS), ("channels", self.channels, COLUMNS), ("outputs", self.outputs, COLUMNS)):
            if value not in valid:
                raise InputError(f"unknown {name} layout {value!r}; valid: {', '.join(valid)}")

    def samples(self, x: Tensor) -> Tensor:
        """x (..., M, K) as (batch, rows, K), tiles being cut from the rows of each batch.

        Raises:
            InputError: x is a vector, or has no sample dimension for tiles over the batch.
        """
        least = 3 if self.rows == "batch" else 2
        if x.ndim < least:
            raise InputError(f"tiles over {self.rows} need x of at least {least} dimensions, not shape {tuple(x.shape)}")
        if self.rows == "batch":
            return x.flatten(0, -3).transpose(0, 1)
        return x.reshape(prod(x.shape[:-2]), *x.shape[-2:])

    def restore(self, result: Tensor, x: Tensor) -> Tensor:
        """The way back of `samples` for a result (batch, rows, N)."""
        if self.rows == "batch":
            result = result.transpose(0, 1)
        return result.reshape(*x.shape[:-1], result.shape[-1])


def check_layout(layout: object) -> None:
    """Raise `InputError` for what is neither a layout nor None."""
    if layout is not None and not isinstance(layout, Layout):
        raise InputError(f"a layout is a stlsearch.ops.Layout, not {type(layout).__name__}")

"""The non-zero entries of a tensor in the order in which compiled sweeps read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNROLL = 4  # entries of the tensor added in one pass over a row


@dataclass(frozen=True)
class Plan:
    """The non-zero entries of a tensor as the update of one mode reads them, in groups of `UNROLL` with the same row.

    Attributes:
        rows: the row of each group, shape (groups,).
        first, second: indices into the other two modes, shape (groups, UNROLL).
        values: the entries, 0 where a group is padded, shape (groups, UNROLL).
    """

    rows: np.ndarray
    first: np.ndarray
    second: np.ndarray
    values: np.ndarray

    @staticmethod
    def of(tensor: np.ndarray, mode: int) -> Plan:
        """The plan for updating the factor of `mode`."""
        unfolded = np.moveaxis(tensor, mode, 0)
        rows, first, second, values = [], [], [], []
        for row, matrix in enumerate(unfolded):
            j, k = np.nonzero(matrix)
            pad = -len(j) % UNROLL
            entries = np.concatenate([matrix[j, k], np.zeros(pad, dtype=tensor.dtype)])
            rows += [row] * (len(entries) // UNROLL)
            first.append(np.concatenate([j, np.zeros(pad, dtype=np.int64)]))
            second.append(np.concatenate([k, np.zeros(pad, dtype=np.int64)]))
            values.append(entries)
        flat = (np.concatenate(part).reshape(-1, UNROLL) for part in (first, second, values))
        return Plan(np.array(rows, dtype=np.int64), *flat)

"""A basis as part of a network: fixed or learned, of one layer or shared by several."""

from __future__ import annotations

import torch
from torch import Tensor

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.ops import Bases
from stlsearch.ops.described import Described
from stlsearch.targets import Target

LEARNABLE = ("", "U", "W", "UW")
"""Which factors are parameters. V is none of them: weights are stored encoded, so it never enters a product."""


class Basis(Described):
    """The factors U (r, nm), V (r, mp), W (r, np) of an algorithm: parameters where they are learned, buffers where they are not.

    ``state_dict`` holds them with the algorithm's id and tile, which have to agree when it is loaded. Learned factors keep the id
    they started from, as the id of their parent: it names the encoded weights that belong to them, and no longer their values.

    Args:
        algorithm: where the factors come from.
        learn: one of `LEARNABLE`.

    Attributes:
        algorithm: where the factors come from; `to_algorithm` is what learned ones have become.
        algorithm_id: its `BilinearAlgorithm.id`.
        tile: (n, m, p).
        channels: (K,) the order of channels that the algorithm was fitted to, or None.
        exact: whether the product is exact: the algorithm is, and nothing is learned.
        amplification: g = sum_rho |u_rho|^2 |v_rho|^2 |w_rho|^2 / ||T||^2 of the algorithm.
        energy: ||[[U,V,W]]||^2 / ||T||^2 of the algorithm, 1 - e for a least-squares fit.
    """

    U: Tensor
    V: Tensor
    W: Tensor
    noun = "a basis"

    def __init__(
        self,
        algorithm: BilinearAlgorithm,
        *,
        learn: str = "",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """See the class.

        Raises:
            InputError: unknown factors to learn, or an algorithm that does not multiply real matrices.
        """
        super().__init__()
        if learn not in LEARNABLE:
            raise InputError(f"cannot learn {learn!r}; valid: {', '.join(repr(name) for name in LEARNABLE)} (V never enters a product)")
        bases = Bases.prepare(algorithm, dtype=dtype or torch.get_default_dtype(), device=device or torch.get_default_device())
        for name in "UVW":
            factor = getattr(bases, name)
            if name in learn:
                setattr(self, name, torch.nn.Parameter(factor))
            else:
                self.register_buffer(name, factor)
        self.learn, self.tile, self.algorithm_id = learn, bases.shape, bases.algorithm_id
        order = None if algorithm.metric is None else algorithm.metric.channels
        self.channels = None if order is None else tuple(order.tolist())
        self.exact = algorithm.is_exact and not learn
        self.algorithm, self.amplification = algorithm, algorithm.amplification
        grams = [factor @ factor.T for factor in (algorithm.U, algorithm.V, algorithm.W)]
        self.energy = float((grams[0] * grams[1] * grams[2]).sum() / algorithm.target.norm_sq)

    @property
    def rank(self) -> int:
        """r."""
        return self.U.shape[0]

    def forward(self) -> Bases:
        """The factors as `stlsearch.ops` takes them."""
        return Bases(self.U, self.V, self.W, self.tile, self.algorithm_id)

    def to_algorithm(self) -> BilinearAlgorithm:
        """The factors as they are now, as an algorithm for the registry; what they started from is its parent."""
        U, V, W = (factor.detach().double().cpu().numpy() for factor in (self.U, self.V, self.W))
        provenance = {"solver": "trained in a network", "learned": list(self.learn), "parents": [{"id": self.algorithm_id}]}
        return BilinearAlgorithm.from_floats(Target.matmul(*self.tile), U, V, W, provenance=provenance)

    def description(self) -> dict[str, object]:
        """The algorithm's id and its tile."""
        return {"algorithm_id": self.algorithm_id, "tile": list(self.tile)}

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        n, m, p = self.tile
        return f"{n}x{m}x{p}, rank={self.rank}, algorithm={self.algorithm_id[:8]}, learn={self.learn!r}"

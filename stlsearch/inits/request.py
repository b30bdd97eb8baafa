"""What an initialisation strategy is asked for, and what it answers.

A strategy is a function `Request -> Start`. Structure first, noise second: restarts differ by the random
choices of the strategy (dropped terms, points, gauges), drawn from the request's generator only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import standard_terms
from stlsearch.errors import InputError
from stlsearch.solvers.problem import Factors, Monitor, Problem, silent
from stlsearch.targets import Target


class NotApplicable(InputError):
    """The strategy cannot start this target and rank (a portfolio passes on to the next strategy)."""


def _nothing_known(name: str) -> BilinearAlgorithm:
    raise InputError(f"no algorithm named {name!r}: this request has no registry")


@dataclass(frozen=True, eq=False)
class Request:
    """What to start from.

    Attributes:
        problem: target tensor, device and dtype.
        rank: r, the terms wanted.
        restarts: B, the batch of starts wanted. A strategy that selects gives fewer where fewer solutions differ.
        generator: the only source of randomness (a CPU generator).
        penalty: the amplification multiplier at which strategies refit after dropping terms.
        argument: what followed a colon in the strategy's name (``known:NAME``), or "".
        lookup: finds a registered algorithm by name.
        exact: the exact algorithm of least rank known for a target; by default the standard one.
        monitor: told about progress; may raise to stop.
    """

    problem: Problem
    rank: int
    restarts: int
    generator: torch.Generator
    penalty: float = 1e-3
    argument: str = ""
    lookup: Callable[[str], BilinearAlgorithm] = _nothing_known
    exact: Callable[[Target], BilinearAlgorithm] = standard_terms
    monitor: Monitor = silent

    def normal(self, *shape: int) -> torch.Tensor:
        """N(0, 1) numbers on the problem's device and dtype, the same on every device."""
        numbers = torch.randn(*shape, dtype=torch.float64, generator=self.generator)
        return numbers.to(self.problem.tensor)

    def matmul_shape(self, strategy: str) -> tuple[int, int, int]:
        """(n, m, p) of a matmul target.

        Raises:
            NotApplicable: the target is another bilinear map.
        """
        shape = self.problem.target.shape
        if shape is None:
            raise NotApplicable(f"init {strategy} is for matrix products, not for {self.problem.target.slug}")
        return shape


@dataclass(frozen=True, eq=False)
class Start:
    """A batch of starting factors, shapes (B, r, a), (B, r, b), (B, r, c), and where they come from.

    Attributes:
        factors: on the problem's device, in its dtype and in its frame.
        provenance: what to record, such as the parents an algorithm was deflated from.
        settled: refined at the request's penalty already; a solver must not begin at a larger one, which would undo it.
    """

    factors: Factors
    provenance: Mapping[str, object] = field(default_factory=dict)
    settled: bool = False


def embed(algorithm: BilinearAlgorithm, problem: Problem, restarts: int) -> Factors:
    """A real algorithm's factors in the problem's frame, as a batch of identical restarts.

    Raises:
        InputError: complex or finite-field factors.
    """
    if not algorithm.is_real:
        raise InputError(f"{algorithm.name} is over {algorithm.ring}; a real algorithm is needed")
    U, V, W = (
        torch.tensor(factor, device=problem.tensor.device, dtype=problem.tensor.dtype).expand(restarts, -1, -1).clone()
        for factor in (algorithm.U, algorithm.V, algorithm.W)
    )
    return problem.whiten((U, V, W))

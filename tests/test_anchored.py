"""The vector kernel against its definition in NumPy, and what its anchors promise."""

import numpy as np
import pytest

from stlsearch.constructions.classical import strassen
from stlsearch.solvers.anchored import BALANCE_EVERY, FREE, GRID, SPARSE, Anchors, anchored_sweeps
from stlsearch.solvers.plan import Plan
from stlsearch.targets import Target


def setting(shape, rank, lanes, dtype=np.float64, seed=0):
    tensor = Target.matmul(*shape).tensor.astype(dtype)
    generator = np.random.default_rng(seed)
    factors = [generator.standard_normal((extent, rank, lanes)).astype(dtype) for extent in tensor.shape]
    return tensor, [Plan.of(tensor, mode) for mode in range(3)], factors


def reference(factors, tensor, penalty, anchors, step):
    """One sweep in one lane, written down from the docstring."""
    factors = [factor.copy() for factor in factors]
    if anchors.kind != GRID and step % BALANCE_EVERY == 0:
        norms = [np.linalg.norm(factor, axis=0) for factor in factors]
        for mode in (1, 2):
            factors[mode] *= np.cbrt(norms[0] * norms[1] * norms[2]) / norms[mode]
    pull, far = anchors.pull[step], anchors.step[step]
    for mode in range(3):
        first, second = (factors[k] for k in range(3) if k != mode)
        gram = (first.T @ first) * (second.T @ second)
        x = factors[mode]
        if anchors.kind == FREE:
            aim = 0 * x
        elif anchors.kind == SPARSE:
            aim = np.sign(x) * np.maximum(np.abs(x) - far, 0)
        else:
            grid = np.clip(np.rint(x * anchors.denominator) / anchors.denominator, -anchors.bound, anchors.bound)
            aim = x + np.clip(grid - x, -far, far)
        right = np.einsum("ijk,jr,kr->ir", np.moveaxis(tensor, mode, 0), first, second) + pull * aim
        factors[mode] = np.linalg.solve(gram + penalty * np.diag(np.diag(gram)) + pull * np.eye(len(gram)), right.T).T
    return factors


@pytest.mark.parametrize("lanes", [1, 3, 8, 19])
@pytest.mark.parametrize(
    "anchors",
    [Anchors.free(3), Anchors.sparse(3, 0.1, 0.05, 0.01), Anchors.grid(3, 0.2, 0.01, 0.1), Anchors.grid(3, 0.2, 0.01, 0.1, 2, 2.0)],
)
def test_sweeps_are_what_the_formula_says(lanes, anchors):
    tensor, plans, factors = setting((2, 3, 2), 11, lanes)
    expected = [factor.copy() for factor in factors]
    penalties = np.array([1e-2, 5e-3, 2e-3])
    anchored_sweeps(factors, plans, penalties, anchors)
    for lane in range(lanes):
        own = [factor[:, :, lane] for factor in expected]
        for step in range(3):
            own = reference(own, tensor, penalties[step], anchors, step)
        for mode in range(3):
            np.testing.assert_allclose(factors[mode][:, :, lane], own[mode], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rank", [1, 4, 6, 13])
def test_a_lane_does_not_depend_on_its_neighbours(rank):
    _, plans, factors = setting((2, 2, 3), rank, 20, np.float32)
    alone = [np.ascontiguousarray(factor[:, :, 17:18]) for factor in factors]
    for lanes in (factors, alone):
        anchored_sweeps(lanes, plans, np.full(20, 1e-3), Anchors.sparse(20, 0.1, 0.05, 0.01))
    for whole, part in zip(factors, alone, strict=True):
        np.testing.assert_array_equal(whole[:, :, 17], part[:, :, 0])


def test_penalties_may_differ_by_lane():
    _, plans, factors = setting((2, 2, 2), 7, 2)
    penalties = np.tile([1e-4, 1e-1], (50, 1))
    both = [factor.copy() for factor in factors]
    anchored_sweeps(both, plans, penalties, Anchors.free(50))
    for lane in range(2):
        own = [np.ascontiguousarray(factor[:, :, lane : lane + 1]) for factor in factors]
        anchored_sweeps(own, plans, penalties[:, lane], Anchors.free(50))
        np.testing.assert_allclose(both[0][:, :, lane], own[0][:, :, 0], rtol=1e-9)


def test_an_exact_algorithm_on_the_grid_stays():
    algorithm = strassen()
    plans = [Plan.of(algorithm.target.tensor.astype(float), mode) for mode in range(3)]
    factors = [np.repeat(factor.T[:, :, None], 3, axis=2) for factor in (algorithm.U, algorithm.V, algorithm.W)]
    anchored_sweeps(factors, plans, np.zeros(50), Anchors.grid(50, 0.1, 0.01, 0.1))
    for factor, exact in zip(factors, (algorithm.U, algorithm.V, algorithm.W), strict=True):
        np.testing.assert_allclose(factor, np.repeat(exact.T[:, :, None], 3, axis=2), atol=1e-9)

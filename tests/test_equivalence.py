"""What changes of basis leave unchanged, and that different algorithms are told apart."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import in_another_basis, noisy

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import karatsuba, laderman, standard, strassen
from stlsearch.constructions.transforms import compose, permute
from stlsearch.equivalence import DistinctPool, Signature, same_orbit, triple_products
from stlsearch.solvers import als, lm
from stlsearch.solvers.problem import Problem
from stlsearch.targets import Target


def inexact(shape=(2, 3, 2), rank=5, seed=0):
    return noisy(Target.matmul(*shape), rank, seed)


@pytest.mark.parametrize("algorithm", [strassen(), laderman(), inexact(), compose(strassen(), strassen())], ids=lambda a: a.name)
def test_orthogonal_changes_of_basis_order_and_scales_leave_the_signature(algorithm):
    assert same_orbit(algorithm, in_another_basis(algorithm, 1))
    assert Signature.of(algorithm).distance(Signature.of(in_another_basis(algorithm, 2))) < 1e-4


@pytest.mark.parametrize("algorithm", [strassen(), laderman(), inexact()], ids=lambda a: a.name)
def test_general_changes_of_basis_leave_triple_products(algorithm):
    other = in_another_basis(algorithm, 3, orthogonal=False)
    np.testing.assert_allclose(triple_products(other), triple_products(algorithm), atol=1e-9 * np.abs(triple_products(algorithm)).max())
    assert not same_orbit(algorithm, other)  # g changes


def optima(problem, rank, penalty, count=16):
    """Local optima of the penalised objective from random starts, best first."""
    generator = torch.Generator().manual_seed(0)
    start = tuple(torch.randn(count, rank, extent, generator=generator, dtype=torch.float64) for extent in problem.target.dims)
    factors = lm.solve(problem, als.solve(problem, start, penalty=penalty, iterations=400), penalty=penalty, iterations=60)
    order = problem.objective(factors, penalty).argsort().tolist()
    return [BilinearAlgorithm.from_floats(problem.target, *(factor[index].numpy() for factor in factors)) for index in order]


def test_one_optimum_reached_from_two_starts_is_recognised():
    # Strassen's algorithm in the basis of least g, g = 25/9, whatever the start.
    best, second, *_ = optima(Problem.of(Target.matmul(2, 2, 2)), 7, 1e-4)
    assert best.amplification == pytest.approx(25 / 9, rel=0.02)
    assert np.abs(best.U - second.U).max() > 0.1
    assert same_orbit(best, second)


def test_different_optima_of_one_rank_differ():
    found = optima(Problem.of(Target.matmul(2, 2, 3)), 8, 1e-3)
    assert found[-1].error - found[0].error > 1e-3
    assert not same_orbit(found[0], found[-1])
    assert same_orbit(found[0], in_another_basis(found[0]))


def test_different_targets_and_ranks_are_infinitely_apart_and_other_maps_have_signatures_too():
    assert Signature.of(strassen()).distance(Signature.of(standard(2, 2, 2))) == float("inf")
    assert same_orbit(karatsuba(), karatsuba())


def test_the_pool_keeps_the_best_that_differ():
    pool = DistinctPool(limit=2)
    optima = sorted((inexact(seed=seed) for seed in range(4)), key=lambda algorithm: algorithm.error)
    assert pool.add(optima[2])
    assert not pool.add(in_another_basis(optima[2]))  # the same again
    assert pool.add(optima[3])
    assert pool.add(optima[1])  # pushes out the worst
    assert not pool.add(optima[3])
    assert [algorithm.id for algorithm in pool.best("2x3x2", 5)] == [optima[1].id, optima[2].id]
    assert pool.add(optima[0])
    assert [algorithm.id for algorithm in pool.best("2x3x2", 5)] == [optima[0].id, optima[1].id]
    assert pool.add(strassen())  # another target has a place of its own
    assert len(pool) == 3


def test_the_symmetries_of_a_product_leave_the_signature():
    # <n,m,p> with n = p: transposition swaps u and v; with n = m = p u, v and w may also move round.
    algorithm = inexact((2, 3, 2), 5, 4)
    assert same_orbit(algorithm, in_another_basis(permute(algorithm, (3, 2, 1)), 5))
    cube = inexact((2, 2, 2), 5, 4)
    for order in ((2, 3, 1), (2, 1, 3)):
        assert same_orbit(cube, in_another_basis(permute(cube, order), 6))
    U, V, W = algorithm.U, algorithm.V, algorithm.W
    assert not same_orbit(algorithm, BilinearAlgorithm.from_floats(algorithm.target, U[::-1], V, W))


def test_the_pool_leaves_out_what_lies_too_far_behind_and_asks_no_signature_of_it():
    best, near, far = sorted((inexact(seed=seed) for seed in range(3)), key=lambda algorithm: algorithm.error)
    pool = DistinctPool(limit=3, within=(near.error / best.error - 1) * 1.01)
    assert pool.add(near)
    assert pool.add(best)
    asked = []

    def signature(algorithm):
        asked.append(algorithm)
        return Signature.of(algorithm)

    assert not pool.add(far, signature)
    assert not asked
    assert list(pool) == [best, near]
    tight = DistinctPool(limit=3, within=(near.error / best.error - 1) * 0.99)
    assert tight.add(near)
    assert tight.add(best)  # a new best leaves the old one too far behind
    assert list(tight) == [best]


def test_a_better_version_has_to_be_better_by_the_gain_asked_for():
    worse = inexact(seed=1)
    better = BilinearAlgorithm.from_floats(worse.target, worse.U, worse.V, worse.W * (1 - 1e-6))
    first, second = sorted((worse, better), key=lambda algorithm: algorithm.error, reverse=True)
    pool = DistinctPool(limit=3, gain=1e-3)
    assert pool.add(first)
    assert not pool.add(second)


def test_a_better_version_of_one_held_takes_its_place():
    pool = DistinctPool(limit=3, score=lambda algorithm: algorithm.error)
    worse = inexact(seed=1)
    better = BilinearAlgorithm.from_floats(worse.target, worse.U, worse.V, worse.W * (1 - 1e-6))
    first, second = sorted((worse, better), key=lambda algorithm: algorithm.error, reverse=True)
    assert pool.add(first)
    assert pool.add(second)
    assert [algorithm.id for algorithm in pool.best("2x3x2", 5)] == [second.id]


def test_the_example_of_the_documents_runs():
    page = (Path(__file__).parent.parent / "docs" / "solvers.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(code, {})  # our own page

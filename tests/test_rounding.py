"""Exact algorithms from numbers: the gauge, the check, random starts, and one given algorithm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import laderman, standard_terms, strassen
from stlsearch.constructions.transforms import sandwich
from stlsearch.errors import InputError
from stlsearch.search.gauge import normalise
from stlsearch.search.round_one import complete, fractions, random_bases, round_algorithm
from stlsearch.search.rounding import Effort, discover, missing_products
from stlsearch.targets import Target


def lanes_of(algorithm, lanes=1):
    return [np.repeat(factor.T[:, :, None], lanes, axis=2) for factor in (algorithm.U, algorithm.V, algorithm.W)]


def product(factors, lane=0):
    U, V, W = (factor[:, :, lane] for factor in factors)
    return np.einsum("ir,jr,kr->ijk", U, V, W)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.tuples(*[st.integers(1, 3)] * 3))
def test_normalising_undoes_a_diagonal_change_of_basis_and_keeps_the_product(seed, shape):
    generator = np.random.default_rng(seed)
    target = Target.matmul(*shape)
    exact = lanes_of(standard_terms(target))
    scale = [generator.uniform(0.2, 5, size) for size in shape]
    exact[0] = exact[0] * (scale[0][:, None] / scale[1][None, :]).reshape(-1, 1, 1)
    exact[1] = exact[1] * (scale[1][:, None] / scale[2][None, :]).reshape(-1, 1, 1)
    exact[2] = exact[2] * (scale[2][None, :] / scale[0][:, None]).reshape(-1, 1, 1)
    assert missing_products(exact, target)[0] < 1e-9
    normal = normalise(exact, target)
    np.testing.assert_allclose(product(normal), target.tensor, atol=1e-9)
    for factor in normal:
        np.testing.assert_allclose(np.abs(factor[factor != 0]), 1, atol=1e-3)


def test_normalising_finds_the_ternary_scaling_of_laderman_s_algorithm():
    diagonal = [np.diag([1.0, -3.0, 0.4]), np.diag([2.0, 0.7, 5.0]), np.diag([0.1, 1.5, 1.0])]
    scaled = sandwich(laderman(), *diagonal)
    normal = normalise(lanes_of(scaled), scaled.target)
    np.testing.assert_allclose([np.abs(x - np.rint(x)).max() for x in normal], 0, atol=1e-3)
    assert missing_products([np.rint(x) for x in normal], scaled.target)[0] == 0


def test_normalising_other_targets_rescales_terms_only():
    target = Target.make("polymul", {"m": 2, "n": 2})
    factors = lanes_of(standard_terms(target))
    factors[0] = factors[0] * 4
    factors[2] = factors[2] / 4
    np.testing.assert_allclose(product(normalise(factors, target)), target.tensor, atol=1e-9)


def test_missing_products_is_an_integer_check():
    target = Target.matmul(3, 3, 3)
    factors = lanes_of(laderman(), 2)
    factors[1][0, 0, 1] += 1
    missing = missing_products(factors, target)
    assert missing[0] == 0
    difference = product(factors, 1) - target.tensor
    assert missing[1] == (difference**2).sum() > 0


@pytest.mark.parametrize(("shape", "rank"), [((2, 2, 2), 7), ((2, 2, 3), 11), ((2, 3, 3), 15)])
def test_small_exact_algorithms_from_random_starts(shape, rank):
    found = discover(Target.matmul(*shape), rank, seed=1, max_starts=512)
    (algorithm,) = found.algorithms
    assert found.status == "reached"
    assert (algorithm.rank, algorithm.ring, algorithm.error) == (rank, "Z", 0)
    assert algorithm.target.shape == shape
    assert {"seed", "start", "round"} <= set(algorithm.provenance)


def test_several_of_rank_23_for_3x3x3():
    found = discover(Target.matmul(3, 3, 3), 23, seed=0, count=4, max_starts=1024)
    assert [algorithm.rank for algorithm in found.algorithms] == [23] * 4
    assert len({algorithm.id for algorithm in found.algorithms}) == 4
    again = discover(Target.matmul(3, 3, 3), 23, seed=0, count=4, max_starts=1024)
    assert [algorithm.id for algorithm in again.algorithms] == [algorithm.id for algorithm in found.algorithms]


def test_other_targets_and_rings():
    assert discover(Target.make("polymul", {"m": 2, "n": 2}), 3, max_starts=256).algorithms[0].rank == 3
    assert discover(Target.make("aat", {"n": 2, "m": 1}), 3, ring="Z[1/2]", max_starts=256).algorithms[0].ring == "Z[1/2]"


def test_the_budget_and_the_callback_end_it():
    effort = Effort(batch=32, fit_sweeps=50)
    over = discover(Target.matmul(2, 2, 2), 6, max_starts=64, effort=effort)
    assert (over.status, over.algorithms, over.stats.starts) == ("budget", [], 64)
    stopped = discover(Target.matmul(2, 2, 2), 6, callback=lambda stats: stats.starts >= 64)
    assert (stopped.status, stopped.stats.starts) == ("stopped", 64)


def test_bad_requests():
    target = Target.matmul(2, 2, 2)
    for request in (
        lambda: discover(target, 9),
        lambda: discover(target, 7, ring="Z2"),
        lambda: discover(target, 7, count=0),
        lambda: discover(Target.explicit(np.full((1, 1, 1), 0.1)), 1),
        lambda: round_algorithm(strassen()),
        lambda: round_algorithm(numeric(strassen(), seed=0), "R"),
        lambda: round_algorithm(numeric(strassen(), seed=0), rounds=0),
        lambda: round_algorithm(BilinearAlgorithm.from_floats(target, *(np.eye(4) for _ in range(3)))),
    ):
        with pytest.raises(InputError):
            request()


def numeric(algorithm, seed):
    """The algorithm in a random basis, as floats with a little noise."""
    generator = np.random.default_rng(seed)
    turned = sandwich(algorithm, *(np.eye(size) + 0.4 * generator.standard_normal((size, size)) for size in algorithm.target.shape))
    return BilinearAlgorithm.from_floats(
        turned.target, *(x + 1e-7 * generator.standard_normal(x.shape) for x in (turned.U, turned.V, turned.W))
    )


@pytest.mark.parametrize("ring", ["Z", "Z[1/2]"])
def test_strassen_comes_back_from_a_random_basis(ring):
    start = numeric(strassen(), seed=3)
    (found,) = round_algorithm(start, ring).algorithms
    assert (found.rank, found.error) == (7, 0)
    assert found.provenance["parents"] == [{"id": start.id, "name": start.name}]


def test_a_term_that_vanishes_is_left_out():
    padded = [np.pad(factor, ((0, 1), (0, 0))) for factor in (strassen().U, strassen().V, strassen().W)]
    padded[0][-1] = padded[1][-1] = 1
    start = numeric(BilinearAlgorithm.from_floats(Target.matmul(2, 2, 2), *padded), seed=3)
    for ring in ("Z", "Q(i)"):
        (found,) = round_algorithm(start, ring).algorithms
        assert (found.rank, found.error) == (7, 0)


def test_random_bases_keep_the_map_exact():
    target = Target.matmul(2, 3, 2)
    factors = random_bases(lanes_of(standard_terms(target), 4), target, np.random.default_rng(0))
    assert np.abs(missing_products(factors, target)).max() < 1e-9


def test_a_third_factor_is_completed_over_q():
    algorithm = laderman()
    third = complete([algorithm.U, algorithm.V / 3], algorithm.target.tensor)
    assert third is not None
    rows = fractions(third)
    assert rows is not None
    np.testing.assert_array_equal(np.array(rows, dtype=float), 3 * algorithm.W)
    assert complete([algorithm.U, np.roll(algorithm.V, 1, axis=0)], algorithm.target.tensor) is None

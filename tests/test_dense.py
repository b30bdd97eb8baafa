"""Normal equations in flat arrays: against NumPy."""

import numpy as np
import pytest

from stlsearch.solvers.dense import LANES, PANEL, add_gram, solve_in_place


def positive(size, seed=0):
    J = np.random.default_rng(seed).standard_normal((size + 5, size))
    return J.T @ J + 0.1 * np.eye(size)


@pytest.mark.parametrize(("size", "begin"), [(LANES, 0), (3 * LANES, 0), (3 * LANES, LANES), (10 * LANES, 4 * LANES)])
def test_products_are_added_to_the_upper_triangle_from_where_it_begins(size, begin):
    generator = np.random.default_rng(size)
    J, out = generator.standard_normal((13, size)), generator.standard_normal((size, size))
    expected = out - J[2:11].T @ J[2:11]
    mine = out.ravel().copy()
    add_gram(mine, J.ravel(), 2, 11, size, -1.0, begin)
    mine = mine.reshape(size, size)
    np.testing.assert_allclose(np.triu(mine)[begin:, begin:], np.triu(expected)[begin:, begin:], atol=1e-12)
    np.testing.assert_array_equal(mine[:begin], out[:begin])


@pytest.mark.parametrize("size", [LANES, 3 * LANES, PANEL, PANEL + LANES, 3 * PANEL - LANES])
def test_systems_are_solved_from_the_upper_triangle_alone(size):
    K, b = positive(size), np.random.default_rng(1).standard_normal(size)
    flat, x = (np.triu(K) + np.tril(np.full((size, size), 7.0), -1)).ravel(), b.copy()
    assert solve_in_place(flat, x)
    np.testing.assert_allclose(K @ x, b, atol=1e-9)


@pytest.mark.parametrize("place", [0, PANEL - 1, PANEL, 2 * PANEL - 1])
def test_matrices_that_are_not_positive_definite_are_refused(place):
    K = positive(2 * PANEL)
    K[place, place] = -1.0
    assert not solve_in_place(K.ravel(), np.ones(len(K)))


@pytest.mark.parametrize("rank", [0, 1, PANEL])
def test_singular_matrices_are_refused(rank):
    J = np.random.default_rng(2).integers(-3, 4, (rank, 2 * PANEL)).astype(float)
    J[:, 5] = 0
    assert not solve_in_place((J.T @ J).ravel(), np.ones(2 * PANEL))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e-310])
@pytest.mark.parametrize("place", [(0, 0), (0, 3), (3, PANEL), (PANEL + 1, PANEL + 1)])
def test_numbers_out_of_range_are_refused(value, place):
    K = positive(2 * PANEL) if value > 1 or np.isnan(value) else value * np.eye(2 * PANEL)
    K[place] = K[place[::-1]] = value
    assert not solve_in_place(K.ravel(), np.ones(2 * PANEL))

"""Algorithms by formula, and the best exact algorithm put together from known ones."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from stlsearch.constructions.classical import gauss, karatsuba, laderman, standard, standard_terms, strassen, toom, winograd
from stlsearch.constructions.convolution import convolution
from stlsearch.constructions.known import best_exact
from stlsearch.constructions.rational import inverse
from stlsearch.constructions.simplify import simplify
from stlsearch.constructions.transforms import sandwich
from stlsearch.errors import InputError
from stlsearch.registry.store import shipped_exact
from stlsearch.targets import Target


@pytest.mark.parametrize(("make", "rank"), [(strassen, 7), (winograd, 7), (laderman, 23)])
def test_golden_products_of_matrices_without_symmetry(make, rank):
    algorithm = make()
    n, m, p = algorithm.target.shape
    a = np.arange(1, n * m + 1).reshape(n, m) ** 2
    b = 7 - 3 * np.arange(m * p).reshape(m, p)
    assert algorithm.rank == rank
    assert algorithm.ring == "Z"
    assert algorithm.provenance["source"]
    np.testing.assert_array_equal(algorithm.apply(a.ravel(), b.ravel()).reshape(n, p), a @ b)


def test_strassen_formulas():
    algorithm = strassen()
    assert algorithm.U[1].tolist() == [0, 0, 1, 1]  # a21 + a22
    assert algorithm.W[:, 1].tolist() == [0, 0, 1, 0, 1, 0, 0]  # c12 = m3 + m5
    assert algorithm.additions == 18
    assert algorithm.amplification == 4


def test_winograd_shares_sums_down_to_fifteen_additions():
    a, b = np.array([3, -1, 4, 7]), np.array([2, 5, -6, 1])
    s1 = a[2] + a[3]
    s2, s3 = s1 - a[0], a[0] - a[2]
    s4 = a[1] - s2
    t1, t3 = b[1] - b[0], b[3] - b[1]
    t2 = b[3] - t1
    t4 = t2 - b[2]
    m = np.array([a[0] * b[0], a[1] * b[2], s4 * b[3], a[3] * t4, s1 * t1, s2 * t2, s3 * t3])
    algorithm = winograd()
    np.testing.assert_array_equal((algorithm.U @ a) * (algorithm.V @ b), m)
    u2 = m[0] + m[5]
    u3, u4 = u2 + m[6], u2 + m[4]
    np.testing.assert_array_equal(m @ algorithm.W, [m[0] + m[1], u4 + m[2], u3 - m[3], u3 + m[4]])  # 8 + 7 additions in all


def test_standard_takes_one_product_per_triple():
    algorithm = standard(2, 3, 4)
    assert (algorithm.rank, algorithm.amplification, algorithm.is_ternary) == (24, 1, True)


@pytest.mark.parametrize(
    "target",
    [
        Target.make("cyclic", {"n": 3}),
        Target.make("polymul", {"m": 2, "n": 3}),
        Target.explicit(np.array([[[2, 0], [0, -1]], [[0, 0], [3, 0]]])),
    ],
)
def test_standard_terms_of_any_target(target):
    assert standard_terms(target).rank == target.trivial_rank


def test_complex_and_polynomial_products():
    assert gauss().apply(np.array([2, 3]), np.array([5, -7])).tolist() == [31, 1]
    assert karatsuba().apply(np.array([2, 3]), np.array([5, -7])).tolist() == [10, 1, -21]
    assert (gauss().rank, karatsuba().rank) == (3, 3)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 3), (2, 2), (3, 2), (4, 4)])
def test_toom_has_the_least_rank(m, n):
    algorithm = toom(m, n)
    a, b = np.arange(1, m + 1), np.arange(n) - 2
    assert algorithm.rank == m + n - 1
    np.testing.assert_allclose(algorithm.apply(a, b), np.convolve(a, b), atol=1e-9)


def test_toom_at_chosen_points():
    assert toom(2, 2, [0, 1, None]).id == karatsuba().id
    assert toom(2, 2, [Fraction(1, 2), 3, -1]).provenance["points"] == ["1/2", "3", "-1"]
    with pytest.raises(InputError, match="3 distinct points"):
        toom(2, 2, [0, 1, 1])


@pytest.mark.parametrize(("n", "rank"), [(1, 1), (2, 2), (3, 4), (4, 5), (5, 8), (6, 8)])
def test_convolution_has_rank_2n_minus_divisors(n, rank):
    assert convolution(n).rank == rank


def test_inverse_rejects_what_has_none():
    assert inverse([[0, 2], [1, 0]]) == [[0, 1], [0.5, 0]]
    for rows in ([[1, 2], [2, 4]], [[1, 2]], []):
        with pytest.raises(InputError):
            inverse(rows)


@pytest.mark.parametrize(
    ("shape", "rank"), [((2, 2, 2), 7), ((2, 2, 3), 11), ((2, 2, 4), 14), ((3, 3, 3), 23), ((4, 4, 4), 49), ((1, 3, 5), 15)]
)
def test_best_exact_by_formula_in_every_orientation(shape, rank):
    for order in sorted(set(permutations(shape))):
        algorithm = best_exact(Target.matmul(*order))
        assert algorithm.target.shape == order
        assert algorithm.rank == rank
        assert algorithm.error == 0


def test_best_exact_builds_from_the_pool():
    pool = [sandwich(strassen(), [[1, 1], [0, 1]], np.eye(2, dtype=int), np.eye(2, dtype=int)), winograd()]
    assert best_exact(Target.matmul(2, 2, 2), pool).id == strassen().id  # the lowest amplification of rank 7
    found = best_exact(Target.matmul(2, 4, 2), pool)
    assert (found.rank, found.amplification) == (14, 4)
    assert [parent["id"] for parent in found.provenance["parents"]] == [strassen().id]


@pytest.mark.parametrize(("shape", "rank"), [((2, 3, 3), 15), ((2, 3, 4), 20), ((2, 4, 4), 26), ((3, 3, 4), 29), ((3, 4, 4), 38)])
def test_best_exact_with_the_shipped_algorithms(shape, rank):
    for order in sorted(set(permutations(shape))):
        algorithm = best_exact(Target.matmul(*order), shipped_exact())
        assert (algorithm.target.shape, algorithm.rank, algorithm.error) == (order, rank, 0)


@pytest.mark.parametrize(
    ("kind", "params", "rank"),
    [("polymul", {"m": 3, "n": 4}, 6), ("polymul", {"m": 20, "n": 20}, 400), ("cyclic", {"n": 4}, 5), ("complex", {}, 3)],
)
def test_best_exact_of_other_targets(kind, params, rank):
    assert best_exact(Target.make(kind, params)).rank == rank


def test_simplify_takes_halves_where_the_ring_has_them_and_they_are_wanted():
    half = Fraction(1, 2)
    bad = sandwich(strassen(), [[1, half], [0, 1]], [[half, 0], [0, 1]], [[1, 0], [-half, 2]])
    assert bad.ring == "Z[1/2]"
    better = simplify(bad, halves=True)
    assert better.amplification < min(4, simplify(bad).amplification)
    assert better.error == 0
    assert better.ring == "Z[1/2]"
    again = sandwich(bad, *[[[Fraction(value) for value in row] for row in basis] for basis in better.provenance["bases"]])
    assert again.id == better.id
    assert simplify(strassen(), halves=True) == simplify(strassen())


def test_simplify_undoes_a_bad_basis():
    bad = sandwich(strassen(), [[1, 2], [0, 1]], [[1, 0], [3, 1]], [[2, 1], [1, 1]])
    better = simplify(bad)
    assert bad.amplification > 1000
    assert better.amplification == 4
    assert better.ring == "Z"
    assert simplify(better) is better
    with pytest.raises(InputError, match="simplified"):
        simplify(karatsuba())

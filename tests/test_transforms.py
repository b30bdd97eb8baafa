"""New algorithms from old: what each operation does to shape, rank, exactness, e and g."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import gauss, laderman, standard, strassen, winograd
from stlsearch.constructions.transforms import compose, cyclic, cyclic_form, direct_sum, drop, permute, permute_to, sandwich, transpose
from stlsearch.errors import InputError
from stlsearch.targets import Target

SIZES = st.integers(1, 3)


def inexact(shape=(2, 3, 2), rank=5, seed=0):
    rng = np.random.default_rng(seed)
    target = Target.matmul(*shape)
    return BilinearAlgorithm.from_floats(target, *(rng.normal(size=(rank, d)) for d in target.dims))


def orthogonal(size, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


@given(SIZES, SIZES, SIZES)
@settings(max_examples=15, deadline=None)
def test_composition_multiplies_ranks_and_stays_exact(n, m, p):
    for product in (compose(strassen(), standard(n, m, p)), compose(standard(n, m, p), winograd())):
        assert product.target.shape == (2 * n, 2 * m, 2 * p)
        assert product.rank == 7 * n * m * p
        assert product.ring == "Z"
        assert product.error == 0


def test_composition_keeps_to_blocks_and_multiplies_amplification():
    product = compose(strassen(), laderman())
    assert (product.rank, product.target.shape) == (161, (6, 6, 6))
    assert product.amplification == pytest.approx(strassen().amplification * laderman().amplification)
    # The outer algorithm is the first: its first product has the blocks A11 + A22, inside them Laderman's first form.
    blocks = product.U[0].reshape(2, 3, 2, 3)
    np.testing.assert_array_equal(blocks[0, :, 0], laderman().U[0].reshape(3, 3))
    np.testing.assert_array_equal(blocks[1, :, 1], laderman().U[0].reshape(3, 3))
    assert not blocks[0, :, 1].any()
    assert [parent["name"] for parent in product.provenance["parents"]] == [strassen().name, laderman().name]


def test_composition_with_an_inexact_algorithm_is_inexact():
    product = compose(inexact(), strassen())
    assert (product.ring, product.rank) == ("R", 35)
    assert product.amplification == pytest.approx(inexact().amplification * 4)


@given(SIZES, SIZES, SIZES, SIZES, st.sampled_from("nmp"))
@settings(max_examples=25, deadline=None)
def test_direct_sum_adds_ranks_and_stays_exact(n, m, p, extra, dimension):
    other = [extra if name == dimension else size for name, size in zip("nmp", (n, m, p), strict=True)]
    total = direct_sum(standard(n, m, p), standard(*other), dimension)
    assert total.rank == n * m * p + other[0] * other[1] * other[2]
    assert total.error == 0


@pytest.mark.parametrize("dimension", ["n", "m", "p"])
def test_direct_sum_of_inexact_algorithms_adds_missing_products(dimension):
    total = direct_sum(inexact(), inexact(seed=1), dimension)
    assert total.missing_products == pytest.approx(inexact().missing_products + inexact(seed=1).missing_products)


def test_direct_sum_over_different_denominators():
    half = sandwich(strassen(), [[2, 0], [0, 1]], [[1, 0], [0, 1]], [[1, 0], [0, 1]])
    third = sandwich(strassen(), [[3, 0], [0, 1]], [[1, 0], [0, 1]], [[1, 0], [0, 1]])
    assert direct_sum(half, third, "m").ring == "Q"


@pytest.mark.parametrize("algorithm", [standard(1, 2, 3), direct_sum(strassen(), standard(2, 2, 1), "p")])
def test_all_six_permutations(algorithm):
    shape = algorithm.target.shape
    for order in permutations((1, 2, 3)):
        permuted = permute(algorithm, order)
        assert permuted.target.shape == tuple(shape[d - 1] for d in order)
        assert (permuted.rank, permuted.error) == (algorithm.rank, 0)
        assert permuted.amplification == pytest.approx(algorithm.amplification)
        assert permute_to(permuted, shape).target == algorithm.target


def test_cyclic_shift_has_order_three_and_transposition_order_two():
    for algorithm in (standard(1, 2, 3), winograd()):
        assert cyclic(cyclic(cyclic(algorithm))).id == algorithm.id
        assert transpose(transpose(algorithm)).id == algorithm.id
    algorithm = inexact((1, 2, 3), 3)
    for same in (cyclic(cyclic(cyclic(algorithm))), transpose(transpose(algorithm))):
        np.testing.assert_allclose(np.abs(same.U), np.abs(algorithm.U))  # up to the signs of the normal form
    assert cyclic(algorithm).error == pytest.approx(algorithm.error)


def test_cyclic_form_turns_c_around():
    U, _, W = cyclic_form(standard(1, 2, 3))
    assert W.shape == (6, 3)
    U, V, W = cyclic_form(strassen())
    shifted = BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), V.astype(int), W.astype(int), U[:, [0, 2, 1, 3]].astype(int))
    assert shifted.id == cyclic(strassen()).id


UNIMODULAR = st.tuples(st.integers(-2, 2), st.integers(-2, 2)).map(lambda t: [[1 + t[0] * t[1], t[0]], [t[1], 1]])


@given(UNIMODULAR, UNIMODULAR, UNIMODULAR)
@settings(max_examples=25, deadline=None)
def test_sandwiching_keeps_exactness(x, y, z):
    changed = sandwich(strassen(), x, y, z)
    assert changed.ring == "Z"
    assert changed.error == 0


def test_sandwich_over_the_rationals_and_over_floats():
    x = [[Fraction(1, 2), 1], [0, 3]]
    identity = [[1, 0], [0, 1]]
    assert sandwich(strassen(), x, identity, identity).ring == "Q"
    floats = sandwich(strassen(), np.array(x, dtype=float), identity, identity)
    assert floats.ring == "R"
    assert floats.error < 1e-25


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_orthogonal_sandwiching_leaves_error_and_amplification(seed):
    algorithm = inexact(seed=seed)
    changed = sandwich(algorithm, *(orthogonal(size, seed + size) for size in (2, 3, 2)))
    assert changed.error == pytest.approx(algorithm.error)
    assert changed.amplification == pytest.approx(algorithm.amplification)


def test_sandwich_means_what_it_says():
    algorithm = inexact()
    rng = np.random.default_rng(1)
    x, y, z = rng.normal(size=(2, 2)), rng.normal(size=(3, 3)), rng.normal(size=(2, 2))
    a, b = rng.normal(size=(2, 3)), rng.normal(size=(3, 2))
    inside = algorithm.apply((x @ a @ np.linalg.inv(y)).ravel(), (y @ b @ np.linalg.inv(z)).ravel()).reshape(2, 2)
    np.testing.assert_allclose(sandwich(algorithm, x, y, z).apply(a.ravel(), b.ravel()).reshape(2, 2), np.linalg.inv(x) @ inside @ z)


def test_drop_leaves_an_inexact_algorithm():
    dropped = drop(strassen(), [0, 6])
    assert (dropped.rank, dropped.ring, dropped.provenance["terms"]) == (5, "R", [0, 6])
    assert dropped.error > 0
    for terms in ([7], [-1], range(7)):
        with pytest.raises(InputError, match="cannot drop"):
            drop(strassen(), terms)


def test_finite_fields_stay_finite():
    over2 = BilinearAlgorithm.from_exact(
        Target.matmul(2, 2, 2), *(np.abs(f).astype(int) for f in (strassen().U, strassen().V, strassen().W)), ring="Z2"
    )
    assert compose(over2, strassen()).ring == "Z2"
    assert cyclic(over2).ring == "Z2"
    for operation in (lambda: compose(over2, inexact()), lambda: drop(over2, [0])):
        with pytest.raises(InputError, match="Z2"):
            operation()


def test_bad_requests_are_one_clear_line():
    for request in (
        lambda: compose(gauss(), strassen()),
        lambda: direct_sum(strassen(), laderman(), "n"),
        lambda: direct_sum(strassen(), strassen(), "q"),
        lambda: permute(strassen(), (1, 1, 2)),
        lambda: permute_to(strassen(), (2, 2, 3)),
        lambda: sandwich(strassen(), np.eye(3), np.eye(2), np.eye(2)),
        lambda: sandwich(strassen(), np.zeros((2, 2)), np.eye(2), np.eye(2)),
        lambda: sandwich(strassen(), [[1, 1], [1, 1]], [[1, 0], [0, 1]], [[1, 0], [0, 1]]),
    ):
        with pytest.raises(InputError) as caught:
            request()
        assert "\n" not in str(caught.value)

"""Complex solutions: fits, Newton's method with coefficients held, bases from terms, pinning, and exact algorithms over Q(i)."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stlsearch.algorithm import BilinearAlgorithm, cp_tensor
from stlsearch.constructions.classical import gauss, laderman, standard_terms, strassen
from stlsearch.constructions.transforms import sandwich
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix
from stlsearch.search import complex_fits
from stlsearch.search.brent import joined, separated
from stlsearch.search.frames import framed, in_bases, points
from stlsearch.search.gaussian import common_factor, gaussian_factors
from stlsearch.search.gaussian_rounding import discover_gaussian, height, lies_in, plain_algorithm
from stlsearch.search.pinning import SOLVED, Values, pinned
from stlsearch.search.round_one import round_algorithm
from stlsearch.solvers.complex_als import complex_sweeps, missing_of_batch, random_starts
from stlsearch.solvers.complex_lm import kernel, newton, normal_matrix, residual
from stlsearch.targets import Target


def complex_normal(generator, *shape):
    return generator.standard_normal(shape) + 1j * generator.standard_normal(shape)


def in_complex_basis(algorithm, seed, noise=0.0):
    """The algorithm in a random complex basis, terms rescaled by random phases, as floats."""
    generator = np.random.default_rng(seed)
    turned = sandwich(algorithm, *(complex_normal(generator, size, size) for size in algorithm.target.shape))
    phases = np.exp(2j * np.pi * generator.random((algorithm.rank, 1)))
    factors = [turned.U * phases, turned.V, turned.W / phases]
    return BilinearAlgorithm.from_floats(algorithm.target, *(x + noise * complex_normal(generator, *x.shape) for x in factors))


def factors_of(algorithm):
    return [algorithm.U, algorithm.V, algorithm.W]


@pytest.fixture(scope="module")
def family():
    """A complex solution of <2,2,3;11>, which lies on a manifold of others beyond changes of basis."""
    target = Target.matmul(2, 2, 3)
    starts = random_starts(target.dims, 11, [[0, number] for number in range(4)], 0.6)
    fitted = complex_sweeps(starts, target.tensor, np.geomspace(1e-2, 1e-5, 400))
    best = missing_of_batch(fitted, target.tensor).argmin()
    solution, missing = newton([factor[best] for factor in fitted], target.tensor.astype(float), damping=1e-4)
    assert missing < SOLVED
    return target, solution


def test_complex_als_fits_a_batch_and_every_start_depends_on_its_own_seed_alone():
    target = Target.matmul(2, 2, 2)
    seeds = [[5, number] for number in range(6)]
    starts = random_starts(target.dims, 7, seeds, 0.6)
    alone = random_starts(target.dims, 7, seeds[3:4], 0.6)
    for many, one in zip(starts, alone, strict=True):
        np.testing.assert_array_equal(many[3], one[0])
    fitted = complex_sweeps(starts, target.tensor, np.geomspace(1e-2, 1e-6, 300))
    missing = missing_of_batch(fitted, target.tensor)
    assert (missing < 1e-4).sum() >= 4
    expected = [np.square(np.abs(target.tensor - cp_tensor(*(factor[k] for factor in fitted)))).sum() for k in range(6)]
    np.testing.assert_allclose(missing, expected, rtol=1e-6, atol=1e-12)


def test_the_normal_matrix_is_that_of_the_jacobian_in_the_free_coefficients():
    generator = np.random.default_rng(0)
    dims, rank = (2, 3, 4), 5
    x = complex_normal(generator, rank * sum(dims))
    free = generator.random(len(x)) < 0.6
    tensor, h = np.zeros(dims), 1e-6
    columns = []
    for k in np.flatnonzero(free):
        step = h * (np.arange(len(x)) == k)
        difference = residual(separated(x + step, dims), tensor) - residual(separated(x - step, dims), tensor)
        columns.append(difference.ravel() / (2 * h))
    jacobian = np.array(columns).T
    np.testing.assert_allclose(normal_matrix(separated(x, dims), free), jacobian.conj().T @ jacobian, rtol=1e-6, atol=1e-6)


def test_newton_moves_only_what_is_free():
    start = in_complex_basis(strassen(), seed=1)
    x = joined(factors_of(start))
    free = np.random.default_rng(2).random(len(x)) < 0.7
    noisy = np.where(free, x + 1e-3, x)
    factors, missing = newton(separated(noisy, start.target.dims), start.target.tensor.astype(float), free)
    assert missing < 1e-25
    np.testing.assert_array_equal(joined(factors)[~free], x[~free])
    held, missing = newton(separated(noisy, start.target.dims), start.target.tensor.astype(float), np.zeros(len(x), bool))
    assert missing > 1e-8
    np.testing.assert_array_equal(joined(held), noisy)


def test_strassen_s_algorithm_has_no_freedom_but_bases_and_scales():
    start = in_complex_basis(strassen(), seed=3)
    assert kernel(factors_of(start), np.ones(7 * 12, bool)).shape == (84, 3 * (4 - 1) + 2 * 7)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.tuples(*[st.integers(1, 3)] * 3))
def test_changes_of_basis_keep_the_product(seed, shape):
    generator = np.random.default_rng(seed)
    target = Target.matmul(*shape)
    bases = [np.eye(size) + 0.3 * complex_normal(generator, size, size) for size in shape]
    moved = in_bases(factors_of(standard_terms(target)), shape, bases)
    np.testing.assert_allclose(cp_tensor(*moved), target.tensor, atol=1e-6)


def test_bases_of_its_own_points_show_that_an_algorithm_is_equivalent_to_a_ternary_one():
    start = in_complex_basis(laderman(), seed=0)
    spaces = points(factors_of(start), (3, 3, 3))
    assert all(len(space.vectors) and space.vector_counts.max() > 1 for space in spaces)
    form = framed(factors_of(start), start.target, np.random.default_rng(0), 40)
    np.testing.assert_allclose(cp_tensor(*form), start.target.tensor, atol=1e-8)
    assert max(np.abs(factor.imag).max() for factor in form) < 1e-8
    assert sum(int((np.abs(factor) < 1e-8).sum()) for factor in form) > 400  # of 621; the given basis has none


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=1, max_size=4), st.integers(-9, 9), st.integers(1, 9))
def test_the_common_factor_of_gaussian_integers_divides_them_and_is_the_greatest(values, a, b):
    multiplied = [(x * a - y * b, x * b + y * a) for x, y in values]
    small, large = complex(*common_factor(values)), complex(*common_factor(multiplied))
    if not small:
        assert not large
        return
    for value in values:
        quotient = complex(*value) / small
        assert abs(quotient - complex(round(quotient.real), round(quotient.imag))) < 1e-9
    assert small.real > 0
    assert small.imag >= 0
    assert abs(large) == pytest.approx(abs(small) * abs(complex(a, b)))


def test_gaussian_factors_leave_fractions_to_w_only_where_there_must_be_some():
    U, V, W = (factor.astype(complex) for factor in factors_of(strassen()))
    scale = np.array([1, 1 / 3, (1 + 1j) / 2, 1j, 2, 3 - 1j, 0.2])[:, None]
    exact = gaussian_factors([U * scale, V / 7, W * 7 / scale])
    assert exact is not None
    assert [factor.denominator for factor in exact] == [1, 1, 1]
    assert BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), *exact).error == 0
    for factor in (np.sqrt(2), np.nan, np.inf):
        assert gaussian_factors([U, V, np.where(W, factor, 0j)]) is None
    third = gaussian_factors([U, V, W / 3])
    assert third is not None
    assert third[2].denominator == 3


def test_pinning_stays_on_the_manifold_and_keeps_what_is_round(family):
    target, solution = family
    tensor = target.tensor.astype(float)
    generator = np.random.default_rng(0)
    left = []
    for _ in range(4):
        form = framed(solution, target, generator, 20)
        factors = pinned(form, tensor, Values.of("Q(i)"), generator)
        assert np.square(np.abs(residual(factors, tensor))).sum() < SOLVED
        before, after = joined(form), joined(factors)
        units = [0, 1, -1, 1j, -1j]
        whole = np.abs(before[:, None] - units).min(axis=1) < 1e-8
        np.testing.assert_allclose(after[whole], before[whole], atol=1e-7)
        assert np.isin(after, units).sum() > whole.sum()
        left.append(kernel(factors, ~np.isin(after, Values.of("Q(i)").coarse)).shape[1])
    assert min(left) == 0 < kernel(form, ~whole).shape[1]


@pytest.mark.parametrize("ring", ["Z", "Z[1/2]", "Q", "Z[i]", "Q(i)"])
def test_a_complex_solution_gives_exact_algorithms_over_every_ring(family, ring):
    target, solution = family
    found = [plain_algorithm(solution, target, ring, np.random.default_rng(seed), {})[0] for seed in range(3)]
    kept = [algorithm for algorithm in found if algorithm is not None]
    assert kept
    assert all(algorithm.error == 0 and lies_in(algorithm, ring) for algorithm in kept)


@pytest.mark.parametrize(("algorithm", "ring"), [(strassen(), "Z"), (strassen(), "Q(i)"), (laderman(), "Z"), (laderman(), "Z[i]")])
def test_an_algorithm_in_a_random_complex_basis_comes_back_real(algorithm, ring):
    start = in_complex_basis(algorithm, seed=4, noise=1e-9)
    assert start.ring == "C"
    (found,) = round_algorithm(start, ring).algorithms
    assert (found.rank, found.error) == (algorithm.rank, 0)
    assert found.ring in ("Z", "Z[1/2]")
    assert lies_in(found, ring)
    assert height(found) <= 2
    assert found.provenance["parents"] == [{"id": start.id, "name": start.name}]


@pytest.mark.parametrize("vanishing", [(0,), (2,), (0, 1, 2)])
def test_a_vanishing_term_does_not_stop_the_rounding_and_is_left_out(vanishing):
    start = in_complex_basis(strassen(), seed=6)
    generator = np.random.default_rng(7)
    terms = (np.zeros((1, 4)) if mode in vanishing else complex_normal(generator, 1, 4) for mode in range(3))
    factors = [np.vstack(pair) for pair in zip(factors_of(start), terms, strict=True)]
    padded = BilinearAlgorithm.from_floats(start.target, *factors, balance=False)
    with np.errstate(all="raise"):
        assert all(np.isfinite(factor).all() for factor in framed(factors, start.target, generator, 5))
    (found,) = round_algorithm(padded, "Z[i]").algorithms
    assert (found.rank, found.error) == (7, 0)


def test_what_has_no_real_form_is_found_over_gaussian_rationals_alone():
    target = Target.make("complex", {})  # two products over C, three over R
    (found,) = discover_gaussian(target, 2, max_starts=32).algorithms
    assert (found.rank, found.ring, found.error) == (2, "Q(i)", 0)
    phases = np.exp(1j * np.arange(2))[:, None]
    start = BilinearAlgorithm.from_floats(target, found.U * phases, found.V * 1j, found.W / phases / 1j)
    assert round_algorithm(start, "Q(i)").algorithms[0].error == 0
    over = round_algorithm(start, "Q", rounds=2)
    assert (over.algorithms, over.status) == ([], "budget")


def test_lies_in():
    halves = BilinearAlgorithm.from_exact(*_scaled_gauss(Fraction(1, 2)))
    assert [lies_in(halves, ring) for ring in ("Z", "Z[1/2]", "Q", "Z[i]", "Q(i)")] == [False, True, True, False, True]
    assert height(halves) == 2
    turned = BilinearAlgorithm.from_exact(
        gauss().target, ExactMatrix.make(np.zeros((3, 2), int), 1, gauss().U.astype(int)), *_times_minus_i(gauss())
    )
    assert [lies_in(turned, ring) for ring in ("Z", "Q", "Z[i]", "Q(i)")] == [False, False, True, True]


def _scaled_gauss(scale):
    U, V, W = ([[int(value) for value in row] for row in factor] for factor in factors_of(gauss()))
    return gauss().target, [[scale * value for value in row] for row in U], V, [[value / scale for value in row] for row in W]


def _times_minus_i(algorithm):
    return ExactMatrix.make(algorithm.V.astype(int)), ExactMatrix.make(np.zeros((3, 2), int), 1, -algorithm.W.astype(int))


@pytest.mark.parametrize(("shape", "rank"), [((2, 2, 2), 7), ((2, 3, 3), 15)])
def test_exact_algorithms_from_complex_random_starts(shape, rank):
    found = discover_gaussian(Target.matmul(*shape), rank, seed=1, count=2, max_starts=32)
    assert found.status == "reached"
    assert [(algorithm.rank, algorithm.error) for algorithm in found.algorithms] == [(rank, 0)] * 2


def test_the_same_seed_finds_the_same():
    first, second = (discover_gaussian(Target.matmul(2, 2, 3), 11, seed=1, max_starts=32).algorithms for _ in range(2))
    assert [algorithm.id for algorithm in first] == [algorithm.id for algorithm in second]


def test_rank_23_of_3x3x3_from_complex_random_starts():
    (found,) = discover_gaussian(Target.matmul(3, 3, 3), 23, seed=1, max_starts=64).algorithms
    assert (found.rank, found.error) == (23, 0)
    assert {"seed", "start", "ring"} <= set(found.provenance)


def test_the_budget_and_the_callback_end_it():
    target = Target.matmul(2, 2, 2)
    over = discover_gaussian(target, 5, max_starts=8)
    assert (over.status, over.algorithms, over.stats.starts) == ("budget", [], 8)
    stopped = discover_gaussian(target, 5, callback=lambda stats: stats.starts >= 20)
    assert (stopped.status, stopped.stats.starts) == ("stopped", 32)


def test_beyond_small_ranks_starts_hop_until_they_are_solved_or_used_up(monkeypatch):
    monkeypatch.setattr(complex_fits, "SMALL", 4)
    monkeypatch.setattr(complex_fits, "HOPS", 2)
    target = Target.matmul(2, 2, 2)
    over = discover_gaussian(target, 6, max_starts=20)
    assert (over.status, over.stats.starts, over.stats.fits) == ("budget", 20, 60)
    solved = discover_gaussian(target, 7, max_starts=4, count=4)
    assert solved.stats.exact == solved.stats.converged > 0
    assert solved.stats.fits < 12


def test_bad_requests():
    target = Target.matmul(2, 2, 2)
    far = BilinearAlgorithm.from_floats(target, *(np.eye(4) + 0j for _ in range(3)))
    for request in (
        lambda: discover_gaussian(target, 9),
        lambda: discover_gaussian(target, 7, ring="C"),
        lambda: discover_gaussian(target, 7, count=0),
        lambda: discover_gaussian(Target.explicit(np.full((1, 1, 1), 0.1)), 1),
        lambda: round_algorithm(far, "Q(i)"),
        lambda: round_algorithm(in_complex_basis(strassen(), seed=0), "C"),
    ):
        with pytest.raises(InputError):
            request()

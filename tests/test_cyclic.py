"""Cyclic symmetry: the parametrisation, its normal equations, exact algorithms from random starts, dropped orbits."""

import pytest
import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import laderman, strassen
from stlsearch.constructions.transforms import compose
from stlsearch.constructions.transforms import cyclic as moved_round
from stlsearch.errors import InputError
from stlsearch.fit import integer_exact
from stlsearch.inits import INITS
from stlsearch.inits.request import NotApplicable, Request
from stlsearch.solvers import cyclic, cyclic_deflation, lbfgs, lm
from stlsearch.solvers.cyclic import Orbits, find_orbits, open_splits, splits
from stlsearch.solvers.problem import Problem, hadamard_gram
from stlsearch.targets import Target

TWO = Target.matmul(2, 2, 2)
SHAPE = (2, 2, 2)
PROBLEM = Problem.of(TWO)


def random_reduced(rank, size=2, batch=2, seed=0):
    return torch.randn(batch, rank, size**2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def factors_of(algorithm):
    return tuple(torch.tensor(factor)[None] for factor in (algorithm.U, algorithm.V, algorithm.W))


def algorithm_of(target, factors, index=0):
    return BilinearAlgorithm.from_floats(target, *(factor[index].numpy() for factor in factors))


def jacobian_of_expansion(orbits, rank, size):
    """The linear map from reduced to full unknowns of one restart, column by column."""
    unit = torch.eye(rank * size**2, dtype=torch.float64)
    return torch.stack([torch.cat([factor.flatten() for factor in orbits.expand(row.reshape(1, rank, -1))]) for row in unit], 1)


@pytest.mark.parametrize("symmetric", [0, 1, 4, 7])
def test_expansion_is_the_sum_of_symmetric_terms_and_orbits(symmetric):
    rank = symmetric + 6
    orbits = Orbits.of(SHAPE, rank, [symmetric])
    reduced = random_reduced(rank, batch=1)
    U, V, W = orbits.expand(reduced)
    got = torch.einsum("zri,zrj,zrk->ijk", U, V, orbits.flip(W))
    a, (x, y, z) = reduced[0, :symmetric], reduced[0, symmetric:].split(2)
    wanted = torch.einsum("ri,rj,rk->ijk", a, a, a)
    for one, two, three in ((x, y, z), (y, z, x), (z, x, y)):
        wanted = wanted + torch.einsum("ri,rj,rk->ijk", one, two, three)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(wanted, wanted.permute(1, 2, 0))
    assert orbits.symmetric.tolist() == [symmetric]


def test_the_symmetry_is_that_of_the_target_and_moving_modes_round_keeps_e_and_g():
    algorithm = algorithm_of(TWO, Orbits.of(SHAPE, 5, [2]).expand(random_reduced(5, batch=1)))
    other = moved_round(algorithm)
    assert other.error == pytest.approx(algorithm.error)
    assert other.amplification == pytest.approx(algorithm.amplification)
    assert find_orbits(SHAPE, factors_of(other)) is not None


def test_reduction_inverts_expansion_and_projection_is_orthogonal():
    orbits = Orbits.of(SHAPE, 7, [1, 4])
    reduced = random_reduced(7)
    torch.testing.assert_close(orbits.reduce(orbits.expand(reduced)), reduced)
    generator = torch.Generator().manual_seed(1)
    factors = tuple(torch.randn(2, 7, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    residual = torch.cat([one - two for one, two in zip(factors, orbits.project(factors), strict=True)], 2)
    symmetric = torch.cat(orbits.expand(reduced), 2)
    assert float((residual * symmetric).sum().abs()) < 1e-12


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_reduced_normal_matrix_and_gradient_are_those_of_the_chain_rule(penalty):
    rank = 7
    orbits, reduced = Orbits.of(SHAPE, rank, [1, 4]), random_reduced(rank)
    matrix = cyclic.normal_matrix(orbits, reduced, penalty)
    slope = cyclic.gradient(PROBLEM, orbits, reduced, penalty)
    full = lm.normal_matrix(orbits.expand(reduced), penalty)
    full_slope = lm.gradient(PROBLEM, orbits.expand(reduced), penalty)
    for index in range(2):
        map_ = jacobian_of_expansion(orbits.take(torch.tensor([index])), rank, 2)
        torch.testing.assert_close(3 * matrix[index], map_.T @ full[index] @ map_)
        torch.testing.assert_close(3 * slope[index], map_.T @ full_slope[index])


@pytest.mark.parametrize("rank", [1, 2, 3, 7])
def test_splits_add_up(rank):
    assert all((rank - count) % 3 == 0 and 0 <= count <= rank for count in splits(rank))
    assert splits(rank)[0] == rank % 3
    assert open_splits(rank, 1)


@pytest.mark.parametrize(("symmetric", "least"), [(1, 2), (4, 4)])
def test_random_symmetric_starts_find_strassen_s_rank(symmetric, least):
    orbits = Orbits.of(SHAPE, 7, [symmetric] * 16)
    reduced = cyclic.descend(PROBLEM, orbits, random_reduced(7, batch=16), penalty=1e-4, start_penalty=1e-2, iterations=60)
    reduced = cyclic.descend(PROBLEM, orbits, reduced, penalty=0.0, iterations=40)
    exact = PROBLEM.error(orbits.expand(reduced)) < 1e-20
    assert int(exact.sum()) >= least


@pytest.mark.parametrize("symmetric", [2, 5, 11])
def test_random_symmetric_starts_find_rank_23_for_3x3(symmetric):
    problem = Problem.of(Target.matmul(3, 3, 3))
    orbits = Orbits.of((3, 3, 3), 23, [symmetric] * 16)
    start = orbits.expand(random_reduced(23, 3, 16))
    fitted = orbits.reduce(lbfgs.solve(problem, start, penalty=1e-4, iterations=400, start_penalty=1e-2, project=orbits.project))
    best = problem.objective(orbits.expand(fitted), 1e-4).argsort()[:4]
    orbits, fitted = orbits.take(best), fitted[best]
    for penalty in (1e-6, 0.0):
        fitted = cyclic.descend(problem, orbits, fitted, penalty=penalty, iterations=40)
    assert float(problem.error(orbits.expand(fitted)).min()) < 1e-20


def test_projected_descent_stays_symmetric():
    orbits = Orbits.of(SHAPE, 6, [0, 3])
    factors = lbfgs.solve(PROBLEM, orbits.expand(random_reduced(6)), iterations=60, project=orbits.project)
    for one, two in zip(factors, orbits.project(factors), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("algorithm", "symmetric"), [(strassen(), 1), (compose(strassen(), strassen()), 1)], ids=["strassen", "squared"])
def test_symmetry_is_found_whatever_the_order_and_scales_of_terms(algorithm, symmetric):
    generator = torch.Generator().manual_seed(2)
    order = torch.randperm(algorithm.rank, generator=generator)
    scales = torch.randn(2, algorithm.rank, 1, generator=generator, dtype=torch.float64)
    U, V, W = (factor[:, order] for factor in factors_of(algorithm))
    reduced, orbits = find_orbits(algorithm.target.shape, (U * scales[0], V / scales[0] / scales[1], W * scales[1]))
    assert orbits.symmetric.tolist() == [symmetric]
    assert float(Problem.of(algorithm.target).error(orbits.expand(reduced))) < 1e-25


def test_what_has_no_cyclic_symmetry_is_told():
    assert find_orbits((3, 3, 3), factors_of(laderman())) is None
    generator = torch.Generator().manual_seed(0)
    assert find_orbits(SHAPE, tuple(torch.randn(1, 7, 4, generator=generator, dtype=torch.float64) for _ in range(3))) is None
    assert find_orbits((2, 2, 3), ()) is None


def test_the_cost_of_an_orbit_is_the_rise_after_refitting_one_factor():
    orbits = Orbits.of(SHAPE, 6, [0])
    reduced = cyclic.descend(PROBLEM, orbits, random_reduced(6, batch=1), penalty=1e-2, iterations=100)
    costs = cyclic_deflation.drop_costs(orbits, reduced, 1e-2)[0]
    factors = orbits.expand(reduced)
    before = PROBLEM.objective(factors, 1e-2)
    for first in (0, 1):
        keep = [term for term in range(6) if term % 2 != first]  # the terms of an orbit lie two apart
        U, V, W = (factor[:, keep] for factor in factors)
        refitted = torch.linalg.solve(hadamard_gram(V, W, 1e-2), PROBLEM.mttkrp((U, V, W), 0))
        rise = float((PROBLEM.objective((refitted, V, W), 1e-2) - before) * PROBLEM.norm_sq)
        assert float(costs[first]) == pytest.approx(rise, rel=1e-5)
        assert float(costs[first + 2]) == pytest.approx(rise, rel=1e-5)


def test_deflation_drops_orbits_and_symmetric_terms_and_stays_symmetric():
    orbits = Orbits.of(SHAPE, 10, [4, 1])
    reduced = random_reduced(10)
    generator = torch.Generator().manual_seed(0)
    for rank in (9, 6, 3):
        dropped, left = cyclic_deflation.deflate(PROBLEM, orbits, reduced, rank, temperature=1.0, generator=generator, steps=3)
        assert dropped.shape == (2, rank, 4)
        assert [(rank - int(count)) % 3 for count in left.symmetric] == [0, 0]
        assert find_orbits(SHAPE, left.expand(dropped)) is not None
    with pytest.raises(InputError, match="cannot be reached"):
        cyclic_deflation.deflate(PROBLEM, Orbits.of(SHAPE, 9, [0, 0]), random_reduced(9), 8)
    with pytest.raises(ValueError, match="generator"):
        cyclic_deflation.deflate(PROBLEM, orbits, reduced, 9, temperature=1.0)


def test_solver_takes_a_start_with_or_without_symmetry_and_refuses_other_targets():
    start = Orbits.of(SHAPE, 7, [4]).expand(random_reduced(7, batch=1))
    for factors in (start, tuple(torch.roll(factor, 1, 1) * 1.5 for factor in start), (start[0], start[0], start[0])):
        solved = cyclic.solve(PROBLEM, factors, penalty=1e-6, iterations=40)
        assert find_orbits(SHAPE, solved) is not None
        assert float(PROBLEM.error(solved)) < float(PROBLEM.error(factors))
    other = Problem.of(Target.matmul(2, 2, 3))
    with pytest.raises(InputError, match="square"):
        cyclic.solve(other, tuple(torch.ones(1, 3, extent, dtype=torch.float64) for extent in other.target.dims))
    with pytest.raises(InputError, match=r"valid: \[1, 4, 7\]"):
        Orbits.of(SHAPE, 7, [2])


@pytest.mark.parametrize("name", ["cyclic", "orbits"])
def test_symmetric_starts_need_a_square_tile_and_begin_symmetric(name):
    def request(target, rank):
        return Request(Problem.of(target), rank, 2, torch.Generator().manual_seed(0), exact=integer_exact)

    start = INITS[name](request(TWO, 4))
    assert start.settled
    assert find_orbits(SHAPE, start.factors) is not None
    with pytest.raises(NotApplicable, match="square"):
        INITS[name](request(Target.matmul(2, 2, 3), 5))


def test_orbits_finishes_term_by_term_and_cannot_start_below_the_rank():
    problem = Problem.of(TWO)
    start = INITS["orbits"](Request(problem, 5, 2, torch.Generator().manual_seed(0), exact=integer_exact))
    assert start.factors[0].shape == (2, 5, 4)
    assert start.provenance["parents"]
    with pytest.raises(NotApplicable, match="starts from rank 7"):
        INITS["orbits"](Request(problem, 8, 2, torch.Generator().manual_seed(0), exact=integer_exact))
    three = Problem.of(Target.matmul(3, 3, 3))
    with pytest.raises(NotApplicable, match="no cyclic symmetry"):
        INITS["orbits"](Request(three, 8, 2, torch.Generator().manual_seed(0), exact=integer_exact))


def test_cyclic_begins_at_a_higher_rank_when_asked_and_loses_orbits():
    problem = Problem.of(TWO)
    start = INITS["cyclic"](Request(problem, 4, 8, torch.Generator().manual_seed(0), argument="7", exact=integer_exact))
    assert start.factors[0].shape == (8, 4, 4)
    assert start.provenance["start_rank"] == 7
    assert find_orbits(SHAPE, start.factors) is not None
    for argument in ("3", "9", "x", "\u0664", "\u00b2", "9" * 5000):
        with pytest.raises(InputError, match="from 4 to 8"):
            INITS["cyclic"](Request(problem, 4, 2, torch.Generator().manual_seed(0), argument=argument))

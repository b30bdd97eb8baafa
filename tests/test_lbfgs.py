"""L-BFGS: its gradient, its line searches, and where it ends."""

import pytest
import torch

from stlsearch.solvers import lbfgs, lm
from stlsearch.solvers.contraction import contraction
from stlsearch.solvers.problem import Problem
from stlsearch.targets import Target

PROBLEM = Problem.of(Target.matmul(2, 2, 3))
POLYNOMIALS = Problem.of(Target.make("polymul", {"m": 3, "n": 2}))


def random_factors(problem, rank, batch=2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, rank, extent, generator=generator, dtype=dtype) for extent in problem.target.dims)


@pytest.mark.parametrize("problem", [PROBLEM, POLYNOMIALS])
def test_contractions_are_those_of_the_dense_tensor(problem):
    factors = random_factors(problem, 5)
    for mode, got in enumerate(contraction(problem)(factors)):
        torch.testing.assert_close(got, problem.mttkrp(factors, mode))


def test_a_weighted_tensor_is_not_taken_for_the_matrix_product():
    weighted = Problem(PROBLEM.target, PROBLEM.tensor * torch.linspace(1, 2, PROBLEM.target.dims[0], dtype=torch.float64)[:, None, None])
    factors = random_factors(weighted, 5)
    for mode, got in enumerate(contraction(weighted)(factors)):
        torch.testing.assert_close(got, weighted.mttkrp(factors, mode))


@pytest.mark.parametrize("problem", [PROBLEM, POLYNOMIALS])
def test_gradient_equals_finite_differences_of_the_objective(problem):
    factors = random_factors(problem, 4, batch=1)
    slopes = lbfgs.gradient(problem, factors, 0.1)
    for mode, slope in enumerate(slopes):
        for row, column in ((0, 0), (2, 1), (3, slope.shape[2] - 1)):
            values = []
            for sign in (1, -1):
                moved = [factor.clone() for factor in factors]
                moved[mode][0, row, column] += sign * 1e-6
                values.append(float(problem.objective(tuple(moved), 0.1) * problem.norm_sq))
            assert (values[0] - values[1]) / 2e-6 == pytest.approx(2 * float(slope[0, row, column]), rel=1e-5, abs=1e-7)
    dense = lm.gradient(problem, factors, 0.1)
    torch.testing.assert_close(torch.cat([slope.flatten(1) for slope in slopes], 1), dense)


def test_along_a_line_the_objective_is_the_polynomial_and_its_lowest_point_is_found():
    factors = random_factors(PROBLEM, 5)
    moves = tuple(-0.1 * slope for slope in lbfgs.gradient(PROBLEM, factors, 0.1))
    contract = contraction(PROBLEM)
    line = lbfgs._line(factors, contract(factors), moves, contract(moves), 0.1)

    def along(x):
        moved = tuple(factor + x[:, None, None] * move for factor, move in zip(factors, moves, strict=True))
        return (PROBLEM.objective(moved, 0.1) - PROBLEM.objective(factors, 0.1)) * PROBLEM.norm_sq

    for x in (0.01, 0.1, 0.5):
        steps = torch.full((2,), x, dtype=torch.float64)
        torch.testing.assert_close(lbfgs._value(line, steps.unsqueeze(1)).squeeze(1), along(steps))
    best = lbfgs._line_minimum(line, first_step=True)
    assert bool((along(best) < 0).all())
    for factor in (0.5, 0.99, 0.999, 1.001, 1.01, 2.0):
        assert bool((along(best) < along(factor * best)).all())


def test_most_random_starts_reach_strassen_s_rank_to_rounding():
    problem = Problem.of(Target.matmul(2, 2, 2))
    found = lbfgs.solve(problem, random_factors(problem, 7, batch=16), penalty=0.0, iterations=400)
    errors = problem.error(found)
    assert int((errors < 1e-20).sum()) >= 8


def test_the_objective_never_rises_at_a_fixed_penalty_and_restarts_do_not_influence_each_other():
    start = random_factors(PROBLEM, 6, batch=3)
    runs = [lbfgs.solve(PROBLEM, start, penalty=1e-2, start_penalty=1e-2, iterations=steps) for steps in (5, 10, 20, 40)]
    values = [PROBLEM.objective(factors, 1e-2) for factors in runs]
    assert bool((torch.stack(values).diff(dim=0) <= 1e-10).all())
    alone = lbfgs.solve(PROBLEM, tuple(factor[1:2] for factor in start), penalty=1e-2, start_penalty=1e-2, iterations=10)
    together = lbfgs.solve(PROBLEM, start, penalty=1e-2, start_penalty=1e-2, iterations=10)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one[0], other[1])


def test_a_restart_at_rest_stays_there_and_finite():
    start = tuple(torch.zeros_like(factor) for factor in random_factors(PROBLEM, 4))
    found = lbfgs.solve(PROBLEM, start, iterations=12)
    assert all(bool((factor == 0).all()) for factor in found)

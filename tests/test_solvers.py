"""The solvers against definitions: dense Jacobians, finite differences, refits done the long way."""

import pytest
import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import standard_terms
from stlsearch.errors import InputError
from stlsearch.solvers import SOLVERS, als, find_solver, lm, sgd
from stlsearch.solvers.deflation import deflate, descend, distinct, drop_costs
from stlsearch.solvers.polish import Goal, polish
from stlsearch.solvers.problem import Monitor, Problem, balance, report, silent, take
from stlsearch.targets import Target

PROBLEM = Problem.of(Target.matmul(2, 2, 3))


class Watch(Monitor):
    """Keeps the reports; stops at tick number `limit`."""

    def __init__(self, limit=None):
        self.seen, self.ticks, self.limit = [], 0, limit

    def tick(self):
        self.ticks += 1
        if self.ticks == self.limit:
            raise TimeoutError

    def report(self, report):
        self.seen.append(report)


def random_factors(problem, rank, batch=2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, rank, extent, generator=generator, dtype=dtype) for extent in problem.target.dims)


def residual_vector(problem, flat, rank, penalty):
    """Every residual of the penalised problem: T - [[U,V,W]], then sqrt(penalty) times each rank-one term."""
    sizes = [rank * extent for extent in problem.target.dims]
    U, V, W = (part.reshape(rank, -1) for part in flat.split(sizes))
    terms = torch.einsum("ri,rj,rk->rijk", U, V, W)
    return torch.cat([(problem.tensor - terms.sum(0)).flatten(), penalty**0.5 * terms.flatten()])


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_structured_normal_matrix_and_gradient_equal_the_dense_jacobian(penalty):
    rank = 5
    factors = random_factors(PROBLEM, rank)
    normal = lm.normal_matrix(factors, penalty)
    slope = lm.gradient(PROBLEM, factors, penalty)
    for index in range(2):
        flat = torch.cat([factor[index].flatten() for factor in factors])
        jacobian = torch.autograd.functional.jacobian(lambda x: residual_vector(PROBLEM, x, rank, penalty), flat)
        torch.testing.assert_close(normal[index], jacobian.T @ jacobian)
        torch.testing.assert_close(slope[index], jacobian.T @ residual_vector(PROBLEM, flat, rank, penalty))


def test_gradient_equals_finite_differences_of_the_objective():
    factors = random_factors(PROBLEM, 4, batch=1)
    slope = lm.gradient(PROBLEM, factors, 0.1)[0]
    flat = torch.cat([factor.flatten() for factor in factors])
    sizes = [factor[0].numel() for factor in factors]

    def value(x):
        moved = tuple(part.reshape(factor.shape) for part, factor in zip(x.split(sizes), factors, strict=True))
        return float(PROBLEM.objective(moved, 0.1) * PROBLEM.norm_sq)

    for index in range(0, len(flat), 7):
        step = torch.zeros_like(flat)
        step[index] = 1e-6
        assert (value(flat + step) - value(flat - step)) / 2e-6 == pytest.approx(2 * float(slope[index]), rel=1e-5, abs=1e-7)


def test_objective_agrees_with_the_algorithm_measures_and_ignores_scaling_of_terms():
    factors = random_factors(PROBLEM, 5)
    scale = torch.rand(2, 5, 1, dtype=torch.float64) + 0.5
    scaled = (factors[0] * scale, factors[1] / scale**2, factors[2] * scale)
    for index in range(2):
        algorithm = BilinearAlgorithm.from_floats(PROBLEM.target, *(factor[index].numpy() for factor in scaled))
        assert float(PROBLEM.error(factors)[index]) == pytest.approx(algorithm.error)
        assert float(PROBLEM.amplification(factors)[index]) == pytest.approx(algorithm.amplification)
    for one, other in zip(balance(factors), balance(scaled), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_mttkrp_is_the_contraction_it_says(mode):
    U, V, W = random_factors(PROBLEM, 3)
    wanted = {
        0: lambda: torch.einsum("ijk,zrj,zrk->zri", PROBLEM.tensor, V, W),
        1: lambda: torch.einsum("ijk,zri,zrk->zrj", PROBLEM.tensor, U, W),
        2: lambda: torch.einsum("ijk,zri,zrj->zrk", PROBLEM.tensor, U, V),
    }[mode]()
    torch.testing.assert_close(PROBLEM.mttkrp((U, V, W), mode), wanted)


def test_als_never_raises_the_penalised_objective_and_zeroes_the_gradient_of_the_last_factor():
    factors = random_factors(PROBLEM, 6)
    values = []
    for _ in range(30):
        factors = als.sweep(PROBLEM, factors, 0.01)
        values.append(PROBLEM.objective(factors, 0.01))
    falls = torch.stack(values).diff(dim=0)
    assert bool((falls <= 1e-12).all())
    rest = 6 * (PROBLEM.target.dims[0] + PROBLEM.target.dims[1])
    assert float(lm.gradient(PROBLEM, factors, 0.01)[:, rest:].abs().max()) < 1e-9


def test_als_then_lm_finds_strassen_rank_to_rounding():
    problem = Problem.of(Target.matmul(2, 2, 2))
    factors = als.solve(problem, random_factors(problem, 7, batch=8), penalty=1e-6, iterations=300)
    best = take(factors, problem.error(factors).argmin().unsqueeze(0))
    solved = lm.solve(problem, best, penalty=0.0, iterations=40)
    assert float(problem.error(solved)) < 1e-25


def test_lm_leaves_each_restart_no_worse_and_restarts_do_not_influence_each_other():
    start = random_factors(PROBLEM, 5, batch=3)
    together = lm.solve(PROBLEM, start, penalty=1e-3, iterations=6)
    assert bool((PROBLEM.objective(together, 1e-3) <= PROBLEM.objective(start, 1e-3)).all())
    alone = lm.solve(PROBLEM, take(start, torch.tensor([1])), penalty=1e-3, iterations=6)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one[0], other[1])


def test_drop_cost_is_the_least_increase_after_refitting_one_factor():
    factors = als.sweep(PROBLEM, random_factors(PROBLEM, 6, batch=1), 0.0)
    costs = drop_costs(factors, 0.0)[0]
    # The last factor of a sweep is optimal, so dropping term k and refitting W raises the error by exactly its cost there.
    gram = (factors[0] @ factors[0].mT) * (factors[1] @ factors[1].mT)
    for term in range(6):
        keep = [k for k in range(6) if k != term]
        right = PROBLEM.mttkrp((factors[0][:, keep], factors[1][:, keep], factors[2][:, keep]), 2)
        refitted = torch.linalg.solve(gram[:, keep][:, :, keep], right)
        after = PROBLEM.error((factors[0][:, keep], factors[1][:, keep], refitted))
        increase = float((after - PROBLEM.error(factors)) * PROBLEM.norm_sq)
        in_last = float(factors[2][0, term].square().sum() / torch.linalg.inv(gram)[0, term, term])
        assert increase == pytest.approx(in_last, rel=1e-6)
        assert float(costs[term]) <= in_last * (1 + 1e-6)


def test_deflation_reaches_the_rank_and_temperature_makes_restarts_differ():
    generator = torch.Generator().manual_seed(1)
    start = tuple(factor.expand(4, -1, -1).clone() for factor in random_factors(PROBLEM, 12, batch=1))
    fitted = als.solve(PROBLEM, start, penalty=1e-4, iterations=200)
    heat = torch.tensor([0.0, 0.0, 3.0, 3.0], dtype=torch.float64)
    dropped = deflate(PROBLEM, fitted, 8, penalty=1e-3, sweeps=20, temperature=heat, generator=generator)
    assert [factor.shape[1] for factor in dropped] == [8, 8, 8]
    errors = PROBLEM.error(dropped)
    assert float(errors[0]) == pytest.approx(float(errors[1]), rel=1e-9)
    assert len({round(float(error), 6) for error in errors}) > 1


def test_polish_meets_the_amplification_bound_and_uses_it():
    problem = Problem.of(Target.matmul(2, 2, 2))
    start = als.solve(problem, random_factors(problem, 5, batch=8), penalty=1e-3, iterations=200)
    best = take(start, problem.objective(start, 1e-3).argmin().unsqueeze(0))
    for bound in (5.0, 50.0):
        polished = polish(problem, best, Goal(max_amplification=bound))
        g = float(problem.amplification(polished))
        assert 0.8 * bound < g <= bound  # rank 5 is a border-rank limit: e falls as long as g may grow
    assert float(problem.error(polished)) < 0.2525


def test_polish_for_a_dtype_minimises_the_total_error():
    problem = Problem.of(Target.matmul(2, 2, 2))
    start = als.solve(problem, random_factors(problem, 5, batch=8), penalty=1e-3, iterations=200)
    best = take(start, problem.objective(start, 1e-3).argmin().unsqueeze(0))
    totals = {}
    for dtype in ("e4m3", "bfloat16"):
        polished = polish(problem, best, Goal(optimize_for=dtype))
        totals[dtype] = (float(problem.error(polished)), float(problem.amplification(polished)))
    assert totals["bfloat16"][0] < totals["e4m3"][0]
    assert totals["bfloat16"][1] > totals["e4m3"][1]
    e, g = totals["e4m3"]
    assert e + g * 2.0**-8 < totals["bfloat16"][0] + totals["bfloat16"][1] * 2.0**-8


@pytest.mark.parametrize("values", [{"optimize_for": "int8"}, {"max_amplification": 0.0}, {"max_amplification": float("nan")}])
def test_a_goal_that_makes_no_sense_is_refused(values):
    with pytest.raises(InputError):
        Goal(**values)


def test_sampled_tiles_have_the_tensor_error_as_their_expectation():
    factors = random_factors(PROBLEM, 5, batch=1)
    generator = torch.Generator().manual_seed(3)
    a, b, _ = PROBLEM.target.dims
    x = torch.randn(200_000, a, generator=generator, dtype=torch.float64)
    y = torch.randn(200_000, b, generator=generator, dtype=torch.float64)
    got = ((x @ factors[0][0].T) * (y @ factors[1][0].T)) @ factors[2][0]
    wanted = torch.einsum("ijk,si,sj->sk", PROBLEM.tensor, x, y)
    sampled = float((got - wanted).square().sum() / (200_000 * PROBLEM.norm_sq))
    assert sampled == pytest.approx(float(PROBLEM.error(factors)), rel=0.03)


@pytest.mark.parametrize("solve", [sgd.solve, sgd.solve_tiles])
def test_gradient_descent_lowers_the_error_and_repeats_itself(solve):
    start = tuple(0.3 * factor for factor in random_factors(PROBLEM, 8))
    first = solve(PROBLEM, start, penalty=1e-6, iterations=300)
    again = solve(PROBLEM, start, penalty=1e-6, iterations=300)
    assert bool((PROBLEM.error(first) < 0.5 * PROBLEM.error(start)).all())
    assert all(bool((one == other).all()) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_solver_runs_in_both_precisions_and_reports(name, dtype):
    problem = Problem.of(Target.matmul(2, 2, 2), dtype=dtype)
    start = tuple(0.5 * factor for factor in random_factors(problem, 6, dtype=dtype))
    watch = Watch()
    chosen = find_solver(name)
    factors = chosen.solve(problem, start, penalty=1e-3, iterations=20, monitor=watch, every=5)
    seen = watch.seen
    assert factors[0].dtype == dtype
    assert bool((problem.objective(factors, 1e-3) < problem.objective(start, 1e-3)).all())
    assert [entry.iteration for entry in seen] == sorted({entry.iteration for entry in seen})
    assert seen[-1].error.shape == (2,)
    assert len(seen) - 1 <= watch.ticks <= seen[-1].iteration


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 3, 4), (1, 3, 2)])
def test_compiled_sweeps_are_the_batched_ones(shape, dtype):
    problem = Problem.of(Target.matmul(*shape), dtype=dtype)
    start = random_factors(problem, 5, batch=3, dtype=dtype)
    levels = torch.tensor([1e-2, 1e-3, 3e-2], dtype=torch.float64)
    compiled = als.sweeps(problem, start, levels.expand(4, -1))
    plain = start
    for _ in range(4):
        plain = als.sweep(problem, plain, levels.to(dtype))
    for one, other in zip(balance(compiled), balance(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8 if dtype == torch.float64 else 2e-2, atol=1e-9 if dtype == torch.float64 else 1e-3)


def test_compiled_sweeps_of_a_dense_tensor():
    generator = torch.Generator().manual_seed(3)
    problem = Problem(Target.matmul(2, 2, 2), torch.randn(4, 4, 4, generator=generator, dtype=torch.float64))
    start = random_factors(problem, 3, batch=2)
    compiled = als.sweeps(problem, start, torch.full((2, 1), 1e-2, dtype=torch.float64))
    plain = als.sweep(problem, als.sweep(problem, start, 1e-2), 1e-2)
    for one, other in zip(balance(compiled), balance(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


def test_a_restart_does_not_depend_on_the_others_in_its_lanes():
    start = random_factors(PROBLEM, 7, batch=37)
    levels = torch.full((10, 1), 1e-3, dtype=torch.float64)
    together = als.sweeps(PROBLEM, start, levels)
    alone = als.sweeps(PROBLEM, tuple(factor[33:36] for factor in start), levels)
    assert all(bool((one[33:36] == other).all()) for one, other in zip(together, alone, strict=True))


def test_threads_share_the_restarts_and_change_nothing(monkeypatch):
    start = random_factors(PROBLEM, 7, batch=37)
    levels = torch.linspace(1e-3, 1e-1, 37, dtype=torch.float64).expand(10, -1)
    alone = als.sweeps(PROBLEM, start, levels)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    watch = Watch()
    shared = als.sweeps(PROBLEM, start, levels, watch)
    assert watch.ticks == 3  # one for every thread's share
    assert all(bool((one == other).all()) for one, other in zip(shared, alone, strict=True))


def test_sweeps_leave_the_factors_they_begin_with_alone():
    start = tuple(factor.expand(5, -1, -1) for factor in random_factors(PROBLEM, 4, batch=1))
    before = [factor.clone() for factor in start]
    swept = als.settle(PROBLEM, start, 1e-3, 5)
    assert all(bool((one == other).all()) for one, other in zip(start, before, strict=True))
    assert all(bool((factor == factor[:1]).all()) for factor in swept)
    assert not bool((swept[0] == start[0]).all())


def test_a_dead_term_stays_finite():
    U, V, W = random_factors(PROBLEM, 5)
    U[:, 2], V[:, 2], W[:, 2] = 0, 0, 0
    swept = als.sweeps(PROBLEM, (U, V, W), torch.full((20, 1), 1e-4, dtype=torch.float64))
    assert all(bool(factor.isfinite().all()) for factor in swept)
    assert bool((PROBLEM.error(swept) < 1).all())


def test_a_monitor_that_raises_stops_the_solver():
    watch = Watch(limit=3)
    with pytest.raises(TimeoutError):
        als.solve(PROBLEM, random_factors(PROBLEM, 5), iterations=1000, monitor=watch, every=5)
    assert [entry.iteration for entry in watch.seen] == [0, 5, 10]


def test_reports_cost_nothing_when_nobody_listens():
    report(PROBLEM, silent, 0, (None, None, None))


def test_gradient_descent_on_tiles_depends_on_its_seed():
    start = tuple(0.3 * factor for factor in random_factors(PROBLEM, 6))
    one, other = (sgd.solve_tiles(PROBLEM, start, iterations=20, seed=seed) for seed in (1, 2))
    assert not bool((one[0] == other[0]).all())


def test_lm_refuses_a_problem_whose_normal_matrix_would_not_fit():
    problem = Problem.of(Target.matmul(8, 8, 8))
    with pytest.raises(InputError, match="valid: als"):
        lm.solve(problem, random_factors(problem, 100, batch=1), iterations=1)


def test_a_singular_gram_matrix_leaves_the_restart_finite():
    U, V, W = random_factors(PROBLEM, 5)
    U = U.clone()
    U[0] = 0
    swept = als.sweep(PROBLEM, (U, V, W), 0.0)
    assert all(bool(torch.isfinite(factor).all()) for factor in swept)


def test_drops_at_a_temperature_need_a_generator_and_leave_the_global_one_alone():
    factors = random_factors(PROBLEM, 6)
    state = torch.random.get_rng_state()
    deflate(PROBLEM, factors, 5, sweeps=1)
    deflate(PROBLEM, factors, 5, sweeps=1, temperature=1.0, generator=torch.Generator().manual_seed(0))
    assert bool((torch.random.get_rng_state() == state).all())
    with pytest.raises(ValueError, match="generator"):
        deflate(PROBLEM, factors, 5, temperature=1.0)


def test_unknown_solver_lists_the_valid_ones():
    with pytest.raises(InputError, match="als, lm, sgd"):
        find_solver("newton")


def test_a_beam_of_drops_keeps_the_distinct_best_and_beats_greedy_drops():
    target = Target.matmul(2, 2, 3)
    problem = Problem.of(target)
    start = tuple(torch.tensor(standard_terms(target).exact[mode].to_float())[None] for mode in range(3))
    generator = torch.Generator().manual_seed(0)
    beams = list(descend(problem, start, 6, penalty=1e-3, width=10, generator=generator))
    assert [beam[0].shape[1] for beam in beams] == [11, 10, 9, 8, 7, 6]
    for beam in beams:
        values = problem.objective(beam, 1e-3)
        assert 1 <= len(values) <= 10
        assert bool((values.diff() > 0).all())
    greedy = deflate(problem, start, 6, penalty=1e-3, sweeps=40)
    assert float(problem.objective(beams[-1], 1e-3)[0]) <= float(problem.objective(greedy, 1e-3)[0]) + 1e-9


def test_distinct_drops_repetitions_and_failed_restarts():
    start = random_factors(PROBLEM, 5, batch=3)
    doubled = tuple(torch.cat([factor, factor, torch.full_like(factor[:1], torch.nan)]) for factor in start)
    kept = distinct(PROBLEM, doubled, 1e-3, 10)
    values = PROBLEM.objective(kept, 1e-3)
    assert bool((values[:3].diff() > 0).all())
    assert sorted(values[:3].tolist()) == sorted(PROBLEM.objective(start, 1e-3).tolist())
    assert len(distinct(PROBLEM, doubled, 1e-3, 2)[0]) == 2

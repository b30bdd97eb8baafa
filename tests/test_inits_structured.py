"""The structured starts: polynomial, fourier and subtiles."""

from __future__ import annotations

import pytest
import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import laderman, standard_terms, strassen
from stlsearch.errors import InputError
from stlsearch.inits.fourier import candidate_groups, fourier, real_products
from stlsearch.inits.polynomial import kronecker_exponents, polynomial
from stlsearch.inits.request import Request
from stlsearch.inits.subtiles import Brick, Packer, subtiles
from stlsearch.solvers import als
from stlsearch.solvers.problem import Problem
from stlsearch.targets import Target

STRATEGIES = [polynomial, fourier, subtiles]
TILES = [(1, 1, 1), (1, 2, 3), (2, 2, 2), (2, 3, 2), (3, 3, 3)]


def best_known(target: Target) -> BilinearAlgorithm:
    if target.shape == (2, 2, 2):
        return strassen()
    return laderman() if target.shape == (3, 3, 3) else standard_terms(target)


def request_for(target: Target, rank: int, restarts: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> Request:
    generator = torch.Generator().manual_seed(seed)
    return Request(Problem.of(target, dtype=dtype), rank, restarts, generator, exact=best_known)


def polymul(m: int, n: int) -> Target:
    return Target.make("polymul", {"m": m, "n": n})


def cyclic(n: int) -> Target:
    return Target.make("cyclic", {"n": n})


def errors(strategy, target: Target, rank: int, restarts: int = 4) -> torch.Tensor:
    request = request_for(target, rank, restarts)
    return request.problem.error(strategy(request).factors)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("tile", TILES)
def test_every_rank_gives_exactly_that_many_finite_terms(strategy, tile):
    target = Target.matmul(*tile)
    for rank in range(1, target.trivial_rank + 1):
        request = request_for(target, rank)
        factors = strategy(request).factors
        assert [tuple(factor.shape) for factor in factors] == [(4, rank, extent) for extent in target.dims]
        assert all(bool(factor.isfinite().all()) for factor in factors)
        assert bool((request.problem.error(factors) <= 1 + 1e-9).all())  # never worse than no terms at all


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_restarts_differ_and_the_seed_decides(strategy):
    target = Target.matmul(3, 3, 3)
    first, again, other = (strategy(request_for(target, 14, seed=seed)).factors for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert all(not torch.equal(first[0][a], first[0][b]) for a in range(4) for b in range(a))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_starts_have_the_dtype_of_the_problem(strategy):
    factors = strategy(request_for(Target.matmul(2, 2, 2), 6, dtype=torch.float32)).factors
    assert {factor.dtype for factor in factors} == {torch.float32}


@pytest.mark.parametrize("strategy", [polynomial, fourier])
def test_the_decoder_is_optimal_for_its_encoders(strategy):
    """Refitting W alone, the last step of an ALS sweep, cannot lower the penalised objective."""
    request = request_for(Target.matmul(2, 3, 2), 7)
    U, V, W = strategy(request).factors
    refitted = als.sweep(request.problem, (U, V, W), request.penalty)
    start = request.problem.objective((U, V, W), request.penalty)
    shifted = [request.problem.objective((U, V, W + 1e-4 * (w - W)), request.penalty) for w in (refitted[2], -W, torch.ones_like(W))]
    assert all(bool((value >= start - 1e-10).all()) for value in shifted)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 2), (2, 3), (4, 3), (6, 6), (10, 10)])
def test_toom_cook_is_exact_from_rank_m_plus_n_minus_1(m, n):
    count = m + n - 1
    for rank in {count, count + 1, polymul(m, n).trivial_rank}:
        assert float(errors(polynomial, polymul(m, n), rank).max()) < 1e-10
    if count > 1:
        assert float(errors(polynomial, polymul(m, n), count - 1).min()) > 1e-3


def test_karatsuba_needs_three_products():
    assert float(errors(polynomial, polymul(2, 2), 3).max()) < 1e-20


def test_complex_product_by_evaluation_needs_three():
    assert float(errors(polynomial, Target.make("complex", {}), 3).max()) < 1e-20


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 8])
def test_cyclic_convolution_is_exact_at_the_real_rank_of_its_group(n):
    rank = real_products((n,))
    assert rank == {2: 2, 3: 4, 4: 5, 5: 7, 6: 8, 8: 11}[n]  # 2n minus the real irreducible factors of x^n - 1
    assert float(errors(fourier, cyclic(n), rank).max()) < 1e-10
    assert float(errors(fourier, cyclic(n), rank - 1).min()) > 1e-3
    assert float(errors(fourier, cyclic(n), rank + 2).max()) < 1e-10
    assert float(errors(polynomial, cyclic(n), 2 * n - 1).max()) < 1e-10


def test_polynomial_product_by_a_longer_cyclic_one():
    assert float(errors(fourier, polymul(2, 3), real_products((4,))).max()) < 1e-10


@pytest.mark.parametrize("rank", [1, 2, 3, 7, 24, 32])
def test_candidate_groups_afford_the_rank(rank):
    groups = candidate_groups(rank)
    assert groups
    assert all(real_products(orders) >= rank for orders in groups)


def test_kronecker_exponents_isolate_c_at_full_length():
    """With multipliers m, 1, nm the exponent of c_ik holds its own m products and nothing else."""
    n, m, p = 2, 3, 2
    first, second = kronecker_exponents((n, m, p), m, 1, n * m)
    assert int(first.max() + second.max()) + 1 == n * m * p + m - 1
    a, b = first.reshape(n, m), second.reshape(m, p)
    sums = [(int(a[i, j] + b[l, k]), (i, k), j == l) for i in range(n) for j in range(m) for l in range(m) for k in range(p)]  # noqa: E741
    wanted = {entry: exponent for exponent, entry, matching in sums if matching}
    assert len(set(wanted.values())) == n * p
    assert all(exponent not in wanted.values() for exponent, _, matching in sums if not matching)


def test_subtiles_misses_a_whole_number_of_products():
    target = Target.matmul(3, 3, 3)
    for rank in (1, 5, 7, 12, 20):
        missing = 27 * errors(subtiles, target, rank, restarts=8)
        assert float((missing - missing.round()).abs().max()) < 1e-6
        packer = Packer(request_for(target, rank), (3, 3, 3), rank)
        assert 27 - round(float(missing[0])) == packer.covered((3, 3, 3), rank)
        assert bool((missing > missing[0] - 1e-6).all())


@pytest.mark.parametrize(("tile", "rank"), [((2, 2, 2), 7), ((2, 2, 3), 11), ((3, 3, 3), 23), ((2, 3, 2), 12), ((4, 4, 4), 56)])
def test_subtiles_is_exact_when_the_rank_affords_it(tile, rank):
    assert float(errors(subtiles, Target.matmul(*tile), rank)[0]) < 1e-20


def test_packings_cover_what_the_curve_promises():
    packer = Packer(request_for(Target.matmul(4, 4, 4), 24), (4, 4, 4), 24)
    assert [packer.covered((2, 2, 2), rank) for rank in (0, 6, 7, 8)] == [0, 6, 8, 8]
    assert packer.covered((4, 4, 4), 24) == 28  # <3,3,3;23> and one single product
    generator = torch.Generator().manual_seed(0)
    for slack in (0, 2):
        bricks = packer.packing(Brick((0, 0, 0), (4, 4, 4)), 24, slack, generator)
        cells = {
            tuple(int(x) + c for x, c in zip(cell, brick.corner, strict=True))
            for brick in bricks
            for cell in torch.ones(brick.shape).nonzero()
        }
        volumes = sum(brick.shape[0] * brick.shape[1] * brick.shape[2] for brick in bricks)
        assert len(cells) == volumes >= 28 - slack
        assert sum(packer.piece(brick.shape).rank for brick in bricks) <= 24


def test_idle_terms_are_alive_for_als():
    request = request_for(Target.matmul(2, 2, 2), 6, restarts=8)
    start = subtiles(request).factors
    improved = als.solve(request.problem, start, penalty=1e-4, iterations=100)
    before, after = request.problem.error(start), request.problem.error(improved)
    assert bool((after <= before + 1e-3).all())
    assert bool((after[before > 0.3] < before[before > 0.3] - 0.05).all())


def test_targets_without_the_structure_are_refused():
    explicit = Target.explicit(standard_terms(polymul(2, 2)).target.tensor)
    for strategy, target in [(polynomial, explicit), (fourier, explicit), (fourier, Target.make("complex", {})), (subtiles, cyclic(3))]:
        with pytest.raises(InputError, match=f"init {strategy.__name__} is for .* not for {target.slug}"):
            strategy(request_for(target, 2))

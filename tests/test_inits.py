"""The strategies that start from products and from known algorithms."""

import itertools

import pytest
import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import standard_terms, strassen
from stlsearch.errors import InputError
from stlsearch.fit import integer_exact
from stlsearch.inits import INITS, NAMED, find_init
from stlsearch.inits.kron import product_basis, split_shape
from stlsearch.inits.request import NotApplicable, Request, embed
from stlsearch.solvers.problem import Problem
from stlsearch.targets import Target


def make_request(target, rank, restarts=3, seed=0, **options):
    return Request(Problem.of(target), rank, restarts, torch.Generator().manual_seed(seed), exact=integer_exact, **options)


@pytest.mark.parametrize("name", sorted(set(INITS) - {*NAMED, "modes"}))
@pytest.mark.parametrize("rank", [5, 24])
def test_every_strategy_gives_a_batch_and_repeats_itself(name, rank):
    target = Target.matmul(4, 4, 4)
    first, again = (INITS[name](make_request(target, rank)).factors for _ in range(2))
    count = len(first[0])
    assert count == 3 or (name == "strassen" and 0 < count < 3)  # a beam may come to fewer solutions that differ
    assert [tuple(factor.shape) for factor in first] == [(count, rank, extent) for extent in target.dims]
    assert all(bool(torch.isfinite(factor).all()) for factor in first)
    assert all(bool((one == other).all()) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("name", sorted(set(INITS) - {*NAMED, "modes"}))
def test_every_strategy_says_where_it_comes_from(name):
    assert len(INITS[name].__doc__.splitlines()) >= 3


def test_product_of_two_strassens_is_exact_on_4x4():
    two = Target.matmul(2, 2, 2)
    base = tuple(factor[0] for factor in embed(strassen(), Problem.of(two), 1))
    U, V, W = product_basis(base, base, (2, 2, 2), (2, 2, 2))
    algorithm = BilinearAlgorithm.from_floats(Target.matmul(4, 4, 4), U.numpy(), V.numpy(), W.numpy())
    assert algorithm.rank == 49
    assert algorithm.error < 1e-28


def test_product_error_is_one_less_the_product_of_what_is_kept():
    problem1, problem2 = Problem.of(Target.matmul(2, 1, 2)), Problem.of(Target.matmul(1, 2, 3))
    generator = torch.Generator().manual_seed(0)
    # Each basis fits its tensor as well as its span allows, so residuals are orthogonal to it.
    left, right = (
        tuple(torch.randn(2, extent, generator=generator, dtype=torch.float64) for extent in problem.target.dims)
        for problem in (problem1, problem2)
    )
    left, right = (_decoder_fitted(problem, factors) for problem, factors in ((problem1, left), (problem2, right)))
    e1, e2 = (float(problem.error(_batch(factors))) for problem, factors in ((problem1, left), (problem2, right)))
    both = Problem.of(Target.matmul(2, 2, 6))
    assert float(both.error(_batch(product_basis(left, right, (2, 1, 2), (1, 2, 3))))) == pytest.approx(1 - (1 - e1) * (1 - e2))


def _batch(factors):
    return tuple(factor.unsqueeze(0) for factor in factors)


def _decoder_fitted(problem, factors):
    U, V, _ = factors
    gram = (U @ U.T) * (V @ V.T)
    return U, V, torch.linalg.solve(gram, problem.mttkrp(_batch(factors), 2)[0])


@pytest.mark.parametrize(("shape", "parts"), [((4, 4, 4), ((2, 2, 2), (2, 2, 2))), ((4, 4, 6), ((2, 2, 2), (2, 2, 3)))])
def test_tiles_split_as_evenly_as_they_can(shape, parts):
    assert split_shape(shape) == parts


@pytest.mark.parametrize("shape", [(3, 3, 3), (2, 2, 2), (1, 4, 1)])
def test_kron_refuses_a_tile_that_is_no_product(shape):
    with pytest.raises(NotApplicable, match="product of two smaller tiles"):
        split_shape(shape)


def test_kron_at_rank_30_holds_rank_5_times_rank_6():
    start = INITS["kron"](make_request(Target.matmul(4, 4, 4), 30, restarts=8, penalty=1e-4))
    assert "5*6" in start.provenance["rank_pairs"]
    errors = Problem.of(Target.matmul(4, 4, 4)).error(start.factors)
    assert float(errors.min()) < 1 - 0.745 * 0.874  # the optima retain 3/4 and 7/8


def test_strassen_start_keeps_its_parent_and_falls_with_rank():
    target = Target.matmul(4, 4, 4)
    errors = []
    for rank in (49, 48, 40):
        start = INITS["strassen"](make_request(target, rank, restarts=1))
        errors.append(float(Problem.of(target).error(start.factors)))
        assert start.provenance["parents"]
    assert errors[0] < 1e-12
    assert all(lower < higher for lower, higher in itertools.pairwise(errors))
    with pytest.raises(NotApplicable, match="starts from rank 49"):
        INITS["strassen"](make_request(target, 50))


@pytest.mark.parametrize("rank", [5, 7, 8])
def test_known_deflates_takes_or_pads_a_registered_algorithm(rank):
    target = Target.matmul(2, 2, 2)
    start = INITS["known"](make_request(target, rank, argument="it", lookup=lambda name: strassen()))
    errors = Problem.of(target).error(start.factors)
    assert start.factors[0].shape[1:] == (rank, 4)
    assert 1 <= len(start.factors[0]) <= 3  # a beam keeps distinct ones only
    assert start.provenance["parents"][0]["id"] == strassen().id
    if rank == 7:
        assert float(errors[0]) < 1e-25  # the first restart has no noise
        assert float(errors[1]) > 1e-5


@pytest.mark.parametrize("rank", [3, 5, 7])
def test_hop_improves_on_what_it_starts_from_and_repeats_itself(rank):
    target = Target.matmul(2, 2, 2)
    problem = Problem.of(target)
    poor = [standard_terms(target).exact[mode].to_float()[:5] for mode in range(3)]  # five of the eight products: e = 3/8
    parent = BilinearAlgorithm.from_floats(target, *poor)
    request = {"restarts": 8, "penalty": 1e-3, "argument": "it", "lookup": lambda name: parent}
    start = INITS["hop"](make_request(target, rank, **request))
    again = INITS["hop"](make_request(target, rank, **request))
    values = problem.objective(start.factors, 1e-3)
    assert start.settled
    assert start.factors[0].shape[1:] == (rank, 4)
    assert all(bool((one == other).all()) for one, other in zip(start.factors, again.factors, strict=True))
    assert values.tolist() == sorted(values.tolist())
    known = {3: 0.624, 5: 0.25, 7: 0.0}[rank]  # about the best there is
    assert known - 0.005 < float(values[0]) < known + 0.03


def test_hop_refuses_another_target_and_a_missing_name():
    with pytest.raises(InputError, match="not 2x2x3"):
        INITS["hop"](make_request(Target.matmul(2, 2, 3), 5, argument="it", lookup=lambda name: strassen()))
    with pytest.raises(InputError, match="hop:NAME"):
        INITS["hop"](make_request(Target.matmul(2, 2, 2), 5))


def test_known_refuses_another_target_and_a_missing_name():
    with pytest.raises(InputError, match="not 2x2x3"):
        INITS["known"](make_request(Target.matmul(2, 2, 3), 5, argument="it", lookup=lambda name: strassen()))
    with pytest.raises(InputError, match="known:NAME"):
        INITS["known"](make_request(Target.matmul(2, 2, 2), 5))


def test_names_of_strategies_are_checked():
    assert find_init("known:abc")[1] == "abc"
    with pytest.raises(InputError, match="valid: random"):
        find_init("svd")
    with pytest.raises(InputError, match="takes no argument"):
        find_init("kron:3")

"""The fit verb: what it finds, that it repeats itself, and how it stops."""

import itertools
import time

import pytest

from stlsearch import fit as fit_module
from stlsearch.compare import compare
from stlsearch.errors import InputError
from stlsearch.fit import fit
from stlsearch.solvers.polish import Goal
from stlsearch.targets import Target

EXACT_RANKS = {(2, 2, 2): 7, (2, 2, 3): 11, (2, 2, 4): 14, (2, 3, 3): 15, (2, 3, 4): 20, (2, 4, 4): 26, (3, 3, 3): 23, (4, 4, 4): 48}


@pytest.mark.parametrize("shape", sorted({permuted for shape in EXACT_RANKS for permuted in itertools.permutations(shape)}))
def test_known_exact_ranks_are_returned_exactly(shape):
    rank = EXACT_RANKS[tuple(sorted(shape))]
    result = fit(Target.matmul(*shape), rank)
    assert result.status == "exact"
    assert (result.algorithm.rank, result.algorithm.target.shape) == (rank, shape)
    assert result.algorithm.is_exact
    assert result.algorithm.mismatch().count == 0
    assert result.algorithm.provenance


def test_a_rank_above_the_best_exact_one_returns_the_smaller():
    result = fit(Target.matmul(2, 2, 2), 8)
    assert (result.status, result.algorithm.rank, result.error) == ("exact", 7, 0.0)


def test_an_exact_algorithm_is_the_answer_only_where_it_meets_the_goal():
    target = Target.matmul(2, 2, 2)
    plain = fit(target, 8, goal=Goal(max_amplification=2))  # Strassen amplifies by 4, the definition by 1
    assert (plain.status, plain.algorithm.rank, plain.amplification) == ("exact", 8, 1.0)
    bounded = fit(target, 7, goal=Goal(max_amplification=3), restarts=8, iterations=200)
    assert bounded.status == "finished"
    assert bounded.amplification <= 3
    assert bounded.error < 1e-4
    stored = fit(target, 7, goal=Goal(optimize_for="e4m3"), restarts=8, iterations=200)
    assert stored.algorithm.total_error("e4m3") < fit(target, 7).algorithm.total_error("e4m3")


def test_same_seed_same_result_another_seed_another():
    options = {"init": "random", "restarts": 4, "iterations": 30, "goal": Goal(max_amplification=50)}
    first, again, other = (fit(Target.matmul(2, 2, 3), 8, seed=seed, **options) for seed in (1, 1, 2))
    assert first.algorithm.id == again.algorithm.id
    assert first.algorithm.id != other.algorithm.id
    assert first.reproducible


def test_auto_reaches_the_best_rank_6_basis_within_the_bound_and_records_how():
    target = Target.matmul(2, 2, 2)
    result = fit(target, 6, restarts=8, iterations=200)
    assert result.error == pytest.approx(0.125, abs=1e-3)
    assert result.amplification <= 1000
    assert result.algorithm.provenance["requested_init"] == "auto"
    for key in ("seed", "restarts", "iterations", "solver", "versions", "goal", "status"):
        assert key in result.algorithm.provenance


def test_optimize_for_weighs_error_against_amplification():
    target = Target.matmul(2, 2, 2)
    loose, tight = (
        fit(target, 5, init="random", restarts=8, iterations=200, goal=Goal(optimize_for=dtype)) for dtype in ("float16", "e4m3")
    )
    assert tight.amplification < loose.amplification
    assert tight.algorithm.total_error("e4m3") < loose.algorithm.total_error("e4m3")
    assert loose.algorithm.total_error("float16") < tight.algorithm.total_error("float16")


@pytest.mark.parametrize("solver", ["als", "lm", "sgd", "sgd-tiles"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_solver_fits_through_the_verb(solver, dtype):
    result = fit(Target.matmul(2, 2, 2), 6, solver=solver, init="random", restarts=8, iterations=60, dtype=dtype)
    assert result.error < 0.3
    assert result.algorithm.provenance["solver"] == solver


@pytest.mark.parametrize(("kind", "params", "rank"), [("polymul", {"m": 3, "n": 2}, 4), ("cyclic", {"n": 3}, 4), ("complex", {}, 3)])
def test_other_bilinear_maps_fit_too(kind, params, rank):
    result = fit(Target.make(kind, params), rank, init="random", restarts=16, iterations=300)
    assert result.error < 1e-9


def test_time_limit_keeps_the_best_and_marks_it():
    result = fit(Target.matmul(3, 3, 3), 12, init="random", restarts=8, iterations=10**6, time_limit=0.3)
    assert result.status == "time limit"
    assert not result.reproducible
    assert result.algorithm.provenance["status"] == "time limit"
    assert result.error < 1


def test_interrupt_keeps_the_best_so_far():
    calls = []

    def interrupt(progress):
        calls.append(progress)
        if len(calls) == 5:
            raise KeyboardInterrupt

    result = fit(Target.matmul(2, 3, 3), 9, init="random", restarts=4, progress=interrupt)
    assert result.status == "interrupted"
    assert result.error == pytest.approx(calls[-1].error)
    assert [entry.stage for entry in calls] == ["random als"] * 5


@pytest.mark.parametrize("init", ["strassen", "kron"])
def test_a_result_cut_short_still_names_where_it_comes_from(init):
    seen = set()
    for limit in (0.02, 0.5, 2.0, 6.0):
        result = fit(Target.matmul(4, 4, 4), 30, init=init, restarts=4, iterations=10**6, time_limit=limit)
        assert result.status == "time limit"
        seen.add(result.algorithm.provenance["init"])
        if result.algorithm.provenance["init"] == init:
            assert result.algorithm.provenance["parents" if init == "strassen" else "rank_pairs"]
    assert init in seen


def test_the_time_limit_holds_inside_a_strategy():
    began = time.monotonic()
    result = fit(Target.matmul(6, 6, 6), 120, init="kron", restarts=2, time_limit=0.2)
    assert time.monotonic() - began < 30  # without the limit it takes minutes
    assert result.status == "time limit"
    assert result.error == pytest.approx(1 - 120 / 216)  # nothing yet: the first products of the definition


def test_a_tile_too_large_for_lm_is_polished_by_als():
    result = fit(Target.matmul(8, 8, 8), 30, init="random", restarts=1, iterations=3)
    assert result.status == "finished"
    assert result.error < 0.97


def test_a_batch_that_cannot_fit_is_refused():
    with pytest.raises(InputError, match="fewer --restarts"):
        fit(Target.matmul(4, 4, 4), 24, init="random", restarts=10**9)


def test_interrupt_before_anything_was_found_is_an_interrupt(monkeypatch):
    def interrupted(request):
        raise KeyboardInterrupt

    monkeypatch.setitem(fit_module.find_init.__globals__["INITS"], "random", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(Target.matmul(2, 2, 2), 5, init="random")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "1 to 8"),
        ({"rank": 9}, "1 to 8"),
        ({"solver": "newton"}, "valid: als"),
        ({"init": "svd"}, "valid: random"),
        ({"dtype": "int8"}, "valid: float64"),
        ({"restarts": 0}, "restarts"),
        ({"iterations": -1}, "iterations"),
        ({"init": "kron"}, "product of two"),
    ],
)
def test_bad_arguments_are_refused_with_what_is_valid(options, message):
    arguments = {"rank": 6, "init": "random", **options}
    with pytest.raises(InputError, match=message):
        fit(Target.matmul(2, 2, 2), arguments.pop("rank"), **arguments)


def test_compare_gives_every_strategy_the_same_budget_and_tests_it():
    outcomes = compare(Target.matmul(4, 4, 4), 24, ["random", "strassen", "kron"], seeds=6, iterations=60).outcomes
    assert [outcome.init for outcome in outcomes] == ["random", "strassen", "kron"]
    for outcome in outcomes:
        assert outcome.errors.shape == outcome.amplifications.shape == (6,)
        assert outcome.iterations[-1] == 60
        assert outcome.curves.shape == (len(outcome.iterations), 6)
        assert outcome.curves[-1] == pytest.approx(outcome.errors)
    baseline, *structured = outcomes
    assert baseline.p_value is None
    for outcome in structured:  # at 60 sweeps structure is far ahead
        assert outcome.errors.max() < baseline.errors.min()
        assert outcome.p_value < 0.05
        assert len(set(outcome.errors.tolist())) == 6  # seeds are different starts, none counted twice


def test_an_exact_algorithm_is_not_given_up_for_nothing_nor_an_interrupt_hidden():
    target = Target.matmul(2, 2, 2)
    kept = fit(target, 8, restarts=4, iterations=50, goal=Goal(optimize_for="bfloat16"))
    assert (kept.status, kept.algorithm.ring) == ("exact", "Z")
    cut = fit(target, 7, goal=Goal(optimize_for="float32"), time_limit=1e-6)
    assert (cut.status, cut.algorithm.ring) == ("time limit", "Z")
    assert not cut.reproducible


def test_compare_reports_a_strategy_that_does_not_apply():
    outcomes = compare(Target.matmul(3, 3, 3), 10, ["random", "kron"], seeds=2, iterations=5).outcomes
    assert outcomes[0].refused == ""
    assert "product of two" in outcomes[1].refused
    with pytest.raises(InputError, match="named twice"):
        compare(Target.matmul(3, 3, 3), 10, ["random", "random"], seeds=2)

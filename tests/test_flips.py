"""The flip graph walk: exact at every step, reproducible, and it finds what is known to be there."""

import pytest

from stlsearch.constructions.classical import laderman, standard, strassen, toom
from stlsearch.errors import InputError
from stlsearch.search.flips import FlipWalk, flip_search
from stlsearch.targets import Target


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 2, 3), (2, 2, 3)])
def test_every_state_is_exact_and_ternary(shape):
    walk = FlipWalk(standard(*shape), seed=1)
    for step in range(150):
        walk.run(20)
        if step % 10 == 0:
            walk.plus()
        assert walk.algorithm().is_ternary  # verified in exact arithmetic on the way


def test_plus_raises_the_rank_by_one_and_stays_exact():
    walk = FlipWalk(laderman(), seed=0)
    assert any(walk.plus() for _ in range(100))
    assert walk.algorithm().rank == 24


def test_snapshot_and_restore():
    walk = FlipWalk(standard(2, 2, 2), seed=0)
    before, rank = walk.snapshot(), walk.rank
    name = walk.algorithm().id
    walk.run(5000)
    walk.restore(before)
    assert (walk.rank, walk.algorithm().id) == (rank, name)


@pytest.mark.parametrize(("shape", "rank"), [((2, 2, 2), 7), ((2, 2, 3), 11), ((2, 3, 3), 15)])
def test_finds_known_ranks_from_the_standard_algorithm(shape, rank):
    found = flip_search(Target.matmul(*shape), rank, seed=1, max_flips=3_000_000)
    assert found.rank == rank
    assert found.is_ternary
    assert found.provenance["ended"] == "reached"


def test_same_seed_same_algorithm():
    runs = [flip_search(Target.matmul(2, 2, 2), 7, seed=seed, max_flips=200_000) for seed in (5, 5, 6)]
    assert runs[0].id == runs[1].id
    assert runs[0].provenance == runs[1].provenance
    assert runs[0].id != runs[2].id


def test_the_budget_and_the_callback_end_it():
    seen = []
    cut = flip_search(Target.matmul(3, 3, 3), 22, max_flips=30_000, callback=lambda *state: seen.append(state))
    assert [state[0] for state in seen] == [10_000, 20_000, 30_000]
    assert cut.provenance["ended"] == "budget"
    stopped = flip_search(Target.matmul(3, 3, 3), 22, callback=lambda flips, rank, lowest: True)
    assert (stopped.provenance["ended"], stopped.provenance["flips"]) == ("stopped", 10_000)


def test_starts_from_a_given_algorithm():
    found = flip_search(Target.matmul(2, 2, 2), 7, start=strassen())
    assert (found.rank, found.provenance["flips"]) == (7, 0)
    assert found.provenance["parents"] == [{"id": strassen().id, "name": strassen().name}]


def test_other_targets_work_too():
    assert flip_search(Target.make("polymul", {"m": 2, "n": 2}), 3, max_flips=100_000).rank == 3


def test_bad_requests():
    target = Target.matmul(2, 2, 2)
    for request in (
        lambda: flip_search(target, 0),
        lambda: flip_search(target, 7, max_flips=0),
        lambda: flip_search(target, 7, start=laderman()),
        lambda: FlipWalk(toom(3, 3), 0),
    ):
        with pytest.raises(InputError):
            request()

"""The flip graph walk: exact at every step, reproducible, and it finds what is known to be there."""

from __future__ import annotations

import pytest
from samples import definition, noisy, strassen_mod_2

from stlsearch.constructions.classical import laderman, standard, strassen, toom
from stlsearch.constructions.expression import construct
from stlsearch.errors import InputError
from stlsearch.search.flip_state import RINGS
from stlsearch.search.flips import FlipWalk, flip_search
from stlsearch.targets import Target


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 2, 3), (2, 2, 3), (4, 4, 4)])
def test_every_state_is_exact_over_its_ring(shape, ring):
    walk = FlipWalk(standard(*shape), seed=1, ring=ring)
    for step in range(40):
        walk.run(20 * step)
        if step % 10 == 0:
            walk.plus()
        algorithm = walk.algorithm()  # verified in exact arithmetic on the way
        assert algorithm.rank == walk.rank
        assert algorithm.ring == ring
        assert ring != "Z" or algorithm.is_ternary
    assert walk.flips > 0


@pytest.mark.parametrize("ring", RINGS)
def test_plus_raises_the_rank_by_one_and_stays_exact(ring):
    walk = FlipWalk(laderman(), seed=0, ring=ring)
    assert walk.plus()
    assert walk.algorithm().rank == walk.rank == 24


@pytest.mark.parametrize("ring", RINGS)
def test_a_hidden_reduction_lowers_the_rank_and_stays_exact(ring):
    """Terms of one factor with dependent second factors: met on random walks, more than once."""
    found = 0
    for seed in range(60):
        walk = FlipWalk(standard(2, 2, 3), seed, ring)
        for step in range(40):
            walk.run(100)
            if step % 5 == 0:
                walk.plus()
            before = walk.rank
            if walk.reduce():
                found += 1
                assert walk.algorithm().rank == walk.rank < before
    assert found >= 3


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("fuse", [0, 1, 2, 9])
@pytest.mark.parametrize("n", [2, 3, 4])
def test_cyclic_states_are_exact_and_keep_their_symmetry(n, fuse, ring):
    walk = FlipWalk(standard(n, n, n), n, ring, "cyclic", fuse)
    for step in range(12):
        walk.run(40 * step)
        if step % 4 == 0:
            walk.plus()
        algorithm = walk.algorithm()
        assert algorithm.rank == walk.rank
        again = FlipWalk(algorithm, 0, ring, "cyclic")  # refused without the symmetry
        assert again.rank == walk.rank
    assert not walk.reduce()


@pytest.mark.parametrize(("n", "rank", "ring"), [(2, 7, "Z"), (2, 7, "Z2"), (3, 23, "Z"), (3, 23, "Z2"), (4, 49, "Z2")])
def test_cyclic_walks_find_known_ranks(n, rank, ring):
    found = flip_search(Target.matmul(n, n, n), rank, ring=ring, symmetry="cyclic", walkers=2, max_flips=200_000_000)
    assert found.rank == rank
    FlipWalk(found, 0, ring, "cyclic")


def test_nothing_to_reduce_or_to_split():
    walk = FlipWalk(definition(1, 1, 2), 0, "Z2")
    assert not walk.reduce()
    assert not walk.plus()  # both terms share their first factor
    assert walk.rank == 2


@pytest.mark.parametrize("ring", ["Z", "Z2"])
@pytest.mark.parametrize(("shape", "rank"), [((2, 2, 2), 7), ((2, 2, 3), 11), ((2, 3, 3), 15), ((3, 3, 3), 23), ((2, 3, 4), 20)])
def test_finds_known_ranks_from_the_standard_algorithm(shape, rank, ring):
    found = flip_search(Target.matmul(*shape), rank, seed=1, max_flips=100_000_000, ring=ring)
    assert found.rank == rank
    assert found.ring == ring
    assert found.provenance["ended"] == "reached"


def test_same_arguments_same_algorithm_whatever_the_threads():
    runs = [
        flip_search(Target.matmul(2, 3, 3), 15, seed=seed, max_flips=20_000_000, walkers=3, threads=threads)
        for seed, threads in ((5, 1), (5, 3), (6, 1))
    ]
    assert runs[0].id == runs[1].id
    assert runs[0].provenance == runs[1].provenance
    assert runs[0].id != runs[2].id


def test_the_budget_and_the_callback_end_it():
    seen = []
    cut = flip_search(Target.matmul(3, 3, 3), 22, max_flips=9_000_000, callback=lambda *state: seen.append(state))
    assert [state[0] for state in seen] == [4_000_000, 8_000_000, 9_000_000]
    assert all(lowest <= rank for _, rank, lowest in seen)
    assert cut.provenance["ended"] == "budget"
    stopped = flip_search(Target.matmul(3, 3, 3), 22, callback=lambda flips, rank, lowest: True)
    assert (stopped.provenance["ended"], stopped.provenance["flips"]) == ("stopped", 4_000_000)


def test_a_walker_that_gains_nothing_begins_anew_and_the_best_is_kept():
    """From <2,2,2;8> with two fixed terms nothing below 8 can be reached, and a fresh walk stands at 8 again."""
    found = flip_search(Target.matmul(2, 2, 2), 5, symmetry="cyclic", max_flips=30_000_000, patience=4_000_000)
    assert (found.rank, found.provenance["ended"], found.provenance["flips"]) == (8, "budget", 30_000_000)
    found = flip_search(Target.matmul(3, 3, 3), 22, max_flips=20_000_000, patience=4_000_000)
    assert found.rank == 23


def test_starts_from_a_given_algorithm():
    found = flip_search(Target.matmul(2, 2, 2), 7, start=strassen())
    assert (found.rank, found.provenance["flips"]) == (7, 0)
    assert found.provenance["parents"] == [{"id": strassen().id, "name": strassen().name}]


def test_a_walk_without_flips_goes_on_by_plus_transitions():
    """Strassen's algorithm has no two terms of one factor: only a split leads away from it."""
    found = flip_search(Target.matmul(2, 2, 2), 6, start=strassen(), max_flips=100_000, plateau=1000)
    assert found.rank == 7
    assert found.provenance["flips"] == 100_000


def test_an_algorithm_over_q_reduces_modulo_an_odd_prime():
    walk = FlipWalk(construct("toom(2,2)"), 0, "Z3")
    walk.run(100)
    assert walk.algorithm().ring == "Z3"


def test_other_targets_work_too():
    assert flip_search(Target.make("polymul", {"m": 2, "n": 2}), 3, max_flips=100_000).rank == 3


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda target: flip_search(target, 0), "must be at least 1"),
        (lambda target: flip_search(target, 7, max_flips=0), "must be at least 1"),
        (lambda target: flip_search(target, 7, walkers=0), "must be at least 1"),
        (lambda target: flip_search(target, 7, ring="Q"), "valid: Z2, Z, Z3"),
        (lambda target: flip_search(target, 7, start=laderman()), "not 2x2x2"),
        (lambda target: flip_search(target, 7, start=strassen_mod_2()), "not exact over Z: valid over Z2"),
        (lambda target: flip_search(target, 7, start=noisy()), "valid over no exact ring"),
        (lambda target: flip_search(Target.matmul(9, 8, 1), 7), "up to 64 entries"),
        (lambda target: flip_search(target, 7, symmetry="mirror"), "unknown symmetry"),
        (lambda target: flip_search(Target.matmul(2, 2, 3), 7, symmetry="cyclic"), "square matrices, not for 2x2x3"),
        (lambda target: FlipWalk(laderman(), 0, "Z", "cyclic"), "has no cyclic symmetry"),
        (lambda target: FlipWalk(toom(3, 3), 0), "not exact over Z"),
    ],
)
def test_bad_requests(request_, message):
    with pytest.raises(InputError, match=message) as caught:
        request_(Target.matmul(2, 2, 2))
    assert "\n" not in str(caught.value)

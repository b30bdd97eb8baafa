"""Sizes of exact algorithms changed, and the search that goes through all of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from samples import definition, gaussian, noisy, strassen_mod_2

from stlsearch.constructions.classical import laderman, standard, strassen, toom
from stlsearch.constructions.expression import construct
from stlsearch.constructions.transforms import direct_sum, sandwich
from stlsearch.errors import InputError
from stlsearch.search import climb as climbing
from stlsearch.search.climb import Climb, climb
from stlsearch.search.flips import FlipWalk
from stlsearch.search.sizes import extend, project
from stlsearch.targets import Target


@pytest.mark.parametrize("dimension", ["n", "m", "p"])
def test_project_undoes_extend(dimension):
    for algorithm in (strassen(), laderman(), strassen_mod_2()):
        larger = extend(algorithm, dimension)
        last = larger.target.shape["nmp".index(dimension)] - 1
        assert project(larger, dimension, last).id == algorithm.id


@pytest.mark.parametrize("dimension", ["n", "m", "p"])
def test_extend_adds_the_products_of_the_slab(dimension):
    algorithm = construct("strassen*standard(1,2,3)", None)  # <2,4,6>
    slab = {"n": 4 * 6, "m": 2 * 6, "p": 2 * 4}[dimension]
    assert extend(algorithm, dimension, 3).rank == algorithm.rank + 3 * slab


@pytest.mark.parametrize("ring", ["Z2", "Z", "Z3"])
def test_every_projection_is_exact_over_its_ring_and_no_longer(ring):
    """Projections verify themselves; those of walked algorithms have dense terms, of which some vanish."""
    walk = FlipWalk(standard(2, 3, 3), 1, ring)
    walk.run(300)
    algorithm = walk.algorithm()
    for dimension, size in zip("nmp", algorithm.target.shape, strict=True):
        for index in range(size):
            projected = project(algorithm, dimension, index)
            shape = tuple(old - (name == dimension) for name, old in zip("nmp", (2, 3, 3), strict=True))
            assert projected.target == Target.matmul(*shape)
            assert projected.ring == ring
            assert projected.rank <= algorithm.rank
            assert ring != "Z" or projected.is_ternary


def test_projections_of_known_algorithms():
    assert [project(strassen(), "n", index).rank for index in (0, 1)] == [5, 5] or project(strassen(), "n", 0).rank <= 6
    assert all(project(standard(3, 3, 3), "m", index).id == standard(3, 2, 3).id for index in range(3))


def test_terms_that_share_two_factors_are_added_up_over_fractions_too():
    """A copy of a term with another scale: halves and minus ones meet again, whatever their scalars."""
    changed = sandwich(extend(strassen(), "p"), [[1, 2], [0, 3]], [[2, 1], [1, 1]], np.eye(3, dtype=int).tolist())
    assert changed.ring == "Q"
    assert project(changed, "p", 2).rank == 7
    # x (x) y (x) (z1 + z2) written as two terms whose common entries lie in the column that goes.
    split = direct_sum(standard(1, 1, 1), standard(1, 1, 1), "p")
    assert project(split, "p", 0).rank == 1
    doubled = FlipWalk(standard(2, 2, 2), 0, "Z3")
    doubled.run(500)
    doubled.plus()
    assert project(doubled.algorithm(), "m", 0).rank <= doubled.rank


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda: project(strassen(), "q", 0), "valid: n, m, p"),
        (lambda: project(strassen(), "n", 2), "no index 2 along n to drop; valid are those from 0 to 1"),
        (lambda: project(definition(1, 2, 3), "n", 0), "n is 1"),
        (lambda: project(toom(2, 2), "n", 0), "exact matrix products"),
        (lambda: project(noisy(), "n", 0), "exact matrix products"),
        (lambda: project(gaussian(), "n", 0), "exact matrix products"),
        (lambda: extend(strassen(), "x"), "valid: n, m, p"),
        (lambda: extend(strassen(), "n", 0), "at least 1 along n, not by 0"),
        (lambda: Climb(Target.make("polymul", {"m": 2, "n": 2})), "for matrix products"),
        (lambda: Climb(Target.matmul(2, 2, 2), ring="Q"), "valid: Z2, Z, Z3"),
        (lambda: Climb(Target.matmul(9, 8, 2)), "up to 64 entries"),
        (lambda: Climb(Target.matmul(2, 2, 2), walkers=0), "at least 1"),
        (lambda: Climb(Target.matmul(2, 2, 2), starts=[laderman()]), "no start for 2x2x2"),
        (lambda: Climb(Target.matmul(2, 2, 2), starts=[toom(2, 2)]), "no start for 2x2x2"),
        (lambda: Climb(Target.matmul(2, 2, 2), starts=[strassen_mod_2()]), "not exact over Z"),
        (lambda: climb(Target.matmul(2, 2, 2), 0), "at least 1"),
    ],
)
def test_bad_requests(request_, message):
    with pytest.raises(InputError, match=message) as caught:
        request_()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ring", ["Z", "Z2", "Z3"])
def test_a_climb_finds_known_ranks_through_smaller_sizes(ring, monkeypatch):
    monkeypatch.setattr(climbing, "STINT", 50_000)
    found = climb(Target.matmul(3, 2, 3), 15, ring=ring, max_flips=400_000_000)
    assert (found.rank, found.ring, found.provenance["ended"]) == (15, ring, "reached")
    assert found.target == Target.matmul(3, 2, 3)


def test_the_same_arguments_give_the_same_climb_whatever_the_threads(monkeypatch):
    monkeypatch.setattr(climbing, "STINT", 5000)
    runs = [
        climb(Target.matmul(2, 3, 3), 14, seed=seed, max_flips=5_000_000, walkers=2, threads=threads)
        for seed, threads in ((3, 1), (3, 2), (4, 1))
    ]
    assert runs[0].id == runs[1].id
    assert runs[0].provenance == runs[1].provenance
    assert runs[0].id != runs[2].id
    assert runs[0].rank <= 17
    assert (runs[0].provenance["flips"], runs[0].provenance["ended"]) == (5_000_000, "budget")


@pytest.mark.parametrize(("ring", "symmetry"), [("Z", "none"), ("Z2", "none"), ("Z2", "cyclic")])
def test_a_descent_goes_down_and_stays_exact(ring, symmetry):
    walk = FlipWalk(standard(3, 3, 3), 1, ring, symmetry)
    walk.descend(300_000, 3000, 25)
    assert walk.lowest < 27
    assert walk.algorithm(best=True).rank == walk.lowest
    assert walk.algorithm().rank == walk.rank == walk.lowest
    assert walk.tries <= 300_000


def test_a_descent_without_flips_ends():
    walk = FlipWalk(strassen(), 1)
    walk.descend(1000, 10)
    assert (walk.lowest, walk.tries) == (7, 1)


def test_pools_keep_the_lowest_and_only_those():
    state = Climb(Target.matmul(2, 2, 3), starts=[strassen()])
    assert state.pools[2, 2, 2][0].rank == 7
    assert not state.keep(state.pools[2, 2, 2][0])
    assert not state.keep(standard(2, 2, 2))
    assert len(state.pools[2, 2, 2]) == 1
    assert state.best.rank == 12


def test_a_larger_start_is_projected():
    """<3,3,3;23> without a row and <2,3,3;15> of the pools lie below the standard 18."""
    state = Climb(Target.matmul(2, 3, 3), starts=[laderman()])
    lowest = min(project(laderman(), "n", index).rank for index in range(3))
    drawn = {state._start((2, 3, 3), np.random.default_rng(seed)).rank for seed in range(8)}
    assert lowest < 18
    assert drawn <= {18, lowest, *range(15, 18)}


def test_the_callback_ends_a_climb_and_sees_the_pools():
    seen = []
    found = climb(Target.matmul(2, 2, 3), 10, callback=lambda state: seen.append((state.walked, state.flips)) or len(seen) == 3)
    assert next(size for size, _ in seen) == (2, 2, 2)
    assert found.provenance["ended"] == "stopped"


def test_command(run, nothing_shipped, tmp_path):  # what is shipped in another basis would be named instead
    search = ["search", "--tile", "2x2x3", "--rank", "11", "--walkers", "1"]
    code, out, _ = run(*search, "--method", "sizes", "--start", "strassen", "--start", "standard(2,2,3)", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["reached"]
    assert told["algorithm"]["rank"] == 11
    stored = json.loads(next((tmp_path / "registry").glob("2x2x3_r11_Z_*.json")).read_text())["provenance"]
    assert stored["command"].endswith("--method sizes --walkers 1 --start strassen --start 'standard(2,2,3)'")


def test_registered_starts_are_recorded_by_name(run, tmp_path, monkeypatch):
    """What is registered is found by nobody else: the command names it."""
    monkeypatch.setattr(climbing, "STINT", 5000)
    code, _, _ = run("search", "--tile", "2x2x6", "--rank", "21", "--method", "sizes", "--start", "registered", "--walkers", "1")
    assert code == 0
    stored = json.loads(next((tmp_path / "registry").glob("2x2x6_r21_Z_*.json")).read_text())["provenance"]
    names = [each["name"] for each in stored["parents"]]
    assert any(name.startswith("2x2x4_r14_Z_") for name in names)
    assert all(f"--start {name}" in stored["command"] for name in names)


def test_every_size_that_lies_lower_than_what_is_registered_is_stored(run, tmp_path, monkeypatch):
    monkeypatch.setattr(climbing, "STINT", 5000)
    search = ["search", "--tile", "2x2x7", "--rank", "25", "--method", "sizes", "--start", "registered", "--walkers", "1", "--every-size"]
    code, _, err = run(*search)
    assert code == 0
    assert err.count("also saved") == 1
    assert sorted(path.name.rpartition("_")[0] for path in (tmp_path / "registry").iterdir()) == ["2x2x6_r21_Z", "2x2x7_r25_Z"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--start", "registered"], "for --method sizes"),
        (["--start", "strassen", "--start", "winograd"], "for --method sizes"),
        (["--method", "sizes", "--symmetry", "cyclic"], "--symmetry belongs to --method flips, not to sizes"),
        (["--method", "sizes", "--start", "laderman"], "no start for 2x2x2"),
        (["--method", "sizes", "--walkers", "513"], "at most 512 walkers"),
        (["--walkers", "513"], "at most 512 walkers"),
        (["--symmetry", ""], "unknown symmetry ''"),
        (["--method", "numeric", "--checkpoint", "x.npz"], "--checkpoint belongs to --method flips and sizes"),
    ],
)
def test_bad_options_are_one_line(run, arguments, message):
    code, out, err = run("search", "--tile", "2", "--rank", "7", *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err

"""Searches that are interrupted go on as if nothing had happened, and no file makes them go astray."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from stlsearch.commands import main
from stlsearch.constructions.classical import standard
from stlsearch.errors import InputError
from stlsearch.search import checkpoint, flips
from stlsearch.search import climb as climbing
from stlsearch.search.climb import Climb, climb
from stlsearch.search.flip_state import COUNT, HASH_BITS, HEADS, LISTED, NEXT, PLUS, RANK, RECORDS
from stlsearch.search.flips import FlipWalk, flip_search
from stlsearch.search.orbit_walk import OrbitWalk
from stlsearch.targets import Target

ROUND = 300_000  # tries of every walker, in these tests
TILE = Target.matmul(2, 3, 3)
SMALL = Target.matmul(2, 2, 2)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(flips, "ROUND", ROUND)
    monkeypatch.setattr(climbing, "STINT", 5000)


def walks(**changes):
    """A search that begins walkers anew on its way: nothing below 15 exists, and patience is short."""
    options = {"target_rank": 14, "seed": 5, "walkers": 2, "patience": 2 * ROUND, "ring": "Z"}
    return flip_search(TILE, **{**options, **changes})


@pytest.mark.parametrize("ring", ["Z", "Z2"])
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_resumed_search_is_the_uninterrupted_one(tmp_path, ring, rounds):
    file = tmp_path / "walks.npz"
    whole = walks(max_flips=5 * 2 * ROUND, ring=ring)
    walks(max_flips=rounds * 2 * ROUND, ring=ring, checkpoint=file)
    resumed = walks(max_flips=5 * 2 * ROUND, ring=ring, resume=file)
    assert resumed.id == whole.id
    assert resumed.provenance == whole.provenance


def test_a_resumed_cyclic_search_too(tmp_path):
    file = tmp_path / "walks.npz"
    tile, options = Target.matmul(3, 3, 3), {"target_rank": 22, "symmetry": "cyclic", "ring": "Z2", "seed": 1}
    whole = flip_search(tile, max_flips=3 * ROUND, **options)
    flip_search(tile, max_flips=ROUND, checkpoint=file, **options)
    resumed = flip_search(tile, max_flips=3 * ROUND, resume=file, checkpoint=file, **options)
    assert (resumed.id, resumed.provenance) == (whole.id, whole.provenance)
    once_more = flip_search(tile, max_flips=3 * ROUND, resume=file, **options)  # nothing is left to do
    assert once_more.id == whole.id


def test_a_resumed_search_with_a_group_of_symmetries_too(tmp_path):
    file = tmp_path / "walks.npz"
    tile, options = Target.matmul(3, 3, 3), {"target_rank": 22, "symmetry": "(12)", "ring": "Z", "seed": 1, "patience": ROUND // 3}
    whole = flip_search(tile, max_flips=ROUND, **options)
    flip_search(tile, max_flips=2 * (ROUND // 3), checkpoint=file, **options)
    resumed = flip_search(tile, max_flips=ROUND, resume=file, **options)
    assert (resumed.id, resumed.provenance) == (whole.id, whole.provenance)
    with pytest.raises(InputError, match="a search with symmetry"):
        flip_search(tile, max_flips=ROUND, resume=file, **{**options, "symmetry": "(13)"})


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 1), (3, 0), (6, 1), (7, 0), (8, 0), (8, 3)])
def test_a_damaged_state_of_orbits_is_refused(row, column):
    """A factor, an image, a sign, a length, the number of orbits and the ring: compiled code trusts them."""
    walk = OrbitWalk(standard(3, 3, 3), 1, "Z", "(12)")
    walk.run(100)
    state, best, counts = (each.copy() for each in walk.states())
    OrbitWalk(standard(3, 3, 3), 1, "Z", "(12)").restore(state, best, counts)
    state[row, column] += np.uint64(2**40)
    with pytest.raises(InputError, match="damaged"):
        OrbitWalk(standard(3, 3, 3), 1, "Z", "(12)").restore(state, best, counts)


def test_a_round_that_the_budget_cut_short_is_walked_again_whole(tmp_path):
    file = tmp_path / "walks.npz"
    whole = walks(max_flips=2 * 2 * ROUND)
    walks(max_flips=2 * ROUND + 1000, checkpoint=file)
    resumed = walks(max_flips=2 * 2 * ROUND, resume=file)
    assert (resumed.id, resumed.provenance) == (whole.id, whole.provenance)


def test_a_search_that_was_stopped_goes_on(tmp_path):
    file = tmp_path / "walks.npz"
    whole = walks(max_flips=3 * 2 * ROUND)
    stopped = walks(max_flips=3 * 2 * ROUND, checkpoint=file, callback=lambda *state: True)
    assert stopped.provenance["ended"] == "stopped"
    resumed = walks(max_flips=3 * 2 * ROUND, resume=file)
    assert (resumed.id, resumed.provenance) == (whole.id, whole.provenance)


@pytest.mark.parametrize("cut", [100_000, 299_999])
def test_a_resumed_climb_is_the_uninterrupted_one(tmp_path, cut):
    file = tmp_path / "pools.npz"
    options = {"target_rank": 6, "seed": 2, "walkers": 2, "ring": "Z"}
    whole = climb(SMALL, max_flips=900_000, **options)
    climb(SMALL, max_flips=cut, checkpoint=file, **options)
    resumed = climb(SMALL, max_flips=900_000, resume=file, **options)
    assert (resumed.id, resumed.provenance) == (whole.id, whole.provenance)


def test_a_climb_keeps_its_pools(tmp_path):
    file = tmp_path / "pools.npz"
    seen = []
    climb(Target.matmul(2, 2, 3), 10, ring="Z3", checkpoint=file, callback=lambda state: seen.append(state) or len(seen) == 5)
    again = Climb(Target.matmul(2, 2, 3), ring="Z3")
    with np.load(file) as archive:
        options = json.loads(archive["header"].tobytes())["options"]
    again.restore(file, options)
    before, after = ({size: [each.id for each in pool] for size, pool in state.pools.items()} for state in (seen[-1], again))
    assert before == after
    assert (again.idle, again.round, again.stints, again.flips) == (seen[-1].idle, seen[-1].round, seen[-1].stints, seen[-1].flips)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "walks.npz"
    flip_search(SMALL, 6, max_flips=ROUND, checkpoint=path)
    return path


def changed(file, edit):
    """The file with its header (a dict) and arrays edited."""
    with np.load(file) as archive:
        arrays = {name: archive[name] for name in archive.files}
    header = json.loads(arrays.pop("header").tobytes())
    edit(header, arrays)
    stream = io.BytesIO()
    np.savez(stream, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)
    file.write_bytes(stream.getvalue())


def resume(file):
    return flip_search(SMALL, 6, max_flips=2 * ROUND, resume=file)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda header, arrays: header.update(version=99), "of version 99; this stlsearch goes on from version 1 only"),
        (lambda header, arrays: header.update(format="x"), "is not a checkpoint"),
        (lambda header, arrays: header.update(method="sizes"), "of a search by 'sizes', not by 'flips'"),
        (lambda header, arrays: header["options"].update(ring="Z2"), "with ring 'Z2', not 'Z'"),
        (lambda header, arrays: header["options"].update(seed=3), "with seed 3, not 0"),
        (lambda header, arrays: header["options"].update(target="3x3x3"), "with target '3x3x3', not '2x2x2'"),
        (lambda header, arrays: header["counts"].update(begun=-1), "its count 'begun' is -1"),
        (lambda header, arrays: header["counts"].update(best=7), "its count 'best' is 7"),
        (lambda header, arrays: header["counts"].update(walks=[]), "does not hold the states of 1 walkers"),
        (lambda header, arrays: header["counts"]["walks"][0].update(tries="many"), "its count 'tries' is 'many'"),
        (lambda header, arrays: arrays.pop("kept"), "does not hold the states"),
        (lambda header, arrays: arrays.update(states=arrays["states"][:, :100]), "not the state of a walk"),
        (lambda header, arrays: arrays.update(states=arrays["states"].astype(float)), "not the state of a walk"),
    ],
)
def test_files_of_other_searches_and_damaged_ones_are_refused(file, edit, message):
    changed(file, edit)
    with pytest.raises(InputError, match=message) as caught:
        resume(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        (int(RANK), 2**40),
        (int(RANK), 3),
        (int(COUNT), 2**40),
        (int(COUNT), 0),
        (int(LISTED), 2**40),
        (int(LISTED), 3),
        (int(RECORDS) + int(PLUS), 2**20),
        (int(RECORDS) + int(PLUS), 0),
        (int(RECORDS) + int(PLUS), 6),
        (int(RECORDS) + int(NEXT), 2**40),
        (int(RECORDS) + int(NEXT), 0),
        (int(HEADS), 2**40),
        (int(HEADS) + 3 * 2**HASH_BITS - 1, 1),
    ],
)
@pytest.mark.parametrize("name", ["states", "kept"])
def test_a_state_whose_words_do_not_fit_together_is_refused(tmp_path, name, word, value):
    """The compiled walk follows indices without looking: none of them may come from a file unchecked."""
    file, narrow = tmp_path / "narrow.npz", Target.matmul(1, 2, 3)
    flip_search(narrow, 5, max_flips=ROUND, checkpoint=file)

    def edit(header, arrays):
        arrays[name] = arrays[name].copy()
        assert arrays[name][0, word] != value
        arrays[name][0, word] = value

    changed(file, edit)
    with pytest.raises(InputError, match=r"damaged|not exact"):
        flip_search(narrow, 5, max_flips=2 * ROUND, resume=file)


def test_a_consistent_state_of_another_algorithm_is_refused(file):
    """Right in itself, but no algorithm for the target."""
    other = FlipWalk(standard(2, 2, 2), 0)
    state = other.states()[0]
    state[int(RECORDS) + int(PLUS)] = 8
    changed(file, lambda header, arrays: arrays.update(states=state[None]))
    with pytest.raises(InputError):
        resume(file)


def test_files_that_are_no_archives(tmp_path):
    text = tmp_path / "text.npz"
    text.write_text("no archive")
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, header=np.array([{"a": 1}], dtype=object))
    for path, message in ((text, "is not a checkpoint"), (pickled, "is not a checkpoint"), (tmp_path / "none.npz", "No such file")):
        with pytest.raises(InputError, match=message):
            resume(path)


def test_an_unfinished_write_leaves_the_old_file(file, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr(np, "savez_compressed", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(file, "flips", {}, {}, {})
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda header, arrays: header["counts"].update(idle=[0, 0]), "lacks sizes"),
        (lambda header, arrays: arrays.pop("2x2x2"), "lacks sizes"),
        (lambda header, arrays: arrays.update({"2x2x2": arrays["2x2x2"][:, :, 1:]}), "holds no algorithms"),
        (lambda header, arrays: arrays.update({"2x2x2": 1 - arrays["2x2x2"]}), "not exact"),
        (lambda header, arrays: arrays.update({"big": arrays["2x2x2"]}), "tile 'big' is not valid"),
    ],
)
def test_damaged_pools_are_refused(tmp_path, edit, message):
    file = tmp_path / "pools.npz"
    climb(SMALL, 6, max_flips=100_000, checkpoint=file)
    changed(file, edit)
    with pytest.raises(InputError, match=message):
        climb(SMALL, 6, max_flips=100_000, resume=file)


def test_command(tmp_path, capsys):
    file = tmp_path / "walks.npz"
    search = ["search", "--tile", "2", "--rank", "6", "--start", "strassen", "--walkers", "1", "--registry", str(tmp_path / "home")]
    assert main([*search, "--max-flips", str(ROUND), "--checkpoint", str(file)]) == 1
    capsys.readouterr()
    assert main([*search, "--checkpoint", str(file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([*search, "--max-flips", str(2 * ROUND), "--resume", str(file)]) == 1
    assert f"in {2 * ROUND} flips" in capsys.readouterr().err
    assert main([*search, "--seed", "1", "--resume", str(file)]) == 2
    assert "with seed 0, not 1" in capsys.readouterr().err
    assert main([*search, "--checkpoint", str(tmp_path / "none" / "walks.npz")]) == 2
    assert "there is no folder" in capsys.readouterr().err

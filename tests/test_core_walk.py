"""Walks over the flip graph to schemes of sparser cores."""

import json

import pytest
from samples import definition, strassen

from stlsearch.additions.alternative_basis import core_size
from stlsearch.additions.core_walk import sparser_core
from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands import main
from stlsearch.constructions.transforms import sandwich
from stlsearch.errors import InputError
from stlsearch.registry.store import Registry
from stlsearch.search.flips import FlipWalk


def disturbed() -> BilinearAlgorithm:
    """A scheme of rank 8 for <2,2,2> that flips have led away from the definition."""
    walk = FlipWalk(definition(2, 2, 2), 3)
    walk.run(40)
    return walk.algorithm()


def test_a_walk_finds_a_scheme_of_a_smaller_core():
    start = disturbed()
    before = core_size(start)
    found = sparser_core(start, 60, seed=1)
    assert found.rank == start.rank == 8
    assert core_size(found) < before
    assert found.provenance["parents"] == [{"id": start.id, "name": start.name}]
    assert found == sparser_core(start, 60, seed=1)


def test_a_walk_that_finds_nothing_returns_its_start_and_can_be_ended():
    steps = []
    assert sparser_core(strassen(), 50, progress=lambda step, best: bool(steps.append(step)) or step == 4) == strassen()
    assert steps == [1, 2, 3, 4]


def test_what_a_walk_refuses():
    with pytest.raises(InputError, match="at least 1 step"):
        sparser_core(strassen(), 0)
    with pytest.raises(InputError, match="-1, 0, 1"):
        sparser_core(sandwich(strassen(), [[1, 2], [0, 1]], [[1, 0], [0, 1]], [[1, 0], [0, 1]]), 3)


def test_the_command_walks_and_registers(tmp_path, capsys):
    own = Registry(tmp_path)
    path = own.add(disturbed())
    assert main(["sparsify", str(path), "--walk", "60", "--seed", "1", "--registry", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert f"saved {tmp_path / found['name']}" in err
    assert own.get(found["name"]).algorithm.provenance["command"].endswith("--walk 60 --seed 1")


def test_a_walk_in_vain_registers_nothing(tmp_path, capsys):
    file = Registry(tmp_path).add(strassen())
    assert main(["sparsify", str(file), "--walk", "2", "--registry", str(tmp_path)]) == 0
    assert "no smaller core was found" in capsys.readouterr().err
    assert len(list(tmp_path.glob("*.json"))) == 1

"""The shipped fronts, and the page made from them."""

import itertools
import runpy
from pathlib import Path

import pytest

from stlsearch.parents import best_by_rank, usable_algorithms
from stlsearch.registry.store import Registry, shipped_folder
from stlsearch.solvers.polish import Goal
from stlsearch.targets import Target

DOCS = Path(__file__).parent.parent / "docs"
EXACT = {
    (2, 2, 2): 7,
    (2, 2, 3): 11,
    (2, 2, 4): 14,
    (2, 3, 3): 15,
    (2, 3, 4): 20,
    (2, 4, 4): 26,
    (3, 3, 3): 23,
    (3, 3, 4): 29,
    (3, 4, 4): 38,
}


@pytest.mark.parametrize("bound", [1000.0, 30.0])
def test_every_rank_of_the_four_tile_has_a_shipped_basis_and_the_error_falls(bound):
    front = best_by_rank(usable_algorithms(Target.matmul(4, 4, 4), Registry(None, shipped_folder())), Goal(bound))
    assert list(front) == list(range(7, 50))
    assert all(front[rank].error > front[rank + 1].error for rank in range(7, 48))
    assert all(basis.amplification <= bound for basis in front.values())
    assert front[48].error == front[49].error == 0


@pytest.mark.parametrize("shape", [*EXACT, *((1, m, p) for m in range(1, 5) for p in range(m, 5))])
def test_every_rank_of_the_smaller_tiles_has_a_basis(shape):
    front = best_by_rank(usable_algorithms(Target.matmul(*shape), Registry(None, shipped_folder())), Goal())
    below = EXACT.get(shape, shape[0] * shape[1] * shape[2])  # at that rank `fit` returns an exact algorithm
    assert set(range(1, below)) <= set(front)
    errors = [front[rank].error for rank in range(1, below)]
    assert all(lower > higher > 0 for lower, higher in itertools.pairwise(errors))


def test_fitted_bases_name_their_parents_and_their_commands():
    for entry in Registry(None, shipped_folder()).find(exact=False)[0]:
        made = entry.algorithm.provenance
        assert made["command"].startswith("stlsearch fit ")
        assert all({"id", "name"} <= set(parent) for parent in made.get("parents", []))
        published = [root for parent in made.get("parents", []) for root in parent.get("roots", [parent]) if "source" in root]
        assert all("licence" in root or "construction" in root for root in published)


def test_the_frontier_page_is_made_from_what_is_shipped():
    assert runpy.run_path(str(DOCS / "make_frontier.py"))["page"]() == (DOCS / "frontier.md").read_text()

"""Groups of symmetries of exact algorithms, against known ones and networkx."""

import itertools
import json
import re

import networkx
import pytest
from identity_samples import disguised, modulo, shipped

from stlsearch.constructions.classical import laderman, standard, strassen, winograd
from stlsearch.constructions.transforms import compose
from stlsearch.identity.certificate import verify_certificate
from stlsearch.identity.colours import Invariants
from stlsearch.identity.stabiliser import symmetries
from stlsearch.identity.terms import Terms
from stlsearch.registry.codec import dumps


@pytest.mark.parametrize(
    ("algorithm", "order", "sandwiching", "structure"),
    [
        (strassen(), 36, 6, "S3 x S3"),  # Burichenko, arXiv:1408.6273
        (winograd(), 36, 6, "S3 x S3"),
        (laderman(), 24, 4, "S4"),  # Burichenko, arXiv:1508.01110
        (shipped("2x3x3_r15_Z"), 12, 6, "S3 x Z2"),  # Hopcroft's, Burichenko, arXiv:2211.06485
        (compose(strassen(), strassen()), 432, 72, None),  # (S3 x S3 exchanged) and the six forms
    ],
    ids=["strassen", "winograd", "laderman", "hopcroft", "strassen*strassen"],
)
def test_known_groups_of_symmetries(algorithm, order, sandwiching, structure):
    found = symmetries(algorithm)
    assert (found.order, found.sandwiching, found.structure) == (order, sandwiching, structure)
    assert found.exhaustive
    assert found.continuous == 0
    assert found.faithful
    assert sum(found.element_orders.values()) == order
    assert all(verify_certificate(generator, algorithm, algorithm) for generator in found.generators)
    assert sum(map(len, found.orbits)) == algorithm.rank


def test_the_standard_algorithm_has_its_torus_and_the_permutations_of_indices():
    found = symmetries(standard(2, 3, 2))
    assert found.continuous == 1 + 2 + 1
    assert found.sandwiching == 2 * 6 * 2
    assert found.order == 2 * found.sandwiching  # n = p: one transposition
    assert found.faithful is False
    assert symmetries(modulo(standard(2, 3, 2), 2)).faithful is None  # true, over Z2, but its linear system has more solutions
    assert [len(orbit) for orbit in found.orbits] == [12]


def test_another_basis_has_the_same_symmetries():
    one, other = symmetries(laderman()), symmetries(disguised(laderman(), 4))
    assert (one.order, one.element_orders) == (other.order, other.element_orders)
    assert sorted(map(len, one.orbits)) == sorted(map(len, other.orbits))


@pytest.mark.parametrize("algorithm", [strassen(), standard(2, 2, 2), laderman()], ids=lambda a: a.name)
def test_networkx_counts_as_many_automorphisms_of_the_coloured_pairs(algorithm):
    colours = Invariants(Terms.of(algorithm)).pairs
    graph = networkx.DiGraph()
    for r, s in itertools.product(range(algorithm.rank), repeat=2):
        graph.add_node(r, colour=int(colours[r, r]))
        if r != s:
            graph.add_edge(r, s, colour=int(colours[r, s]))
    matching = networkx.algorithms.isomorphism
    matcher = matching.DiGraphMatcher(
        graph, graph, matching.categorical_node_match("colour", 0), matching.categorical_edge_match("colour", 0)
    )
    assert sum(1 for _ in matcher.isomorphisms_iter()) == symmetries(algorithm).sandwiching


@pytest.mark.parametrize("algorithm", [strassen(), standard(2, 2, 2)], ids=lambda a: a.name)
def test_a_group_found_before_the_budget_ended_is_part_of_the_whole_and_says_so(algorithm):
    whole = symmetries(algorithm)
    for nodes in range(1, whole.nodes):
        part = symmetries(algorithm, nodes)
        assert not part.exhaustive
        assert whole.order % part.order == 0


def test_symmetries_at_the_command_line(run, tmp_path):
    code, out, _ = run("symmetries", laderman().name)
    assert code == 0
    assert re.search(r"order +24, as S4", out)
    assert "generator 1: (m" in out
    assert re.search(r"ranks of u, v, w +13 of \(1, 1, 1\)", out)
    code, out, _ = run("symmetries", laderman().name, "--json")
    document = json.loads(out)
    assert (document["order"], document["structure"], document["exhaustive"]) == (24, "S4", True)
    assert sum(map(len, document["orbits"])) == 23
    plain = tmp_path / "standard.json"
    plain.write_text(dumps(standard(2, 2, 2)))
    code, out, _ = run("symmetries", str(plain), "--nodes", "1")
    assert code == 3
    assert "or more" in out
    code, _, err = run("symmetries", "2x2x2_r5_R")
    assert code == 2
    assert "is not exact" in err

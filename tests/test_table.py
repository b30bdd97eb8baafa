"""The records, our best exact algorithms beside them, and the table that shows both."""

from __future__ import annotations

import json
import math
import runpy
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import pytest
from samples import STRASSEN_U, STRASSEN_V, STRASSEN_W, karatsuba, noisy, strassen, strassen_mod_2

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands import main
from stlsearch.commands.table_ import RINGS, rows, totals
from stlsearch.constructions.expression import construct
from stlsearch.constructions.transforms import compose, direct_sum, permute, sandwich
from stlsearch.errors import InputError
from stlsearch.records import as_of, implied_by, record, records
from stlsearch.registry.store import Registry, shipped_folder
from stlsearch.standings import sorted_shapes, standings
from stlsearch.targets import Target

DOCS = Path(__file__).parent.parent / "docs"
EVERY_RING = ("Z", "Z[1/2]", "Q", "Q(i)", "R", "C", "Z2", "Z3", "Z7")


@dataclass
class Counted:
    """What `stlsearch.additions.count` returns, as far as the table looks at it."""

    total: int


def strassen_mod_3() -> BilinearAlgorithm:
    parts = [[[value % 3 for value in row] for row in factor] for factor in (STRASSEN_U, STRASSEN_V, STRASSEN_W)]
    return BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), *parts, ring="Z3")


def strassen_with(number: int) -> BilinearAlgorithm:
    """Strassen's algorithm in another basis, with fractions of that denominator in it."""
    one, other = [[1, 0], [0, 1]], [[number, 0], [0, Fraction(1)]]
    return sandwich(strassen(), other, one, one)


def ranks(algorithms: list[BilinearAlgorithm], ring: str) -> dict[tuple[int, ...], int]:
    return {standing.shape: standing.algorithm.rank for standing in standings(algorithms, [ring], sorted_shapes())}


def subadditive(rank: dict[tuple[int, ...], int]) -> bool:
    """Whether no direct sum and no Kronecker product of two sizes up to 5 gives less."""
    sizes = range(1, 6)
    every = {(n, m, p): rank[tuple(sorted((n, m, p)))] for n in sizes for m in sizes for p in sizes}
    sums = all(
        every[n, m, p] + every[n, m, q] >= every[n, m, p + q] for n in sizes for m in sizes for p in sizes for q in sizes if p + q <= 5
    )
    factors = [
        (first, second, tuple(x * y for x, y in zip(first, second, strict=True)))
        for first in every
        for second in every
        if all(x * y <= 5 for x, y in zip(first, second, strict=True))
    ]
    return sums and all(every[first] * every[second] >= every[whole] for first, second, whole in factors)


def test_every_size_has_a_record_over_every_ring():
    for shape in sorted_shapes():
        for ring in EVERY_RING:
            assert record(shape, ring) == record(shape[::-1], ring)
            assert 1 <= record(shape, ring).rank <= math.prod(shape)
            assert record(shape, ring).ring in implied_by(ring)
    assert all(record(shape).rank == math.prod(shape) for shape in sorted_shapes() if shape[0] == 1)


def test_the_data_list_each_line_once_and_nothing_that_is_implied():
    lines = records()
    assert len({(line.shape, line.ring) for line in lines}) == len(lines)
    assert all(list(line.shape) == sorted(line.shape) for line in lines)
    for line in lines:
        others = [other for other in lines if other.shape == line.shape and other.ring in implied_by(line.ring)[:-1]]
        assert all(other.rank > line.rank for other in others)
        assert line.source.text.endswith(".")
        assert line.source.url is None or line.source.url.startswith("https://")


@pytest.mark.parametrize(
    ("shape", "ring", "rank"),
    [
        ((2, 2, 2), "Z2", 7),
        ((3, 3, 3), "Q", 23),
        ((2, 4, 5), "Z", 33),
        ((2, 4, 5), "Z2", 33),
        ((5, 2, 4), "Z3", 32),
        ((4, 4, 4), "Z", 49),
        ((4, 4, 4), "Z2", 47),
        ((4, 4, 4), "Z3", 48),
        ((4, 4, 4), "C", 48),
        ((5, 4, 4), "Z2", 60),
        ((4, 4, 5), "Q", 61),
        ((5, 5, 4), "Z2", 73),
        ((4, 5, 5), "Z3", 76),
        ((5, 5, 5), "Z2", 93),
    ],
)
def test_a_record_is_the_least_over_the_rings_that_map_to_it(shape, ring, rank):
    assert record(shape, ring).rank == rank


@pytest.mark.parametrize("ring", EVERY_RING)
def test_no_record_follows_from_others(ring):
    assert subadditive({shape: record(shape, ring).rank for shape in sorted_shapes()})


def test_no_record_is_kept_beyond_five_or_for_an_unknown_ring():
    with pytest.raises(InputError, match="3x4x6"):
        record((3, 4, 6))
    with pytest.raises(InputError, match="unknown ring"):
        record((2, 2, 2), "Z4")
    with pytest.raises(InputError, match="6x1x1"):
        standings([], ["Z"], [(6, 1, 1)])


def test_without_algorithms_the_standard_ones_stand():
    for standing in standings([], ["Z"], sorted_shapes()):
        assert standing.algorithm.rank == math.prod(standing.shape)
        assert standing.expression == f"standard({','.join(map(str, standing.shape))})"
        assert not standing.registered


def test_what_follows_from_one_algorithm_is_found():
    found = ranks([strassen()], "Z")
    assert found[2, 2, 2] == 7
    assert found[2, 2, 3] == 11
    assert found[2, 4, 4] == 28
    assert found[4, 4, 4] == 49
    assert found[3, 3, 3] == 26
    assert subadditive(found)


def test_other_kinds_of_algorithms_are_passed_over():
    [standing] = standings([karatsuba(), noisy(rank=6), strassen_mod_2()], ["Z"], [(2, 2, 2)])
    assert standing.algorithm.rank == 8


def test_a_registered_algorithm_stands_by_its_name_and_in_any_order_of_its_sizes():
    algorithm = direct_sum(strassen(), strassen(), "p")
    [held] = standings([algorithm], ["Z"], [(2, 4, 2)])
    assert held.registered
    assert held.expression == algorithm.name
    [turned] = standings([permute(algorithm, [3, 1, 2])], ["Z"], [(2, 2, 4)])
    assert not turned.registered
    assert turned.expression.startswith("permute(")
    assert turned.algorithm.target.shape == (2, 2, 4)
    assert turned.algorithm.rank == 14


def test_the_fewest_additions_decide_among_equal_ranks():
    denser = sandwich(strassen(), [[1, 1], [0, 1]], [[1, 0], [1, 1]], [[1, 0], [0, 1]])
    assert denser.additions > strassen().additions
    [held] = standings([denser, strassen()], ["Z"], [(2, 2, 2)])
    assert held.expression == strassen().name


@pytest.mark.parametrize(
    ("algorithm", "rings"),
    [
        (strassen(), {"Z", "Z2", "Z3", "Q"}),
        (strassen_mod_2(), {"Z2"}),
        (strassen_mod_3(), {"Z3"}),
        (strassen_with(2), {"Z3", "Q"}),
        (strassen_with(3), {"Q"}),
    ],
)
def test_an_algorithm_counts_over_the_rings_that_its_own_maps_to(algorithm, rings):
    for standing in standings([algorithm], RINGS, [(4, 4, 4)]):
        assert standing.algorithm.rank == (49 if standing.ring in rings else 64)


def test_fractions_and_residues_are_not_mixed_in_one_construction():
    halves = direct_sum(strassen_with(2), strassen_with(2), "m")
    found = standings([strassen_mod_3(), halves], ["Z3"], sorted_shapes())
    by_shape = {standing.shape: standing.algorithm for standing in found}
    assert by_shape[2, 2, 2].ring == "Z3"
    assert by_shape[2, 4, 4].rank == 28
    assert by_shape[4, 4, 4].rank == 49


def test_the_figures_of_strassens_algorithm():
    [standing] = standings([strassen()], ["Q"], [(2, 2, 2)])
    assert standing.exponent == pytest.approx(math.log2(7))
    assert standing.growth_factor == pytest.approx(12 + 2 * math.sqrt(2))
    assert standing.gap == 0
    [square] = standings([compose(strassen(), strassen())], ["Q"], [(4, 4, 4)])
    assert square.growth_factor == pytest.approx((12 + 2 * math.sqrt(2)) ** 2)
    [modular] = standings([strassen_mod_2()], ["Z2"], [(2, 2, 2)])
    assert modular.growth_factor is None
    [scalar] = standings([], ["Z"], [(1, 1, 1)])
    assert scalar.exponent is None


def test_every_expression_constructs_what_the_table_claims():
    registry = Registry(None, shipped_folder())
    algorithms = [entry.algorithm for entry in registry.find(exact=True)[0]]
    found = standings(algorithms, RINGS, sorted_shapes())
    assert len(found) == len(RINGS) * 35
    for expression in {standing.expression for standing in found}:
        made = construct(expression, lambda name: registry.get(name).algorithm)
        for standing in found:
            if standing.expression == expression:
                assert (made.target.shape, made.rank) == (standing.shape, standing.algorithm.rank)
                assert made.mismatch().count == 0
                assert made.ring in implied_by(standing.ring)
    for ring in RINGS:
        assert subadditive({standing.shape: standing.algorithm.rank for standing in found if standing.ring == ring})


def test_rings_of_one_algorithm_and_one_record_share_a_row():
    found = standings([strassen()], RINGS, [(2, 2, 2), (4, 4, 4)])
    assert [cells[:5] for _, cells in rows(found)] == [
        ("2x2x2", "Z Z2 Z3 Q", "7", "7", "="),
        ("4x4x4", "Z", "49", "49", "="),
        ("4x4x4", "Z2", "49", "47", "+2"),
        ("4x4x4", "Z3 Q", "49", "48", "+1"),
    ]
    assert "matched: Z 2/2, Z2 1/2, Z3 1/2, Q 1/2; beaten: none." in totals(found)


def test_a_record_that_is_beaten_is_marked_and_counted():
    [standing] = standings([strassen()], ["Z"], [(2, 2, 2)])
    beaten = replace(standing, record=replace(standing.record, rank=8))
    assert next(rows([beaten]))[1][4] == "-1"
    assert totals([beaten]).endswith("matched: Z 0/1; beaten: Z 1.")
    assert "optimal" in totals(standings([], ["Z"], [(1, 2, 3)]))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("STLSEARCH_HOME", raising=False)
    return tmp_path / "registry"


def run(capsys, folder, *arguments, code=0):
    assert main(["table", "--registry", str(folder), *arguments]) == code
    return capsys.readouterr()


def test_the_table_fits_a_terminal(capsys, folder):
    lines = run(capsys, folder).out.splitlines()
    assert max(map(len, lines)) <= 120
    assert lines[0].split() == ["size", "ring", "rank", "record", "ω", "adds", "growth", "g", "algorithm"]
    assert lines[1].startswith("1x1x1  Z Z2 Z3 Q")
    assert lines[-1].startswith(f"Records of {as_of()}")


def test_shared_additions_have_a_column_and_decide_among_equal_ranks(capsys, folder, monkeypatch):
    monkeypatch.setattr("stlsearch.additions.count", lambda algorithm, restarts, seed: Counted(100 + restarts - algorithm.additions))
    shown = run(capsys, folder, "--tile", "2", "--additions", "3")
    header, row, *_ = shown.out.splitlines()
    assert header.split()[4:8] == ["ω", "adds", "shared", "growth"]
    most = max(entry.algorithm.additions for entry in Registry(None, shipped_folder()).find(Target.matmul(2, 2, 2), 7, exact=True)[0])
    assert row.split()[9:11] == [str(most), str(103 - most)]
    assert f"{103 - most} additions, {most} as written" in shown.err
    [first, *_] = json.loads(run(capsys, folder, "--tile", "2", "--additions", "3", "--json").out)["table"]
    assert (first["additions"], first["additions_shared"]) == (most, 103 - most)
    assert max(map(len, run(capsys, folder, "--additions", "3").out.splitlines())) <= 120


def test_one_size_names_the_sources_of_its_records(capsys, folder):
    out = run(capsys, folder, "--tile", "4").out
    assert "record over Z2: 47, A. Fawzi" in out
    assert "arXiv 2506.13242" in out
    assert run(capsys, folder, "--tile", "5x4x4", "--ring", "Z2").out.splitlines()[1].split()[:2] == ["4x4x5", "Z2"]


def test_your_own_algorithms_count_and_broken_files_are_named(capsys, folder, monkeypatch):
    monkeypatch.setattr("stlsearch.registry.store.shipped_folder", lambda: None)
    assert run(capsys, folder, "--max", "2", "--ring", "Z").out.splitlines()[4].split()[2:5] == ["8", "7", "+1"]
    Registry(folder).add(strassen())
    (folder / "2x2x2_r6_Z_00000000.json").write_text("{}")
    shown = run(capsys, folder, "--max", "2", "--ring", "Z")
    assert shown.out.splitlines()[4].split()[2:5] == ["7", "7", "="]
    assert "skipped" in shown.err
    assert len(shown.err.splitlines()) == 1


def test_json_has_a_version_the_sources_and_one_entry_for_every_size_and_ring(capsys, folder):
    document = json.loads(run(capsys, folder, "--json").out)
    assert document["version"] == 1
    assert document["as_of"] == as_of()
    assert len(document["table"]) == 35 * len(RINGS)
    for entry in document["table"]:
        assert entry["record"]["source"] in document["sources"]
        assert entry["above_record"] == entry["rank"] - entry["record"]["rank"]
        assert entry["algorithm"]["ring"] in implied_by(entry["ring"])
    assert {entry["ring"] for entry in json.loads(run(capsys, folder, "--json", "--ring", "Q").out)["table"]} == {"Q"}


def test_markdown_has_a_row_for_every_row_and_lists_its_sources(capsys, folder):
    lines = run(capsys, folder, "--max", "2", "--format", "markdown").out.splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert any(line.startswith("- [strassen] V. Strassen") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--tile", "3x4x6"), "3x4x6"),
        (("--tile", "none"), "none"),
        (("--max", "6"), "6"),
        (("--max", "0"), "0"),
        (("--ring", "Z5"), "'Z', 'Z2', 'Z3', 'Q', 'all'"),
        (("--format", "html"), "markdown"),
        (("--additions", "0"), "restarts must be"),
        (("--tile", "2", "--max", "2"), "--tile or --max"),
        (("--json", "--format", "markdown"), "--json or --format"),
    ],
)
def test_bad_input_is_one_line(capsys, folder, arguments, what):
    shown = run(capsys, folder, *arguments, code=2)
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert shown.err.startswith("error: ")
    assert what in shown.err


def test_the_page_is_made_from_what_is_shipped():
    assert runpy.run_path(str(DOCS / "make_table.py"))["page"]() == (DOCS / "table.md").read_text(encoding="utf-8")

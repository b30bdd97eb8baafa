"""Additions: programs compute their matrices, shared sums are found, code runs, and exchanged algorithms stay exact."""

import json
import operator
import shutil
import subprocess
from fractions import Fraction

import networkx as nx
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import every_kind, gaussian, halves, karatsuba, noisy, strassen, strassen_mod_2

from stlsearch.additions import Program, count
from stlsearch.additions.counting import linear_maps
from stlsearch.additions.eliminate import straight_line
from stlsearch.additions.emit import LANGUAGES, emit
from stlsearch.additions.exchange import exchange
from stlsearch.additions.graph import to_networkx
from stlsearch.additions.ternary import ternary_form
from stlsearch.commands import cli, main
from stlsearch.constructions.expression import construct
from stlsearch.constructions.transforms import sandwich
from stlsearch.errors import InputError
from stlsearch.registry.store import open_registry


def named(expression):
    return construct(expression, lambda name: open_registry().get(name).algorithm)


FORMULAS = ["strassen", "winograd", "laderman", "karatsuba", "toom(2,3)", "standard(1,2,3)", "strassen*standard(1,2,1)"]


@pytest.mark.parametrize(
    ("expression", "naive", "shared"),
    [
        ("strassen", 18, 18),
        ("winograd", 24, 15),  # Winograd's variant, as it is usually written
        ("laderman", 98, 62),
        ("standard(2,3,4)", 2 * 2 * 4, 16),
        ("karatsuba", 4, 4),
    ],
)
def test_known_counts(expression, naive, shared):
    additions = count(named(expression))
    assert (sum(additions.naive), additions.total) == (naive, shared)
    assert additions.total == additions.encode_a + additions.encode_b + additions.decode
    assert additions.scalings == 0


def test_nested_winograd_takes_156_which_needs_cancellation():
    additions = count(named("winograd*winograd"))
    assert (additions.encode_a, additions.encode_b, additions.decode) == (41, 41, 74)


@pytest.mark.parametrize("expression", FORMULAS)
def test_programs_compute_the_three_maps(expression):
    algorithm = named(expression)
    additions = count(algorithm, restarts=20)
    for program, rows in zip(additions.programs, linear_maps(algorithm), strict=True):
        assert program.computes(rows)
    assert sum(additions.naive) == algorithm.additions
    a, b = (np.arange(1, size + 1, dtype=object) ** 2 for size in algorithm.target.dims[:2])
    left, right = (np.array(program.evaluate(values), dtype=object) for program, values in zip(additions.programs, (a, b), strict=False))
    assert additions.programs[2].evaluate(left * right) == algorithm.apply(a.astype(float), b.astype(float)).tolist()


matrices = st.integers(1, 7).flatmap(
    lambda width: st.lists(
        st.lists(st.sampled_from([0, 0, 1, -1, 1, -1, 2, Fraction(1, 2), Fraction(-3, 2)]), min_size=width, max_size=width),
        min_size=1,
        max_size=7,
    )
)


@given(matrices)
@settings(max_examples=60, deadline=None)
def test_any_matrix_is_computed_and_its_transpose_by_the_arrows_turned_round(rows):
    program = straight_line(rows, restarts=4)
    assert program.computes(rows)
    assert program.additions <= sum(max(0, sum(map(bool, row)) - 1) for row in rows)
    columns = [list(column) for column in zip(*rows, strict=True)]
    turned = program.transposed()
    assert turned.computes(columns)
    if all(map(any, rows)) and all(map(any, columns)):
        assert turned.additions - len(rows) == program.additions - len(columns)
    signs = [(-1) ** index for index in range(len(columns))]
    assert program.tidied(signs).computes([[value * sign for value, sign in zip(row, signs, strict=True)] for row in rows])


def test_equal_and_opposite_rows_cost_nothing():
    rows = [[1, 1, 1], [-1, -1, -1], [2, 2, 2], [0, 1, 0], [0, 0, 0]]
    program = straight_line(rows)
    assert (program.additions, program.scalings) == (2, 1)


def test_more_than_64_rows_and_columns():
    random = np.random.default_rng(0)
    rows = random.integers(-1, 2, size=(70, 66)).tolist()
    program = straight_line(rows, restarts=4)
    assert program.computes(rows)
    assert program.additions < 0.6 * sum(sum(map(abs, row)) - 1 for row in rows)


def test_the_same_seed_gives_the_same_program():
    algorithm = named("laderman")
    assert count(algorithm, 10, seed=3) == count(algorithm, 10, seed=3)


def test_the_graph_counts_what_the_program_does():
    additions = count(named("winograd"))
    for program in additions.programs:
        graph = to_networkx(program)
        assert nx.is_directed_acyclic_graph(graph)
        assert sum(degree - 1 for node, degree in graph.in_degree() if node[0] == "t") == program.additions
        row = {node: np.array([int(node == ("x", i)) for i in range(program.inputs)]) for node in graph if node[0] == "x"}
        for node in nx.topological_sort(graph):
            if node[0] != "x":
                row[node] = sum(data["coefficient"] * row[source] for source, _, data in graph.in_edges(node, data=True))
        assert [row["y", o].tolist() for o in range(len(program.outputs))] == [list(line) for line in program.matrix]


def executed(algorithm):
    names = {}
    exec(emit(algorithm, count(algorithm, 20), "python"), names)  # our own text
    return names["multiply"]


@pytest.mark.parametrize("expression", ["strassen", "winograd", "laderman", "standard(1,2,3)", "permute(strassen*standard(1,2,1),2,3,1)"])
def test_the_python_program_multiplies_numbers_and_blocks(expression):
    algorithm = named(expression)
    n, m, p = algorithm.target.shape
    multiply = executed(algorithm)
    random = np.random.default_rng(1)
    a, b = random.integers(-9, 9, size=(n, m)), random.integers(-9, 9, size=(m, p))
    assert np.array_equal(multiply(a.tolist(), b.tolist()), a @ b)
    blocks_a, blocks_b = random.integers(-9, 9, size=(n, m, 2, 3)), random.integers(-9, 9, size=(m, p, 3, 2))  # do not commute
    product = np.einsum("imxy,mjyz->ijxz", blocks_a, blocks_b)
    assert np.array_equal(multiply(blocks_a, blocks_b, operator.matmul), product)


def test_the_python_program_can_call_itself():
    multiply = executed(strassen())
    random = np.random.default_rng(2)
    a, b = random.integers(-9, 9, size=(2, 2, 2, 2)), random.integers(-9, 9, size=(2, 2, 2, 2))
    nested = multiply(a, b, lambda x, y: np.array(multiply(x, y)))
    assert np.array_equal(np.array(nested), np.einsum("imxy,mjyz->ijxz", a, b))


@pytest.mark.parametrize("algorithm", [karatsuba(), halves(), named("toom(2,3)")])
def test_the_python_program_of_other_maps(algorithm):
    a, b = (np.arange(1.0, size + 1) for size in algorithm.target.dims[:2])
    assert executed(algorithm)(a, b) == pytest.approx(algorithm.apply(a, b))


def test_the_python_program_adds_as_often_as_it_says():
    class Counted(int):
        sums = 0

        def __add__(self, other):
            Counted.sums += 1
            return Counted(int(self) + int(other))

        def __sub__(self, other):
            Counted.sums += 1
            return Counted(int(self) - int(other))

        def __mul__(self, other):
            return Counted(int(self) * int(other))

        def __neg__(self):
            return Counted(-int(self))

    algorithm = named("winograd")
    executed(algorithm)(*[[[Counted(1), Counted(2)], [Counted(3), Counted(4)]]] * 2)
    assert Counted.sums == 15


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("algorithm", [named("laderman"), halves(), named("toom(2,3)")])
def test_the_c_program_computes_the_same(algorithm, tmp_path):
    a, b = (np.arange(1.0, size + 1) for size in algorithm.target.dims[:2])
    literal = [", ".join(map(str, values)) for values in (a, b)]
    text = "#include <stdio.h>\n" + emit(algorithm, count(algorithm, 20), "c")
    text += f"int main(void) {{ double A[] = {{{literal[0]}}}, B[] = {{{literal[1]}}}, C[{algorithm.target.dims[2]}];\n"
    text += f'multiply(A, B, C); for (int i = 0; i < {algorithm.target.dims[2]}; i++) printf("%.17g ", C[i]); return 0; }}\n'
    (tmp_path / "program.c").write_text(text)
    subprocess.run(["cc", "-Wall", "-Werror", "-o", tmp_path / "program", tmp_path / "program.c"], check=True)
    output = subprocess.run([tmp_path / "program"], check=True, capture_output=True, text=True).stdout
    assert [float(word) for word in output.split()] == pytest.approx(algorithm.apply(a, b))


def test_latex_names_every_sum_and_entry():
    text = emit(named("winograd"), count(named("winograd")), "latex")
    assert text.count("&=") == 15 + 7
    assert "c_{11} &= p_{1} + p_{2}" in text
    assert text.count("\\begin{align*}") == text.count("\\end{align*}") == 1


def test_coefficients_modulo_p_count_as_the_integers_next_to_0():
    assert count(strassen_mod_2()).total == 18
    with pytest.raises(InputError, match="over Z2"):
        emit(strassen_mod_2(), count(strassen_mod_2()), "python")


def test_every_kind_is_counted_or_refused_in_one_line():
    for algorithm in every_kind():
        if algorithm.exact is not None and algorithm.ring != "Q(i)":
            assert count(algorithm, 4).total <= algorithm.additions
        else:
            with pytest.raises(InputError):
                count(algorithm)


@pytest.mark.parametrize(("algorithm", "reason"), [(noisy(), "not exact"), (gaussian(), "complex")])
def test_what_cannot_be_counted(algorithm, reason):
    with pytest.raises(InputError, match=reason):
        count(algorithm)


def test_bad_programs_and_matrices():
    with pytest.raises(InputError, match="before it"):
        Program(2, (((1, 0), (1, 2)),), ())
    with pytest.raises(InputError, match="takes 2 values"):
        Program(2, (), ((1, 0),)).evaluate([1])
    for rows in ([], [[]], [[1], [1, 2]]):
        with pytest.raises(InputError, match="at least one row"):
            straight_line(rows)
    with pytest.raises(InputError, match="restarts"):
        straight_line([[1]], restarts=0)
    with pytest.raises(InputError, match="valid: python, c, latex"):
        emit(strassen(), count(strassen()), "fortran")


def test_exchange_finds_winograd_s_15_from_strassen():
    found = exchange(strassen(), moves=2000, restarts=20)
    assert found.additions.total == 15
    assert found.algorithm.rank == 7
    assert found.algorithm.mismatch().count == 0
    assert found.algorithm.provenance["parents"][0]["id"] == strassen().id
    assert exchange(strassen(), moves=2000, restarts=20).algorithm.id == found.algorithm.id


def test_exchange_undoes_a_change_of_basis():
    sheared = sandwich(named("winograd"), [[1, 0], [1, 1]], [[1, 0], [0, 1]], [[1, 0], [0, 1]])
    assert count(sheared).total > 15
    found = exchange(sheared, moves=2000, restarts=20, seed=1)
    assert found.additions.total == 15
    assert found.algorithm.mismatch().count == 0


def test_exchange_begins_in_a_basis_where_coefficients_are_signs():
    dense = sandwich(strassen(), [[1, 2], [0, 1]], [[1, 0], [1, 1]], [[1, 1], [1, 2]])
    assert not dense.is_ternary
    assert ternary_form(dense).is_ternary
    assert ternary_form(strassen()) is strassen() or ternary_form(strassen()).id == strassen().id
    assert exchange(dense, moves=2000, restarts=20).additions.total == 15


def test_exchange_can_be_stopped_and_returns_the_start_if_nothing_is_better():
    laderman = named("laderman")
    found = exchange(laderman, moves=10**9, restarts=100, callback=lambda moves, fewest: True)
    assert found.ended == "stopped"
    assert found.additions.total <= 62
    assert found.algorithm is laderman or found.additions.total < 62


def test_exchange_refuses_what_it_cannot_walk_on():
    with pytest.raises(InputError, match="-1, 0, 1"):
        exchange(named("toom(2,3)"))
    with pytest.raises(InputError, match="over Z"):
        exchange(strassen_mod_2())
    with pytest.raises(InputError, match="rows and columns"):
        exchange(named("standard(8,8,8)"))
    with pytest.raises(InputError, match="moves"):
        exchange(strassen(), moves=0)


def run(*arguments):
    result = CliRunner().invoke(cli, ["additions", *arguments], catch_exceptions=True)
    return result


def test_the_command_counts():
    result = run("winograd", "--json")
    document = json.loads(result.output)
    assert document["naive"] == {"encode_a": 7, "encode_b": 7, "decode": 10, "total": 24}
    assert document["additions"] == {"encode_a": 4, "encode_b": 4, "decode": 7, "total": 15}
    assert "15" in run("winograd").output


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_command_writes_programs(language, tmp_path):
    out = tmp_path / "program.txt"
    assert run("strassen", "--emit", language, "--out", str(out)).exit_code == 0
    assert out.read_text() == run("strassen", "--emit", language).output


def test_the_command_stores_what_it_exchanges(tmp_path):
    result = run("strassen", "--exchange", "--walk", "2000", "--restarts", "20", "--json", "--registry", str(tmp_path))
    document = json.loads(result.output)
    assert document["additions"]["total"] == 15
    stored = open_registry(tmp_path).get(document["name"]).algorithm
    assert count(stored).total == 15
    assert stored.provenance["command"] == "stlsearch additions strassen --exchange --walk 2000 --restarts 20 --seed 0"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["strassen", "--walk", "5"], "--walk belongs to --exchange"),
        (["strassen", "--out", "x.py"], "--out belongs to --emit"),
        (["strassen", "--emit", "fortran"], "valid: python, c, latex"),
        (["strassen", "--emit", "c", "--json"], "--out"),
        (["nonsense"], "nonsense"),
        (["strassen", "--restarts", "0"], "restarts"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, reason, capsys):
    assert main(["additions", *arguments]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.strip().splitlines()) == 1

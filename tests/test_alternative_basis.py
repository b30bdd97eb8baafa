"""Sparse cores between changes of basis: exact, optimal where they say so, and executed."""

import itertools
import json
from fractions import Fraction

import numpy as np
import pytest
from click.testing import CliRunner
from samples import STRASSEN_U, definition, gaussian, noisy, strassen, strassen_mod_2

from stlsearch.additions.alternative_basis import core_size, leading_coefficient, multiply, naive_additions, sparsify
from stlsearch.additions.sparse_columns import PRIME, independent, sparse_vectors, to_unit
from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands import cli, main
from stlsearch.constructions.classical import laderman, toom, winograd
from stlsearch.constructions.transforms import sandwich
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix
from stlsearch.registry.store import Registry
from stlsearch.targets import Target


def same(one: ExactMatrix, other: ExactMatrix) -> bool:
    return one.denominator == other.denominator and bool((one.real == other.real).all())


def halved_laderman() -> BilinearAlgorithm:
    """Laderman's algorithm in a basis with fractions."""
    half = Fraction(1, 2)
    return sandwich(laderman(), [[1, half, 0], [0, 1, 0], [0, 3, 1]], [[1, 0, 0], [0, 2, 0], [1, 0, 1]], [[1, 0, 0], [0, 1, 1], [0, 0, 1]])


@pytest.mark.parametrize("make", [strassen, winograd, laderman, halved_laderman, lambda: definition(2, 3, 1), lambda: toom(3, 2)])
def test_core_and_bases_recombine_to_the_algorithm_exactly(make):
    algorithm = make()
    form = sparsify(algorithm)
    for core, basis, factor in zip(form.core, form.bases, algorithm.exact, strict=True):
        assert same(core @ basis, factor)
        assert sum(form.nonzeros) <= sum(np.count_nonzero(factor.real) for factor in algorithm.exact)
    again = [core @ basis for core, basis in zip(form.core, form.bases, strict=True)]
    BilinearAlgorithm.from_exact(algorithm.target, *again)  # refuses what is not exact


@pytest.mark.parametrize("make", [strassen, winograd])
def test_twelve_additions_for_two_by_two(make):
    form = sparsify(make())
    assert form.additions == (3, 3, 6)
    assert form.scalings == (0, 0, 0)
    assert form.nonzeros == form.least_nonzeros == (10, 10, 10)
    assert form.leading_coefficient == 5
    assert form.ring == form.inverse_ring == "Z"


def test_leading_coefficients_of_the_literature():
    algorithm = strassen()
    assert naive_additions(algorithm.exact) == (5, 5, 8)
    assert leading_coefficient(algorithm, (5, 5, 8)) == 7
    assert leading_coefficient(algorithm, (4, 4, 7)) == 6  # Winograd's 15
    assert leading_coefficient(definition(1, 2, 3), (0, 0, 3)) is None  # as many products as entries of B
    assert leading_coefficient(toom(2, 2), (1, 1, 2)) is None


def test_laderman_in_the_sparsest_basis():
    form = sparsify(laderman())
    assert form.nonzeros == form.least_nonzeros
    assert sum(form.naive_additions) == 74
    assert sum(form.additions) <= 62


def test_the_core_does_not_depend_on_the_basis_or_the_scale_of_the_terms():
    original = laderman()
    rows = [[2, 1, 0], [1, 1, 0], [0, 3, 1]]
    changed = sandwich(original, rows, [[1, 0, 0], [1, 1, 0], [0, 1, 1]], [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    assert sum(naive_additions(changed.exact)) > 98
    scaled = [[Fraction(int(value)) * scale for value in row] for row, scale in zip(original.U, itertools.cycle([2, 3, 1]), strict=False)]
    back = [[Fraction(int(value)) / scale for value in row] for row, scale in zip(original.W, itertools.cycle([2, 3, 1]), strict=False)]
    rescaled = BilinearAlgorithm.from_exact(original.target, scaled, original.exact[1], back)
    assert sparsify(changed).naive_additions == sparsify(rescaled).naive_additions == sparsify(original).naive_additions


@pytest.mark.parametrize("seed", range(4))
def test_no_combination_is_sparser_by_brute_force(seed):
    """The non-zeros of the sparsest basis against a search of all small combinations of columns."""
    random = np.random.default_rng(seed)
    while True:
        matrix = random.integers(-1, 2, (7, 3))
        if np.linalg.matrix_rank(matrix) == 3 and matrix.any(axis=1).all():
            break
    found = sparse_vectors(matrix)
    chosen = found.vectors[independent(found.vectors.T)]
    assert found.safe
    assert len(chosen) == 3
    combinations = np.array([c for c in itertools.product(range(-4, 5), repeat=3) if any(c)]) @ matrix.T
    weights = np.count_nonzero(combinations, axis=1)
    order = np.argsort(weights, kind="stable")
    best = weights[order][independent(combinations[order].T)]
    assert np.count_nonzero(chosen, axis=1).sum() <= best.sum()


def test_every_vector_found_lies_in_the_column_space():
    matrix = np.array(laderman().exact[2].real)
    for vector in sparse_vectors(matrix).vectors:
        assert len(independent(np.column_stack([matrix, vector]))) == 9


def test_to_unit_leaves_the_fewest_entries_that_are_not_signs():
    vector = to_unit(np.array([0, 6, 3, PRIME - 3, 3]))
    assert vector.tolist() == [0, 2, 1, PRIME - 1, 1]


def test_without_budget_random_pivots_fill_up_and_nothing_is_claimed():
    form = sparsify(laderman(), budget=1)
    assert all(least < found for least, found in zip(form.least_nonzeros, form.nonzeros, strict=True))
    assert sum(form.additions) <= 98
    for core, basis, factor in zip(form.core, form.bases, laderman().exact, strict=True):
        assert same(core @ basis, factor)


def test_the_same_seed_gives_the_same_form():
    first, second = sparsify(laderman(), budget=1, seed=3), sparsify(laderman(), budget=1, seed=3)
    assert all(same(x, y) for x, y in zip((*first.core, *first.bases), (*second.core, *second.bases), strict=True))


class Counted:
    """An integer that counts its additions."""

    total = 0

    def __init__(self, value):
        self.value = value

    def __add__(self, other):
        Counted.total += 1
        return Counted(self.value + other.value)

    def __mul__(self, other):
        return Counted(self.value * getattr(other, "value", other))

    def __neg__(self):
        return Counted(-self.value)


@pytest.mark.parametrize(("make", "levels"), [(strassen, 2), (winograd, 3), (laderman, 1), (halved_laderman, 1)])
def test_it_multiplies_block_matrices_exactly(make, levels):
    algorithm = make()
    n, m, p = algorithm.target.shape
    random = np.random.default_rng(levels)
    A = random.integers(-9, 10, (n**levels * 2, m**levels)).astype(object)
    B = random.integers(-9, 10, (m**levels, p**levels * 3)).astype(object)
    assert (multiply(sparsify(algorithm), A, B, levels) == A @ B).all()


def test_floats_multiply_too():
    random = np.random.default_rng(0)
    A, B = random.normal(size=(9, 9)), random.normal(size=(9, 9))
    assert np.allclose(multiply(sparsify(halved_laderman()), A, B, 2), A @ B)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_additions_of_a_run_are_those_of_the_formula(levels):
    """r^L products and, of the core, q additions of blocks for each product of the level above, as the leading coefficient counts."""
    form = sparsify(strassen())
    A, B = (np.array([[Counted(i + j) for i in range(2**levels)] for j in range(2**levels)], dtype=object) for _ in range(2))
    Counted.total = 0
    product = multiply(form, A, B, levels)
    values = [[entry.value for entry in row] for row in product]
    plain = [[Counted(0).value + entry.value for entry in row] for row in A]
    assert values == (np.array(plain) @ np.array(plain)).tolist()
    core = sum(12 * 7**level * 4 ** (levels - 1 - level) for level in range(levels))
    bases = sum(form.basis_additions) * levels * 4 ** (levels - 1)
    assert Counted.total == core + bases
    assert core == (form.leading_coefficient - 1) * (7**levels - 4**levels)


@pytest.mark.parametrize("algorithm", [noisy(), strassen_mod_2(), gaussian()])
def test_only_exact_real_algorithms(algorithm):
    with pytest.raises(InputError, match=f"not one over {algorithm.ring}".replace("(", r"\(").replace(")", r"\)")):
        sparsify(algorithm)


def test_a_map_that_ignores_an_entry_is_refused():
    tensor = np.zeros((2, 1, 1), dtype=int)
    tensor[0, 0, 0] = 1
    algorithm = BilinearAlgorithm.from_exact(Target.explicit(tensor), [[1, 0]], [[1]], [[1]])
    with pytest.raises(InputError, match="linearly dependent"):
        sparsify(algorithm)


def test_sizes_that_do_not_divide():
    form = sparsify(strassen())
    with pytest.raises(InputError, match="not divisible by <2,2,2> at 2 levels"):
        multiply(form, np.ones((4, 6)), np.ones((6, 4)), 2)
    with pytest.raises(InputError, match="at least 0"):
        multiply(form, np.ones((4, 4)), np.ones((4, 4)), -1)


def test_core_size_counts_what_sparsify_finds():
    form = sparsify(laderman())
    assert core_size(laderman()) == sum(form.nonzeros) == 129


@pytest.fixture
def file(tmp_path):
    return Registry(tmp_path).add(strassen())


def test_the_command(file):
    result = CliRunner().invoke(cli, ["sparsify", str(file)])
    assert result.exit_code == 0
    assert "additions of the core          3   3   6     12               5.0000" in result.output
    assert "all sparser vectors were enumerated" in result.output
    assert "F =" in result.output


def test_the_command_writes_exact_json(file, tmp_path):
    out = tmp_path / "form.json"
    result = CliRunner().invoke(cli, ["sparsify", str(file), "--json", "--out", str(out)])
    assert result.exit_code == 0
    written = json.loads(out.read_text())
    shown = json.loads(result.stdout)
    assert written == shown
    assert shown["version"] == 1
    assert shown["naive_additions"]["original"] == [5, 5, 8]
    assert shown["additions"]["core"] == shown["naive_additions"]["core"] == [3, 3, 6]
    U = np.array(written["core"]["U"]["rows"]) @ np.array(written["bases"]["F"]["rows"])
    assert U.tolist() == STRASSEN_U


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--effort", "0"], "the effort must be an integer of at least 1"),
        (["--out", "nowhere/form.json"], "there is no folder"),
        (["--seed", "-1"], "-1 is not in the range"),
    ],
)
def test_bad_input_is_one_line(file, capsys, arguments, message):
    assert main(["sparsify", str(file), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1

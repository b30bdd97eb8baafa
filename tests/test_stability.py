"""Stability figures: the literature's values, what leaves them unchanged, and bounds that measured errors keep."""

import json
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from samples import definition, gaussian, karatsuba, noisy, strassen, strassen_mod_2

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands import cli
from stlsearch.constructions.classical import laderman, winograd
from stlsearch.constructions.transforms import compose, permute, sandwich
from stlsearch.errors import InputError
from stlsearch.evaluate.stability import forward_errors, growth_factor, levels_measured, recursive_product, stability
from stlsearch.registry.store import Registry

ROTATION = [[Fraction(3, 5), Fraction(4, 5)], [Fraction(-4, 5), Fraction(3, 5)]]
SWAP = [[0, 1], [-1, 0]]
ONE = [[1, 0], [0, 1]]


def test_figures_of_the_literature():
    assert growth_factor(strassen()) == pytest.approx(12 + 2 * 2**0.5)  # 14.8284, Dumas, Pernet and Sedoglavic
    assert growth_factor(winograd()) == pytest.approx(17.8530, abs=1e-4)
    assert growth_factor(definition(2, 2, 2)) == 8
    assert stability(strassen()).vector == (12, 4, 4, 12)  # Higham, chapter 23; Ballard et al.
    assert stability(winograd()).vector == (2, 18, 18, 18)
    assert stability(definition(3, 4, 2)).vector == (4,) * 6
    assert stability(strassen()).prefactor == 8
    assert stability(definition(3, 4, 2)).prefactor == 6  # 4 sums' terms, and one product of one term each


def test_the_definition_written_out():
    """The vector and the roundings entry by entry, in floats, for an algorithm of many coefficients."""
    algorithm = sandwich(laderman(), [[1, 2, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [3, 1, 0], [0, 0, 1]], np.eye(3, dtype=int).tolist())
    found = stability(algorithm)
    U, V, W = np.abs(algorithm.U), np.abs(algorithm.V), np.abs(algorithm.W)
    expected = [sum(U[r].sum() * V[r].sum() * W[r, k] for r in range(23)) for k in range(9)]
    assert [float(value) for value in found.vector] == expected
    terms = [np.count_nonzero(factor, axis=1) for factor in (U, V)]
    counted = [np.count_nonzero(W[:, k]) + max(terms[0][r] + terms[1][r] for r in range(23) if W[r, k]) for k in range(9)]
    assert found.prefactor == max(counted)


def test_fractions_that_binary_cannot_hold_are_rounded_too():
    third = BilinearAlgorithm.from_exact(definition(1, 1, 1).target, [[Fraction(1, 3)]], [[3]], [[1]])
    assert stability(third).prefactor == 4
    half = BilinearAlgorithm.from_exact(definition(1, 1, 1).target, [[Fraction(1, 2)]], [[2]], [[1]])
    assert stability(half).prefactor == 3


@pytest.mark.parametrize("make", [strassen, winograd])
def test_orthogonal_changes_of_basis_and_scales_leave_the_growth_factor(make):
    algorithm = make()
    turned = sandwich(algorithm, ROTATION, SWAP, ROTATION)
    assert turned.is_exact
    assert growth_factor(turned) == pytest.approx(growth_factor(algorithm))
    scaled = BilinearAlgorithm.from_floats(algorithm.target, 7 * algorithm.U, algorithm.V, algorithm.W / 7, balance=False)
    assert growth_factor(scaled) == pytest.approx(growth_factor(algorithm))
    assert growth_factor(sandwich(algorithm, [[1, 5], [0, 1]], ONE, ONE)) > growth_factor(algorithm)


def test_scales_and_orders_leave_the_stability_vector_as_it_is():
    algorithm = laderman()
    scales = [Fraction(1, 2), 2, 4] * 8
    rows = [[Fraction(int(x)) * s for x in row] for row, s in zip(algorithm.U, scales, strict=False)]
    back = [[Fraction(int(x)) / s for x in row] for row, s in zip(algorithm.W, scales, strict=False)]
    order = list(range(22, -1, -1))
    mixed = [np.array(rows)[order].tolist(), algorithm.exact[1].take(order), np.array(back)[order].tolist()]
    assert stability(BilinearAlgorithm.from_exact(algorithm.target, *mixed)).vector == stability(algorithm).vector


def test_composition_multiplies():
    double = compose(strassen(), winograd())
    assert growth_factor(double) == pytest.approx(growth_factor(strassen()) * growth_factor(winograd()))
    assert stability(double).emax == 12 * 18


def test_permutations_keep_the_growth_factor():
    algorithm = definition(2, 3, 1)
    for order in ((2, 3, 1), (3, 2, 1), (1, 3, 2)):
        assert growth_factor(permute(algorithm, order)) == pytest.approx(growth_factor(algorithm))


def test_bounds_by_hand_and_never_above_the_closed_form():
    figures = stability(strassen())
    assert figures.max_bound(64, 0) == 64 * 64
    # The first level: e of c11 is 12, through m1 (2 + 2 roundings before, 4 after), m4, m5 (3) and m7 (4): 4*8 + 2*7 + 2*7 + 4*8.
    assert figures.rounding[0] == 92
    assert figures.max_bound(64, 1) == 92 * 32 + 12 * 32 * 32
    assert figures.frobenius_bound(64, 1) == pytest.approx(figures.growth * (8 + 32))
    for algorithm in (strassen(), winograd(), laderman(), definition(2, 2, 2)):
        figures = stability(algorithm)
        for levels in range(4):
            inner = 5 * figures.inner**levels
            assert figures.max_bound(inner, levels) <= figures.closed_max_bound(inner, levels)
            assert isinstance(figures.max_bound(inner, levels), Fraction)


def test_the_classical_algorithm_keeps_the_bound_of_the_ordinary_product_in_largest_entries():
    """Recursion by the definition is the ordinary product summed in another order: its bound is no worse."""
    figures = stability(definition(2, 2, 2))
    assert all(figures.max_bound(2**levels * 16, levels) <= figures.max_bound(2**levels * 16, 0) for levels in range(4))


@pytest.mark.parametrize(
    "make", [strassen, winograd, laderman, lambda: definition(2, 1, 3), lambda: compose(strassen(), definition(1, 2, 1))]
)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_measured_errors_keep_their_bounds(make, dtype):
    errors = forward_errors(make(), dtypes=[dtype], levels=2, leaf=4, seed=5)
    assert [error.levels for error in errors] == [0, 1, 2]
    for error in errors:
        assert 0 < error.frobenius <= error.frobenius_bound
        assert 0 < error.largest <= error.largest_bound


@pytest.mark.parametrize("seed", range(3))
def test_single_roundings_keep_the_bound_on_matrices_of_one_element_blocks(seed):
    """Blocks of 1 x 1: nothing averages out, the bound is closest."""
    errors = forward_errors(strassen(), levels=1, leaf=1, seed=seed)
    assert errors[1].largest <= errors[1].largest_bound
    assert errors[1].largest > 0.01 * errors[1].largest_bound


def test_worse_figures_go_with_worse_errors():
    ours = {make: forward_errors(make(), levels=3, seed=1)[-1].frobenius for make in (strassen, winograd)}
    assert ours[strassen] < ours[winograd]


def test_measuring_is_reproducible_and_float64_is_passed_over():
    first, second = (forward_errors(winograd(), dtypes=["float64", "float32"], levels=1, seed=3) for _ in range(2))
    assert first == second
    assert {error.dtype for error in first} == {"float32"}
    assert forward_errors(winograd(), levels=1, seed=4) != first


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_the_recursion_multiplies(levels):
    algorithm = compose(strassen(), definition(1, 3, 1))
    generator = torch.Generator().manual_seed(levels)
    A = torch.randint(-9, 10, (2**levels * 3, 6**levels), generator=generator, dtype=torch.float64)
    B = torch.randint(-9, 10, (6**levels, 2**levels * 5), generator=generator, dtype=torch.float64)
    assert torch.equal(recursive_product(algorithm, A, B, levels), A @ B)


def test_depth_follows_the_number_of_products():
    assert levels_measured(strassen()) == 3
    assert levels_measured(laderman()) == 2
    assert levels_measured(definition(5, 5, 5)) == 1


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [(noisy(), "not over R"), (strassen_mod_2(), "not over Z2"), (gaussian(), "not over Q"), (karatsuba(), "not for polymul")],
)
def test_what_has_no_figures(algorithm, message):
    with pytest.raises(InputError, match=message):
        stability(algorithm)


def test_growth_of_inexact_algorithms_and_none_modulo_2():
    algorithm = noisy()
    assert growth_factor(algorithm) > 0
    with pytest.raises(InputError, match="over Z2 has no growth factor"):
        growth_factor(strassen_mod_2())


def test_bad_sizes():
    figures = stability(strassen())
    with pytest.raises(InputError, match=r"12 is no multiple of 2\^3"):
        figures.max_bound(12, 3)
    with pytest.raises(InputError, match="at least 0"):
        figures.frobenius_bound(12, -1)
    with pytest.raises(InputError, match="not divisible"):
        recursive_product(strassen(), torch.ones(2, 3), torch.ones(3, 2), 1)
    with pytest.raises(InputError, match="unknown dtype 'int8'"):
        forward_errors(strassen(), dtypes=["int8"])


def test_exact_figures_load_no_torch():
    code = "import sys, stlsearch.stability; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def evaluated(tmp_path, algorithm, *arguments):
    path = Registry(tmp_path).add(algorithm)
    result = CliRunner().invoke(cli, ["evaluate", str(path), "--size", "16", "--no-timing", "--device", "cpu", *arguments])
    assert result.exit_code == 0
    return result.stdout


def test_evaluate_shows_them(tmp_path):
    out = evaluated(tmp_path, strassen(), "--dtype", "float32")
    assert "stability: growth factor 14.8284, e_max 12, prefactor 8" in out
    assert "in units of u |A| |B|" in out


def test_evaluate_has_them_in_json(tmp_path):
    found = json.loads(evaluated(tmp_path, strassen(), "--dtype", "float32,float64", "--json"))["stability"]
    assert found["emax"] == "12"
    assert found["stability_vector"] == ["12", "4", "4", "12"]
    assert [error["levels"] for error in found["errors"]] == [0, 1, 2, 3]
    assert all(error["max_error"] <= error["max_bound"] for error in found["errors"])


def test_evaluate_of_an_inexact_algorithm_has_none(tmp_path):
    assert json.loads(evaluated(tmp_path, noisy(), "--dtype", "float32", "--json"))["stability"] is None
    assert "stability" not in evaluated(tmp_path, noisy(), "--dtype", "float64")

"""Exact arithmetic: no rounding, no overflow, no false claim."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import laderman, standard, strassen
from stlsearch.constructions.transforms import sandwich
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix, check_ring, without_null_terms
from stlsearch.targets import Target


def test_a_product_that_only_wraps_around_to_its_target_is_not_exact():
    tensor = np.zeros((2, 2, 2), dtype=np.int64)
    tensor[0, 0, 0] = tensor[1, 1, 1] = 2**31
    target = Target.explicit(tensor)
    half = ExactMatrix.make([[1, 0], [1, 0]])
    W = ExactMatrix.make([[0, 2**51 + 1], [0, -(2**51) - 1]], 2**33)
    with pytest.raises(InputError, match="not exact"):
        BilinearAlgorithm.from_exact(target, half, half, W)


def test_denominators_far_beyond_int64_are_checked_in_integers():
    factors = [ExactMatrix.make([[2**19 + 1]], 2**50) for _ in range(3)]
    with pytest.raises(InputError, match="not exact"):
        BilinearAlgorithm.from_exact(Target.matmul(1, 1, 1), *factors)
    huge = [ExactMatrix.make([[2**40 + 1]]), ExactMatrix.make([[1]], 2**40 + 1), ExactMatrix.make([[1]])]
    assert BilinearAlgorithm.from_exact(Target.matmul(1, 1, 1), *huge).ring == "Q"


@given(st.integers(0, 6), st.integers(0, 3), st.sampled_from([-2, -1, 1, 2]))
def test_one_changed_coefficient_is_found_and_named(row, column, change):
    U = strassen().U.astype(int)
    U[row, column] += change
    with pytest.raises(InputError, match=r"not exact over Z: \d+ wrong coefficients, the first at a\d\d\*b\d\d in c\d\d: got"):
        BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), U, strassen().exact[1], strassen().exact[2])


def test_rings_an_algorithm_is_valid_over():
    assert strassen().valid_rings() == ["Z2", "Z3", "Z", "Z[1/2]", "Q", "Q(i)"]
    halves = sandwich(strassen(), [[2, 0], [0, 1]], [[1, 0], [0, 1]], [[1, 0], [0, 1]])
    assert halves.ring == "Z[1/2]"
    assert halves.valid_rings() == ["Z[1/2]", "Q", "Q(i)"]
    thirds = sandwich(strassen(), [[3, 0], [0, 1]], [[1, 0], [0, 1]], [[1, 0], [0, 1]])
    assert thirds.valid_rings() == ["Q", "Q(i)"]


def test_an_algorithm_over_z2_is_exact_there_alone_and_never_offered_to_real_matrices():
    odd = strassen().W.astype(int)
    odd[0, 0] += 2
    algorithm = BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), strassen().exact[0], strassen().exact[1], odd, ring="Z2")
    assert algorithm.valid_rings() == ["Z2"]
    assert not algorithm.is_real
    with pytest.raises(InputError, match="not exact over Z"):
        BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), *algorithm.exact, ring="Z")


@pytest.mark.parametrize("ring", ["Z4", "Z1", "Z02", "Z-3", "GF(2)", "", None, 3])
def test_unknown_rings_are_refused_with_the_valid_ones(ring):
    with pytest.raises(InputError, match=r"valid: Z2, Z3"):
        check_ring(ring)


def test_float_factors_that_overflow_are_refused():
    with pytest.raises(InputError, match="overflow"):
        BilinearAlgorithm.from_floats(Target.matmul(1, 1, 1), [[1e200]], [[1e200]], [[1e-300]])
    with pytest.raises(InputError, match="NaN"):
        BilinearAlgorithm.from_floats(Target.matmul(1, 1, 1), [[np.nan]], [[1.0]], [[1.0]])


@pytest.mark.parametrize("algorithm", [strassen(), laderman(), standard(2, 3, 4)], ids=["strassen", "laderman", "standard"])
def test_normal_form_keeps_the_map_and_both_measures(algorithm):
    generator = np.random.default_rng(0)
    scale = generator.uniform(0.5, 2, (3, algorithm.rank, 1)) * generator.choice([-1, 1], (3, algorithm.rank, 1))
    scale[2] = 1 / (scale[0] * scale[1])
    order = generator.permutation(algorithm.rank)
    scaled = [factor[order] * scale[mode][order] for mode, factor in enumerate((algorithm.U, algorithm.V, algorithm.W))]
    normal = BilinearAlgorithm.from_floats(algorithm.target, *scaled)
    assert normal.error < 1e-28
    assert normal.amplification == pytest.approx(algorithm.amplification)
    norms = [np.linalg.norm(factor, axis=1) for factor in (normal.U, normal.V, normal.W)]
    assert norms[0] == pytest.approx(norms[1])
    assert norms[0] == pytest.approx(norms[2])
    assert (np.diff(norms[0]) <= 1e-12).all()


def test_terms_of_which_any_factor_is_zero_are_null():
    U = ExactMatrix.make([[1, 0], [0, 0], [1, 2], [0, 3]], 2)
    V = ExactMatrix.make([[1, 0], [1, 1], [0, 0], [0, 0]], 1, [[0, 0], [0, 0], [0, 0], [0, 1]])
    W = ExactMatrix.make([[1, 1], [1, 1], [1, 1], [1, 1]])
    kept = without_null_terms([U, V, W])
    np.testing.assert_array_equal(kept[0].to_float(), [[0.5, 0], [0, 1.5]])
    np.testing.assert_array_equal(kept[1].to_float(), [[1, 0], [0, 1j]])
    assert kept[2].shape == (2, 2)
    with pytest.raises(InputError):
        without_null_terms([U, V, ExactMatrix.make(np.zeros((4, 2), dtype=int))])

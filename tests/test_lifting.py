"""Lifting from Zp: what lifts is congruent and exact, what does not is proved not to, and the two are never confused."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from samples import STRASSEN_U, STRASSEN_V, STRASSEN_W, definition, halves, noisy, strassen, strassen_mod_2

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands import lift_, main
from stlsearch.constructions.transforms import sandwich
from stlsearch.errors import InputError
from stlsearch.exact import modulus_of, reconstructed
from stlsearch.registry.codec import dumps, loads
from stlsearch.registry.store import Registry, open_registry
from stlsearch.search import lifting
from stlsearch.search.brent import annihilates, jacobian, joined, residual, separated
from stlsearch.search.flips import flip_search
from stlsearch.search.lifting import LIFTED, NO_LIFT, UNDECIDED, Obstruction, fractions, lift
from stlsearch.search.modular import Elimination
from stlsearch.targets import Target

PRIMES = (2, 3, 5, 31, 251, 257, 32749)


def reduced(algorithm, prime):
    """An exact algorithm modulo p."""
    parts = [factor.real * pow(factor.denominator, -1, prime) % prime for factor in algorithm.exact]
    return BilinearAlgorithm.from_exact(algorithm.target, *parts, ring=f"Z{prime}")


def matrix_rank_1(entries, prime):
    """The rank-1 algorithm modulo p of a 2 x 2 matrix, a 2 x 2 x 1 tensor whose determinant p divides: (1, 1) times its first row."""
    matrix = np.array(entries)
    return BilinearAlgorithm.from_exact(
        Target.explicit(matrix[:, :, None]), [[1, 1]], [(matrix[0] % prime).tolist()], [[1]], ring=f"Z{prime}"
    )


def terms(algorithm, prime):
    """u (x) v (x) w of every term modulo p."""
    parts = [factor.real * pow(factor.denominator, -1, prime) % prime for factor in algorithm.exact]
    return np.einsum("ra,rb,rc->rabc", *parts) % prime


def check_lifted(found, parent):
    prime = modulus_of(parent.ring)
    assert found.status == "lifted"
    assert found.obstruction is None
    assert found.algorithm.ring in ("Z", "Z[1/2]", "Q")
    assert found.algorithm.mismatch().count == 0
    assert found.algorithm.is_real
    assert not (found.algorithm.is_ternary and found.ternary_excluded)
    np.testing.assert_array_equal(terms(found.algorithm, prime), terms(parent, prime))
    assert found.algorithm.provenance["parents"] == [{"id": parent.id, "name": parent.name}]
    assert found.algorithm.provenance["method"] == "Hensel lifting"


# Linear equations modulo a prime.


def echelon_columns(matrix, prime):
    """The leftmost independent columns, one by one."""
    matrix, found = matrix.copy() % prime, []
    for column in range(matrix.shape[1]):
        rows = np.flatnonzero(matrix[len(found) :, column]) + len(found)
        if len(rows):
            matrix[[len(found), rows[0]]] = matrix[[rows[0], len(found)]]
            pivot = matrix[len(found)] * pow(int(matrix[len(found), column]), -1, prime) % prime
            below = matrix[len(found) + 1 :]
            below[:] = (below - np.outer(below[:, column], pivot)) % prime
            found.append(column)
    return found


@pytest.mark.parametrize("prime", PRIMES)
@pytest.mark.parametrize(("height", "width", "rank", "density"), [(90, 150, 40, 1), (150, 90, 90, 0.5), (70, 64, 70, 0.05), (3, 200, 0, 1)])
def test_elimination_solves_what_has_a_solution_and_explains_every_row(prime, height, width, rank, density):
    random = np.random.default_rng(prime + height)
    matrix = random.integers(0, prime, (height, rank)) @ random.integers(0, prime, (rank, width)) % prime
    matrix *= random.random(matrix.shape) < density
    rows, columns = np.nonzero(matrix)
    found = Elimination.of(rows, columns, matrix[rows, columns], matrix.shape, prime)
    assert found.pivot_columns.tolist() == echelon_columns(matrix, prime)
    right = matrix @ random.integers(0, prime, width) % prime
    solution = found.solve(right)
    np.testing.assert_array_equal(matrix @ solution % prime, right)
    assert not np.delete(solution, found.pivot_columns).any()
    several = np.stack([right, 0 * right, matrix[:, 0]], axis=1)
    np.testing.assert_array_equal(matrix @ found.solve(several) % prime, several)
    for row in matrix[:: height // 3]:
        np.testing.assert_array_equal(found.combination(row) @ matrix[found.pivot_rows] % prime, row)


# The Brent equations and fractions.


@pytest.mark.parametrize("prime", [2, 3, 101])
def test_jacobian_is_the_derivative_of_the_residual(prime):
    random = np.random.default_rng(0)
    dims, rank = (3, 4, 2), 5
    wanted = random.integers(-3, 4, dims)
    vector, change = random.integers(0, prime, (2, rank * sum(dims)))
    rows, unknowns, values = jacobian(separated(vector, dims), prime)
    assert len(set(zip(rows.tolist(), unknowns.tolist(), strict=True))) == len(rows)
    matrix = np.zeros((wanted.size, len(vector)), dtype=int)
    matrix[rows, unknowns] = values
    before, after = (residual(separated(x, dims), wanted, prime**2).ravel() for x in (vector, vector + prime * change))
    np.testing.assert_array_equal((after - before) % prime**2, prime * (matrix @ change % prime))
    np.testing.assert_array_equal(joined(separated(vector, dims)), vector)
    weights = random.integers(0, prime, dims)
    assert annihilates(weights, separated(vector, dims), prime) == (not (weights.ravel() @ matrix % prime).any())


def test_residual_is_the_same_in_python_integers():
    algorithm = strassen()
    factors = [factor.real + 5 for factor in algorithm.exact]
    wanted = algorithm.target.rational[0]
    large = residual(factors, wanted, 7**30)
    assert large.dtype == object
    np.testing.assert_array_equal((large % 49).astype(int), residual(factors, wanted, 49))


@pytest.mark.parametrize("modulus", [4, 3**4, 5**3, 2**13])
def test_every_small_fraction_is_found_again_and_nothing_else(modulus):
    bound = int((modulus // 2) ** 0.5)
    known = {}
    for below in range(1, bound + 1):
        if np.gcd(below, modulus) == 1:
            for above in range(-bound, bound + 1):
                known[above * pow(below, -1, modulus) % modulus] = Fraction(above, below)
    assert {residue: found for residue in range(modulus) if (found := reconstructed(residue, modulus)) is not None} == known
    assert fractions(np.array([0, 1, modulus - 1]), modulus) == [0, 1, -1]


# What lifts.


def test_strassen_modulo_2_gets_its_signs_back():
    parent = strassen_mod_2()
    found = lift(parent)
    check_lifted(found, parent)
    assert found.algorithm.is_ternary
    assert found.attempts == 1


@pytest.mark.parametrize("name", ["2x3x4_r20_Z_af9f279b", "3x3x3_r23_Z_d02fb355", "4x4x4_r49_Z_94107573"])
@pytest.mark.parametrize("prime", [2, 3])
def test_shipped_algorithms_in_another_basis_modulo_p_lift(name, prime):
    shipped = open_registry().get(name).algorithm
    assert shipped.target.shape is not None
    triangles = [np.triu(np.ones((size, size), dtype=int)) for size in shipped.target.shape]
    parent = reduced(sandwich(shipped, *(triangle @ triangle.T for triangle in triangles)), prime)  # coefficients of up to 8
    found = lift(parent, attempts=2)
    check_lifted(found, parent)
    assert found.attempts > 0


def test_a_later_step_without_solution_is_given_another_start(monkeypatch):
    shipped = open_registry().get("2x4x5_r33_Z_7fb5efbc").algorithm
    random = np.random.default_rng(0)

    def triangle(size):
        return np.tril(random.integers(-1, 2, (size, size)), -1) + np.eye(size, dtype=int)

    parent = reduced(sandwich(shipped, *(triangle(size) @ triangle(size).T for size in shipped.target.shape)), 3)
    bent = lift(parent, attempts=1)
    monkeypatch.setattr(lifting, "BENDS", 0)
    straight = lift(parent, attempts=1)
    assert (straight.status, bent.obstruction) == ("undecided", None)
    assert 2 <= straight.exponent < bent.exponent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "rank", "ring", "symmetry", "seeds"),
    [
        ((2, 2, 2), 7, "Z2", "none", 3),
        ((2, 2, 2), 7, "Z3", "none", 5),
        ((2, 3, 4), 20, "Z2", "none", 3),
        ((3, 3, 3), 23, "Z2", "cyclic", 3),
        ((4, 4, 4), 49, "Z2", "none", 10),
        ((4, 4, 4), 49, "Z2", "cyclic", 3),
        ((4, 4, 4), 49, "Z3", "cyclic", 3),
    ],
)
def test_what_walks_find_lifts(shape, rank, ring, symmetry, seeds):
    assert lifted_walks(Target.matmul(*shape), rank, ring, symmetry, range(seeds)) >= 2


def lifted_walks(target, rank, ring, symmetry, seeds):
    """How many algorithms that walks found were lifted; all others are proved not to."""
    lifted = 0
    for seed in seeds:
        parent = flip_search(target, rank, seed=seed, max_flips=20_000_000, ring=ring, symmetry=symmetry)
        if parent.rank > rank:
            continue
        found = lift(parent, attempts=3)
        if found.status == "lifted":
            check_lifted(found, parent)
            lifted += 1
        else:
            assert found.obstruction.verify(parent)
    return lifted


@pytest.mark.parametrize("prime", [3, 5, 7, 16381, 32749])
def test_a_larger_basis_reduced_modulo_p_is_lifted_back(prime):
    moved = sandwich(strassen(), [[2, 3], [1, 2]], [[1, 0], [4, 1]], [[1, 2], [0, 1]])
    parent = reduced(moved, prime)
    check_lifted(lift(parent), parent)


def test_signs_alone_are_excluded_where_a_zero_has_to_change():
    # [[1, 1], [1, 1]] + [[0, 0], [0, 2]] modulo 2, the second term by zeros: no signs of the first make the determinant 2.
    parent = BilinearAlgorithm.from_exact(
        Target.explicit(np.array([[[1], [1]], [[1], [3]]])), [[1, 1], [0, 1]], [[1, 1], [0, 0]], [[1], [1]], ring="Z2"
    )
    found = lift(parent)
    check_lifted(found, parent)
    assert found.ternary_excluded
    assert lift(reduced(strassen(), 2)).ternary_excluded is False


def test_fractions_are_found():
    parent = reduced(halves(), 5)  # 1/2 is 3 modulo 5
    found = lift(parent)
    check_lifted(found, parent)
    assert found.algorithm.ring == "Z[1/2]"


def test_what_is_exact_over_z_as_it_stands_takes_no_attempt():
    for parent in (reduced(strassen(), 3), reduced(definition(2, 1, 2), 2)):
        found = lift(parent)
        check_lifted(found, parent)
        assert (found.attempts, found.exponent) == (0, 1)


def test_terms_are_scaled_to_coprime_integers():
    U = [[3 * value for value in row] for row in STRASSEN_U]
    third = [[Fraction(value, 3) for value in row] for row in STRASSEN_W]
    found = lift(reduced(BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), U, STRASSEN_V, third), 7))
    assert found.algorithm.ring == "Z"


def test_a_lift_depends_on_its_seed_alone():
    parent = reduced(sandwich(strassen(), [[2, 3], [1, 2]], [[1, 0], [4, 1]], [[1, 2], [0, 1]]), 5)
    one, again = (lift(parent, seed=4, attempts=5) for _ in range(2))
    assert one.attempts == 5
    assert one.algorithm.id == again.algorithm.id
    assert (one.attempts, one.exponent) == (again.attempts, again.exponent)
    assert loads(dumps(one.algorithm)).provenance["seed"] == 4


# What does not.


def test_a_singular_matrix_that_is_regular_modulo_4_does_not_lift_and_the_proof_holds():
    parent = matrix_rank_1([[1, 1], [1, -1]], 2)  # determinant -2
    found = lift(parent)
    assert (found.status, found.algorithm, found.exponent) == ("no lift", None, 1)
    assert found.message.startswith("does not lift: nothing over Z/4")
    assert found.obstruction.equations == tuple((i, j, 0, 1) for i in range(2) for j in range(2))  # the determinant's derivative
    assert found.obstruction.verify(parent)


@pytest.mark.parametrize("prime", [3, 7, 257])
def test_no_lift_modulo_other_primes(prime):
    found = lift(parent := matrix_rank_1([[2, 1], [2, 1 + prime]], prime))
    assert found.status == "no lift"
    proof = found.obstruction
    assert proof.verify(parent)
    assert not replace(proof, equations=proof.equations[1:]).verify(parent)
    assert not replace(proof, equations=()).verify(parent)
    assert not replace(proof, value=0).verify(parent)
    assert not replace(proof, value=proof.value + 1).verify(parent)
    assert not replace(proof, prime=2).verify(parent)


@pytest.mark.slow
def test_some_29_products_of_3x3_by_3x4_do_not_lift():
    walks = (flip_search(Target.matmul(3, 3, 4), 29, seed=seed, max_flips=100_000_000, ring="Z2") for seed in range(20))
    tried = ((parent, lift(parent, attempts=1)) for parent in walks if parent.rank == 29)
    parent, found = next((parent, found) for parent, found in tried if found.status == "no lift")  # about one in three
    assert found.obstruction.verify(parent)
    assert not found.obstruction.verify(definition(3, 3, 4))


def test_a_proof_for_one_algorithm_is_none_for_another():
    proof = Obstruction(2, ((0, 0, 0, 1),), 1)
    assert not proof.verify(strassen_mod_2())
    assert not proof.verify(strassen())
    assert not proof.verify(noisy())


def test_what_fails_at_a_later_step_is_undecided():
    found = lift(matrix_rank_1([[1, 1], [1, 5]], 2))  # determinant 4: of rank 1 modulo 4, not modulo 8
    assert (found.status, found.exponent, found.obstruction) == ("undecided", 2, None)
    assert "proves nothing" in found.message


@pytest.mark.parametrize("steps", [9, 40])  # 7^40 is far beyond int64
def test_p_adic_solutions_that_are_no_fractions_are_undecided(steps):
    # The slices 1 and [[0, 2], [1, 0]]: two terms by eigenvectors, which need a root of 2: 3 modulo 7, and no fraction.
    tensor = np.stack([np.eye(2, dtype=int), [[0, 2], [1, 0]]], axis=2)
    right = np.array([[3, 1], [4, 1]])
    left = np.array([[pow(6, -1, 7), pow(2, -1, 7)], [-pow(6, -1, 7), pow(2, -1, 7)]]) % 7
    parent = BilinearAlgorithm.from_exact(Target.explicit(tensor), right, left, [[1, 3], [1, 4]], ring="Z7")
    found = lift(parent, attempts=3, steps=steps)
    assert (found.status, found.exponent, found.attempts) == ("undecided", steps, 3)
    assert found.status in (LIFTED, NO_LIFT, UNDECIDED)


def test_the_callback_is_told_and_can_stop():
    told = []
    found = lift(strassen_mod_2(), callback=lambda attempt, exponent, best: told.append((attempt, exponent, best)))
    assert (found.status, told[0]) == ("lifted", (1, 1, None))
    stopped = lift(strassen_mod_2(), callback=lambda *_: True)
    assert (stopped.status, stopped.stopped, stopped.exponent) == ("undecided", True, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lift(strassen()), "over Z$"),
        (lambda: lift(noisy()), "over R$"),
        (lambda: lift(strassen_mod_2(), steps=1), "steps must be from 2 to 100, not 1"),
        (lambda: lift(strassen_mod_2(), attempts=0), "attempts must be at least 1"),
        (lambda: lift(reduced(strassen(), 32771)), "primes below 32768, not 32771"),
        (
            lambda: lift(BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), STRASSEN_U, STRASSEN_V, STRASSEN_V, ring="Z2", verify=False)),
            "is not exact over Z2: .* wrong coefficients",
        ),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# The command.


def test_lift_stores_what_it_found_and_how(run, tmp_path, monkeypatch):
    monkeypatch.setattr("stlsearch.registry.store.shipped_folder", lambda: None)
    registry = Registry(tmp_path / "registry")
    parent = strassen_mod_2()
    registry.add(parent)
    code, out, _ = run("lift", parent.name)
    assert code == 0
    assert "-1, 0, 1" in out
    lifted = next(entry.algorithm for entry in registry.entries()[0] if entry.algorithm.ring == "Z")
    assert lifted.name in out
    assert lifted.provenance["command"] == f"stlsearch lift {parent.name} --steps 24 --seed 0 --attempts 20"
    assert main(["verify", lifted.name, "--registry", str(tmp_path / "registry")]) == 0


def test_a_lift_that_is_registered_in_another_basis_is_named(run, tmp_path):
    Registry(tmp_path / "registry").add(parent := strassen_mod_2())
    for extra in ((), ("--json",)):
        code, out, err = run("lift", parent.name, *extra)
        assert code == 0
        assert strassen().name in out
        assert err == f"not stored: {strassen().name}, which is registered, is the same in another basis, and no worse\n"
    assert not json.loads(out)["stored"]
    assert len(list((tmp_path / "registry").glob("*.json"))) == 1


def test_lift_from_a_file_as_json(run, tmp_path):
    path = tmp_path / "two.json"
    path.write_text(dumps(strassen_mod_2()))
    code, out, _ = run("lift", str(path), "--seed", "3", "--attempts", "2", "--steps", "6", "--json")
    document = json.loads(out)
    assert code == 0
    assert (document["version"], document["status"], document["certificate"]) == (1, "lifted", None)
    assert document["algorithm"]["ring"] == "Z"


def test_no_lift_and_undecided_are_said_and_exit_with_1(run, tmp_path):
    Registry(tmp_path / "registry").add(never := matrix_rank_1([[1, 1], [1, -1]], 2))
    Registry(tmp_path / "registry").add(perhaps := matrix_rank_1([[1, 1], [1, 5]], 2))
    code, out, _ = run("lift", never.name)
    assert (code, out.startswith(f"{never.name} does not lift")) == (1, True)
    code, out, _ = run("lift", never.name, "--json")
    document = json.loads(out)
    assert (code, document["status"], document["algorithm"]) == (1, "no lift", None)
    proof = Obstruction(2, tuple(tuple(equation) for equation in document["certificate"]["equations"]), document["certificate"]["value"])
    assert proof.verify(never)
    code, out, _ = run("lift", perhaps.name)
    assert (code, out.startswith(f"{perhaps.name}: undecided")) == (1, True)
    assert len(Registry(tmp_path / "registry").entries()[0]) == 2


def test_ctrl_c_exits_with_130(run, tmp_path, monkeypatch):
    Registry(tmp_path / "registry").add(parent := strassen_mod_2())
    monkeypatch.setattr(lift_.ProgressWatch, "__call__", lambda self, text: True)
    code, out, _ = run("lift", parent.name)
    assert code == 130
    assert "stopped" in out


@pytest.mark.parametrize("arguments", [["nothing_of_that_name"], ["--steps", "1"], ["--attempts", "0"], ["--seed", "-1"]])
def test_bad_arguments_are_one_line_and_code_2(run, tmp_path, arguments):
    Registry(tmp_path / "registry").add(parent := strassen_mod_2())
    code, out, err = run("lift", *arguments, *([] if len(arguments) == 1 else [parent.name]))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_an_algorithm_over_z_is_bad_input(run, tmp_path):
    Registry(tmp_path / "registry").add(parent := strassen())
    code, _, err = run("lift", parent.name)
    assert code == 2
    assert "only algorithms over Z2, Z3, ... Zp are lifted" in err
    assert len(err.splitlines()) == 1

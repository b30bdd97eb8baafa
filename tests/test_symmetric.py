"""Exact algorithms with a symmetry group, from random starts: groups, equations, fits, and what comes out."""

import json
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from stlsearch.errors import InputError
from stlsearch.search import symmetric
from stlsearch.search.orbit_equations import orbit_equations
from stlsearch.search.sign_groups import SignGroup, random_groups, signed_permutations
from stlsearch.search.symmetric import FITS, ORBITS, PINNING, default_order, discover_symmetric
from stlsearch.solvers.orbit_lm import jacobian_of, residual, solve
from stlsearch.targets import Target

CASES = [((2, 2, 2), 4, 7), ((2, 2, 3), 2, 11), ((2, 3, 4), 2, 20), ((3, 3, 3), 4, 23), ((3, 3, 3), 6, 23), ((4, 4, 4), 16, 48)]


def groups_of(shape, order, seed=0, count=3):
    stream = (group for group in random_groups(shape, order, np.random.default_rng(seed)) if group is not None)
    return [group for group, _ in zip(stream, range(count), strict=False)]


@cache
def cases():
    """Groups and their equations, two for every case; groups that no orbits make up the rank with are passed over."""
    return list(drawn_cases())


def drawn_cases():
    for shape, order, rank in CASES:
        target, found = Target.matmul(*shape), 0
        for number, group in enumerate(groups_of(shape, order, count=12)):
            equations = orbit_equations(target, rank, group, np.random.default_rng(number))
            if equations is not None and found < 2:
                found += 1
                yield target, group, equations


def matrix(row):
    result = np.zeros((len(row), len(row)))
    result[np.arange(len(row)), np.abs(row) - 1] = np.sign(row)
    return result


def feasible(equations, seed=0):
    x = np.random.default_rng(seed).standard_normal((equations.orbits, 3, equations.source.shape[2]))
    x = (equations.embedding @ (equations.embedding.T @ x.ravel())).reshape(x.shape)
    return x


def arguments(equations, with_values=True):
    values = (equations.values,) if with_values else ()
    return (equations.source, equations.sign, equations.rows, *values, equations.weights, equations.members, equations.ends)


def solved(equations, x, steps):
    embedding = equations.embedding
    sparse = (embedding.indptr, embedding.indices, embedding.data)
    return solve(x, *arguments(equations), sparse, embedding.shape[1], steps, 0.0, 1.0, 10, np.zeros(1, dtype=np.int8))


@pytest.mark.parametrize(("size", "count"), [(1, 1), (2, 4), (3, 24), (4, 192)])
def test_signed_permutations_up_to_sign_multiply_as_their_matrices(size, count):
    table = signed_permutations(size)
    assert len(table.elements) == count
    generator = np.random.default_rng(size)
    for a, b in generator.integers(0, count, (20, 2)):
        made = matrix(table.elements[a]) @ matrix(table.elements[b])
        assert np.abs(np.trace(made.T @ matrix(table.elements[table.products[a, b]]))) == size
        power = np.linalg.matrix_power(matrix(table.elements[a]), int(table.orders[a]))
        assert np.array_equal(np.abs(power), np.eye(size))
        assert abs(np.trace(power)) == size


@pytest.mark.parametrize(("shape", "order"), [(case[0], case[1]) for case in CASES])
def test_groups_have_their_order_are_closed_and_leave_the_product_as_it_is(shape, order):
    n, m, p = shape
    generator = np.random.default_rng(0)
    A, B = generator.standard_normal((n, m)), generator.standard_normal((m, p))
    for group in groups_of(shape, order):
        assert group.order == order
        assert not group.indices[0].any()
        found = {tuple(row) for row in group.indices}
        for g in range(order):
            P, Q, R = (matrix(space[g]) for space in group.elements)
            np.testing.assert_allclose((P @ A @ Q.T) @ (Q @ B @ R.T), P @ (A @ B) @ R.T, atol=1e-12)
            for h in range(order):
                pairs = zip(group.tables(), group.indices[g], group.indices[h], strict=True)
                assert tuple(table[a, b] for table, a, b in pairs) in found


def test_groups_of_one_seed_are_the_same_and_no_signature_comes_too_often():
    first, again = (groups_of((4, 4, 4), 8, seed=3, count=30) for _ in range(2))
    assert [group.describe() for group in first] == [group.describe() for group in again]
    assert max(Counter(group.signature() for group in first).values()) == 2
    assert all((group.indices[1:] != 0).all() for group in first)


def test_a_signature_does_not_depend_on_the_basis():
    group = groups_of((4, 4, 4), 8, seed=1, count=1)[0]
    table = signed_permutations(4)
    inverse = np.argmin(table.products, axis=1)  # the place of the identity, number 0, in every row
    turn = 57
    conjugate = [tuple(int(table.products[table.products[turn, i], inverse[turn]]) for i in row) for row in group.indices]
    assert SignGroup.of((4, 4, 4), conjugate).signature() == group.signature()


def test_groups_of_sizes_with_five_and_of_orders_that_cannot_be_faithful_are_drawn():
    assert groups_of((2, 4, 5), 4, count=1)[0].order == 4
    assert groups_of((2, 2, 3), 6, count=1)[0].order == 6


def test_subgroups_are_closed_and_their_orders_divide():
    group = groups_of((4, 4, 4), 16)[0]
    subgroups = group.subgroups()
    assert subgroups[0].tolist() == [0]
    assert all(group.order % len(each) == 0 and each[0] == 0 for each in subgroups)
    assert {1, 2, 4} <= {len(each) for each in subgroups}


def test_equations_have_the_rank_and_their_terms_are_orbits():
    count = 0
    for target, group, equations in cases():
        count += 1
        U, V, W = equations.expand(feasible(equations))
        assert len(U) == equations.rank == sum(equations.sizes())
        n, m, p = target.shape
        terms = np.einsum("ra,rb,rc->rabc", U, V, W)
        for g in range(group.order):
            P, Q, R = (matrix(space[g]) for space in group.elements)
            moved = np.einsum("ra,rb,rc->rabc", U @ np.kron(P, Q).T, V @ np.kron(Q, R).T, W @ np.kron(P, R).T)
            distances = np.abs(moved[:, None] - terms[None]).max(axis=(2, 3, 4))
            assert (distances.min(axis=1) < 1e-9).all()
        assert terms.shape[1:] == (n * m, m * p, n * p)
    assert count == 2 * len(CASES)


def test_the_equations_hold_the_whole_residual():
    for target, _, equations in cases():
        x = feasible(equations)
        out = np.empty(len(equations.rows))
        residual(x, *arguments(equations), out)
        U, V, W = equations.expand(x)
        whole = np.einsum("ra,rb,rc->abc", U, V, W) - target.tensor
        np.testing.assert_allclose((out**2).sum(), (whole**2).sum(), rtol=1e-9)


def test_the_jacobian_is_that_of_finite_differences():
    for _, _, equations in cases():
        x = feasible(equations, 1)
        jacobian = np.empty((len(equations.rows), x.size))
        jacobian_of(x, *arguments(equations, with_values=False), jacobian)
        direction, step = np.random.default_rng(2).standard_normal(x.shape), 1e-6
        ends = [np.empty(len(equations.rows)) for _ in range(2)]
        for sign, out in zip((1, -1), ends, strict=True):
            residual(x + sign * step * direction, *arguments(equations), out)
        np.testing.assert_allclose(jacobian @ direction.ravel(), (ends[0] - ends[1]) / (2 * step), atol=1e-6 * np.abs(ends[0]).max())


def test_a_fit_never_gets_worse_without_a_ridge_and_stays_in_the_embedding():
    for _, _, equations in cases():
        x = 0.5 * feasible(equations, 3)
        before = solved(equations, x, 0)[1]
        y, after = solved(equations, x, 10)
        assert after < before
        back = (equations.embedding @ (equations.embedding.T @ y.ravel())).reshape(y.shape)
        np.testing.assert_allclose(back, y, atol=1e-9)


@pytest.mark.parametrize(("shape", "rank", "order"), [((2, 2, 2), 7, 2), ((2, 2, 3), 11, 2)])
def test_exact_algorithms_are_found_and_the_same_ones_with_two_threads(shape, rank, order):
    runs = [discover_symmetric(Target.matmul(*shape), rank, order=order, seed=0, threads=threads, max_starts=2000) for threads in (1, 2)]
    for run in runs:
        assert run.status == "reached"
        assert run.stats.exact == 1
        found = run.algorithms[0]
        assert found.is_exact
        assert found.rank == rank
        assert found.error == 0
        assert found.provenance["order"] == order
        assert found.provenance["solver"] == "symmetric"
    assert runs[0].algorithms[0].id == runs[1].algorithms[0].id
    assert replace(runs[0].stats, core_seconds=0) == replace(runs[1].stats, core_seconds=0)


def test_a_solution_with_flat_directions_is_polished():
    group = groups_of((2, 4, 5), 2, seed=(1, 0), count=1)[0]
    equations = orbit_equations(Target.matmul(2, 4, 5), 32, group, np.random.default_rng([1, 0, ORBITS]))
    x, missing = symmetric._fit(equations, [1, 0, FITS], 0, np.zeros(1, dtype=np.int8))
    assert 0 < missing < symmetric.CLOSE
    polished = symmetric._polished(equations, x)
    assert polished is not None
    U, V, W = equations.expand(polished)
    np.testing.assert_allclose(np.einsum("ra,rb,rc->abc", U, V, W), Target.matmul(2, 4, 5).tensor, atol=1e-10)


@pytest.mark.slow
def test_a_search_for_rank_49_with_a_smaller_group_ends_in_48():
    run = discover_symmetric(Target.matmul(4, 4, 4), 49, order=8, seed=1, threads=2, max_starts=64)
    assert [algorithm.rank for algorithm in run.algorithms] == [48]


@pytest.mark.slow
def test_48_multiplications_for_4_by_4_matrices_from_random_starts():
    run = discover_symmetric(Target.matmul(4, 4, 4), 48, order=16, seed=1, threads=2)
    assert run.algorithms[0].is_exact
    assert run.algorithms[0].rank == 48
    assert "Z[1/2]" in run.algorithms[0].valid_rings()


def test_every_turn_of_every_group_has_random_numbers_of_its_own():
    seeds = {tuple(symmetric._seeds(5, turn, number, use)) for turn in range(5) for number in range(5) for use in (PINNING, ORBITS, FITS)}
    assert len(seeds) == 75
    visits = symmetric._visits((2, 2, 2), 4, 0)
    turns = [(turn, number, group.describe()) for turn, number, group in (next(visits) for _ in range(1200)) if group is not None]
    groups = [visit[1:] for visit in turns if visit[0] == 0]
    assert [visit[1:] for visit in turns if visit[0] == 3] == groups


def test_a_search_is_stopped_while_a_fit_runs(monkeypatch):
    target, group = Target.matmul(3, 3, 3), groups_of((3, 3, 3), 2, count=1)[0]
    monkeypatch.setattr(symmetric, "SECONDS", 0.0)
    monkeypatch.setattr(symmetric, "random_groups", lambda *drawn: iter([group]))  # no draw in vain, at which it could stop as well
    run = discover_symmetric(target, 22, order=2, seed=0, callback=lambda stats: True)
    assert (run.status, run.stats.starts) == ("stopped", 0)
    equations = orbit_equations(target, 22, group, np.random.default_rng(0))
    stopped, whole = (symmetric._fit(equations, [0], 0, np.full(1, stop, dtype=np.int8)) for stop in (1, 0))
    assert stopped[1] > 2 * whole[1]


def test_budget_and_callback():
    target = Target.matmul(2, 2, 2)
    spent = discover_symmetric(target, 6, order=2, seed=0, max_starts=20)
    assert spent.status == "budget"
    assert spent.stats.starts == 20
    assert not spent.algorithms
    few_groups = discover_symmetric(target, 6, order=4, seed=0, max_starts=300)
    assert few_groups.stats.starts == 300  # they have another turn
    stopped = discover_symmetric(target, 6, order=2, seed=0, callback=lambda stats: True)
    assert stopped.status == "stopped"
    assert stopped.stats.starts <= 1


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (Target.make("complex", {}), {}, "groups of changes of basis act on matrix products"),
        (Target.matmul(2, 2, 2), {"order": 1}, "2 to 64, not 1"),
        (Target.matmul(2, 2, 2), {"order": 3}, "no group of order 3"),
        (Target.matmul(2, 2, 6), {}, "sizes up to 5, not 6"),
        (Target.matmul(2, 2, 2), {"ring": "Z[i]"}, r"know the rings Z, Z\[1/2\], Q, not 'Z\[i\]'"),
        (Target.matmul(2, 2, 2), {"max_starts": 0}, "at least 1"),
    ],
)
def test_bad_input(target, options, message):
    with pytest.raises(InputError, match=message):
        discover_symmetric(target, 2, **{"order": 2, **options})


def test_a_rank_that_no_orbits_make_up_is_said_so(monkeypatch):
    monkeypatch.setattr("stlsearch.search.symmetric.PASSED", 1)
    with pytest.raises(InputError, match="no group of order 8 was found for 2x2x2 with orbits that make up rank 1"):
        discover_symmetric(Target.matmul(2, 2, 2), 1, order=8, seed=0)


def test_default_orders():
    assert default_order(Target.matmul(4, 4, 4)) == 16
    assert default_order(Target.matmul(3, 4, 4)) == 2


SEARCH = ("search", "--tile", "2", "--rank", "7")


def test_command_registers_what_it_finds_and_the_command_that_makes_it_again(run, nothing_shipped, tmp_path):
    code, out, _ = run(*SEARCH, "--method", "symmetric", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["reached"]
    assert told["exact"] == 1
    stored = json.loads(next((tmp_path / "registry").glob("2x2x2_r7_*.json")).read_text())
    assert "--method symmetric --group-order 2" in stored["provenance"]["command"]
    assert stored["provenance"]["generators"].startswith("[")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "flips", "--group-order", "2"], "--group-order belongs to --method symmetric, not to flips"),
        (["--method", "symmetric", "--walkers", "2"], "--walkers belongs to --method flips and sizes, not to symmetric"),
        (["--method", "symmetric", "--group-order", "0"], "elements must be an integer of at least 1"),
        (["--method", "symmetric", "--group-order", "65"], "2 to 64, not 65"),
    ],
)
def test_bad_commands_say_so_in_one_line(run, tmp_path, words, message):
    code, _, told = run(*SEARCH, *words)
    assert code == 2
    assert message in told
    assert not list(tmp_path.rglob("*.json"))

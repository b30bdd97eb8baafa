"""Equivalence with certificates, classes, symmetries and canonical forms, against known groups and brute force."""

import itertools
import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import networkx
import numpy as np
import pytest
from exchange_samples import winograd_like
from samples import definition, gaussian, halves, karatsuba, noisy, strassen_mod_2

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands import main
from stlsearch.constructions.classical import laderman, standard, strassen, winograd
from stlsearch.constructions.transforms import compose, cyclic, direct_sum, permute, sandwich, transpose
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix, modulus_of
from stlsearch.identity.bases import Outcome, Pair
from stlsearch.identity.canonical import canonical_form
from stlsearch.identity.certificate import Certificate, verify_certificate
from stlsearch.identity.class_id import class_id
from stlsearch.identity.colours import Invariants
from stlsearch.identity.duplicates import add_unless_equivalent, known_equivalent
from stlsearch.identity.modular import inverse, nullspace, primes, product, ranks, root_of_minus_one
from stlsearch.identity.same import DIFFERENT, EQUIVALENT, UNDECIDED, same, same_inexact
from stlsearch.identity.stabiliser import symmetries
from stlsearch.identity.terms import ORDERS, Terms, rank_distribution
from stlsearch.registry.codec import dumps
from stlsearch.registry.formats import EXPORTERS
from stlsearch.registry.store import Registry, shipped_folder
from stlsearch.targets import Target


def modulo(algorithm, p):
    return BilinearAlgorithm.from_exact(algorithm.target, *(factor.real % p for factor in algorithm.exact), ring=f"Z{p}")


def shipped(name):
    return Registry(None, shipped_folder()).get(name).algorithm


def flipped(algorithm, rng, tries):
    """Flips u(x)v(x)w + u(x)v'(x)w' = u(x)(v+v')(x)w + u(x)v'(x)(w'-w) at random: other algorithms of the same rank."""
    factors = [factor.real.copy() for factor in algorithm.exact]
    p = modulus_of(algorithm.ring)
    for _ in range(tries):
        mode, (i, j) = rng.integers(3), rng.permutation(algorithm.rank)[:2]
        if np.array_equal(factors[mode][i], factors[mode][j]):
            a, b = [(mode + 1) % 3, (mode + 2) % 3][:: rng.choice([1, -1])]
            x, y = factors[a][i] + factors[a][j], factors[b][j] - factors[b][i]
            x, y = (x % p, y % p) if p else (x, y)
            if x.any() and y.any():
                factors[a][i], factors[b][j] = x, y
    return BilinearAlgorithm.from_exact(algorithm.target, *factors, ring=algorithm.ring)


def disguised(algorithm, seed, size=3):
    """Another basis, another order, other scalings; over Zp too."""
    rng = np.random.default_rng(seed)
    n, m, p = algorithm.target.shape
    prime = modulus_of(algorithm.ring)
    order = rng.permutation(algorithm.rank)
    bases = []
    for extent in (n, m, p):
        basis = rng.integers(-size, size + 1, (extent, extent))
        while int(ranks(basis[None], prime or next(primes()))[0]) < extent:
            basis = rng.integers(-size, size + 1, (extent, extent))
        bases.append(basis)
    if prime is None:
        turned = sandwich(algorithm, *(basis.tolist() for basis in bases))
        scales = [Fraction(int(a), int(b)) for a, b in zip(*rng.integers(1, 6, (2, algorithm.rank)), strict=True)]
        factors = [factor.take(order) for factor in turned.exact]
        rows = [
            [Fraction(int(value), factors[0].denominator) * scale for value in row]
            for row, scale in zip(factors[0].real, scales, strict=True)
        ]
        back = [
            [Fraction(int(value), factors[2].denominator) / scale for value in row]
            for row, scale in zip(factors[2].real, scales, strict=True)
        ]
        return BilinearAlgorithm.from_exact(algorithm.target, rows, factors[1], back)
    x, y, z = bases
    u, v, w = (factor.real.reshape(-1, *shape) for factor, shape in zip(algorithm.exact, ((n, m), (m, p), (n, p)), strict=True))
    u, v = x @ u @ inverse(y, prime) % prime, y @ v @ inverse(z, prime) % prime
    w = (z @ w.transpose(0, 2, 1) @ inverse(x, prime) % prime).transpose(0, 2, 1)
    a = rng.integers(1, prime, (algorithm.rank, 1, 1))
    b = np.array([pow(int(value), -1, prime) for value in a.ravel()]).reshape(a.shape)
    factors = (factor.reshape(algorithm.rank, -1)[order] % prime for factor in (u * a, v, w * b))
    return BilinearAlgorithm.from_exact(algorithm.target, *factors, ring=algorithm.ring)


def complex_product():
    """<2,2,2;7> over Q(i): Strassen's algorithm in a complex basis."""
    x = ExactMatrix.make([[1, 0], [0, 1]], 1, [[0, 1], [0, 0]])
    back = ExactMatrix.make([[1, 0], [0, 1]], 1, [[0, 0], [-1, 0]])  # X^-T for X = [[1, i], [0, 1]]
    eye = ExactMatrix.make([[1, 0], [0, 1]])
    U, V, W = strassen().exact
    return BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), U @ x.kron(eye), V, W @ back.kron(eye))


SCHEMES = [
    strassen(),
    laderman(),
    standard(2, 2, 2),
    standard(1, 2, 3),
    standard(3, 1, 1),
    direct_sum(strassen(), strassen(), "p"),
    flipped(standard(2, 2, 3), np.random.default_rng(0), 60),
    flipped(standard(3, 3, 3), np.random.default_rng(1), 200),
]


@pytest.mark.parametrize("algorithm", SCHEMES, ids=lambda a: a.name)
def test_the_same_in_another_basis_is_equivalent_with_a_certificate_and_of_one_class(algorithm):
    other = disguised(algorithm, 1)
    verdict = same(algorithm, other)
    assert verdict.answer == EQUIVALENT
    assert verify_certificate(verdict.certificate, algorithm, other)
    assert class_id(other) == class_id(algorithm)


@pytest.mark.parametrize("p", [2, 3, 5, 101])
@pytest.mark.parametrize("algorithm", SCHEMES[:3] + SCHEMES[5:], ids=lambda a: a.name)
def test_so_it_is_over_finite_fields(algorithm, p):
    first = modulo(algorithm, p)
    other = disguised(first, 2)
    verdict = same(first, other)
    assert verdict.answer == EQUIVALENT
    assert verdict.field == f"Z{p}"
    assert verify_certificate(verdict.certificate, first, other)
    assert class_id(other) == class_id(first) != class_id(algorithm)


@pytest.mark.parametrize("order", ORDERS)
def test_permuted_shapes_are_one_class_and_the_certificate_is_a_recipe(order):
    algorithm = shipped("2x3x4_r20_Z_af9f279b")
    other = disguised(permute(algorithm, order), 3)
    verdict = same(algorithm, other)
    assert verdict.answer == EQUIVALENT
    assert class_id(other) == class_id(algorithm)
    certificate = verdict.certificate
    assert certificate.order == order
    made = sandwich(permute(algorithm, order), *(matrix.real.tolist() for matrix in (certificate.X, certificate.Y, certificate.Z)))
    for r, image in enumerate(certificate.permutation):  # terms are equal as tensors
        one, two = (np.einsum("i,j,k", a.U[s], a.V[s], a.W[s]) for a, s in ((made, r), (other, image)))
        np.testing.assert_allclose(one, two, atol=1e-9)


def test_de_groote_all_of_rank_7_are_one():
    for other in (winograd(), cyclic(strassen()), transpose(winograd()), complex_product()):
        assert same(strassen(), other).answer == EQUIVALENT
    assert same(strassen(), complex_product()).field == "Q(i)"
    assert same(strassen(), strassen_mod_2()).field == "Z2"
    assert len({class_id(algorithm) for algorithm in (strassen(), winograd(), cyclic(strassen()), complex_product())}) == 1


def test_compositions_of_equivalent_algorithms_are_equivalent():
    one, other = compose(strassen(), strassen()), compose(strassen(), winograd())
    assert same(one, other).answer == EQUIVALENT
    assert same(one, shipped("4x4x4_r49_Z_94107573")).answer == EQUIVALENT


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (standard(2, 2, 2), flipped(standard(2, 2, 2), np.random.default_rng(3), 40)),
        (standard(3, 3, 3), SCHEMES[7]),
        (SCHEMES[6], standard(2, 2, 3)),
        (modulo(standard(3, 3, 3), 3), modulo(SCHEMES[7], 3)),
    ],
    ids=lambda a: a.name,
)
def test_different_algorithms_of_one_rank_differ_by_a_named_invariant(one, other):
    for disguise in (other, disguised(other, 9)):
        verdict = same(one, disguise)
        assert verdict.answer == DIFFERENT
        assert verdict.invariant["one"] != verdict.invariant["other"]
        assert verdict.invariant["name"] in verdict.reason
    assert class_id(one) != class_id(other)


def test_coefficients_too_large_for_a_proof_leave_a_difference_of_ranks_undecided():
    rng = np.random.default_rng(3)
    one, other = (flipped(standard(2, 2, 2), rng, int(rng.integers(4, 40))) for _ in range(2))
    assert same(one, other).invariant["name"] == "ranks of the terms' matrices"
    large = disguised(other, 0, size=3000)
    assert not Terms.of(large).faithful
    verdict = same(one, large)
    assert verdict.answer == UNDECIDED
    assert "too large" in verdict.reason
    assert same(other, large).answer == EQUIVALENT  # a certificate needs no bound


def test_a_parameter_that_a_diagonal_basis_scales_makes_no_new_algorithm():
    def member(t):
        """The standard algorithm of <2,2,2>, a11 b11 and a11 b12 exchanged for a11 (b11 + t b12) and a11 b12 (c12 - t c11)."""
        U, V, W = (factor.real.copy() for factor in standard(2, 2, 2).exact)
        first = next(r for r in range(8) if U[r, 0] and V[r, 0])
        second = next(r for r in range(8) if U[r, 0] and V[r, 1])
        V[first] += t * V[second]
        W[second] -= t * W[first]
        return BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), U, V, W)

    assert same(member(1), member(5)).answer == EQUIVALENT
    assert same(member(0), member(1)).answer == DIFFERENT  # the limit of the class, outside it


def test_shapes_and_ranks_that_cannot_agree():
    assert same(strassen(), standard(2, 2, 2)).reason == "ranks 7 and 8"
    assert same(strassen(), standard(2, 2, 3)).reason == "they compute 2x2x2 and 2x2x3"


def brute_force_form(algorithm):
    """The smallest of all images over Z2 of an algorithm for square matrices: GL_n x GL_n x GL_n, shifts and transposition."""
    n = algorithm.target.shape[0]
    group = [np.array(entries).reshape(n, n) for entries in itertools.product((0, 1), repeat=n * n)]
    pairs = [(matrix, inverse(matrix, 2)) for matrix in group if int(ranks(matrix[None], 2)[0]) == n]
    u, v, w = (factor.real.reshape(-1, n, n) for factor in algorithm.exact)
    w = w.transpose(0, 2, 1)
    forms = [(u, v, w), (v, w, u), (w, u, v)]
    forms += [tuple(factor.transpose(0, 2, 1) for factor in reversed(form)) for form in forms]
    bits = 1 << np.arange(n * n)
    best = None
    for u, v, w in forms:
        for (x, _), (y, y_back), (z, z_back) in itertools.product(pairs, repeat=3):
            x_back = next(back for matrix, back in pairs if matrix is x)
            moved = (x @ u @ y_back, y @ v @ z_back, z @ w @ x_back)
            key = sorted(zip(*((factor.reshape(len(u), -1) % 2 @ bits).tolist() for factor in moved), strict=True))
            best = key if best is None or key < best else best
    return tuple(best)


def test_every_answer_over_z2_agrees_with_brute_force():
    rng = np.random.default_rng(1)
    start = modulo(standard(2, 2, 2), 2)
    schemes = {(scheme := flipped(start, rng, int(rng.integers(60)))).id: scheme for _ in range(16)}
    known = [(scheme, brute_force_form(scheme), class_id(scheme), canonical_form(scheme).id) for scheme in schemes.values()]
    answers = set()
    for (one, form, name, canonical), (other, form2, name2, canonical2) in itertools.combinations(known, 2):
        verdict = same(one, other)
        assert verdict.answer == (EQUIVALENT if form == form2 else DIFFERENT)
        assert (name == name2) == (canonical == canonical2) == (form == form2)
        answers.add(verdict.answer)
    assert answers == {EQUIVALENT, DIFFERENT}


@pytest.mark.parametrize("algorithm", [laderman(), standard(2, 3, 2), SCHEMES[6]], ids=lambda a: a.name)
def test_canonical_forms_over_z2(algorithm):
    algorithm = modulo(algorithm, 2)
    canonical = canonical_form(algorithm)
    assert canonical_form(disguised(algorithm, 5)).id == canonical.id == canonical_form(canonical).id
    assert same(algorithm, canonical).answer == EQUIVALENT
    with pytest.raises(InputError, match="over Z2, not over Z"):
        canonical_form(strassen())
    with pytest.raises(InputError, match="too much alike"):
        canonical_form(modulo(standard(2, 2, 2), 2), nodes=3)


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


def test_rank_distributions_over_every_ring():
    assert rank_distribution(strassen()) == {(1, 1, 1): 6, (2, 2, 2): 1}
    assert rank_distribution(strassen_mod_2()) == rank_distribution(complex_product()) == rank_distribution(strassen())
    even = disguised(laderman(), 8)
    assert rank_distribution(even) == rank_distribution(laderman())


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


@pytest.mark.parametrize("order", ORDERS)
def test_the_colours_of_a_form_are_those_of_the_permuted_algorithm(order):
    algorithm = shipped("2x2x3_r11_Z")
    form, direct = Invariants(Terms.of(algorithm)).form(order), Invariants(Terms.of(permute(algorithm, order)))
    assert form.pair_ranks.keys() == direct.pair_ranks.keys()
    assert all(np.array_equal(form.pair_ranks[name], direct.pair_ranks[name]) for name in direct.pair_ranks)
    assert np.array_equal(form.stable.pairs, direct.stable.pairs)


def test_a_small_budget_leaves_it_undecided():
    one = standard(3, 3, 3)
    verdict = same(one, disguised(one, 1), nodes=1)
    assert verdict.answer == UNDECIDED
    assert "budget of 1 nodes" in verdict.reason
    assert not symmetries(one, nodes=2).exhaustive


@pytest.mark.parametrize("algorithm", [strassen(), standard(2, 2, 2)], ids=lambda a: a.name)
def test_a_group_found_before_the_budget_ended_is_part_of_the_whole_and_says_so(algorithm):
    whole = symmetries(algorithm)
    for nodes in range(1, whole.nodes):
        part = symmetries(algorithm, nodes)
        assert not part.exhaustive
        assert whole.order % part.order == 0


def test_a_wrong_certificate_is_refused():
    one, other = laderman(), disguised(laderman(), 6)
    good = same(one, other).certificate
    assert verify_certificate(good, one, other)
    swapped = list(good.permutation)
    swapped[0], swapped[1] = swapped[1], swapped[0]
    singular = ExactMatrix.make(np.zeros((3, 3), dtype=int))
    scaled = ExactMatrix.make(good.scalings.real * 2, good.scalings.denominator)
    for wrong in (
        replace(good, permutation=tuple(swapped)),
        replace(good, permutation=(0,) * 23),
        replace(good, X=singular, Y=singular, Z=singular),
        replace(good, X=ExactMatrix.make(np.eye(2, dtype=int))),
        replace(good, scalings=scaled),
        replace(good, order=(1, 1, 1)),
        replace(good, order=(2, 1, 3)),
        replace(good, modulus=2),
    ):
        assert not verify_certificate(wrong, one, other)
    doubled = BilinearAlgorithm.from_exact(one.target, ExactMatrix.make(one.exact[0].real * 2), *one.exact[1:], verify=False)
    eye, half = ExactMatrix.make(np.eye(3, dtype=int)), ExactMatrix.make(np.array([[1, 2, 2]] * 23), 2)
    assert not verify_certificate(Certificate((1, 2, 3), eye, eye, eye, tuple(range(23)), half), one, doubled)  # a b c = 1/2
    assert not verify_certificate(good, one, strassen())
    assert not verify_certificate(good, one, modulo(laderman(), 2))


def test_a_matching_that_no_change_of_basis_makes_is_refuted():
    pair = Pair(strassen(), strassen(), ORDERS[0], None)
    assert pair.certificate(np.array([1, 0, 2, 3, 4, 5, 6])) is Outcome.REFUTED


def test_inexact_algorithms_are_compared_by_signature():
    one = noisy(seed=1)
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]
    assert same_inexact(one, one).answer == EQUIVALENT
    assert same_inexact(one, cyclic(sandwich(one, q, q.T, q))).answer == UNDECIDED
    assert same_inexact(one, noisy(seed=2)).answer == DIFFERENT
    assert same_inexact(one, strassen()).answer == DIFFERENT
    with pytest.raises(InputError, match="Z2 cannot be compared"):
        same_inexact(one, strassen_mod_2())


def test_what_cannot_be_compared():
    with pytest.raises(InputError, match="no common field"):
        same(strassen_mod_2(), modulo(strassen(), 3))
    with pytest.raises(InputError, match="is not exact"):
        class_id(noisy())
    with pytest.raises(InputError, match="matrix products"):
        class_id(karatsuba())
    with pytest.raises(InputError, match="matrix products"):
        same(gaussian(), halves())
    with pytest.raises(InputError, match="up to rank 250"):
        class_id(definition(7, 6, 6))
    half = sandwich(strassen(), [[2, 0], [0, 1]], [[1, 0], [0, 1]], [[1, 0], [0, 1]])
    with pytest.raises(InputError, match="has no inverse modulo 2"):
        same(half, strassen_mod_2())


def test_what_is_held_is_known_in_any_basis():
    held = [laderman(), winograd(), strassen_mod_2()]
    assert known_equivalent(disguised(laderman(), 7), held).algorithm is held[0]
    assert known_equivalent(strassen(), held).algorithm is held[1]
    assert known_equivalent(modulo(winograd(), 2), held).algorithm is held[2]
    between = known_equivalent(winograd_like(), [winograd(), strassen()])  # better than the first, but adds nothing to the second
    assert (between.algorithm.id, between.gains) == (strassen().id, ())
    uneven = SCHEMES[7]
    assert rank_distribution(uneven) != rank_distribution(cyclic(uneven))
    assert known_equivalent(disguised(cyclic(uneven), 1), [uneven]).algorithm is uneven
    for other in (standard(2, 2, 2), winograd(), noisy(), modulo(winograd(), 3), karatsuba(), transpose(SCHEMES[6])):
        assert known_equivalent(other, held) is None
    turned = disguised(strassen(), 2)
    assert turned.ring != "Z"
    assert known_equivalent(strassen(), [turned]) is None  # over fewer rings: no substitute
    assert known_equivalent(standard(3, 3, 3), [disguised(standard(3, 3, 3), 1)], nodes=1) is None  # undecided


def test_amplification_is_no_gain_modulo_a_prime():
    one = modulo(strassen(), 3)
    rows = [factor.real.copy() for factor in one.exact]
    rows[0][0], rows[1][0] = 2 * rows[0][0] % 3, 2 * rows[1][0] % 3
    other = BilinearAlgorithm.from_exact(one.target, *rows, ring="Z3")
    assert one.amplification < other.amplification
    assert known_equivalent(one, [other]).gains == known_equivalent(other, [one]).gains == ()


def test_a_prime_of_the_invariants_below_a_coefficient_is_no_fault():
    prime = next(primes())
    rows = [[Fraction(int(value)) for value in row] for row in strassen().exact[0].real]
    back = [[Fraction(int(value)) for value in row] for row in strassen().exact[2].real]
    rows[0], back[0] = [value / prime for value in rows[0]], [value * prime for value in back[0]]
    awkward = BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), rows, strassen().exact[1], back)
    assert known_equivalent(awkward, [strassen()]) is None


def test_a_registry_stores_an_equivalent_only_where_it_is_better(tmp_path):
    registry = Registry(tmp_path, None)
    assert add_unless_equivalent(winograd(), registry).remark is None
    better = add_unless_equivalent(strassen(), registry)  # 18 additions as written, not 24
    assert better.is_kept
    assert better.entry.algorithm.id == strassen().id
    assert better.remark == f"{strassen().name} is {winograd().name} in another basis, with {' and '.join(better.equivalent.gains)}"
    assert better.equivalent.gains == ("18 additions instead of 24", "amplification 4 instead of 7")
    worse = disguised(strassen(), 5)
    for _ in range(2):
        refused = add_unless_equivalent(worse, registry)
        assert not refused.is_kept
        assert refused.entry.algorithm.id == strassen().id
        assert strassen().name in refused.remark
    assert len(registry.find()[0]) == 2
    kept = add_unless_equivalent(worse, registry, keep=True)
    assert kept.is_kept
    assert strassen().name in kept.remark
    for again in (worse, winograd(), noisy(), karatsuba(), strassen_mod_2()):
        stored = add_unless_equivalent(again, registry)
        assert (stored.entry.algorithm.id, stored.remark) == (again.id, None)
    assert not add_unless_equivalent(modulo(winograd(), 2), registry).is_kept  # amplification means nothing over Z2
    assert len(registry.find()[0]) == 6


def test_linear_algebra_modulo_a_prime():
    rng = np.random.default_rng(0)
    prime = next(primes())
    assert all(pow(root_of_minus_one(p), 2, p) == p - 1 for p in primes())
    for p in (2, 5, prime):
        thin = rng.integers(0, p, (4, 2)), rng.integers(0, p, (2, 6))
        low = product(*thin, p)
        assert int(ranks(low[None], p)[0]) == min(int(ranks(part[None], p)[0]) for part in thin) or p == 2
        basis = nullspace(low, p)
        assert len(basis) == 6 - int(ranks(low[None], p)[0])
        assert not product(low, basis.T, p).any()
    with pytest.raises(InputError, match="singular"):
        inverse(np.array([[1, 1], [1, 1]]), 2)


@pytest.fixture
def run(tmp_path, capsys):
    def call(*args):
        code = main([*args, "--registry", str(tmp_path / "registry")])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_same_at_the_command_line(run, tmp_path):
    path = tmp_path / "winograd.json"
    path.write_text(dumps(winograd()))
    code, out, _ = run("same", strassen().name, str(path))
    assert code == 0
    assert out.startswith("equivalent: a change of basis takes one to the other (over Q)")
    assert "  X = " in out
    assert "m1 -> m" in out
    code, out, _ = run("same", strassen().name, str(path), "--json")
    document = json.loads(out)
    assert (document["answer"], document["field"]) == ("equivalent", "Q")
    assert document["algorithms"][0]["class_id"] == document["algorithms"][1]["class_id"] == class_id(strassen())
    bases = [[[Fraction(value) for value in row] for row in document["certificate"][name]] for name in "XYZ"]
    assert same(sandwich(strassen(), *bases), winograd()).answer == EQUIVALENT
    code, out, _ = run("same", strassen().name, "2x2x3_r11_Z")
    assert code == 1
    assert out.startswith("not equivalent: they compute")
    plain = tmp_path / "standard.json"
    plain.write_text(dumps(standard(3, 3, 3)))
    assert run("same", str(plain), str(plain), "--nodes", "1")[0] == 3
    assert run("same", "2x2x2_r5_R", "2x2x2_r5_R")[0] == 0
    foreign, several = tmp_path / "winograd.mpl", tmp_path / "several.py"
    foreign.write_bytes(EXPORTERS["maple"].write(winograd()))
    assert run("same", str(path), str(foreign))[0] == 0
    text = EXPORTERS["alphaevolve"].write(winograd()).decode()
    several.write_text(text + text)
    for bad, reason in (("nothing", "no algorithm is called"), (str(several), "holds 2 algorithms"), (str(tmp_path), "not a file")):
        code, out, err = run("same", strassen().name, bad)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert reason in err


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


def test_the_examples_of_the_documents_run():
    page = (Path(__file__).parent.parent / "docs" / "identity.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(code, names)  # our own page

"""Equivalence with certificates, classes and canonical forms, against brute force; what the registry stores once."""

import itertools
import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from exchange_samples import winograd_like
from identity_samples import complex_product, disguised, flipped, modulo, shipped
from samples import definition, gaussian, halves, karatsuba, noisy, strassen_mod_2

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import laderman, standard, strassen, winograd
from stlsearch.constructions.transforms import compose, cyclic, direct_sum, permute, sandwich, transpose
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix
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
from stlsearch.registry.store import Registry
from stlsearch.targets import Target

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


def test_rank_distributions_over_every_ring():
    assert rank_distribution(strassen()) == {(1, 1, 1): 6, (2, 2, 2): 1}
    assert rank_distribution(strassen_mod_2()) == rank_distribution(complex_product()) == rank_distribution(strassen())
    even = disguised(laderman(), 8)
    assert rank_distribution(even) == rank_distribution(laderman())


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


def test_the_examples_of_the_documents_run():
    page = (Path(__file__).parent.parent / "docs" / "identity.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(code, names)  # our own page

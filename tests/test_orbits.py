"""Walks that keep a group of symmetries: the groups, exactness and symmetry after every move, what they find."""

from __future__ import annotations

import numpy as np
import pytest

from stlsearch.constructions.classical import karatsuba, laderman, standard, strassen
from stlsearch.errors import InputError
from stlsearch.search.flip_masks import algorithm_of, masks_of
from stlsearch.search.groups import group_of
from stlsearch.search.orbit_walk import OrbitWalk

GROUPS = [
    ((2, 2, 2), "(12)", 2),
    ((3, 3, 3), "cyclic", 3),
    ((3, 3, 3), "cyclic,transpose", 6),
    ((4, 4, 4), "(234)", 3),
    ((4, 4, 4), "(234),(23)", 6),
    ((4, 4, 4), "(12)(34),(13)(24)", 4),
    ((4, 4, 4), "transpose*(23)", 2),
    ((4, 4, 4), "cyclic*(234)", 3),
    ((3, 4, 5), "(12)/(34)/(12)(345)", 6),
    ((2, 3, 2), "transpose*(12)/()/(12)", 2),
]
RINGS = ("Z2", "Z", "Z3")


@pytest.fixture(params=GROUPS, ids=lambda group: f"{group[1]} of {group[0]}")
def described(request):
    return request.param


def terms_as_set(group, algorithm, ring):
    """The terms of an algorithm and their images, as sets of coefficient triples, signs included."""
    terms, signs = masks_of(algorithm, ring)
    images = group.images(terms)
    return [{normal(term, sign) for term, sign in zip(image, signs, strict=True)} for image in images]


def normal(term, sign):
    key, negative = [], int(sign)
    for plus, minus in term.tolist():
        negative ^= minus > plus
        key += [max(plus, minus), min(plus, minus)]
    return (*key, negative)


def test_group_of_a_shape(described):
    shape, text, order = described
    group = group_of(text, shape)
    assert group.order == order
    # The product table is that of the maps: doing one after the other.
    random = np.random.default_rng(3)
    sizes = (shape[0] * shape[1], shape[1] * shape[2], shape[0] * shape[2])
    terms = np.stack([random.integers(1, 2**size, (5, 2), dtype=np.uint64) for size in sizes], axis=1)
    images = group.images(terms)
    assert np.array_equal(images[0], terms)
    for one in range(order):
        for other in range(order):
            assert np.array_equal(group.images(images[other])[one], images[int(group.product[one, other])])


def test_groups_keep_the_standard_algorithm(described):
    shape, text, _ = described
    algorithm = standard(*shape)
    own, *others = terms_as_set(group_of(text, shape), algorithm, "Z")
    assert len(own) == algorithm.rank
    assert all(other == own for other in others)


@pytest.mark.parametrize("ring", RINGS)
def test_moves_keep_exactness_and_symmetry(described, ring):
    shape, text, _ = described
    walk = OrbitWalk(standard(*shape), 5, ring, text)
    for turn in range(40):
        walk.run(200)
        if turn % 2:
            walk.plus()
        algorithm = walk.algorithm()  # verified over the ring
        assert algorithm.rank == walk.rank
        own, *others = terms_as_set(walk.group, algorithm, ring)
        assert len(own) == algorithm.rank
        assert all(other == own for other in others)
    assert walk.flips > 0 or text == "cyclic,transpose"  # there terms share factors only with those of a stabiliser that moves modes


def test_search_keeps_exactness_and_symmetry():
    walk = OrbitWalk(standard(4, 4, 4), 2, "Z", "(12)(34),(13)(24)")
    walk.search(100_000, 0, 500, 9)
    best = walk.algorithm(best=True)
    assert best.rank == walk.lowest < 64
    assert {"Z", "Z2"} <= set(best.valid_rings())


def test_four_by_four_in_47_modulo_2():
    """No multiplication fewer is known, and it has no counterpart over Z."""
    walk = OrbitWalk(standard(4, 4, 4), 6, "Z2", "(234),(23)")
    walk.search(3_000_000, 47, 2000, 9)
    algorithm = walk.algorithm(best=True)
    assert algorithm.rank == 47
    assert algorithm.valid_rings() == ["Z2"]


def test_strassen_by_permutations_of_indices():
    walk = OrbitWalk(standard(2, 2, 2), 1, "Z", "(12)")
    walk.search(200_000, 7, 200, 6)
    assert walk.lowest == 7


def test_walks_are_reproducible():
    def best(seed):
        walk = OrbitWalk(standard(3, 3, 3), seed, "Z2", "(12)")
        walk.search(20_000, 0, 500, 5)
        return walk.algorithm(best=True).id

    assert best(4) == best(4)
    assert len({best(seed) for seed in range(4)}) > 1


def test_starts_from_a_symmetric_algorithm():
    """Strassen's terms are permuted by rotations of the modes; Laderman's are not by a swap of two indices."""
    walk = OrbitWalk(strassen(), 0, "Z", "cyclic")
    assert walk.rank == 7
    assert len(walk.algorithm().U) == 7
    with pytest.raises(InputError, match="not symmetric"):
        OrbitWalk(laderman(), 0, "Z", "(12)")


def test_masks_round_trip():
    algorithm = strassen()
    again = algorithm_of(algorithm.target, "Z", *masks_of(algorithm, "Z"))
    assert again.id == algorithm.id


@pytest.mark.parametrize(
    ("shape", "text", "message"),
    [
        ((2, 2, 3), "cyclic", "square matrices, not for 2x2x3"),
        ((2, 2, 3), "transpose", "transpose needs n = p"),
        ((3, 3, 3), "(14)", "no permutation of the indices 1 to 3"),
        ((3, 3, 3), "(12)(23)", "every one at most once"),
        ((3, 3, 3), "(11)", "every one at most once"),
        ((3, 3, 3), "mirror", "unknown symmetry 'mirror'; valid: cyclic, transpose"),
        ((3, 3, 3), "", "unknown symmetry ''"),
        ((3, 3, 3), "(12)/(12)", "unknown symmetry"),
        ((5, 5, 5), "(12345),(12)", "more than 24 elements"),
        ((9, 8, 8), "(12)", "up to 64 entries of a factor; 9x8x8 has 72"),
    ],
)
def test_bad_groups(shape, text, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        group_of(text, shape)


def test_only_matrix_products_have_these_symmetries():
    with pytest.raises(InputError, match="matrix products"):
        OrbitWalk(karatsuba(), 0, "Z", "(12)")

"""Which bases a search for a front starts from: the best, and others that differ beyond a change of basis."""

import pytest
from samples import in_another_basis, noisy

from stlsearch.constructions.classical import strassen
from stlsearch.errors import InputError
from stlsearch.parents import Parents
from stlsearch.solvers.polish import Goal
from stlsearch.targets import Target

TARGET = Target.matmul(2, 3, 2)
BASES = sorted((noisy(TARGET, 5, seed).with_provenance(method="fit") for seed in range(4)), key=lambda basis: basis.error)
FAR = Goal(max_amplification=1e9)


def test_copies_in_another_basis_order_and_scale_count_as_one():
    parents = Parents(FAR, size=4, within=1e9)
    copies = [in_another_basis(basis, seed).with_provenance(method="fit") for seed, basis in enumerate(BASES)]
    parents.update([*copies[2:], *BASES, *copies[:2]])
    assert [basis.error for basis in parents.pool(TARGET, 5)] == pytest.approx([basis.error for basis in BASES])
    assert not parents.admit(in_another_basis(BASES[1], 9))


def test_the_pool_holds_the_best_first_and_no_more_than_asked_for():
    for size in (1, 2):
        parents = Parents(FAR, size, within=1e9)
        parents.update(reversed(BASES))
        assert parents.pool(TARGET, 5) == BASES[:size]
    parents.update(BASES[1:])  # the best is removed from the registry
    assert parents.pool(TARGET, 5) == BASES[1:3]


def test_what_lies_too_far_behind_or_beyond_the_bound_is_no_member():
    parents = Parents(FAR, 4, within=(BASES[1].error / BASES[0].error - 1) * 1.01)
    parents.update(BASES)
    assert parents.pool(TARGET, 5) == BASES[:2]
    bound = Parents(Goal(max_amplification=min(basis.amplification for basis in BASES)), 4, within=1e9)
    bound.update(BASES)
    assert len(bound.pool(TARGET, 5)) == 1


def test_what_no_fit_made_is_a_parent_whatever_the_pool_holds():
    parents = Parents(Goal())
    turned = in_another_basis(strassen())
    parents.update([strassen(), turned])
    assert parents.pool(Target.matmul(2, 2, 2), 7) == [strassen()]
    assert parents.all() == [strassen(), turned]


@pytest.mark.parametrize(("size", "within"), [(0, 0.1), (2, 0.0), (2, float("nan"))])
def test_a_pool_that_could_hold_nothing_is_refused(size, within):
    with pytest.raises(InputError, match="a pool needs a size of at least 1"):
        Parents(Goal(), size, within)

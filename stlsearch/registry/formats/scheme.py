"""From the factors of a file to a verified algorithm: sizes, convention and ring are found out, and said.

A file of another program is a claim. What it holds is tried in each of the eight conventions (`conventions`), then the
Brent equations are checked in exact arithmetic. What does not verify is refused with a product that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isqrt
from pathlib import Path

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import EXACT_RINGS, ExactMatrix, Factors, Mismatch, check_ring, mismatch, modulus_of, smallest_ring
from stlsearch.registry import text as json_text
from stlsearch.registry.codec import check_effort
from stlsearch.registry.formats.coefficients import Factor, floats
from stlsearch.registry.formats.conventions import Convention, detect
from stlsearch.targets import Target


class NoAlgorithmError(InputError):
    """A file that may be right for what it is, but holds no algorithm."""


@dataclass(frozen=True)
class Source:
    """The content of a file, and the path that it is known by (a name may tell what the content does not)."""

    data: bytes
    path: Path = Path()

    @cached_property
    def text(self) -> str:
        """The content as UTF-8 text; raises InputError when it is none."""
        try:
            return self.data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"not UTF-8 text: byte {error.start} is invalid") from None

    @cached_property
    def document(self) -> object:
        """The content as JSON; raises InputError when it is none."""
        return json_text.parse(self.data)


@dataclass(frozen=True)
class Scheme:
    """Factors as a file holds them, one row per product, in a convention not yet known.

    Attributes:
        factors: U, V and W.
        shape: (n, m, p) where the file says so; otherwise the sizes of the factors tell.
        ring: what the file claims.
        provenance: what is kept of the file.
        label: which of the file's algorithms it is, "" when there is but one.
        remark: what the reader had to find out, "" for nothing.
    """

    factors: tuple[Factor, Factor, Factor]
    shape: tuple[int, int, int] | None = None
    ring: str | None = None
    provenance: Mapping[str, object] = field(default_factory=dict)
    label: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Verified:
    """An algorithm, and what had to be found out to read it."""

    algorithm: BilinearAlgorithm
    remarks: tuple[str, ...]


def shape_of(sizes: Sequence[int]) -> tuple[int, int, int]:
    """n, m, p from nm, mp and np: n = sqrt(nm np/mp), and so on.

    Raises:
        InputError: sizes of no matrix product.
    """
    a, b, c = sizes
    shape = isqrt(a * c // b), isqrt(a * b // c), isqrt(b * c // a)
    n, m, p = shape
    if (n * m, m * p, n * p) != (a, b, c):
        raise InputError(f"factors of {a}, {b} and {c} entries are of no matrix product: they must be nm, mp and np")
    return shape


def checked_target(shape: Sequence[int], rank: int) -> Target:
    """The target of a scheme of these sizes and rank.

    Raises:
        InputError: sizes or a rank that are not valid, or so large that nobody could check them: said before anything is filled in.
    """
    target = Target.matmul(*shape)
    check_effort(target, target.check_rank(rank))
    return target


def verify(scheme: Scheme, ring: str | None = None, shape: tuple[int, int, int] | None = None) -> Verified:
    """The algorithm that the factors are, exact where its coefficients are fractions, else over R or C.

    Args:
        ring: the ring asked for, in place of the one that the file claims.
        shape: (n, m, p) asked for, in place of what the file says.

    Raises:
        InputError: one line that names the first fault; of factors that compute something else, a product that is wrong.
    """
    remarks = [scheme.remark] if scheme.remark else []
    sizes = [factor.shape[1] for factor in scheme.factors]
    if shape is None and scheme.shape is None:
        shape = shape_of(sizes)
        remarks.append(f"{'x'.join(map(str, shape))} deduced from factors of {sizes[0]}, {sizes[1]} and {sizes[2]} entries")
    target = Target.matmul(*(shape or scheme.shape or ()))
    if target.dims != tuple(sizes):
        raise InputError(f"factors of {sizes[0]}, {sizes[1]} and {sizes[2]} entries are not those of {target.slug}: {list(target.dims)}")
    ranks = [factor.shape[0] for factor in scheme.factors]
    if len(set(ranks)) != 1:
        raise InputError(f"U, V and W must have the same number of products, not {ranks}")
    checked_target(target.shape or (), ranks[0])
    claimed = ring or scheme.ring
    if all(isinstance(factor, ExactMatrix) for factor in scheme.factors):
        try:
            found, convention, note = _exact(target, scheme.factors, claimed, "is asked for" if ring else "the file claims")  # type: ignore[arg-type]
            remarks += note
        except InputError as error:
            if claimed is None:
                raise InputError(f"{error} (if it is meant to be approximate, say ring R)") from None
            if claimed not in ("R", "C"):
                raise
            found, convention = _inexact(target, scheme.factors)
    elif claimed not in ("R", "C", None):
        claim = "is asked for" if ring else "is claimed"
        raise InputError(f"the ring {claimed} {claim}, but the file holds floating-point numbers that are no fractions")
    else:
        found, convention = _inexact(target, scheme.factors)
    if not found.is_exact:
        remarks.append(f"over {found.ring}, approximate: relative squared error {found.error:.3g}")
    return Verified(found.with_provenance(**scheme.provenance, convention=convention.name), (convention.name, *remarks))


def ring_name(name: object) -> str:
    """The ring that a file or a user names, ZT (coefficients -1, 0 and 1) being Z.

    Raises:
        InputError: an unknown ring.
    """
    return check_ring({"ZT": "Z"}.get(name, name) if isinstance(name, str) else name)


def _exact(target: Target, factors: Factors, ring: str | None, claim: str) -> tuple[BilinearAlgorithm, Convention, list[str]]:
    check_effort(target, len(factors[0].real), factors)
    prime = modulus_of(ring) if ring else None
    held = smallest_ring(factors)
    if prime is not None and held != "Z":
        raise InputError(f"an algorithm over {ring} needs integer coefficients, these lie in {held}")
    if ring in EXACT_RINGS and EXACT_RINGS.index(held) > EXACT_RINGS.index(ring):
        raise InputError(f"the coefficients lie in {held}, outside the ring {ring} that {claim}")
    if prime is not None:
        return *_over(target, factors, ring or "", prime), []
    try:
        return *_over(target, factors, held, None), []  # the smallest: a stronger claim than the file's, and verified here
    except InputError:
        if ring is not None or held != "Z" or not all(bool(np.isin(factor.real, (0, 1)).all()) for factor in factors):
            raise  # a wrong sign among -1 and 1 is right modulo 2 as well: those are no algorithms over Z2
        try:
            return *_over(target, factors, "Z2", 2), ["exact modulo 2 only: over Z2"]
        except InputError:
            pass
        raise


def _over(target: Target, factors: Factors, ring: str, prime: int | None) -> tuple[BilinearAlgorithm, Convention]:
    convention, _ = detect(target, [factor.real if prime else factor.to_float() for factor in factors], prime)
    turned = [factor.columns(order) for factor, order in zip(factors, convention.columns, strict=True)]
    if prime is not None:
        turned = [ExactMatrix.make(factor.real % prime) for factor in turned]
    wrong = mismatch(target, (turned[0], turned[1], turned[2]), ring)
    if wrong.count:
        raise InputError(f"not exact over {ring}: {_told(target, wrong)} wrong in the best convention ({convention.name})")
    return BilinearAlgorithm.from_exact(target, *turned, ring=ring, verify=False), convention


def _told(target: Target, wrong: Mismatch) -> str:
    i, j, k, what = wrong.examples[0]
    name = target.variable
    count = f"{wrong.count} coefficient{'s' if wrong.count > 1 else ''}"
    return f"{name(2, k)} gets {name(0, i)}*{name(1, j)} with coefficient {what.removeprefix('got ')}; {count}"


def _inexact(target: Target, given: Sequence[Factor]) -> tuple[BilinearAlgorithm, Convention]:
    factors = [floats(factor) for factor in given]
    if not all(np.isfinite(factor).all() for factor in factors):
        raise InputError("the factors hold NaN or infinite values")
    with np.errstate(all="ignore"):
        convention, error = detect(target, factors)
        if all(factor.shape == (target.dims[0],) * 2 for factor in factors):  # a row or a column per product: the shapes do not tell
            columns = [factor.T for factor in factors]
            other, other_error = detect(target, columns)
            if other_error < error:
                factors, convention = columns, other
    turned = [factor[:, order] for factor, order in zip(factors, convention.columns, strict=True)]
    return BilinearAlgorithm.from_floats(target, *turned), convention

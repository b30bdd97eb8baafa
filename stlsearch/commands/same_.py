"""`stlsearch same`: whether two algorithms are one in different bases."""

from __future__ import annotations

import os
import time
from fractions import Fraction
from pathlib import Path

import click

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands.options import CountType, emit_json, json_option, registry_option
from stlsearch.commands.summary import table
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix
from stlsearch.identity.certificate import Certificate
from stlsearch.identity.class_id import class_id
from stlsearch.identity.matching import NODES
from stlsearch.identity.same import DIFFERENT, EQUIVALENT, UNDECIDED, same, same_inexact
from stlsearch.identity.terms import is_supported
from stlsearch.registry.formats import read_all
from stlsearch.registry.store import Registry

LOG_SECONDS = 5.0
EXIT_CODES = {EQUIVALENT: 0, DIFFERENT: 1, UNDECIDED: 3}


@click.command("same")
@click.argument("one", metavar="A")
@click.argument("other", metavar="B")
@click.option("--nodes", type=CountType("nodes"), default=NODES, show_default=True, help="Most branches of the search.")
@registry_option()
@json_option()
def command(one: str, other: str, nodes: int, registry: Registry, as_json: bool) -> int:
    """Tell whether two algorithms for a matrix product are one in different bases.

    A and B are names, the beginnings of names or ids, or files that `stlsearch import` reads. Counted as one are algorithms that
    change of basis (sandwiching), scaling and order of terms, and cyclic shifts and transposition of the shape make of each other.

    Exit code 0: equivalent, with X, Y, Z and which term goes to which, checked in exact arithmetic. 1: not equivalent, with an
    invariant that differs, or after a search that left no matching of the terms. 3: undecided, because the budget ended or an
    algorithm is inexact. 2: bad input.
    """
    first, second = (load(name, registry) for name in (one, other))
    exact = first.is_exact and second.is_exact
    verdict = same(first, second, nodes, Telling()) if exact else same_inexact(first, second)
    if as_json:
        emit_json(
            {
                "answer": verdict.answer,
                "reason": verdict.reason,
                "field": verdict.field,
                "algorithms": [_described(algorithm) for algorithm in (first, second)],
                "certificate": None if verdict.certificate is None else certificate_document(verdict.certificate),
                "invariant": verdict.invariant,
                "nodes": verdict.nodes,
            }
        )
        return EXIT_CODES[verdict.answer]
    click.echo(f"{verdict.answer}: {verdict.reason}" + (f" (over {verdict.field})" if exact else ""))
    if verdict.certificate is not None:
        click.echo("\n".join(certificate_lines(verdict.certificate, first.name, second.name)))
    return EXIT_CODES[verdict.answer]


def load(name: str, registry: Registry) -> BilinearAlgorithm:
    """A registered algorithm, or that of a file of any format.

    Raises:
        InputError: an unknown name, or a file that holds no algorithm, or several.
    """
    path = Path(name).expanduser()
    if not (name.endswith(".json") or os.sep in name or os.path.isfile(path)):  # noqa: PTH113 (the method raises on long names)
        return registry.get(name).algorithm
    found = read_all(path)
    if len(found) > 1:
        raise InputError(f"{path} holds {len(found)} algorithms: import them, and name one")
    return found[0].algorithm


class Telling:
    """Says on stderr every few seconds how many branches were searched."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()

    def __call__(self, nodes: int) -> None:
        now = time.monotonic()
        if now - self.last >= LOG_SECONDS:
            self.last = now
            click.echo(f"[{now - self.began:6.1f} s] {nodes} branches searched", err=True)


def certificate_document(certificate: Certificate) -> dict[str, object]:
    """A certificate as JSON values; numbers as text, terms counted from 0."""
    bases = {name: _texts(basis) for name, basis in zip("XYZ", (certificate.X, certificate.Y, certificate.Z), strict=True)}
    return {
        "order": list(certificate.order),
        **bases,
        "permutation": list(certificate.permutation),
        "scalings": _texts(certificate.scalings),
        "modulus": certificate.modulus,
    }


def certificate_lines(certificate: Certificate, one: str, other: str) -> list[str]:
    """A certificate for people: how to make one of the other, the matrices, and where products go (counted from 1, as in formulas)."""
    moved = one if certificate.order == (1, 2, 3) else f"permute({one}, {','.join(map(str, certificate.order))})"
    ring = "" if certificate.modulus is None else f" modulo {certificate.modulus}"
    lines = [f"  sandwich({moved}, X, Y, Z) has the products of {other}{ring}, with"]
    for name, basis in zip("XYZ", (certificate.X, certificate.Y, certificate.Z), strict=True):
        rows = table(_texts(basis), right=range(basis.shape[1])).split("\n")
        lines += [f"  {f'{name} =' if index == 0 else '   '} {row}" for index, row in enumerate(rows)]
    pairs = [f"m{r + 1} -> m{image + 1}" for r, image in enumerate(certificate.permutation)]
    lines += [f"  {', '.join(pairs[start : start + 8])}" for start in range(0, len(pairs), 8)]
    return lines


def _described(algorithm: BilinearAlgorithm) -> dict[str, object]:
    return {"name": algorithm.name, "id": algorithm.id, "class_id": class_id(algorithm) if is_supported(algorithm) else None}


def _texts(matrix: ExactMatrix) -> list[list[str]]:
    rows, columns = matrix.shape
    return [[_text(matrix, row, column) for column in range(columns)] for row in range(rows)]


def _text(matrix: ExactMatrix, row: int, column: int) -> str:
    real = Fraction(int(matrix.real[row, column]), matrix.denominator)
    imaginary = Fraction(0) if matrix.imaginary is None else Fraction(int(matrix.imaginary[row, column]), matrix.denominator)
    if not imaginary:
        return str(real)
    size = "" if abs(imaginary) == 1 else str(abs(imaginary))
    sign = "-" if imaginary < 0 else "+" if real else ""
    return f"{real if real else ''}{sign}{size}i"

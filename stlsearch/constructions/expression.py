"""Expressions that build algorithms: ``strassen * strassen +p standard(4, 4, 1)``.

    sum     := product { "+n" product | "+m" product | "+p" product }      direct sum along a dimension
    product := value { "*" value }                                         Kronecker product
    value   := name [ "(" argument { "," argument } ")" ] | "(" sum ")"

A name is a formula (`FORMULAS`), an operation on other expressions (`OPERATIONS`) or a registered
algorithm. Everything is parsed before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NoReturn

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions import classical, transforms
from stlsearch.constructions.convolution import convolution
from stlsearch.constructions.simplify import simplify
from stlsearch.errors import InputError

Lookup = Callable[[str], BilinearAlgorithm | None]

MAX_LENGTH = 4000  # characters
MAX_DEPTH = 32  # nested parentheses
MAX_WORK = 2**33  # integer multiplications that verify a result: rank x a x b x c; seconds

FORMULAS: dict[str, tuple[int, Callable[..., BilinearAlgorithm]]] = {  # name: (how many sizes it takes, function)
    "standard": (3, classical.standard),
    "strassen": (0, classical.strassen),
    "winograd": (0, classical.winograd),
    "laderman": (0, classical.laderman),
    "gauss": (0, classical.gauss),
    "karatsuba": (0, classical.karatsuba),
    "toom": (2, classical.toom),
    "convolution": (1, convolution),
    "gram": (2, classical.gram),
}
OPERATIONS: dict[str, str] = {  # name: kinds of its arguments, algorithm, integer or dimension
    "transpose": "a",
    "cyclic": "a",
    "permute": "aiii",
    "simplify": "a",
    "compose": "aa",
    "direct_sum": "aad",
}


@dataclass(frozen=True)
class Node:
    """One name of a parsed expression with its arguments, and the character (from 1) where it stands."""

    name: str
    arguments: tuple[Node, ...]
    position: int


def construct(text: str, lookup: Lookup | None = None) -> BilinearAlgorithm:
    """Build the algorithm an expression describes; every step is verified exactly.

    Args:
        lookup: finds a registered algorithm by name; returns None, or raises InputError, when there is none.

    Returns:
        The algorithm; its provenance holds the expression and the registered algorithms in it as parents.

    Raises:
        InputError: a syntax error (with its position), an unknown name, sizes that do not fit, or too large a result.
    """
    tree = parse(text)
    parents: dict[str, BilinearAlgorithm] = {}
    algorithm = build(tree, lookup or (lambda name: None), parents)
    if not tree.arguments and tree.name in parents:
        return algorithm
    shown = " ".join(text.split())
    extra: dict[str, object] = {"expression": shown, "command": f"stlsearch construct {shown!r}"}
    if tree.name in OPERATIONS:  # steps in between are described by the expression, not by ids nobody has
        extra["parents"] = [{"id": parent.id, "name": parent.name} for parent in parents.values()]
    return algorithm.with_provenance(**extra)


def parse(text: str) -> Node:
    """The expression as a tree; ``*`` and ``+n`` become `compose` and `direct_sum`.

    Raises:
        InputError: anything the grammar does not allow, too long or too deep.
    """
    if len(text) > MAX_LENGTH:
        raise InputError(f"an expression may have up to {MAX_LENGTH} characters, this one has {len(text)}")
    parser = _Parser(text)
    tree = parser.sum(0)
    if parser.kind != "end":
        parser.fail("'*', '+n', '+m', '+p' or the end")
    return tree


class _Parser:
    _TOKEN = re.compile(r"\s*(?:(?P<plus>\+\s*[nmp]\b)|(?P<word>[\w.-]+)|(?P<mark>[*(),])|(?P<end>$)|(?P<bad>.))", re.ASCII)

    def __init__(self, text: str) -> None:
        self._text, self._next, self._operators = text, 0, 0
        self.kind, self.token, self.position = "", "", 0
        self.advance()

    def advance(self) -> tuple[str, int]:
        """Step to the next token; returns the one that was current and its position from 1."""
        passed = self.token, self.position
        match = self._TOKEN.match(self._text, self._next)
        assert match is not None and match.lastgroup is not None
        self.kind, self.token, self.position = match.lastgroup, match[match.lastgroup], match.start(match.lastgroup) + 1
        self._next = match.end()
        return passed

    def fail(self, expected: str) -> NoReturn:
        found = "the end" if self.kind == "end" else repr(self.token)
        raise InputError(f"expression: expected {expected} at position {self.position}, found {found}")

    def sum(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise InputError(f"expression: nested deeper than {MAX_DEPTH} at position {self.position}")
        node = self.product(depth)
        while self.kind == "plus":
            token, position = self.advance()
            node = self._joined("direct_sum", position, node, self.product(depth), Node(token[-1], (), position))
        return node

    def product(self, depth: int) -> Node:
        node = self.value(depth)
        while self.token == "*":
            _, position = self.advance()
            node = self._joined("compose", position, node, self.value(depth))
        return node

    def value(self, depth: int) -> Node:
        if self.token == "(":
            self.advance()
            node = self.sum(depth + 1)
            self.close("')', '*' or '+n'")
            return node
        if self.kind != "word":
            self.fail("a name or '('")
        name, position = self.advance()
        arguments: list[Node] = []
        if self.token == "(":
            self.advance()
            while not arguments or self.token == ",":
                if arguments:
                    self.advance()
                arguments.append(self.sum(depth + 1))
            self.close("',' or ')'")
        self._check(name, arguments, position)
        return Node(name, tuple(arguments), position)

    def close(self, expected: str) -> None:
        if self.token != ")":
            self.fail(expected)
        self.advance()

    def _joined(self, name: str, position: int, *arguments: Node) -> Node:
        self._operators += 1
        if self._operators > MAX_DEPTH:
            raise InputError(f"expression: more than {MAX_DEPTH} operators at position {position}")
        return Node(name, arguments, position)

    @staticmethod
    def _check(name: str, arguments: Sequence[Node], position: int) -> None:
        if name in FORMULAS:
            expected = FORMULAS[name][0]
            kinds = "i" * expected
        elif name in OPERATIONS:
            kinds = OPERATIONS[name]
        else:
            kinds = ""
        if len(arguments) != len(kinds):
            raise InputError(f"expression: {name} takes {_signature(name, kinds)}, not {len(arguments)} arguments, at position {position}")
        for argument, kind in zip(arguments, kinds, strict=True):
            leaf = not argument.arguments
            if kind == "i" and not (leaf and re.fullmatch("[0-9]{1,4}", argument.name)):
                raise InputError(f"expression: {name} takes {_signature(name, kinds)}; expected an integer at position {argument.position}")
            if kind == "d" and not (leaf and argument.name in transforms.DIMENSIONS):
                raise InputError(f"expression: {name} takes {_signature(name, kinds)}; expected n, m or p at position {argument.position}")


def _signature(name: str, kinds: str) -> str:
    words = {"a": "algorithm", "i": "integer", "d": "n|m|p"}
    return f"({', '.join(words[kind] for kind in kinds)})" if kinds else "no arguments"


def build(node: Node, lookup: Lookup, parents: dict[str, BilinearAlgorithm]) -> BilinearAlgorithm:
    """The algorithm of a parsed expression; registered algorithms in it are added to `parents` by id.

    Raises:
        InputError: as `construct`.
    """
    where = f"at position {node.position}"
    if node.name in FORMULAS:
        sizes = [int(argument.name) for argument in node.arguments]
        _check_size(*_formula_size(node.name, sizes), where)
        return FORMULAS[node.name][1](*sizes)
    if node.name not in OPERATIONS:
        valid = ", ".join([*FORMULAS, *OPERATIONS])
        try:
            found = lookup(node.name)
        except InputError as error:
            raise InputError(f"expression: {node.name!r} {where}: {error}; formulas and operations: {valid}") from None
        if found is None:
            raise InputError(f"expression: unknown name {node.name!r} {where}; valid: {valid}, or the name of a registered algorithm")
        parents[found.id] = found
        return found
    kinds = OPERATIONS[node.name]
    parts = [build(part, lookup, parents) for part, kind in zip(node.arguments, kinds, strict=True) if kind == "a"]
    rest = [argument.name for argument, kind in zip(node.arguments, kinds, strict=True) if kind != "a"]
    if node.name == "compose":
        entries = [x * y for x, y in zip(parts[0].target.dims, parts[1].target.dims, strict=True)]
        _check_size(parts[0].rank * parts[1].rank, entries, where)
    if node.name == "permute":
        return transforms.permute(parts[0], [int(number) for number in rest])
    if node.name == "simplify":
        return simplify(parts[0], halves=True)
    return getattr(transforms, node.name)(*parts, *rest)


def _formula_size(name: str, sizes: Sequence[int]) -> tuple[int, list[int]]:
    """Bounds on the rank and on a, b, c."""
    if name == "standard":
        n, m, p = sizes
        return n * m * p, [n * m, m * p, n * p]
    if name == "gram":
        n, m = sizes
        return m * n * (n + 1) // 2, [n * m, n * m, n * (n + 1) // 2]
    total = 2 * sum(sizes)  # coefficients of polynomials, of which matrices over the rationals are inverted
    return total, [total, total, total]


def _check_size(rank: int, entries: Sequence[int], where: str) -> None:
    if rank * prod(entries) > MAX_WORK:
        a, b, c = entries
        raise InputError(f"expression: the result {where} is too large to verify (rank {rank}, tensor {a} x {b} x {c})")

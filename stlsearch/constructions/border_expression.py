"""Expressions that build border-rank families: ``bini``, ``bini*strassen``, ``permute(bini,2,3,1) +p standard(2,2,1)``.

The grammar is that of `stlsearch.constructions.expression`; `bini` is one more name, and everything without it is an exact
algorithm, which counts as a family without error.
"""

from __future__ import annotations

from stlsearch.border import BorderAlgorithm
from stlsearch.constructions import border
from stlsearch.constructions.expression import Lookup, Node, build, parse
from stlsearch.errors import InputError

FORMULAS = {"bini": border.bini}
OPERATIONS = ("compose", "direct_sum", "permute", "transpose", "cyclic")


def construct_family(text: str, lookup: Lookup | None = None) -> BorderAlgorithm:
    """The family an expression describes, verified over Q[eps, 1/eps].

    Args:
        lookup: finds a registered algorithm by name.

    Raises:
        InputError: as `stlsearch.constructions.expression.construct`, or too large a result.
    """
    shown = " ".join(text.split())
    return _family(parse(text), lookup or (lambda name: None)).with_provenance(expression=shown)


def _family(node: Node, lookup: Lookup) -> BorderAlgorithm:
    if node.name in FORMULAS:
        return FORMULAS[node.name]()
    if node.name not in OPERATIONS or not _has_eps(node):
        try:
            return border.family(build(node, lookup, {}))
        except InputError as error:
            raise InputError(f"{error} (families in eps: {', '.join(FORMULAS)})") from None
    if node.name == "permute":
        return border.permute(_family(node.arguments[0], lookup), [int(argument.name) for argument in node.arguments[1:]])
    if node.name == "direct_sum":
        first, second, dimension = node.arguments
        return border.direct_sum(_family(first, lookup), _family(second, lookup), dimension.name)
    return getattr(border, node.name)(*(_family(argument, lookup) for argument in node.arguments))


def _has_eps(node: Node) -> bool:
    return node.name in FORMULAS or any(_has_eps(argument) for argument in node.arguments)

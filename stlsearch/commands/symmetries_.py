"""`stlsearch symmetries`: the group that leaves an algorithm as it is."""

from __future__ import annotations

from collections import Counter

import click

from stlsearch.commands.options import CountType, emit_json, json_option, registry_option
from stlsearch.commands.same_ import Telling, certificate_document, load
from stlsearch.commands.summary import table
from stlsearch.identity.class_id import class_id
from stlsearch.identity.matching import NODES
from stlsearch.identity.stabiliser import Symmetries, symmetries
from stlsearch.identity.terms import rank_distribution
from stlsearch.registry.store import Registry

UNFINISHED = 3


@click.command("symmetries")
@click.argument("name", metavar="A")
@click.option("--nodes", type=CountType("nodes"), default=NODES, show_default=True, help="Most branches of the search.")
@registry_option()
@json_option()
def command(name: str, nodes: int, registry: Registry, as_json: bool) -> int:
    """List the symmetries of an exact algorithm for a matrix product.

    A is a name, the beginning of a name or id, or a file that `stlsearch import` reads. A symmetry is a change of basis, with a
    cyclic shift or transposition where the shape allows it, after which the algorithm has the same products up to scaling and
    order. Each generator is checked in exact arithmetic; --json gives its X, Y, Z.

    Exit code 0: these are all. 3: there may be more, because the budget ended or a matching could not be settled.
    """
    algorithm = load(name, registry)
    found = symmetries(algorithm, nodes, Telling())
    distribution = rank_distribution(algorithm)
    if as_json:
        emit_json(
            {
                "algorithm": {"name": algorithm.name, "id": algorithm.id, "class_id": class_id(algorithm)},
                "rank_distribution": [{"ranks": list(ranks), "products": count} for ranks, count in distribution.items()],
                "order": found.order,
                "changes_of_basis": found.sandwiching,
                "shapes": [list(order) for order in found.orders],
                "structure": found.structure,
                "element_orders": None
                if found.element_orders is None
                else {str(key): count for key, count in found.element_orders.items()},
                "orbits": [list(orbit) for orbit in found.orbits],
                "continuous_dimension": found.continuous,
                "acts_faithfully": found.faithful,
                "exhaustive": found.exhaustive,
                "generators": [certificate_document(certificate) for certificate in found.generators],
                "nodes": found.nodes,
            }
        )
    else:
        click.echo(algorithm.name)
        ranks = ", ".join(f"{count} of {triple}" for triple, count in distribution.items())
        click.echo(table([(f"  {key}", value) for key, value in [*_rows(found), ("ranks of u, v, w", ranks)]]))
        for index, certificate in enumerate(found.generators):
            shape = "" if certificate.order == (1, 2, 3) else f"  with (n,m,p) in the order {','.join(map(str, certificate.order))}"
            click.echo(f"  generator {index + 1}: {cycles(certificate.permutation)}{shape}")
    return 0 if found.exhaustive else UNFINISHED


def cycles(permutation: tuple[int, ...]) -> str:
    """A permutation of products as its cycles, counted from 1: (m1 m2)(m4 m5 m6)."""
    seen: set[int] = set()
    parts = []
    for start in range(len(permutation)):
        cycle, term = [], start
        while term not in seen:
            seen.add(term)
            cycle.append(f"m{term + 1}")
            term = permutation[term]
        if len(cycle) > 1:
            parts.append(f"({' '.join(cycle)})")
    return "".join(parts) or "every product in its place"


def _rows(found: Symmetries) -> list[tuple[str, str]]:
    bound = "" if found.exhaustive else ", or more: the search did not settle everything"
    rows = [("order", f"{found.order}{'' if found.structure is None else f', as {found.structure}'}{bound}")]
    rows.append(("changes of basis", f"{found.sandwiching} of them; {_shapes(len(found.orders))}"))
    if found.element_orders is not None and found.order > 1:
        rows.append(("elements", ", ".join(f"{count} of order {order}" for order, count in found.element_orders.items())))
    sizes = sorted(Counter(len(orbit) for orbit in found.orbits).items())
    rows.append(("orbits of products", ", ".join(f"{count} of {size}" for size, count in sizes)))
    if found.continuous is not None:
        kept = f"{found.continuous} dimensions, every product kept up to scaling" if found.continuous else "none: the group is finite"
        rows.append(("continuous symmetries", kept))
    return rows


def _shapes(count: int) -> str:
    if count == 1:
        return "no cyclic shift or transposition is a symmetry"
    kinds = {2: "one transposition", 3: "the cyclic shifts", 6: "cyclic shifts and transpositions"}
    return f"with {kinds[count]} {count} times as many"

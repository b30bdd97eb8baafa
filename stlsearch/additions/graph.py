"""Straight-line programs as directed acyclic graphs."""

from __future__ import annotations

import networkx as nx

from stlsearch.additions.program import Program


def to_networkx(program: Program) -> nx.DiGraph:
    """Inputs ("x", i), sums ("t", k) and outputs ("y", o), an edge with its `coefficient` from every value to what needs it.

    The additions are those of the sums with two edges coming in; an output that is zero has none.
    """
    graph = nx.DiGraph(inputs=program.inputs, additions=program.additions, scalings=program.scalings)
    names = [("x", i) for i in range(program.inputs)] + [("t", k) for k in range(len(program.instructions))]
    outputs = [("y", o) for o in range(len(program.outputs))]
    graph.add_nodes_from([*names, *outputs])
    for k, terms in enumerate(program.instructions):
        graph.add_edges_from((names[value], ("t", k), {"coefficient": coefficient}) for coefficient, value in terms)
    for output, (coefficient, value) in zip(outputs, program.outputs, strict=True):
        if coefficient != 0:
            graph.add_edge(names[value], output, coefficient=coefficient)
    return graph

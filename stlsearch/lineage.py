"""Where a fitted basis comes from: its parents, theirs, and so on back to what was constructed, imported or random."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError


def parent_record(algorithm: BilinearAlgorithm) -> dict[str, object]:
    """What a later reader needs to find the parent again: id, name and where it came from.

    A parent that was itself fitted passes on its `roots`: the constructed or imported algorithms that its line began
    with (none, when it began at random), with their sources and licences.
    """
    made = algorithm.provenance
    record: dict[str, object] = {"id": algorithm.id, "name": algorithm.name}
    record |= {key: made[key] for key in ("source", "licence", "construction", "expression") if key in made}
    if made.get("method") == "fit":
        record["roots"] = roots(made)
    return record


def roots(provenance: Mapping[str, object]) -> list[Mapping[str, object]]:
    """The constructed or imported algorithms that a fitted one descends from, each once."""
    found: dict[object, Mapping[str, object]] = {}
    for parent in _parents(provenance):
        for root in parent.get("roots", [parent]):  # type: ignore[attr-defined]
            found.setdefault(root["id"], root)
    return list(found.values())


def lineage(provenance: Mapping[str, object], lookup: Callable[[str], BilinearAlgorithm]) -> list[str]:
    """The commands that made the parents of an algorithm, their parents, and so on, from the oldest on, each once.

    Parents that `lookup` no longer finds end the line.
    """
    commands: list[str] = []
    for parent in _parents(provenance):
        try:
            made = lookup(str(parent["id"])).provenance
        except InputError:
            continue
        commands += [*lineage(made, lookup), *([str(made["command"])] if "command" in made else [])]
    return list(dict.fromkeys(commands))


def _parents(provenance: Mapping[str, object]) -> list[Mapping[str, object]]:
    parents = provenance.get("parents")
    return parents if isinstance(parents, list) else []

"""Write docs/frontier.md from the shipped algorithms: python docs/make_frontier.py."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations_with_replacement
from pathlib import Path

from stlsearch.algorithm import UNIT_ROUNDOFF, BilinearAlgorithm
from stlsearch.lineage import roots
from stlsearch.parents import best_by_rank, usable_algorithms
from stlsearch.registry.store import Registry, shipped_folder
from stlsearch.solvers.polish import Goal
from stlsearch.targets import Target

PAGE = Path(__file__).with_name("frontier.md")
DTYPES = ("float16", "bfloat16", "e4m3")
BOUNDS = (1000.0, 30.0)

INTRODUCTION = """# The frontier

The best shipped basis at every rank: the relative squared error e = ||T - [[U,V,W]]||^2/||T||^2, which is the relative mean
squared error of the product for white inputs; the missing products 64 e; the amplification g, by which the rounding of values
stored at unit roundoff u adds about g u^2; and the FLOP factor 64/r. This page is made from the files in `algorithms/` by
`python docs/make_frontier.py`. A front is searched, and an earlier search of it continued, by

```sh
stlsearch frontier --tile 4 --ranks 7-49 --time-limit 3600
stlsearch frontier --tile 4 --ranks 7-49 --time-limit 3600 --max-amplification 30
stlsearch frontier --tile 4 --ranks 7-49 --time-limit 600 --optimize-for bfloat16
```

and shown, drawn and compared with random starts by `stlsearch frontier --tile 4 --random 64 --plot frontier.png`. With `--pool 3` a search
keeps up to three bases of a rank that differ and lie within 2 % of the best, and starts from all of them: [solvers.md](solvers.md).

"How found" is the last step, and in brackets the constructed or published algorithms that its line of parents began with (none:
random starts, `kron`, `polynomial` or `cyclic`). `stlsearch show NAME` gives the parents, the commands from the first to the last,
and of published algorithms the source and licence: import those first to replay the commands (`stlsearch import`, or `stlsearch
border at FILE --eps 0.25` for families). Bases marked with the versions 0.1.0, 0.2.0.dev1 and 0.2.0.dev2 of stlsearch were found before
changes to the solvers: their commands lead the present version near them, not to the same digits.

The exact algorithm of rank 48 comes from random starts with a symmetry group ([exact.md](exact.md#algorithms-with-a-symmetry-group)).
It was found after most of the bases below it; those that start from it name it in their line of parents.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


def page() -> str:
    """The page for what is shipped now."""
    registry = Registry(None, shipped_folder())
    parts = [INTRODUCTION, _fours(registry), "\n## Smaller tiles\n"]
    for shape in combinations_with_replacement((1, 2, 3, 4), 3):
        if shape != (4, 4, 4):
            parts.append(_small(Target.matmul(*shape), registry))
    return "\n".join(part for part in parts if part)


def _fours(registry: Registry) -> str:
    target = Target.matmul(4, 4, 4)
    usable = usable_algorithms(target, registry)
    fronts = [best_by_rank(usable, Goal(bound)) for bound in BOUNDS]
    lines = [
        "\n## <4,4,4>\n",
        "| rank | FLOP factor | e, g <= 1000 | missing | g | how found | e, g <= 30 | g | how found |",
        "|--:" * 8 + "|---|",
    ]
    for rank in sorted(fronts[0]):
        wide, modest = fronts[0][rank], fronts[1].get(rank)
        beside = ["-"] * 3 if modest is None else [f"{modest.error:.4f}", f"{modest.amplification:.1f}", how_found(modest)]
        cells = [str(rank), f"{64 / rank:.2f}", f"{wide.error:.4f}", f"{wide.missing_products:.2f}", f"{wide.amplification:.0f}"]
        lines.append(_line([*cells, how_found(wide), *beside]))
    lines.append("\nFor values stored in a small format, the least e + g u^2 (g in brackets):\n")
    lines += ["| rank | " + " | ".join(DTYPES) + " |", "|--:" * (len(DTYPES) + 1) + "|"]
    for rank in sorted(fronts[0]):
        cells = [str(rank)]
        for dtype in DTYPES:
            held = best_by_rank(usable, Goal(optimize_for=dtype))[rank]
            cells.append(f"{held.error + held.amplification * UNIT_ROUNDOFF[dtype] ** 2:.4f} ({held.amplification:.3g})")
        lines.append(_line(cells))
    return "\n".join(lines)


def _small(target: Target, registry: Registry) -> str:
    front = best_by_rank(usable_algorithms(target, registry), Goal())
    if not front:
        return ""
    n, m, p = target.shape or (0, 0, 0)
    cells = [f"{rank}: {held.error:.4g}" for rank, held in sorted(front.items())]
    return f"<{n},{m},{p}>, rank: e (g <= 1000): " + ", ".join(cells) + "\n"


def how_found(algorithm: BilinearAlgorithm) -> str:
    """The last step that made it, and what its line of parents began with."""
    made = algorithm.provenance
    if made.get("solver") == "symmetric":
        return f"symmetric, orbits of {made['orbits']}"
    if made.get("method") != "fit":
        return _origin({**made, "name": algorithm.name})
    init = str(made["init"]).partition(":")[0].replace("known", "deflate")
    origins = sorted({_origin(root) for root in roots(made)})
    return f"{init} ({', '.join(origins)})" if origins else init


def _origin(root: Mapping[str, object]) -> str:
    """A constructed or imported algorithm by its formula or its public source, and its rank."""
    rank = str(root["name"]).split("_")[1]
    return str(root.get("expression") or root.get("construction") or f"{str(root.get('source') or root['name']).split(' ')[0]} {rank}")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()

"""Write docs/table.md from the shipped algorithms and the records: python docs/make_table.py."""

from __future__ import annotations

from pathlib import Path

from stlsearch.additions import count
from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands.table_ import RINGS, markdown
from stlsearch.registry.store import Registry, shipped_folder
from stlsearch.standings import sorted_shapes, standings

PAGE = Path(__file__).with_name("table.md")
RESTARTS = 25  # of the elimination that shares sums

INTRODUCTION = """# Our best exact algorithms beside the records

    stlsearch table
    stlsearch table --tile 3x4x5 --ring Z2
    stlsearch table --additions {restarts} --format markdown
    stlsearch table --json

For every n ≤ m ≤ p ≤ 5 the least rank that we have over a ring, and the least that is known. The rank of a product does not depend
on the order of its sizes, so each size stands here once, sorted. This page is the third of these commands for what is shipped, without
a registry of your own: `python docs/make_table.py` writes it, and a test compares.

**What counts as ours.** Exact algorithms in the registry, in any order of their sizes, and what follows from them without search: a
permutation of ⟨n,m,p⟩ keeps the rank, a direct sum along a dimension adds ranks, a Kronecker product multiplies them. A dynamic
program over the sizes takes the least. The last column is a registered name or an expression (registered algorithms in it stand
by the first 8 digits of their ids), built and verified in exact arithmetic each time the table is made:

    stlsearch construct "{example}"

**Rings.** An algorithm with coefficients in Z is one over every ring. One with coefficients in Z[1/2] is good for Q and modulo 3, not
modulo 2. One over Z2 is good for nothing else: the known ⟨4,4,4;47⟩ do not lift. A ring's record is the least over all rings that
map to it. Rings with the same algorithm and the same record share a line. The records over Z are all attained with
the coefficients -1, 0 and 1.

**Columns.** After the record: `=` when it is matched, `+2` when ours is two above, `-1` when one below.

- **ω** = 3 log(rank)/log(nmp), the exponent: recursion with this algorithm alone, in its three cyclic orders, multiplies N x N
  matrices in O(N^ω).
- **adds**: additions of the three linear maps as the factors are written, no sum shared: (nonzeros of U and V) - 2 rank +
  (nonzeros of W) - np. Another order of the sizes has another number of outputs, and so of additions.
- **shared** (with `--additions`): what is left of them when common sums are computed once, with {restarts} restarts of the elimination for
  each map; more restarts find less. Of registered algorithms of one size, rank and ring that with the fewest is shown.
- **growth** = Σ ‖u‖ ‖v‖ ‖w‖ over the terms, Euclidean norms: the growth factor, a multiple of which bounds the forward error
  (Z. Dai and L.-H. Lim, *Numerical stability and tensor nuclear norm*, arXiv 2207.08769).
- **g** = Σ ‖u‖² ‖v‖² ‖w‖²/(nmp), the amplification: rounding at unit roundoff u adds about g u² to the relative mean squared error.

**c.** Two numbers go by that letter: the exponent of an algorithm, which is the column ω, and the leading coefficient of the cost
c N^ω of recursion. There is no column called c, lest one be read for the other. The leading coefficient of a square ⟨n,n,n;r⟩
with a additions is 1 + a/(r - n²): 7 for Strassen's 18 additions, 6 for Winograd's 15.

**Records.** `stlsearch/records.json`, each with who published the rank; over Z and Q the ranks are those in the table of
[FastMatrixMultiplication](https://github.com/dronperminov/FastMatrixMultiplication), which gathers the
[FMM catalogue](https://fmm.univ-lille.fr) and others, over Z2 those of the papers.
They are upper bounds, as of the month named below the table. With a size of 1 the standard algorithm is optimal.

"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The page for what is shipped now."""
    algorithms = [entry.algorithm for entry in Registry(None, shipped_folder()).find(exact=True)[0]]
    shared: dict[str, int] = {}

    def additions(algorithm: BilinearAlgorithm) -> int:
        if algorithm.id not in shared:
            shared[algorithm.id] = count(algorithm, RESTARTS, 0).total
        return shared[algorithm.id]

    found = standings(algorithms, RINGS, sorted_shapes(), additions)
    for standing in found:
        additions(standing.algorithm)
    constructed = max((standing.expression for standing in found if not standing.registered), key=len)
    introduction = INTRODUCTION.replace("{example}", constructed).replace("{restarts}", str(RESTARTS))
    return introduction + markdown(found, shared) + "\n"


if __name__ == "__main__":
    main()

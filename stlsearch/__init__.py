"""Search, tune and deploy bilinear algorithms.

The noun is `stlsearch.algorithm.BilinearAlgorithm`. The verbs: construct (`stlsearch.constructions`), fit
(`stlsearch.fit`), search (`stlsearch.search`), store and exchange (`stlsearch.registry`), apply (`stlsearch.ops`),
evaluate (`stlsearch.evaluate`), compare (`stlsearch.compare`). Nothing is imported here, so that what needs no
torch does not load it.
"""

__version__ = "0.2.0"

"""The bases that networks start from, by name.

- ``front``: the best registered basis of the rank, g <= 1000; ``calm``: the best one with g <= 30. Both descend from constructions:
  Strassen's algorithm composed with itself, border-rank families, Kronecker products.
- ``kron``, ``strassen``, ``polynomial``, ``fourier``: one start of that strategy (`stlsearch.inits`), refined by ALS.
- ``als``: one random start, refined by the same ALS: what `kron` has to beat.
- ``gaussian``: independent normal factors as they are, scaled to g = 1: nothing of a matrix product in them.

All but the first two differ with the seed.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.fit import fit
from stlsearch.registry.store import open_registry
from stlsearch.targets import Target

REGISTERED = {"front": 1000.0, "calm": 30.0}
FITTED = {"kron": "kron", "strassen": "strassen", "polynomial": "polynomial", "fourier": "fourier", "als": "random"}
BASES = (*REGISTERED, *FITTED, "gaussian")
THEORY = ("front", "calm", "kron", "strassen", "polynomial", "fourier")
TILE = Target.matmul(4, 4, 4)


@lru_cache(maxsize=256)
def basis_named(name: str, rank: int, seed: int) -> BilinearAlgorithm:
    """See the module.

    Raises:
        InputError: an unknown name, or a rank at which no basis is registered.
    """
    if name in REGISTERED:
        entry = open_registry().best(TILE, rank, max_amplification=REGISTERED[name])
        if entry is None:
            raise InputError(f"no basis of rank {rank} with g <= {REGISTERED[name]:g} is registered")
        return entry.algorithm
    if name in FITTED:
        return fit(TILE, rank, init=FITTED[name], restarts=1, polished=0, iterations=1000, seed=seed).algorithm
    if name == "gaussian":
        random = np.random.default_rng(seed)
        factors = [random.standard_normal((rank, 16)) for _ in range(3)]
        g = np.prod([(factor**2).sum(1) for factor in factors], axis=0).sum() / 64
        return BilinearAlgorithm.from_floats(TILE, *(factor / g ** (1 / 6) for factor in factors), provenance={"init": "gaussian"})
    raise InputError(f"unknown basis {name!r}; valid: {', '.join(BASES)}")

"""One name for all algorithms that are the same up to changes of basis, shape, scaling and order of terms."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.identity.colours import Invariants
from stlsearch.identity.terms import ORDERS, Terms

VERSION = 1  # of what is hashed


@lru_cache(maxsize=1024)
def class_id(algorithm: BilinearAlgorithm) -> str:
    """SHA-256, 64 hex digits, of the refined colours in all six forms (`stlsearch.identity.colours`), and of rank and shape.

    Equal for algorithms of one class, and for those of permuted shapes too. Different for different classes as far as
    the invariants tell: that two algorithms with one class id are the same, `stlsearch.identity.same` decides. Algorithms
    over Zp and of characteristic 0 never share one.

    Raises:
        InputError: an inexact algorithm, no matrix product, a rank above 250.
    """
    invariants = Invariants(Terms.of(algorithm))
    forms = sorted(invariants.form(order).stable.histogram.astype(">u8").tobytes() for order in ORDERS)
    head = f"stlsearch class {VERSION} {sorted(invariants.terms.shape)} {algorithm.rank} {invariants.terms.prime}"
    return hashlib.sha256(head.encode() + b"".join(hashlib.sha256(form).digest() for form in forms)).hexdigest()

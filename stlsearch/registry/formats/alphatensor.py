"""AlphaTensor's npz archives (Fawzi et al., Nature 610, 2022): under the key "n,m,p" the factors, each (dim, rank), W of C^T.

Three factors of one size are an integer array (3, dim, rank). Factors of different sizes are only to be had as an array of
Python objects, a pickle inside the archive: it is taken apart without running it (`pickled`), and refused when it is
anything but three arrays of numbers.
"""

from __future__ import annotations

import io
import re

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry.formats.coefficients import Factor, factor_of, number
from stlsearch.registry.formats.layout import check_held, entries, sizes
from stlsearch.registry.formats.npz import members
from stlsearch.registry.formats.pickled import read_object_array
from stlsearch.registry.formats.scheme import Scheme, Source

NAME = "AlphaTensor npz"
_KEY = re.compile(r"\(?([0-9]{1,4}), ?([0-9]{1,4}), ?([0-9]{1,4})\)?.*")


def read(source: Source) -> list[Scheme]:
    """The algorithms of an archive, one a key, not yet verified.

    Raises:
        InputError: not such an archive.
    """
    archive = members(source.data)
    if not archive:
        raise InputError("the archive is empty")
    schemes = []
    for key, member in archive.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise InputError(f"the key {key!r:.60} is no size such as '2,2,2'")
        try:
            shape = (int(match[1]), int(match[2]), int(match[3]))
            factors = [_factor(name, array) for name, array in zip("UVW", _three(member), strict=True)]
        except InputError as error:
            raise InputError(f"key {key!r:.40}: {error}") from None
        schemes.append(Scheme((factors[0], factors[1], factors[2]), shape, provenance={"imported": NAME}, label=f"key {key}"))
    return schemes


def write(algorithm: BilinearAlgorithm) -> bytes:
    """An archive of one key."""
    check_held(algorithm, "alphatensor", "integers")
    factors = [np.array(rows, dtype=np.int64).T for rows in entries(algorithm, "C^T")]
    stacked = np.empty(3, dtype=object)
    stacked[:] = factors
    one_size = len({factor.shape for factor in factors}) == 1
    stream = io.BytesIO()
    key = ",".join(map(str, sizes(algorithm)))
    np.savez(stream, allow_pickle=not one_size, **{key: np.stack(factors) if one_size else stacked})
    return stream.getvalue()


def _three(member: bytes) -> list[np.ndarray]:
    array = read_object_array(member)
    if array.shape[:1] != (3,):
        raise InputError(f"expected three factors, U, V and W, found an array of shape {array.shape}")
    return list(array)


def _factor(name: str, array: object) -> Factor:
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "iuf":
        found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"a factor must be a matrix (dim, rank) of numbers, not {found}")
    return factor_of(name, [[number(value) for value in row] for row in array.T.tolist()])

"""flip-cpd's .npy of lifted schemes (Khoruzhii, Gelss, Pokutta, arXiv:2511.10786): int64, a row per scheme.

A row holds U, V and W one after the other, a row per product each, every number as numerator and denominator; W is of C. The
file does not say its sizes: a row of 2 r (nm + mp + np) numbers may be many, and the first that multiplies matrices is taken,
those whose digits stand in the file's name before others.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.exact import MAX_INTEGER
from stlsearch.registry.formats.coefficients import Entry, factor_of
from stlsearch.registry.formats.conventions import detect
from stlsearch.registry.formats.layout import check_held, entries
from stlsearch.registry.formats.npz import load_array
from stlsearch.registry.formats.scheme import Scheme, Source, checked_target
from stlsearch.targets import Target

NAME = "flip-cpd array"
MAX_SIDE = 16  # of the sizes that are tried
MAX_TRIED = 200
EXACT, NEARLY = 1e-18, 0.5  # relative squared errors of products; a wrong size has about 1 or more

Shape = tuple[int, int, int]


def read(source: Source, shape: Shape | None = None) -> list[Scheme]:
    """The algorithms of such a file, not yet verified.

    Args:
        shape: (n, m, p), where it is known.

    Raises:
        InputError: no such array, or sizes that cannot be found.
    """
    array = load_array(source.data, "npy array")
    if array.dtype == np.uint64:
        raise InputError("a scheme modulo 2 or 3 packed into bits; flip-cpd's lifted schemes, int64, can be read")
    if array.ndim != 2 or array.dtype.kind not in "iu" or 0 in array.shape or array.shape[1] % 2:
        raise InputError(f"expected an integer array (schemes, 2 rank (nm + mp + np)), not {array.dtype} of shape {array.shape}")
    width, remark = array.shape[1] // 2, ""
    if shape is None:
        shape = _found(array[0], width, source.path.name)
        remark = f"{'x'.join(map(str, shape))} found by trying sizes of {width} coefficients"
    rank, rest = divmod(width, sum(Target.matmul(*shape).dims))
    if rest:
        raise InputError(f"rows of {width} fractions are no scheme of {'x'.join(map(str, shape))}")
    checked_target(shape, rank)
    labels = [f"scheme {index + 1}" if len(array) > 1 else "" for index in range(len(array))]
    return [replace(_scheme(row, shape, rank, label), remark=remark) for row, label in zip(array, labels, strict=True)]


def write(algorithm: BilinearAlgorithm) -> bytes:
    """A file of one scheme."""
    check_held(algorithm, "flip-cpd", "fractions")
    row: list[int] = []
    for factor in entries(algorithm, "C"):
        for values in factor:
            for value in values:
                fraction = Fraction(value)  # type: ignore[arg-type]
                row += [fraction.numerator, fraction.denominator]
    stream = io.BytesIO()
    np.save(stream, np.array([row], dtype=np.int64), allow_pickle=False)
    return stream.getvalue()


def _scheme(row: np.ndarray, shape: Shape, rank: int, label: str) -> Scheme:
    values = row.tolist()
    above, below = values[::2], values[1::2]
    if not all(below) or max(map(abs, values)) > MAX_INTEGER:
        raise InputError(f"{label or 'the scheme'} has a denominator 0, or integers beyond 2^53")
    numbers: list[Entry] = [x if y == 1 else Fraction(x, y) for x, y in zip(above, below, strict=True)]
    factors, start = [], 0
    for name, extent in zip("UVW", Target.matmul(*shape).dims, strict=True):
        end = start + rank * extent
        factors.append(factor_of(name, [numbers[at : at + extent] for at in range(start, end, extent)]))
        start = end
    return Scheme((factors[0], factors[1], factors[2]), shape, provenance={"imported": NAME}, label=label)


def _found(row: np.ndarray, width: int, name: str) -> Shape:
    """The sizes under which the first scheme multiplies matrices."""
    tried = sorted(_candidates(width), key=lambda entry: ("{}{}{}".format(*entry[0]) not in name.replace("x", ""), sum(entry[0])))
    above, below = row[::2].astype(np.float64), row[1::2].astype(np.float64)
    if not below.all():
        raise InputError("a coefficient has the denominator 0")
    values = above / below
    moduli = (2, 3) if (below == 1).all() else ()
    errors: dict[Shape, float] = {}
    for shape, rank in tried[:MAX_TRIED]:
        target = Target.matmul(*shape)
        parts = np.split(values, np.cumsum([rank * extent for extent in target.dims])[:2])
        factors = [part.reshape(rank, extent) for part, extent in zip(parts, target.dims, strict=True)]
        with np.errstate(all="ignore"):
            errors[shape] = detect(target, factors, trials=2)[1]
            if errors[shape] < EXACT or any(detect(target, factors, modulus, trials=2)[1] == 0 for modulus in moduli):
                return shape
    best = min(errors, key=lambda shape: errors[shape], default=None)
    if best is not None and errors[best] < NEARLY:  # a few wrong coefficients: which, the verification will say
        return best
    raise InputError(f"rows of {width} fractions fit no matrix product that they compute: name its sizes with --tile if it is one")


def _candidates(width: int) -> Iterator[tuple[Shape, int]]:
    for n in range(1, MAX_SIDE + 1):
        for m in range(1, MAX_SIDE + 1):
            for p in range(1, MAX_SIDE + 1):
                rank, rest = divmod(width, n * m + m * p + n * p)
                if not rest and max(n * m, m * p, n * p) <= rank <= n * m * p:
                    yield (n, m, p), rank

"""Groups of symmetries of a matrix product, as maps of the masks of a flip walk.

The tensor sum_ijk a_ij (x) b_jk (x) c_ik stays as it is when

- the indices of each of the three dimensions are permuted, i -> s(i), j -> t(j), k -> q(k), of any shape;
- the product is transposed, a_ij <-> b_ji and c_ik <-> c_ki, where n = p;
- the modes rotate, a_ij -> b_ij -> c_ji -> a_ij, where n = m = p.

The standard algorithm is a union of orbits of every group of these, so a walk may start there and move whole orbits
(Moosbauer and Poole, arXiv 2502.04514, for rotations and transposition; permutations of indices are a lever of ours). Masks are
those of `flips`: bit i m + j of mode 0, j p + k of mode 1, i p + k of mode 2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

import numpy as np

from stlsearch.errors import InputError

Shape = tuple[int, int, int]
Element = tuple[tuple[int, tuple[int, ...]], ...]  # of every mode: the mode it goes to, and where each of its bits goes
MAX_ORDER = 24
BYTES = 8  # of a mask
VALID = (
    'cyclic, transpose, cycles of indices such as "(123)", "(12)(34)" or "(12)/()/(345)" for n/m/p, products of them by "*", lists by ","'
)


@dataclass(frozen=True, eq=False)
class Group:
    """A finite group, the identity first.

    Attributes:
        text: its generators.
        modes: (|G|, 3), the mode to which an element takes each mode.
        tables: (|G|, 3, 8, 256) masks: the image of every value of every byte of a mask.
        product: (|G|, |G|), the number of "row after column".
    """

    text: str
    modes: np.ndarray
    tables: np.ndarray
    product: np.ndarray

    @property
    def order(self) -> int:
        return len(self.modes)

    def images(self, terms: np.ndarray) -> np.ndarray:
        """The images (|G|, r, 3, 2) of the masks (r, 3, 2) of terms."""
        images = np.zeros((self.order, *terms.shape), dtype=np.uint64)
        for image, modes, tables in zip(images, self.modes, self.tables, strict=True):
            for mode, target in enumerate(modes):
                for byte in range(BYTES):
                    image[:, int(target)] |= tables[mode, byte][(terms[:, mode] >> np.uint64(8 * byte)) & np.uint64(255)]
        return images


def group_of(text: str, shape: Shape) -> Group:
    """The group that a list of generators spans.

    Raises:
        InputError: a generator that is none, does not fit the shape, factors of more than 64 entries, or a group of more than `MAX_ORDER`
            elements.
    """
    if (entries := max(rows * columns for rows, columns in _sides(shape))) > 8 * BYTES:
        raise InputError(f"symmetric walks hold up to {8 * BYTES} entries of a factor; {'x'.join(map(str, shape))} has {entries}")
    generators = [_generator(word, shape) for word in text.replace(" ", "").split(",")]
    identity = tuple((mode, tuple(range(rows * columns))) for mode, (rows, columns) in enumerate(_sides(shape)))
    elements, fresh = [identity], [identity]
    while fresh:
        fresh = list(dict.fromkeys(_after(new, old) for old in fresh for new in generators))
        fresh = [element for element in fresh if element not in elements]
        elements += fresh
        if len(elements) > MAX_ORDER:
            raise InputError(f"the symmetries {text!r:.60} span a group of more than {MAX_ORDER} elements")
    places = {element: place for place, element in enumerate(elements)}
    tables = np.zeros((len(elements), 3, BYTES, 256), dtype=np.uint64)
    for place, element in enumerate(elements):
        for mode, (_, bits) in enumerate(element):
            for source, target in enumerate(bits):
                values = np.arange(256) >> (source % 8) & 1 == 1
                tables[place, mode, source // 8, values] |= np.uint64(1 << target)
    return Group(
        text=text,
        modes=np.array([[target for target, _ in element] for element in elements], dtype=np.uint64),
        tables=tables,
        product=np.array([[places[_after(one, other)] for other in elements] for one in elements], dtype=np.uint64),
    )


def _sides(shape: Shape) -> tuple[tuple[int, int], ...]:
    n, m, p = shape
    return (n, m), (m, p), (n, p)


def _after(one: Element, other: Element) -> Element:
    """The element that does `other`, then `one`."""
    return tuple((one[mode][0], tuple(one[mode][1][bit] for bit in bits)) for mode, bits in other)


def _generator(word: str, shape: Shape) -> Element:
    """A product of symmetries, written from left to right in the order they are done."""
    factors = [_symmetry(part, shape) for part in word.split("*")]
    whole = factors[0]
    for factor in factors[1:]:
        whole = _after(factor, whole)
    return whole


def _symmetry(word: str, shape: Shape) -> Element:
    n, m, p = shape
    if word == "cyclic":
        if not n == m == p:
            raise InputError(f"cyclic symmetry is for products of square matrices, not for {n}x{m}x{p}")
        plain, turned = _bits(n, n, False), _bits(n, n, True)
        return (1, plain), (2, turned), (0, turned)
    if word == "transpose":
        if n != p:
            raise InputError(f"a transposed product of {n}x{m}x{p} is of another size: transpose needs n = p")
        return (1, _bits(n, m, True)), (0, _bits(m, p, True)), (2, _bits(n, p, True))
    parts = word.split("/")
    if len(parts) not in (1, 3) or not all(re.fullmatch(r"(\([1-9]*\))+", part) for part in parts):
        raise InputError(f"unknown symmetry {word!r:.40}; valid: {VALID}")
    moved = [_permutation(part, size) for part, size in zip(parts * (4 - len(parts)) if len(parts) == 1 else parts, shape, strict=True)]
    rows_columns = ((moved[0], moved[1]), (moved[1], moved[2]), (moved[0], moved[2]))
    return tuple(
        (mode, tuple(rows[i] * side + columns[j] for i, j in product(range(len(rows)), range(side))))
        for mode, ((rows, columns), (_, side)) in enumerate(zip(rows_columns, _sides(shape), strict=True))
    )


def _bits(rows: int, columns: int, transposed: bool) -> tuple[int, ...]:
    """Where the entries of a matrix go: to the same place, or to that of the transpose."""
    return tuple(j * rows + i if transposed else i * columns + j for i in range(rows) for j in range(columns))


def _permutation(text: str, size: int) -> list[int]:
    """Cycles of indices from 1, such as (12)(34)."""
    images = list(range(size))
    seen: set[int] = set()
    for cycle in re.findall(r"\(([1-9]*)\)", text):
        indices = [int(digit) - 1 for digit in cycle]
        if any(index >= size for index in indices) or len({*indices, *seen}) < len(indices) + len(seen):
            raise InputError(f"{text} is no permutation of the indices 1 to {size}: every one at most once")
        seen.update(indices)
        for index, image in zip(indices, indices[1:] + indices[:1], strict=True):
            images[index] = image
    return images

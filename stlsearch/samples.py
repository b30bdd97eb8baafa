"""Real activations and weights: read from files, cut into tiles, averaged into second moments.

Activations have the axes (..., tokens, channels): every leading index is one sample (an image, a sentence, a head of a
layer), whose tokens are never mixed with another's. n neighbouring tokens and m channels make a tile, as in
`stlsearch.ops`; what does not fill a tile at the end of a sample is left out here (an operator pads it).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from stlsearch.errors import InputError
from stlsearch.metric import Metric
from stlsearch.targets import Target

HELD_OUT = 4  # every fourth sample is held out, to measure the error on what the moments have not seen
NUMPY = b"\x93NUMPY"  # how an .npy file begins
MAX_VALUES = 2**28  # of one array: 2 GiB in float64
LARGEST = 1e100  # squares of larger values, summed, could overflow


@dataclass(frozen=True, eq=False)
class Samples:
    """Activations of one layer and, when known, the weight they meet.

    Attributes:
        activations: (samples, tokens, channels), float64.
        weight: (channels, outputs), float64, or None.
    """

    activations: np.ndarray
    weight: np.ndarray | None = None

    @staticmethod
    def of(activations: np.ndarray, weight: np.ndarray | None = None) -> Samples:
        """Check and shape what was given: activations (..., tokens, channels), weight (channels, outputs).

        Raises:
            InputError: wrong dimensions, no numbers, or NaN or infinite values.
        """
        x = _numbers("activations", activations)
        if x.ndim < 2:
            raise InputError(f"activations need the axes (..., tokens, channels), not the shape {x.shape}")
        x = x.reshape(-1, *x.shape[-2:])
        if weight is None:
            return Samples(x)
        w = _numbers("weights", weight)
        if w.ndim != 2 or len(w) != x.shape[2]:
            turned = "; transpose it, torch.nn.Linear stores (outputs, channels)" if w.shape[1:] == x.shape[2:] else ""
            raise InputError(f"weights must have the shape (channels, outputs) with {x.shape[2]} channels, not {w.shape}{turned}")
        return Samples(x, w)

    @property
    def layer_channels(self) -> int:
        """K, the inner dimension."""
        return self.activations.shape[2]

    def split(self, tokens: int) -> tuple[Samples, Samples]:
        """(fitted, held out): every fourth sample is held out; of a single sample its last quarter of tokens.

        Args:
            tokens: n of the tile, which no cut may tear.

        Raises:
            InputError: too few samples or tokens to hold any out, or zeros held out.
        """
        x = self.activations
        if len(x) >= HELD_OUT:
            out = np.arange(len(x)) % HELD_OUT == HELD_OUT - 1
            if not x[out].any():
                raise InputError("the samples held out are all zero")
            return Samples(x[~out], self.weight), Samples(x[out], self.weight)
        cut = x.shape[1] * (HELD_OUT - 1) // HELD_OUT // tokens * tokens
        if cut == 0 or x.shape[1] - cut < tokens or not x[:, cut:].any():
            raise InputError(
                f"activations of {len(x)} samples of {x.shape[1]} tokens are too few to hold any out: "
                f"give at least {HELD_OUT} samples, or {HELD_OUT * tokens} tokens"
            )
        return Samples(x[:, :cut], self.weight), Samples(x[:, cut:], self.weight)

    def metric(self, target: Target, channels: np.ndarray | None = None, source: str = "data", *, enough: bool = True) -> Metric:
        """The uncentred second moments of the tiles, averaged over samples and over places in the matrices.

        Args:
            target: the matrix product <n,m,p>.
            channels: the order in which channels are cut into tiles, a permutation of 0..K-1; as they stand by default.
            source: for the layout.
            enough: ask for as many tiles as a moment has rows at least; with fewer, errors can be measured but no basis fitted.

        Without a weight its tiles are taken to be white. Weights are taken to be independent of activations and of zero mean.

        Raises:
            InputError: not a matrix product, sizes below one tile, or fewer tiles than a moment has rows.
        """
        if target.shape is None:
            raise InputError(f"moments of samples are for matrix products, not for {target.slug}")
        n, m, p = target.shape
        x, w = self.activations, self.weight
        layout: dict[str, object] = {"tokens": "neighbouring", "source": source}
        if channels is not None:
            order = check_permutation(channels, self.layer_channels)
            layout["channels"] = order.tolist()
            x, w = x[:, :, order], None if w is None else w[order]
        tiles = activation_tiles(x, n, m)
        layout["tiles"] = len(tiles)
        weight = np.eye(m * p)
        if w is not None:
            blocks = weight_tiles(w, m, p)
            weight = _moment("weights", blocks, enough)
            layout["weight_tiles"] = len(blocks)
        return Metric(_moment("activations", tiles, enough), weight, layout)


def activation_tiles(activations: np.ndarray, n: int, m: int) -> np.ndarray:
    """Every whole n x m tile of activations (samples, tokens, channels), row-major: shape (tiles, nm)."""
    count, tokens, channels = activations.shape
    down, along = tokens // n, channels // m
    if down == 0 or along == 0:
        raise InputError(f"activations of {tokens} tokens and {channels} channels hold no tile of {n} x {m}")
    cut = activations[:, : down * n, : along * m].reshape(count, down, n, along, m)
    return cut.transpose(0, 1, 3, 2, 4).reshape(-1, n * m)


def weight_tiles(weight: np.ndarray, m: int, p: int) -> np.ndarray:
    """Every whole m x p tile of a weight (channels, outputs), row-major: shape (tiles, mp)."""
    if weight.shape[0] < m or weight.shape[1] < p:
        raise InputError(f"weights of {weight.shape[0]} x {weight.shape[1]} hold no tile of {m} x {p}")
    return activation_tiles(weight[None], m, p)


def check_permutation(order: np.ndarray, count: int) -> np.ndarray:
    """`order` as int64 when it is a permutation of 0..count-1.

    Raises:
        InputError: it is not.
    """
    order = np.asarray(order)
    if order.shape != (count,) or order.dtype.kind not in "iu" or not np.array_equal(np.sort(order), np.arange(count)):
        raise InputError(f"the order of channels must be a permutation of 0..{count - 1}")
    return order.astype(np.int64)


def load_samples(activations: Path, weights: str | None = None) -> Samples:
    """Samples from files: an .npy file, and a .npy or .safetensors file (``file:name`` for one tensor of several).

    Raises:
        InputError: a missing or broken file, pickled objects, a tensor that is not there, or arrays `Samples.of` refuses.
    """
    return Samples.of(_load_npy(activations), None if weights is None else _load_weights(weights))


def _load_npy(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as stream:
            magic = stream.read(len(NUMPY))
            if magic == NUMPY:
                stream.seek(0)
                return np.load(stream, allow_pickle=False)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except MemoryError:
        reason = "it claims to hold more than fits in memory"
    except Exception as error:  # NumPy parses the header as Python, which fails in a dozen ways on damaged bytes
        reason = "it holds pickled objects" if "Object arrays" in str(error) else "it is damaged"
    else:
        reason = "it is an archive of several arrays" if magic.startswith(b"PK") else "it is not a NumPy file"
    raise InputError(f"{path} cannot be used: {reason}; give one array of numbers saved by numpy.save")


def _load_weights(text: str) -> np.ndarray:
    path, name = Path(text), ""
    if not os.path.exists(path) and ":" in text:  # noqa: PTH110 (Path.exists raises on names that are too long)
        head, _, name = text.rpartition(":")
        path = Path(head)
    if path.suffix == ".npy":
        if name:
            raise InputError(f"{path} holds one array without a name; drop :{name}")
        return _load_npy(path)
    if not os.path.exists(path):  # noqa: PTH110
        raise InputError(f"cannot read {path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:  # NumPy has no bfloat16
            names = sorted(file.keys())
            if not name and len(names) != 1:
                raise InputError(f"{path} holds {len(names)} tensors; name one as {path}:NAME, valid: {_listed(names)}")
            name = name or names[0]
            if name not in names:
                raise InputError(f"{path} has no tensor {name!r:.60}; valid: {_listed(names)}")
            tensor = file.get_tensor(name)
            return (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    except (SafetensorError, OSError, TypeError) as error:
        raise InputError(f"{path} cannot be used as .npy or .safetensors: {' '.join(str(error).split())[:100]}") from None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _numbers(what: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise InputError(f"{what} must be real numbers, not {array.dtype}")
    if array.size == 0 or array.size > MAX_VALUES:
        raise InputError(f"{what} must hold between 1 and {MAX_VALUES} numbers, not {array.size}")
    with np.errstate(over="ignore"):  # of long doubles
        array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise InputError(f"{what} hold NaN or infinite values")
    if (largest := float(np.abs(array).max())) > LARGEST:
        raise InputError(f"{what} hold a value of {largest:.3g}; values up to {LARGEST:g} can be squared and averaged")
    return array


def _moment(what: str, tiles: np.ndarray, enough: bool) -> np.ndarray:
    if enough and len(tiles) < tiles.shape[1]:
        raise InputError(f"{what} hold {len(tiles)} tiles; at least {tiles.shape[1]} are needed for second moments of that size")
    if not tiles.any():
        raise InputError(f"{what} are all zero")
    return tiles.T @ tiles / len(tiles)

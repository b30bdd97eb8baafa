"""Which channels share a tile: the order in which the inner dimension is cut, chosen so that few modes carry most.

Channels may be put in any order (a layer permutes its weight's rows once, and its input's columns), tokens may not. With
M[s, c, t, d] = E[x_sc x_td] over the tokens s, t of a tile and all channels c, d, a cut into groups of m channels
pools the moments of its groups, Sa = mean_g M[:, g, :, g], and what r products can keep of a product is at least what the
r/p leading eigenvectors of Sa carry. That energy is max_P tr(P Sa) over projectors P, so alternating between the best P
and swaps of channels that raise tr(P Sa) never loses any. Channels of one kind (strong, or moving together) end up at one
place of every tile.
"""

from __future__ import annotations

import numpy as np

from stlsearch.errors import InputError
from stlsearch.samples import Samples
from stlsearch.targets import Target

MAX_CHANNELS = 2048
MAX_ROWS = 8192  # of M, (n K)^2 entries, and of what swaps are worth, (m K)^2: 512 MiB each
ROUNDS = 200  # of swaps between two updates of P, each of many swaps in groups that do not meet
UPDATES = 30
LEAST_GAIN = 1e-9  # relative


def group_channels(samples: Samples, target: Target, rank: int) -> np.ndarray:
    """A permutation of the K channels whose tiles carry most in their r/p leading modes: shape (K,), deterministic.

    Channels are weighted by the root mean square of the weight's rows they meet, when there is a weight. The search starts
    from the order as it stands and from channels dealt out by size; a remainder of K modulo m stays at the end.

    Raises:
        InputError: not a matrix product, too many channels, or less than one tile.
    """
    if target.shape is None:
        raise InputError(f"channels are grouped for matrix products, not for {target.slug}")
    n, m, p = target.shape
    count = samples.layer_channels
    if count > MAX_CHANNELS:
        raise InputError(f"channels can be grouped up to {MAX_CHANNELS}, not {count}")
    if max(n, m) * count > MAX_ROWS:
        raise InputError(
            f"channels of {n} x {m} tiles can be grouped up to {MAX_ROWS // max(n, m)}, not {count}: memory grows as its square"
        )
    if samples.activations.shape[1] < n or count < m:
        raise InputError(f"activations of shape {samples.activations.shape} hold no tile of {n} x {m}")
    moments = _token_channel_moments(samples, n)
    modes = max(1, min(rank // p, n * m - 1))
    groups = count // m
    by_size = np.argsort(-np.einsum("tctc->c", moments), kind="stable")[: groups * m]
    starts = (np.arange(groups * m).reshape(groups, m), by_size.reshape(m, groups).T.copy())
    searched = [_search(moments, start, modes) for start in starts]
    energy, order = max(searched, key=lambda found: found[0])
    if energy <= kept_energy(moments, starts[0], modes) * (1 + LEAST_GAIN):
        order = starts[0]
    order = order[np.argsort(order.min(axis=1))]
    rest = np.setdiff1d(np.arange(count), order)
    return np.concatenate([order.ravel(), rest])


def kept_energy(moments: np.ndarray, order: np.ndarray, modes: int) -> float:
    """The share of the energy in the leading modes of the pooled moment: order (groups, m), moments (n, K, n, K)."""
    values = np.linalg.eigvalsh(_pooled(moments, order))
    return float(values[-modes:].sum() / values.sum())


def _token_channel_moments(samples: Samples, n: int) -> np.ndarray:
    """M of shape (n, K, n, K)."""
    x = samples.activations
    if samples.weight is not None:
        x = x * np.sqrt(np.square(samples.weight).mean(axis=1))
    tiles = x[:, : x.shape[1] // n * n].reshape(-1, n * x.shape[2])
    count = x.shape[2]
    return (tiles.T @ tiles / len(tiles)).reshape(n, count, n, count)


def _pooled(moments: np.ndarray, order: np.ndarray) -> np.ndarray:
    n, m = moments.shape[0], order.shape[1]
    pooled = np.empty((n, m, n, m))
    for i in range(m):
        for j in range(m):
            pooled[:, i, :, j] = moments[:, order[:, i], :, order[:, j]].mean(axis=0)
    return pooled.reshape(n * m, n * m)


def _search(moments: np.ndarray, order: np.ndarray, modes: int) -> tuple[float, np.ndarray]:
    """(share of the energy kept, order) at the end of alternating updates from one order."""
    n, m = moments.shape[0], order.shape[1]
    order = order.copy()
    energy = kept_energy(moments, order, modes)
    for _ in range(UPDATES):
        vectors = np.linalg.eigh(_pooled(moments, order))[1][:, -modes:]
        projector = (vectors @ vectors.T).reshape(n, m, n, m)
        # worth[i, j, c, d]: what channels c and d at places i and j of one tile add to tr(P Sa)
        worth = np.einsum("sitj,sctd->ijcd", projector, moments, optimize=True)
        _swap(worth, order)
        raised = kept_energy(moments, order, modes)
        if raised <= energy * (1 + LEAST_GAIN):
            break
        energy = raised
    return kept_energy(moments, order, modes), order


def _swap(worth: np.ndarray, order: np.ndarray) -> None:
    """Swap channels of different groups, in place, while that raises tr(P Sa)."""
    groups, m = order.shape
    slots = np.arange(groups * m)
    owner, place = slots // m, slots % m
    for _ in range(ROUNDS):
        held = order.ravel()
        # fit[s, c]: what slot s is worth with channel c in it, the others of its group as they are
        fit = worth[place, place].diagonal(axis1=1, axis2=2).copy()
        for i in range(m):
            others = place != i
            fit[others] += 2 * worth[place[others], i, :, order[owner[others], i]]
        here = fit[:, held]  # slot by slot: what slot s is worth with the channel of slot t
        gain = here + here.T - here.diagonal()[:, None] - here.diagonal()[None, :]
        gain[owner[:, None] == owner[None, :]] = 0.0
        best = gain.argmax(axis=1)
        gains = gain[slots, best]
        used = np.zeros(groups, dtype=bool)
        threshold = LEAST_GAIN * np.abs(here.diagonal()).sum()
        swapped = False
        for slot in np.argsort(-gains, kind="stable"):
            other = best[slot]
            if gains[slot] <= threshold:
                break
            if used[owner[slot]] or used[owner[other]]:
                continue
            used[owner[slot]] = used[owner[other]] = True
            flat = order.reshape(-1)
            flat[slot], flat[other] = flat[other], flat[slot]
            swapped = True
        if not swapped:
            return

"""Least squares for one layer whose product is a Strassen-Tile one: what its encoded weight should be, given what it is fed.

Let a tile of activations hold the values X[x, i, k] at its places x = (a, b), for tiles (i, k) of n x m, and the dense result the
values Y[y, i, j] at places y = (a, c). With the encoders U (r, nm) and decoders W (r, np) of a basis fixed, the layer computes

    sum_rho W[rho, y] sum_k Xhat[rho, i, k] E[rho, k, j],   Xhat[rho, i, k] = sum_x U[rho, x] X[x, i, k],

which is linear in the encoded weight E (r, K/m, N/p). Its squared distance to Y is least where, for every column j of tiles,

    sum_(sigma, l) (W W^T)[rho, sigma] G[rho k, sigma l] E[sigma, l, j] = sum_i Xhat[rho, i, k] sum_y W[rho, y] Y[y, i, j]

with G[rho k, sigma l] = sum_i Xhat[rho, i, k] Xhat[sigma, i, l]: one matrix of r K/m rows for all columns. It couples all tiles along
the inner dimension, which fitting tile by tile (`stlsearch.metric`) takes to err independently.

All of it follows from the second moments of the rows that share a tile, `Moments`: a matrix of n K rows, whatever the basis and
the order of channels, to which batches are added one after the other. Everything is float64.

The equations are those of weighted least squares for a bilinear algorithm (the product is arXiv 2503.12211's) and of SparseGPT's
reconstruction (arXiv 2301.00774), which knows K moments of a row where tiles need n K.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import minimize
from torch import Tensor

from stlsearch.devices import available_memory
from stlsearch.errors import InputError
from stlsearch.metric import FLOOR as METRIC_FLOOR
from stlsearch.ops import Layout
from stlsearch.ops.library import encode

MAX_ROWS = 16384  # of moments, (n K)^2 values: 2 GiB
MATRICES = 6  # of (r K/m)^2 values held at once: moments, equations of fitted and of held-out rows, and a factor of them
CHUNK = 2**24  # values of activations in float64 at once: 128 MiB
PENALTY = 1e-6  # on the energies of terms, when the basis is free
STEPS = 100  # of L-BFGS
FLOOR = 1e-12  # a plane's share of the diagonal at least, so that planes the data never show have a solution


class Moments:
    """Sums over tiles i of X[a, c, i] X[a', c', i] for the n rows a of a tile and all K channels c: (n K, n K).

    Tiles that padding fills in part are summed apart, by which of their rows are real: a result is judged on real rows only.

    Args:
        height: n, the rows of a tile.
        channels: K.
        layout: which rows share a tile.
        device: where sums are held.

    Attributes:
        sums: by which of the n rows are real, (n K, n K), float64.
        rows: real rows seen.

    Raises:
        InputError: more than `MAX_ROWS` rows n K.
    """

    def __init__(self, height: int, channels: int, layout: Layout | None = None, device: torch.device | str = "cpu") -> None:
        if height * channels > MAX_ROWS:
            raise InputError(f"tiles of {height} rows can be calibrated up to {MAX_ROWS // height} channels, not {channels}")
        self.height, self.channels, self.layout, self.device = height, channels, layout or Layout(), torch.device(device)
        self.sums: dict[tuple[bool, ...], Tensor] = {}
        self.rows = 0

    @torch.no_grad()
    def add(self, x: Tensor) -> Moments:
        """Add activations x (batch, rows, K), tiles being cut from the rows of each batch (`Layout.samples`).

        Raises:
            InputError: another shape, or values that are not finite.
        """
        if x.ndim != 3 or x.shape[2] != self.channels:
            raise InputError(f"activations of shape (batch, rows, {self.channels}) are needed, not {tuple(x.shape)}")
        batch, rows, _ = x.shape
        if not batch * rows:
            return self
        blocks = self.layout.rows == "blocks"
        unit = torch.eye(self.height, dtype=torch.float64, device=self.device)
        real = encode(torch.ones(1, rows, 1, dtype=torch.float64, device=self.device), unit, self.height, 1, blocks, False)[:, :, 0] > 0
        for part in x.split(max(1, CHUNK // (rows * self.channels))):
            matrix = part.to(self.device, torch.float64)
            if not matrix.isfinite().all():
                raise InputError("the activations hold NaN or infinite values")
            tiles = encode(matrix.contiguous(), unit, self.height, 1, blocks, False)
            tiles = tiles.view(self.height, len(part), -1, self.channels)
            for mask in torch.unique(real, dim=1).T:
                chosen = tiles[:, :, (real == mask[:, None]).all(0)].permute(1, 2, 0, 3).reshape(-1, self.height * self.channels)
                key = tuple(mask.tolist())
                self.sums[key] = self.sums.get(key, 0) + chosen.T @ chosen
        self.rows += batch * rows
        return self

    @property
    def total(self) -> Tensor:
        """Over all tiles: (n, K, n, K)."""
        if not self.sums:
            raise InputError("no activations were given")
        return sum(self.sums.values()).view(self.height, self.channels, self.height, self.channels)  # type: ignore[union-attr]

    @property
    def gram(self) -> Tensor:
        """sum x x^T over single rows: (K, K)."""
        return torch.einsum("acad->cd", self.total)


@dataclass(frozen=True, eq=False)
class System:
    """Activations and the dense result of one layer, as far as least squares needs to know them.

    Attributes:
        moments: by which rows a of a tile are real (n,), S[x k, x' l] = sum_i X[x, i, k] X[x', i, l]: (nm, K/m, nm, K/m).
        cross: sum_i X[x, i, k] Y[y, i, j]: (nm, np, K/m, N/p).
        energy: sum Y^2.
        columns: by which columns c of a tile are real (p,), the tiles j that have them.
        tile: (n, m, p).
        rows: real rows seen.
    """

    moments: tuple[tuple[Tensor, Tensor], ...]
    cross: Tensor
    energy: float
    columns: tuple[tuple[Tensor, Tensor], ...]
    tile: tuple[int, int, int]
    rows: int

    @staticmethod
    @torch.no_grad()
    def of(moments: Moments, weight: Tensor, tile: tuple[int, int, int], layout: Layout, channels: Tensor | None = None) -> System:
        """The system of a dense weight (K, N), cut into tiles by `layout` after its channels were put in the order `channels`.

        Raises:
            InputError: a weight of another size or not finite, or activations that it maps to zero.
        """
        n, m, p = tile
        inner, outputs = moments.channels, weight.shape[-1]
        if weight.ndim != 2 or len(weight) != inner or n != moments.height:
            raise InputError(
                f"moments of {moments.height} x {inner} values do not fit {n} rows and a weight of shape {tuple(weight.shape)}"
            )
        place = places(inner, m, layout.channels == "blocked", channels).to(moments.device)  # (m, J)
        column = places(outputs, p, layout.outputs == "blocked").to(moments.device)  # (p, L)
        dense = torch.nn.functional.pad(weight.to(moments.device, torch.float64), (0, 1, 0, 1))  # zeros stand for padding
        B = dense[place[:, None, :, None], column[None, :, None, :]]  # (m, p, J, L)
        cut = [(torch.tensor(key, device=moments.device), _cut(total, n, inner, place)) for key, total in moments.sums.items()]
        total = _cut(moments.total, n, inner, place)
        J, L = place.shape[1], column.shape[1]
        by_row = total.view(n * m * J, n, m * J).movedim(1, 0) @ B.transpose(1, 2).reshape(m * J, p * L)  # (n, nmJ, pL)
        cross = by_row.view(n, n * m, J, p, L).permute(1, 0, 3, 2, 4).reshape(n * m, n * p, J, L).contiguous()
        own = cross.view(n, m, n, p, J, L).diagonal(dim1=0, dim2=2)  # (m, p, J, L, n): of row a with Y's row a
        energy = float((own.sum(-1) * B).sum())
        if not math.isfinite(energy):
            raise InputError("the weight holds NaN or infinite values, or the layer's result overflows")
        if not energy > 0:
            raise InputError("the layer's result is zero for all these activations: there is nothing to calibrate against")
        real = column < outputs
        columns = tuple((mask, (real == mask[:, None]).all(0).nonzero()[:, 0]) for mask in torch.unique(real, dim=1).T)
        return System(tuple(cut), cross, energy, columns, tile, moments.rows)

    def decoders(self, W: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(S, tiles j, W with zeros at places that are padding there) for every kind of tile."""
        n, _, p = self.tile
        for down, S in self.moments:
            for across, tiles in self.columns:
                yield S, tiles, W * (down[:, None] & across).reshape(n * p)

    def normal(self, U: Tensor, W: Tensor, penalty: float = 0.0) -> Normal:
        """The normal equations of a basis: U (r, nm), W (r, np).

        Args:
            penalty: mu of the further summand mu sum_rho |w_rho|^2 ||P_rho||^2, the energy of the decoded products P_rho = Xhat_rho E_rho
                one by one. It keeps terms from growing large and cancelling each other.

        Raises:
            InputError: more unknowns r K/m than there is memory for: `MATRICES` matrices of that size.
        """
        r, J, L = len(U), *self.cross.shape[2:]
        check_memory(r * J, U.device)
        weights = (1 + penalty * torch.eye(r, dtype=U.dtype, device=U.device)).to(U)
        grams: dict[int, Tensor] = {}
        encoded: dict[int, Tensor] = {}
        by_tiles = {}
        for S, tiles, masked in self.decoders(W):
            if id(S) not in encoded:
                encoded[id(S)] = encoded_moments(S, U)
            term = (masked @ masked.T * weights)[:, None, :, None] * encoded[id(S)]
            grams[id(tiles)] = grams[id(tiles)] + term if id(tiles) in grams else term
            by_tiles[id(tiles)] = tiles
        pairs = tuple((by_tiles[key], gram.reshape(r * J, r * J)) for key, gram in grams.items())
        outer = (U[:, :, None] * W[:, None, :]).reshape(r, -1)
        right = (outer @ self.cross.view(outer.shape[1], J * L)).view(r * J, L)
        return Normal(pairs, right, self.energy, (r, J, L))


@dataclass(frozen=True, eq=False)
class Normal:
    """grams E[:, tiles] = right, for every kind of tiles; E as (r K/m, N/p).

    Attributes:
        grams: (tiles j, matrix (r K/m, r K/m)).
        right: (r K/m, N/p).
        energy: sum Y^2.
        shape: of E, (r, K/m, N/p).
    """

    grams: tuple[tuple[Tensor, Tensor], ...]
    right: Tensor
    energy: float
    shape: tuple[int, int, int]

    def error(self, encoded: Tensor) -> float:
        """||Y - layer||^2/||Y||^2 (plus the penalty, if there is one) of an encoded weight (r, K/m, N/p)."""
        E = encoded.reshape(self.right.shape)
        fitted = -2 * (E * self.right).sum()
        for tiles, gram in self.grams:
            fitted = fitted + (E[:, tiles] * (gram @ E[:, tiles])).sum()
        return max(0.0, 1 + float(fitted) / self.energy)

    def amplification(self, encoded: Tensor) -> float:
        """sum_rho |w_rho|^2 ||P_rho||^2 / ||Y||^2 of the products P_rho = Xhat_rho E_rho."""
        r, J, _ = self.shape
        total = 0.0
        for tiles, gram in self.grams:  # whose blocks rho = sigma have the factor |w_rho|^2
            for rho in range(r):
                part = encoded[rho][:, tiles]
                total += float((part * (gram.view(r, J, r, J)[rho, :, rho] @ part)).sum())
        return total / self.energy

    def scales(self) -> Tensor:
        """Per plane rho, the mean diagonal of the normal equations: (r,), what a ridge is relative to."""
        r, J, _ = self.shape
        mean = torch.stack([gram.diagonal().view(r, J).mean(1) for _, gram in self.grams]).mean(0)
        return mean.clamp(min=max(FLOOR * float(mean.max()), torch.finfo(mean.dtype).tiny))

    def solve(self, start: Tensor, ridge: float, scales: Tensor | None = None) -> Tensor:
        """The E of least ||Y - layer||^2 + ridge sum_rho d_rho |E_rho - start_rho|^2 with d = `scales` (by default its own).

        ridge -> infinity gives the start; so does no data. Where rounding leaves no positive definite matrix, the ridge counts
        tenfold until it does.

        Args:
            start: (r, K/m, N/p), such as the plain encoded weight.
            ridge: relative to the mean diagonal of a plane.
        """
        J = self.shape[1]
        root = (self.scales() if scales is None else scales).rsqrt().repeat_interleave(J)
        begin = start.reshape(self.right.shape).to(self.right)
        result = begin.clone()
        for tiles, gram in self.grams:
            scaled = gram * root[:, None] * root
            missing = root[:, None] * (self.right[:, tiles] - gram @ begin[:, tiles])
            step = _solve(scaled, missing, ridge)
            result[:, tiles] += root[:, None] * step
        return result.view(self.shape)


def _solve(matrix: Tensor, right: Tensor, ridge: float) -> Tensor:
    diagonal = matrix.diagonal()
    added = 0.0
    while True:
        diagonal += ridge - added
        added = ridge
        factor, info = torch.linalg.cholesky_ex(matrix)
        if not info:
            return torch.cholesky_solve(right, factor)
        ridge = max(10 * ridge, 1e-14)


@dataclass(frozen=True, eq=False)
class Fit:
    """A basis and an encoded weight, and what they were asked to minimise: U (r, nm), W (r, np), encoded (r, K/m, N/p)."""

    U: Tensor
    W: Tensor
    encoded: Tensor
    value: float


@torch.no_grad()
def fit_basis(
    system: System, U: Tensor, W: Tensor, start: Tensor, *, ridge: float = 1e-6, penalty: float = PENALTY, steps: int = STEPS
) -> Fit:
    """U, W and E of least output error, from those of a start, by variable projection.

    For every U and W the best E is the solution of the normal equations, so that

        f(U, W) = min_E ||Y - layer||^2 + ridge sum_rho d_rho |E_rho - start_rho|^2 + penalty sum_rho |w_rho|^2 ||P_rho||^2

    is left to L-BFGS; its gradient is that of the sum at the best E, which itself need not be differentiated. d are the scales of the
    start. L-BFGS works on U Sa^(1/2), Sa the moments of a tile pooled over the layer: channels that differ in size do not slow it down.
    f never rises.

    Args:
        start: (r, K/m, N/p), E of the given U and W.
        ridge: relative, as for `Normal.solve`. It also fixes the scale of every term, which f would leave free.
        penalty: see `System.normal`.
        steps: of L-BFGS at most, each with one Cholesky decomposition of r K/m rows or two.
    """
    scales = system.normal(U, W).scales()
    root, inverse = _roots(system)
    size = U.numel()

    def value_and_gradient(flat: Any) -> tuple[float, Any]:
        point = torch.as_tensor(flat, dtype=torch.float64).to(U.device)
        u, w = point[:size].view_as(U) @ inverse, point[size:].view_as(W)
        value, _, by_u, by_w = projected(system, u, w, start, scales, ridge, penalty)
        return value, torch.cat([(by_u @ inverse).ravel(), by_w.ravel()]).cpu().numpy()

    begin = torch.cat([(U @ root).ravel(), W.ravel()]).cpu().numpy()
    found = torch.as_tensor(minimize(value_and_gradient, begin, jac=True, method="L-BFGS-B", options={"maxiter": steps, "maxcor": 30}).x)
    u, w = found[:size].to(U).view_as(U) @ inverse, found[size:].to(W).view_as(W)
    value, encoded, _, _ = projected(system, u, w, start, scales, ridge, penalty)
    return Fit(u, w, encoded, value)


def projected(
    system: System, U: Tensor, W: Tensor, start: Tensor, scales: Tensor, ridge: float, penalty: float
) -> tuple[float, Tensor, Tensor, Tensor]:
    """f of `fit_basis` over sum Y^2, the best E, and the gradients of f by U and W."""
    normal = system.normal(U, W, penalty)
    E = normal.solve(start, ridge, scales)
    value = normal.error(E) + ridge * float((scales * (E - start).square().sum((1, 2))).sum()) / system.energy
    r, J, L = E.shape
    weights = 1 + penalty * torch.eye(r, dtype=U.dtype, device=U.device)
    cross = (system.cross.view(-1, J * L) @ E.view(r, J * L).T).view(U.shape[1], W.shape[1], r)
    by_u, by_w = -torch.einsum("xyr,ry->rx", cross, W), -torch.einsum("xyr,rx->ry", cross, U)
    for S, tiles, masked in system.decoders(W):
        part = E[:, :, tiles].reshape(r * J, -1)
        pairs = (part @ part.T).view(r, J, r, J)
        half = (U @ S.reshape(U.shape[1], -1)).view(r, J, U.shape[1], J)  # [sigma, l, x, k]
        energies = torch.einsum("rksl,slrk->rs", pairs, torch.einsum("slxk,rx->slrk", half, U))
        by_w += (energies * weights) @ masked
        weighted = pairs * (masked @ masked.T * weights)[:, None, :, None]
        by_u += weighted.permute(0, 2, 3, 1).reshape(r, -1) @ half.permute(0, 1, 3, 2).reshape(-1, U.shape[1])
    return value, E, 2 * by_u / system.energy, 2 * by_w / system.energy


def _roots(system: System) -> tuple[Tensor, Tensor]:
    """Sa^(1/2) and its inverse, of the moments of a tile pooled over tiles, scaled to a mean of 1; eigenvalues floored as for metrics."""
    pooled = sum(torch.einsum("xkyk->xy", S) for _, S in system.moments)
    values, vectors = torch.linalg.eigh(pooled * (len(pooled) / pooled.trace()))  # type: ignore[arg-type, union-attr]
    values = values.clamp(min=METRIC_FLOOR * float(values[-1])).sqrt()
    return vectors * values @ vectors.T, vectors / values @ vectors.T


def check_memory(unknowns: int, device: torch.device) -> None:
    """Raise `InputError` when the normal equations of r K/m unknowns do not fit into memory."""
    needed, free = MATRICES * 8 * unknowns**2, available_memory(device)
    if free is not None and needed > free:
        raise InputError(
            f"calibrating r K/m = {unknowns} unknowns per output takes {needed / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB are free; "
            "a lower rank or a wider tile has fewer"
        )


def encoded_moments(S: Tensor, U: Tensor) -> Tensor:
    """G[rho, k, sigma, l] = sum_i Xhat[rho, i, k] Xhat[sigma, i, l] from S (nm, J, nm, J): (r, J, r, J)."""
    _, J, places_, _ = S.shape
    half = (U @ S.reshape(places_, -1)).view(len(U), J, places_, J)
    return torch.einsum("rkxl,sx->rksl", half, U)


def places(count: int, width: int, blocked: bool, order: Tensor | None = None) -> Tensor:
    """Which of `count` columns is at place c of tile j: (width, ceil(count/width)); `count` itself stands for padding."""
    across = -(-count // width)
    index = torch.arange(count) if order is None else order.cpu()
    index = torch.cat([index, torch.full((across * width - count,), count)])
    return index.view(width, across) if blocked else index.view(across, width).T


def _cut(total: Tensor, n: int, inner: int, place: Tensor) -> Tensor:
    """Moments (n K, n K) as (nm, J, nm, J), zeros at padding."""
    m, J = place.shape
    rows = (torch.arange(n, device=place.device)[:, None, None] * (inner + 1) + place).reshape(-1)
    padded = torch.nn.functional.pad(total.reshape(n, inner, n, inner), (0, 1, 0, 0, 0, 1)).reshape(n * (inner + 1), n * (inner + 1))
    return padded[rows[:, None], rows].view(n * m, J, n * m, J)

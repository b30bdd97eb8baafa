"""Which layers of a model can be Strassen-Tile ones, and by which algorithm: a dry run of `stlsearch.nn.convert`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.nn.basis import LEARNABLE, Basis
from stlsearch.nn.count import bytes_of, count, layer_macs, parameters_of
from stlsearch.nn.layers import kind_of, matrix, names_of, obstacle
from stlsearch.nn.observe import Seen, hides_later_tokens, observe
from stlsearch.nn.plan import Algorithm, LayerPlan, Plan
from stlsearch.ops.tiles import tile_of
from stlsearch.registry.store import Registry, open_registry
from stlsearch.targets import Target, parse_tile

ROWS = ("tokens", "blocks", "batch")
DEFAULT_EXCLUDE = (
    *("head", "head.*", "*.head", "*.head.*", "heads", "heads.*", "*_head", "*_head.*"),
    *("fc", "classifier", "classifier.*", "*.classifier", "*.classifier.*", "score", "*.score", "cls.*", "*.cls.*", "qa_outputs"),
    *("*embed*", "*pooler*"),
)
"""Output heads, as timm, torchvision and transformers call them, poolers, and all kinds of embeddings, those of patches too: small parts
of the work on which much depends."""

Choice = Algorithm | Mapping[str, Algorithm] | Callable[[str], Algorithm | None] | None


def plan(
    model: torch.nn.Module,
    *,
    rank: int = 24,
    tile: int | str | Sequence[int] = 4,
    basis: Choice = None,
    include: str | Iterable[str] = ("*",),
    exclude: str | Iterable[str] = DEFAULT_EXCLUDE,
    example: Any = None,
    seen: Mapping[str, Seen] | None = None,
    rows: str = "tokens",
    learn: str = "",
    causal_safe: bool | None = None,
) -> Plan:
    """What `convert` with the same arguments would do; the model stays as it is.

    A layer stays dense that is excluded, a subclass, a grouped convolution, has hooks, shares its weight with another module, is
    smaller than a tile, or, with an example, is not called by it (other code may read its weight), has fewer rows than a tile, or
    would mix the samples of a batch because its input is (B, K). The last, and excluded ones, are converted all the same when
    `include` names them without wildcards.

    Args:
        model: any module; `torch.nn.Linear`, `torch.nn.Conv2d` and transformers' `Conv1D` in it are considered.
        rank, tile: the best registered basis of that rank, 4 or "2x4x4" being its tile, where `basis` names no other.
        basis: one for all layers, or by layer: a mapping from patterns of names, of which the first that fits counts, or a function
            of the name. A layer for which they have none stays dense. A `Basis` is shared by its layers, whatever it learns.
        include, exclude: patterns of names as of `fnmatch`, such as ``"blocks.*.mlp.*"``.
        example: an input of the model: a tensor, a tuple of arguments or a mapping of named ones. It runs twice or thrice, in evaluation.
        seen: what each layer does, for a model that cannot be run; instead of an example.
        rows: which rows share a tile, "tokens", "blocks" or "batch" as for `STLLinear`.
        learn: factors of the bases to learn, each layer its own; "" shares fixed ones between all layers.
        causal_safe: refuse to let tokens see later ones. None finds out: True for models that transformers calls causal, and for those
            that give PyTorch's attention ``is_causal=True`` for the example. It sees no mask of your own making: say True then.

    Raises:
        InputError: a model that is one layer, an unknown option, a pattern that fits no layer, no registered basis, or rows that
            leak in a causal model.
    """
    if rows not in ROWS:
        raise InputError(f"unknown rows {rows!r}; valid: {', '.join(ROWS)}")
    if learn not in LEARNABLE:
        raise InputError(f"cannot learn {learn!r}; valid: {', '.join(repr(name) for name in LEARNABLE)}")
    if kind_of(model):
        raise InputError(
            f"the model is a single layer, {type(model).__name__}, which cannot be replaced from within: see STLLinear.from_linear"
        )
    safe = causal_safe
    if safe is None:
        safe = is_causal(model) or (example is not None and hides_later_tokens(model, example))
    candidates = _candidates(model, _chooser(basis, rank, tile), _patterns(include), _patterns(exclude), learn)
    if safe and rows != "batch" and any(not each.exact and not each.reason for each in candidates):
        raise InputError(
            f"the model is causal, and with rows={rows!r} a token would see later ones of its tile: "
            "take rows='batch', an exact basis, or causal_safe=False to leak on purpose"
        )
    by_module = seen
    if example is not None:
        wanted = {each.module: None if each.reason else each.algorithm for each in candidates if each.kind != "attention"}
        observed = observe(model, example, wanted, rows)
        by_module = {each.name: observed.get(each.module, Seen()) for each in candidates}
    layers = tuple(_planned(each, None if by_module is None else by_module.get(each.name, Seen()), rows) for each in candidates)
    known = count(model, example).macs if example is not None else None if seen is None else _total(layers, "macs_before")
    return _assembled(model, candidates, layers, known, (rows, learn, safe))


def is_causal(model: torch.nn.Module) -> bool:
    """Whether transformers says that tokens must not see later ones: by the model's config, its class, or its attention."""
    config = getattr(model, "config", None)
    architectures = [*(getattr(config, "architectures", None) or ()), type(model).__name__]
    return (
        getattr(config, "is_decoder", False) is True
        or any(str(name).endswith(("CausalLM", "LMHeadModel")) for name in architectures)
        or any(getattr(module, "is_causal", False) is True for module in model.modules())
    )


@dataclass(frozen=True)
class _Candidate:
    """A layer that multiplies by a matrix, the algorithm chosen for it, and why it cannot be had, if so."""

    name: str
    module: torch.nn.Module
    kind: str
    sizes: tuple[int, int]
    algorithm: Algorithm | None
    reason: str
    exact: bool = False
    insisted: bool = False  # named without wildcards


def _candidates(
    model: torch.nn.Module, choose: Callable[[str], Algorithm | None], include: tuple[str, ...], exclude: tuple[str, ...], learn: str
) -> list[_Candidate]:
    users: dict[int, list[str]] = {}
    names = names_of(model)
    for module, known in names.items():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), []).append(known[0])
    found, unused = [], {*include} - {"*"}
    for module, known in names.items():
        name, kind = known[0], kind_of(module)
        if isinstance(module, torch.nn.MultiheadAttention):
            sizes = (module.embed_dim, 3 * module.embed_dim)
            reason = "torch.nn.MultiheadAttention multiplies by in_proj_weight itself"
            found.append(_Candidate(f"{name}.in_proj_weight".lstrip("."), module, "attention", sizes, None, reason))
        if kind is None:
            continue
        fitting = {pattern for pattern in include if any(fnmatchcase(each, pattern) for each in known)}
        unused -= fitting
        insisted = any(each in fitting for each in known)
        against = next((pattern for pattern in exclude if any(fnmatchcase(each, pattern) for each in known)), None)
        inner, outputs = (int(size) for size in matrix(module).shape)
        mine = module.named_parameters(recurse=False)
        others = [(value, other) for value, parameter in mine for other in users[id(parameter)] if other != name]
        algorithm, reason = None, obstacle(module)
        if not fitting:
            reason = "not included"
        elif against is not None and not insisted:
            reason = f"excluded by {against!r}"
        elif others:
            reason = f"its {others[0][0]} is that of {others[0][1] or 'the model'} too"
        elif not reason and (algorithm := choose(name)) is None:
            reason = "no basis is given for it"
        elif algorithm is not None:
            reason = _misfit(algorithm, inner, outputs)
        exact = algorithm is not None and (algorithm.exact if isinstance(algorithm, Basis) else algorithm.is_exact and not learn)
        found.append(_Candidate(name, module, kind, (inner, outputs), algorithm, reason, exact, insisted))
    if unused:
        raise InputError(f"no layer of the model fits {', '.join(map(repr, sorted(unused)))}")
    return found


def _planned(each: _Candidate, seen: Seen | None, rows: str) -> LayerPlan:
    """The record of one candidate. `seen` is None if nothing is known of any layer."""
    reason, (inner, outputs) = each.reason, each.sizes
    matrices = [] if seen is None else seen.matrices(rows)
    count = sum(samples * down for samples, down in matrices)
    mixes = seen is not None and seen.vectors and rows != "batch" and not each.exact
    if not reason and seen is not None:
        if not matrices:
            reason = "the example does not call it"
        elif rows != "batch" and max(down for _, down in matrices) < _shape(each.algorithm)[0][0]:
            reason = f"{matrices[0][1]} row{'s' if matrices[0][1] > 1 else ''}, fewer than a tile has"
        elif mixes and not each.insisted:
            reason = "mixes samples: its input is (B, K); include it by name to convert it"
    before = None if seen is None else count * inner * outputs
    bias = 0 if getattr(each.module, "bias", None) is None else outputs
    parameters = (inner * outputs + bias, inner * outputs + bias)
    if each.kind == "attention":
        bias = 0 if each.module.in_proj_bias is None else outputs
        return LayerPlan(
            each.name, each.kind, inner, outputs, None, None, None, inner * outputs + bias, inner * outputs + bias, skipped=reason
        )
    record = (each.name, each.kind, inner, outputs, None if seen is None else count)
    if reason:
        return LayerPlan(*record, before, before, *parameters, skipped=reason)
    (n, m, p), rank = _shape(each.algorithm)
    after = None if seen is None else sum(samples * layer_macs((n, m, p), rank, down, inner, outputs) for samples, down in matrices)
    encoded = rank * -(-inner // m) * -(-outputs // p) + bias
    source = each.algorithm.algorithm if isinstance(each.algorithm, Basis) else each.algorithm
    white = 0.0 if source is None else source.error
    error = white if seen is None or seen.error is None else seen.error
    note = "mixes samples" if mixes else "" if math.isfinite(error) else "its result is not finite"
    return LayerPlan(*record, before, after, parameters[0], encoded, error, each.algorithm, note=note)


def _assembled(
    model: torch.nn.Module, candidates: list[_Candidate], layers: tuple[LayerPlan, ...], macs: int | None, options: tuple[str, str, bool]
) -> Plan:
    """The plan with its totals."""
    rows, learn, safe = options
    values = learned = fewer = spared = 0
    known: set[object] = set()
    for each, layer in zip(candidates, layers, strict=True):
        if layer.skipped or (algorithm := layer.algorithm) is None:
            continue
        weight: Any = each.module.weight
        size = weight.element_size()
        fewer += layer.parameters_before - layer.parameters_after
        spared += size * (layer.parameters_before - layer.parameters_after) - 8 * layer.inner * _ordered(algorithm)
        key = algorithm if isinstance(algorithm, Basis) else layer.name if learn else (algorithm, weight.dtype)
        if key in known:
            continue
        known.add(key)
        (n, m, p), rank = _shape(algorithm)
        places = {"U": n * m, "V": m * p, "W": n * p}
        values += rank * sum(places.values())
        spared -= size * rank * sum(places.values())
        learned += rank * sum(places[factor] for factor in (algorithm.learn if isinstance(algorithm, Basis) else learn))
    converted = [layer for layer in layers if not layer.skipped]
    before, stored = parameters_of(model), bytes_of(model)
    after = None if macs is None else macs - _total(converted, "macs_before") + _total(converted, "macs_after")
    return Plan(layers, macs, after, before, before - fewer + learned, stored, stored - spared, values, rows, learn, safe)


def _total(layers: Iterable[LayerPlan], key: str) -> int:
    return sum(getattr(layer, key) or 0 for layer in layers)


def _shape(algorithm: Algorithm | None) -> tuple[tuple[int, int, int], int]:
    """The tile and the rank."""
    if isinstance(algorithm, Basis):
        return algorithm.tile, algorithm.rank
    assert algorithm is not None
    return tile_of(algorithm), algorithm.rank


def _ordered(algorithm: Algorithm) -> bool:
    """Whether it orders channels: every layer then holds that order, K numbers of 8 bytes."""
    return (algorithm.channels if isinstance(algorithm, Basis) else algorithm.metric and algorithm.metric.channels) is not None


def _misfit(algorithm: Algorithm, inner: int, outputs: int) -> str:
    """Why an algorithm does not fit a layer of these sizes, empty if it does."""
    (_, m, p), _ = _shape(algorithm)
    if inner < m or outputs < p:
        return f"smaller than a tile of {m} x {p}"
    metric = None if isinstance(algorithm, Basis) else algorithm.metric
    order = algorithm.channels if isinstance(algorithm, Basis) else None if metric is None else metric.channels
    return f"the basis orders {len(order)} channels" if order is not None and len(order) != inner else ""


def _patterns(given: str | Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _chooser(basis: Choice, rank: int, tile: int | str | Sequence[int]) -> Callable[[str], Algorithm | None]:
    """A function from a layer's name to its algorithm."""
    if isinstance(basis, BilinearAlgorithm | Basis):
        return lambda name: basis
    if isinstance(basis, Mapping):
        for pattern, algorithm in basis.items():
            _check(pattern, algorithm)
        return lambda name: next((algorithm for pattern, algorithm in basis.items() if fnmatchcase(name, pattern)), None)
    if callable(basis):
        return lambda name: _check(name, basis(name))
    if basis is not None:
        raise InputError(f"a basis is a BilinearAlgorithm, a Basis, a mapping or a function of names to them, not {type(basis).__name__}")
    best = best_registered(rank, tile)
    return lambda name: best


def _check(name: str, algorithm: object) -> Algorithm | None:
    if algorithm is None or isinstance(algorithm, BilinearAlgorithm | Basis):
        return algorithm
    raise InputError(f"the basis for {name!r} is a BilinearAlgorithm or a Basis, not {type(algorithm).__name__}")


def best_registered(rank: int, tile: Target | int | str | Sequence[int], registry: Registry | None = None) -> BilinearAlgorithm:
    """The registered algorithm of that tile and rank with the lowest error.

    Raises:
        InputError: there is none, or what is no tile or no rank of it.
    """
    if not isinstance(tile, Target):
        tile = Target.matmul(*parse_tile("x".join(map(str, tile)) if isinstance(tile, tuple | list) else str(tile)))
    tile.check_rank(rank)
    entry = (registry or open_registry()).best(tile, rank)
    if entry is None:
        size = "x".join(map(str, tile.shape or ()))
        raise InputError(f"no basis of rank {rank} for {size} tiles is registered: stlsearch fit --tile {size} --rank {rank} finds one")
    return entry.algorithm

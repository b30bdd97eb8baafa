"""A model whose layers multiply by Strassen-Tile products, from a dense one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stlsearch.errors import InputError
from stlsearch.nn.basis import Basis
from stlsearch.nn.calibration import Calibration, calibrate_layer
from stlsearch.nn.conv import STLConv2d
from stlsearch.nn.layers import matrix, names_of, replacement, rows_of, swap
from stlsearch.nn.linear import STLLinear
from stlsearch.nn.observe import evaluating, observe, run
from stlsearch.nn.plan import Algorithm, LayerPlan, Plan
from stlsearch.nn.survey import plan


def convert(model: torch.nn.Module, *, calibrate: Any = None, sequential: bool = True, **choices: Any) -> Plan:
    """Replace a model's layers in place, as `stlsearch.nn.plan` with the same arguments says, and return that plan.

        convert(model, rank=24, example=torch.randn(1, 3, 224, 224))

    Encoded weights start as the dense ones, encoded: an exact basis leaves what the model computes, an inexact one is to be trained
    with or to be calibrated. Modes, devices, dtypes and frozen weights stay as they are. A module with several names is replaced
    once and stays shared. Optimisers made before hold the old parameters: make them anew. Whatever goes wrong or interrupts it, the
    model is then as it was.

    Args:
        model: any module, but not a single layer: it is replaced from within.
        calibrate: inputs of the model to fit the encoded weights to, layer by layer in the order of execution, see
            `stlsearch.nn.calibration.calibrate_layer`: one batch (a tensor, a tuple of arguments or a mapping of named ones), or a
            list or other iterable of batches. The first is the example, unless there is another. The plan's errors are then
            those of the rows held out, and a note says which layers could not be calibrated, and why.
        sequential: whether a layer's inputs come from the model as converted so far, else from the dense one.
        choices: as for `plan`.

    Raises:
        InputError: as for `plan`, no batch, or a `Basis` of another dtype or on another device than a layer's weight.
    """
    batches = None if calibrate is None else _batches(calibrate)
    if batches and choices.get("example") is None:
        choices["example"] = batches[0]
    found = plan(model, **choices)
    names = {known[0]: known for known in names_of(model).values()}
    modules: dict[str, Any] = {layer.name: model.get_submodule(layer.name) for layer in found.converted}
    bases = _Bases(found.learn)
    chosen = {layer.name: bases.of(layer.algorithm, modules[layer.name].weight) for layer in found.converted}
    done = {layer.name: layer for layer in found.layers}
    seen = observe(model, batches[0], dict.fromkeys(modules.values())) if batches else {}
    order = {module: place for place, module in enumerate(seen)}  # of execution
    pending = []
    with _all_or_nothing(model):
        for name, module in sorted(modules.items(), key=lambda item: order.get(item[1], len(order))):
            layer = replacement(module, chosen[name], rows=found.rows, causal_safe=found.causal_safe)
            if batches and module in seen:
                done[name] = _calibrated(done[name], layer, module, _inputs(model, module, batches, len(seen[module].calls)))
            elif batches:
                done[name] = replace(done[name], note="not calibrated: the first batch does not call it")
            if sequential:
                swap(model, names[name], layer)
            else:
                pending.append((names[name], layer))
        for known, layer in pending:
            swap(model, known, layer)
    return replace(found, layers=tuple(done[layer.name] for layer in found.layers))


@contextmanager
def _all_or_nothing(model: torch.nn.Module) -> Iterator[None]:
    """After an exception a model has the modules, and these the attributes, that they had."""
    kept = [(module, dict(vars(module)), dict(module._modules)) for module in model.modules()]
    try:
        yield
    except BaseException:  # Ctrl-C too
        for module, attributes, children in kept:
            vars(module).update(attributes)
            module._modules.update(children)
        raise


class _Bases:
    """One basis for all layers of an algorithm, dtype and device, or one for each layer where they are learned."""

    def __init__(self, learn: str) -> None:
        self.learn = learn
        self.shared: dict[object, Basis] = {}

    def of(self, algorithm: Algorithm | None, weight: Tensor) -> Basis:
        assert algorithm is not None
        factory: Any = {"dtype": weight.dtype, "device": weight.device}
        if isinstance(algorithm, Basis):
            if (algorithm.V.dtype, algorithm.V.device) != (weight.dtype, weight.device):
                raise InputError(
                    f"the shared basis is {algorithm.V.dtype} on {algorithm.V.device}, a layer's weight {weight.dtype} on {weight.device}"
                )
            return algorithm
        if self.learn:
            return Basis(algorithm, learn=self.learn, **factory)
        key = (algorithm, weight.dtype, weight.device)
        if key not in self.shared:
            self.shared[key] = Basis(algorithm, **factory)
        return self.shared[key]


def _batches(given: Any) -> list[Any]:
    batches = [given] if isinstance(given, Tensor | Mapping | tuple) else list(given) if isinstance(given, Iterable) else []
    if not batches:
        raise InputError("there is no batch to calibrate with: give a tensor, a tuple of arguments, a mapping, or a list of such")
    return batches


def _calibrated(planned: LayerPlan, layer: STLLinear | STLConv2d, module: torch.nn.Module, inputs: list[Tensor]) -> LayerPlan:
    """Fit a layer, and what its record says then."""
    product = layer.linear if isinstance(layer, STLConv2d) else layer
    try:
        done: Calibration = calibrate_layer(product, [rows_of(module, x) for x in inputs], matrix(module))
    except InputError as error:  # too few rows, too many unknowns: the layer is encoded as it is
        return replace(planned, note=f"not calibrated: {error}")
    return replace(planned, error=done.held_out, note=f"calibrated, {done.held_out_before:.4f} before")


class _Reached(Exception):
    """A layer has had all its inputs: the rest of the model need not run."""


def _inputs(model: torch.nn.Module, module: torch.nn.Module, batches: list[Any], calls: int) -> list[Tensor]:
    """What a module is called with, at most `calls` times a batch."""
    inputs: list[Tensor] = []
    before = 0

    def hook(module: torch.nn.Module, given: tuple, named: dict) -> None:
        inputs.append((given[0] if given else next(iter(named.values()))).detach().clone())  # a model may go on to write into it
        if len(inputs) - before == calls:
            raise _Reached

    with evaluating(model):
        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            for batch in batches:
                before = len(inputs)
                with suppress(_Reached):
                    run(model, batch)
        finally:
            handle.remove()
    return inputs

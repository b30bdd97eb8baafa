"""Models for other runtimes. `torch.export` takes Strassen-Tile layers as they are; ONNX needs their products in its own operators."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stlsearch.errors import InputError
from stlsearch.nn.observe import arguments, evaluating
from stlsearch.ops.product import _composed
from stlsearch.registry.atomic import check_destination


def export_onnx(model: torch.nn.Module, example: Any, path: str | Path, *, dynamic_batch: bool = True) -> None:
    """Write a model in evaluation as an ONNX file; products become reshapes and batched matrix products that every runtime has.

    Args:
        example: a tensor, a tuple of arguments or a mapping of named ones.
        dynamic_batch: whether the first axis of every input may have another size; the others keep the example's.

    Raises:
        InputError: ``pip install 'stlsearch[networks]'`` is missing, or an example of another type.
    """
    try:
        import onnxscript  # noqa: F401  torch.onnx asks for it in the middle
    except ImportError:
        raise InputError("onnxscript is missing, which ONNX export needs: pip install 'stlsearch[networks]'") from None
    args, named = arguments(example)
    check_destination(Path(path))
    shapes = {name: _batch(value) for name, value in named.items()} if named else tuple(map(_batch, args))
    with evaluating(model):
        program = torch.export.export(model, args, dict(named), dynamic_shapes=shapes if dynamic_batch else None)
        program = program.run_decompositions(
            {**torch.export.default_decompositions(), torch.ops.stlsearch.product.default: _in_plain_operators}
        )
        written = torch.onnx.export(program, args, kwargs=dict(named), dynamo=True, verbose=False)
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # large weights go to a second file, which the first knows by its name
        written.save(str(Path(folder) / path.name))  # type: ignore[union-attr]
        for file in sorted(Path(folder).iterdir()):
            file.replace(path.parent / file.name)


def _batch(value: Any) -> dict[int, Any] | None:
    return {0: torch.export.Dim.DYNAMIC} if isinstance(value, Tensor) and value.ndim else None


def _in_plain_operators(
    matrix: Tensor,
    encoder: Tensor,
    weight: Tensor,
    decoder: Tensor,
    height: int,
    width: int,
    output_width: int,
    columns: int,
    row_blocks: bool,
    column_blocks: bool,
    output_blocks: bool,
    chunk: int,
) -> Tensor:
    """`stlsearch.ops.product.product` as PyTorch's own operators."""
    return _composed(matrix, encoder, weight, decoder, (height, width, output_width), columns, (row_blocks, column_blocks, output_blocks))

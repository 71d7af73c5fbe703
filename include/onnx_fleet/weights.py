"""Where the graphs' weights lie: inside a graph's file, or beside it; what several graphs use, once for all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

INLINE_LIMIT_BYTES = 1 << 30
"""protobuf ends at 2 GB, and some consumers read a whole file into memory: larger weights lie beside the graph."""

_SMALL_CONSTANT_BYTES = 1024
"""Shapes and scalars stay in the graph: consumers fold them before they look at external data."""


def save_all(
    models: Mapping[str, ir.Model], folder: Path, *, inline_limit_bytes: int = INLINE_LIMIT_BYTES
) -> dict[str, Path]:
    """Write the graphs of a bundle, by role, and every weight once.

    Graphs that share no weight are files of their own. Those that do have one data file, named after the first of
    them: ``encoder_model.onnx_data`` holds the decoder's weights too.

    Returns:
        role -> the graph's file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sharing = _sharing(models)
    if sharing:
        _bind_to_one_file(sharing, folder)
    paths = {}
    for role, model in models.items():
        paths[role] = folder / f"{role}.onnx"
        save(model, paths[role], inline_limit_bytes=inline_limit_bytes)
    return paths


def save(model: ir.Model, path: Path, *, inline_limit_bytes: int = INLINE_LIMIT_BYTES) -> tuple[Path, ...]:
    """Write a graph, and its weights where they belong: in it, or in ``<path>_data``; bound ones stay where they are.

    Returns:
        the files written.
    """
    import onnx_ir as ir

    path.parent.mkdir(parents=True, exist_ok=True)
    unbound = [tensor for _, tensor in _weights(model) if not isinstance(tensor, ir.ExternalTensor)]
    if sum(tensor.nbytes for tensor in unbound) <= inline_limit_bytes:
        ir.save(model, path)
        return (path,)
    data = path.with_name(f"{path.name}_data")
    ir.save(model, path, external_data=data.name, size_threshold_bytes=_SMALL_CONSTANT_BYTES)
    return (path, data)


def checkpoint_names(source_dir: Path) -> frozenset[str]:
    """The names of every tensor in the source's safetensors files; only their headers are read."""
    from safetensors import safe_open

    names: set[str] = set()
    for path in sorted(source_dir.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            names.update(file.keys())
    return frozenset(names)


def _sharing(models: Mapping[str, ir.Model]) -> dict[str, ir.Model]:
    """The graphs that have a weight in common with another one, by role."""
    digests = {role: {_digest(tensor) for _, tensor in _large(model)} for role, model in models.items()}
    return {
        role: model
        for role, model in models.items()
        if any(digests[role] & other for name, other in digests.items() if name != role)
    }


def _bind_to_one_file(models: Mapping[str, ir.Model], folder: Path) -> None:
    """Write the large weights of all these graphs once, and let the graphs refer to them."""
    from onnx_ir import external_data

    data = f"{next(iter(models))}.onnx_data"
    uses: dict[str, list[ir.Value]] = {}
    for model in models.values():
        for value, tensor in _large(model):
            uses.setdefault(_digest(tensor), []).append(value)
    tensors = [values[0].const_value for values in uses.values()]
    written = external_data.convert_tensors_to_external(
        [tensor for tensor in tensors if tensor is not None], base_dir=folder, relative_path=data
    )
    for values, tensor in zip(uses.values(), written, strict=True):
        for value in values:
            value.const_value = tensor


def _large(model: ir.Model) -> Iterable[tuple[ir.Value, ir.TensorProtocol]]:
    return ((value, tensor) for value, tensor in _weights(model) if tensor.nbytes >= _SMALL_CONSTANT_BYTES)


def _weights(model: ir.Model) -> Iterable[tuple[ir.Value, ir.TensorProtocol]]:
    """Every initializer, of the graphs inside an If too."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value


def _digest(tensor: ir.TensorProtocol) -> str:
    """Of type, shape and bytes: two names for one tensor are one weight."""
    text = f"{tensor.dtype.name} {list(tensor.shape)}"
    return hashlib.sha256(text.encode() + tensor.tobytes()).hexdigest()

"""Where a graph's weights lie: inside the graph's file, or beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

INLINE_LIMIT_BYTES = 1 << 30
"""protobuf ends at 2 GB, and some consumers read a whole file into memory: larger weights lie beside the graph."""

_SMALL_CONSTANT_BYTES = 1024
"""Shapes and scalars stay in the graph: consumers fold them before they look at external data."""


def save(model: ir.Model, path: Path, *, inline_limit_bytes: int = INLINE_LIMIT_BYTES) -> tuple[Path, ...]:
    """Write a graph, and its weights where they belong: in it, or in ``<path>_data``.

    Returns:
        the files written.
    """
    import onnx_ir as ir

    path.parent.mkdir(parents=True, exist_ok=True)
    initializers = model.graph.initializers.values()
    total_bytes = sum(value.const_value.nbytes for value in initializers if value.const_value is not None)
    if total_bytes <= inline_limit_bytes:
        ir.save(model, path)
        return (path,)
    data = path.with_name(f"{path.name}_data")
    ir.save(model, path, external_data=data.name, size_threshold_bytes=_SMALL_CONSTANT_BYTES)
    return (path, data)

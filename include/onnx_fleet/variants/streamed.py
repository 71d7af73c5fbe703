"""A graph that is written with its large weights computed one after the other: no process ever holds all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_fleet.graphs.initializers import array, external_data, put_beside, size_bytes, tensors_of

_SMALL_BYTES: Final = 1024
"""The size from which an initializer's values have a place in the file beside the graph."""
_PART: Final = 1 << 16
"""How many numbers are converted together: what the processor's caches hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """A graph to write once: what it holds is moved into the files."""

    model: onnx.ModelProto
    """The graph; an initializer that values has is a name, a type and dimensions here."""
    values: Mapping[str, Callable[[], np.ndarray]]

    def write(self, path: Path, *, inline_max_bytes: int = 0) -> None:
        """Write the graph, with one file of weights beside it, ``<name>_data``; without one where it is small enough.

        Args:
            inline_max_bytes: the most bytes that a graph with all of its weights inside may have.
        """
        data = path.with_name(f"{path.name}_data")
        data.unlink(missing_ok=True)
        empty = {tensor.name: tensor for tensor in tensors_of(self.model) if not has_values(tensor)}
        if self.model.ByteSize() + sum(map(size_bytes, empty.values())) <= inline_max_bytes:
            for name, tensor in empty.items():
                tensor.raw_data = self.values[name]().tobytes()
        else:
            self._write_weights(data)
        path.write_bytes(self.model.SerializeToString(deterministic=True))

    def _write_weights(self, data: Path) -> None:
        with data.open("wb") as file:
            for tensor in tensors_of(self.model):
                offset = file.tell()
                if not has_values(tensor):
                    np.ascontiguousarray(self.values[tensor.name]()).tofile(file)
                elif len(tensor.raw_data) >= _SMALL_BYTES:
                    file.write(tensor.raw_data)
                    tensor.ClearField("raw_data")
                else:
                    continue
                put_beside(tensor, data.name, offset=offset, size_bytes=file.tell() - offset)
        if not data.stat().st_size:
            data.unlink()


def has_values(tensor: onnx.TensorProto) -> bool:
    """Say whether an initializer has its values in the graph itself, and not beside it or nowhere yet."""
    if external_data(tensor):
        return False
    if tensor.HasField("raw_data") or 0 in tensor.dims:
        return True
    plain = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return int(tensor.ByteSize()) > int(plain.ByteSize())


def without_values(tensor: onnx.TensorProto, *, name: str = "", data_type: int | None = None) -> onnx.TensorProto:
    """Return an initializer of the same dimensions that has no values yet."""
    return onnx.TensorProto(name=name or tensor.name, data_type=data_type or tensor.data_type, dims=tensor.dims)


def emptied(path: Path) -> tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]:
    """Load a graph, and take the values of its large float weights out of it, but for those of graphs inside it.

    Returns:
        the graph, and these weights by name, as they were.
    """
    model, taken = onnx.load(path, load_external_data=False), {}
    for tensor in model.graph.initializer:
        is_large = external_data(tensor) or len(tensor.raw_data) >= _SMALL_BYTES
        if tensor.data_type == onnx.TensorProto.FLOAT and is_large:
            taken[tensor.name] = deepcopy(tensor)
            tensor.CopyFrom(without_values(tensor))
    for tensor in tensors_of(model):
        if external_data(tensor):
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(array(tensor, path.parent)), tensor.name))
    return model, taken


def by_part(values: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield some rows of a weight after the other, and which they are; one number is its own only row."""
    rows = np.atleast_1d(values)
    step = max(1, _PART // max(1, math.prod(rows.shape[1:])))
    for start in range(0, len(rows), step):
        yield slice(start, start + step), rows[start : start + step]


def converted(values: np.ndarray, *, to: np.dtype, by: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return a weight in another type, a part at a time.

    Args:
        by: what makes some rows of the result from the same rows of the values.
    """
    found = np.empty_like(np.atleast_1d(values), dtype=to)
    for rows, part in by_part(values):
        found[rows] = by(part)
    return found.reshape(values.shape)

"""Whether the weights of a variant are those of fp32, rounded: a wrong scale in one layer of many moves no figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx

from onnx_fleet.entities.variant_report import Measure
from onnx_fleet.graphs.initializers import array
from onnx_fleet.variants import int4, preprocessing, streamed
from onnx_fleet.variants.preprocessing import Prepared

_Rows = Callable[[slice], np.ndarray]
"""What returns some rows of a weight, in float32."""
_MAX_ERRORS: Mapping[str, float] = {"fp16": 0.001, "int8": 0.05, "int8_static": 0.05, "q4": 0.20}
"""The largest allowed ||fp32 - rounded|| / ||fp32|| of one matrix, by variant.

Rounding to n bits by channel costs a normal matrix about 2 * 2**-n (7 bits: 0.015, 4 bits in blocks: 0.10).
"""
_MAX_ERROR_OF_TABLE = 0.30
"""The largest allowed error of an embedding table: one scale for all rows lets a large row spoil the others."""


def measure(path: Path, *, fp32: Prepared, variant: str) -> Measure:
    """Measure the largest relative error of one weight; the weight is named where that is too large.

    Args:
        path: the path of the variant's graph, with its data beside it.
        fp32: the fp32 graph; one weight at a time is read of it.
    """
    model = onnx.load(path, load_external_data=False)
    tensors = {tensor.name: array(tensor, path.parent) for tensor in model.graph.initializer}
    graph = fp32.model.graph
    tables = preprocessing.embeddings(graph)
    limit = _MAX_ERRORS[variant]
    worst, worst_name, count = 0.0, "", 0
    for name, tensor in preprocessing.weights(graph).items():
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        error = _error(fp32.array(name), _found(name, tensors, shape=tuple(tensor.dims)))
        if name in tables:  # on the scale of a matrix
            error *= limit / max(limit, _MAX_ERROR_OF_TABLE)
        count += 1
        if error > worst:
            worst, worst_name = error, name
    passed = worst <= limit
    return Measure(
        name="weights", value=worst, threshold=limit, passed=passed, count=count, of="" if passed else worst_name
    )


def _error(expected: np.ndarray, found: _Rows | None) -> float:
    """Return the relative error; all of it for a matrix that is missing, has another shape or is not finite."""
    if found is None:
        return 1.0
    size = off = 0.0
    for rows, part in streamed.by_part(expected):
        wanted = np.ascontiguousarray(part)
        size += float(np.vdot(wanted, wanted))
        wanted = wanted - found(rows)
        off += float(np.vdot(wanted, wanted))
    error = math.sqrt(off / size) if size else 0.0
    return error if math.isfinite(error) else 1.0


def _found(name: str, tensors: Mapping[str, np.ndarray], *, shape: tuple[int, ...]) -> _Rows | None:
    """Return what gives rows of what a weight has become, by the names that onnxruntime's converters give.

    Args:
        shape: the weight's; what has become of it has to have the same.
    """
    if name in tensors:
        return _plain(tensors[name], shape)
    blocks = _by_block(name, tensors)
    if blocks is not None:
        return _plain(blocks[: shape[0]], shape)  # the last block may be filled up
    plain = tensors.get(name.removesuffix(preprocessing.TRANSPOSED))
    if f"{name}_quantized" not in tensors and plain is not None and plain.ndim == 2:
        return _plain(plain.T, shape)  # a head that reads the embeddings' table
    return _by_channel(name, tensors, shape=shape)


def _plain(values: np.ndarray, shape: tuple[int, ...]) -> _Rows | None:
    return (lambda rows: values[rows].astype(np.float32, copy=False)) if values.shape == shape else None


def _by_channel(name: str, tensors: Mapping[str, np.ndarray], *, shape: tuple[int, ...]) -> _Rows | None:
    parts = [tensors.get(f"{name}_{part}") for part in ("quantized", "scale", "zero_point")]
    if any(part is None for part in parts):
        return None
    values, scale, zero = (part for part in parts if part is not None)
    scaled = next(_broadcastable(values.shape, scale.size), None)
    if scaled is None or zero.size != scale.size or values.shape != shape:
        return None
    scales, zeros = (
        np.broadcast_to(part.astype(np.float32).reshape(scaled), (shape[0], *scaled[1:])) for part in (scale, zero)
    )
    return lambda rows: (values[rows].astype(np.float32) - zeros[rows]) * scales[rows]


def _broadcastable(shape: tuple[int, ...], size: int) -> Iterator[tuple[int, ...]]:
    """Return the shapes that scales may have: one scale in all, or along a matrix's axes or a kernel's first."""
    if size == 1:
        yield (1,) * len(shape)
    for axis in (len(shape) - 1, 0) if len(shape) == 2 else (0,):
        if shape[axis] == size:
            yield tuple(size if index == axis else 1 for index in range(len(shape)))


def _by_block(name: str, tensors: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Dequantise a weight of MatMulNBits, rows of which are packed by block.

    It has uint8 [out, blocks, block / 2], two numbers from 0 to 15 per byte, and scales [out * blocks]; zero is 8.
    """
    values, scales = tensors.get(f"{name}_Q4"), tensors.get(f"{name}_scales")
    if values is None or scales is None:
        return None
    packed = np.asarray(values)
    numbers = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(*packed.shape[:2], int4.BLOCK_SIZE)
    by_block = scales.astype(np.float32).reshape(*packed.shape[:2], 1)
    found: np.ndarray = ((numbers.astype(np.float32) - 8) * by_block).reshape(packed.shape[0], -1).T
    return found

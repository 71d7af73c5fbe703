"""Whether the weights of a variant are those of fp32, rounded: a wrong scale in one layer of many moves no figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_fleet.entities.variant_report import Measure
from onnx_fleet.variants import int4, preprocessing

_MAX_ERRORS: Mapping[str, float] = {"fp16": 0.001, "int8": 0.05, "int8_static": 0.05, "q4": 0.20}
"""Of ||fp32 - rounded|| / ||fp32||, for one matrix. Rounding to n bits by channel costs a normal matrix 2**-n times
about 2 (7 bits: 0.015, 4 bits in blocks: 0.10)."""
_MAX_ERROR_OF_TABLE = 0.30
"""Embeddings have one scale for all rows: one large row costs all others (all-MiniLM's positions: 0.19)."""


def measure(path: Path, *, fp32: onnx.ModelProto, variant: str) -> Measure:
    """The largest relative error of one weight; its name where that is too large.

    Args:
        path: the variant's graph, its data beside it.
        fp32: as prepared.load gives it.
    """
    model = onnx.load(path, load_external_data=False)
    preprocessing.read_weights(model.graph, path.parent)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    tables = preprocessing.embeddings(fp32.graph)
    limit = _MAX_ERRORS[variant]
    worst, worst_name, count = 0.0, "", 0
    for name, tensor in preprocessing.weights(fp32.graph).items():
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        error = _error(numpy_helper.to_array(tensor), _found(name, tensors, rows=tensor.dims[0]))
        if name in tables:  # on the scale of a matrix
            error *= limit / max(limit, _MAX_ERROR_OF_TABLE)
        count += 1
        if error > worst:
            worst, worst_name = error, name
    passed = worst <= limit
    return Measure(
        name="weights", value=worst, threshold=limit, passed=passed, count=count, of="" if passed else worst_name
    )


def _error(expected: np.ndarray, found: np.ndarray | None) -> float:
    """A matrix that is not there at all, has another shape, or numbers that are none, is all error."""
    if found is None or found.shape != expected.shape:
        return 1.0
    norm = float(np.linalg.norm(expected.astype(np.float64)))
    error = float(np.linalg.norm(found.astype(np.float64) - expected)) / norm if norm else 0.0
    return error if math.isfinite(error) else 1.0


def _found(name: str, tensors: Mapping[str, onnx.TensorProto], *, rows: int) -> np.ndarray | None:
    """What a weight has become, as float32, by the names that onnxruntime's converters give."""
    if name in tensors:
        return numpy_helper.to_array(tensors[name]).astype(np.float32)
    found = _by_block(name, tensors)
    if found is not None:
        return found[:rows]  # the last block may be filled up
    found, plain = _by_channel(name, tensors), tensors.get(name.removesuffix(preprocessing.TRANSPOSED))
    if found is None and plain is not None and len(plain.dims) == 2:  # a head that reads the embeddings' table
        found = numpy_helper.to_array(plain).astype(np.float32).T
    return found


def _by_channel(name: str, tensors: Mapping[str, onnx.TensorProto]) -> np.ndarray | None:
    parts = [tensors.get(f"{name}_{part}") for part in ("quantized", "scale", "zero_point")]
    if any(part is None for part in parts):
        return None
    values, scale, zero = (numpy_helper.to_array(part).astype(np.float32) for part in parts if part is not None)
    shape = next(_broadcastable(values.shape, scale.size), None)
    if shape is None or zero.size != scale.size:
        return None
    found: np.ndarray = (values - zero.reshape(shape)) * scale.reshape(shape)
    return found


def _broadcastable(shape: tuple[int, ...], size: int) -> Iterator[tuple[int, ...]]:
    """Scales are for everything, or along one axis: of a matrix its columns, of a kernel its first axis."""
    if size == 1:
        yield (1,) * len(shape)
    for axis in (len(shape) - 1, 0) if len(shape) == 2 else (0,):
        if shape[axis] == size:
            yield tuple(size if index == axis else 1 for index in range(len(shape)))


def _by_block(name: str, tensors: Mapping[str, onnx.TensorProto]) -> np.ndarray | None:
    """MatMulNBits: [out, blocks, block / 2] bytes of two numbers from 0 to 15, [out * blocks] scales, zero at 8."""
    values, scales = tensors.get(f"{name}_Q4"), tensors.get(f"{name}_scales")
    if values is None or scales is None:
        return None
    packed = numpy_helper.to_array(values)
    numbers = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(*packed.shape[:2], int4.BLOCK_SIZE)
    by_block = numpy_helper.to_array(scales).astype(np.float32).reshape(*packed.shape[:2], 1)
    found: np.ndarray = ((numbers.astype(np.float32) - 8) * by_block).reshape(packed.shape[0], -1).T
    return found

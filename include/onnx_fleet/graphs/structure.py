"""The structure of a graph: all of an ONNX file but the values of its weights, as one digest."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Final

from onnx_fleet.graphs import initializers

_VALUES: Final = (
    "raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data", "external_data",
    "data_location",
)  # fmt: skip
"""The fields of an initializer that hold its values, or say where they lie."""


def digest(path: Path, *, weights: Collection[str] | None = None) -> str:
    """Return the SHA-256 of a graph without the values of its weights, 64 hex digits.

    Nodes, attributes, inputs, outputs, and the name, type and shape of every weight are in it. So are the values of
    64-bit integers and booleans: sizes and axes are such, and no weight is. Where the weights lie is not in it.

    Args:
        weights: the names of the weights; all other initializers are in the digest with their values. None takes
            every initializer that may be one for a weight.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    told = hashlib.sha256()
    for tensor in initializers.tensors_of(model):
        is_no_weight = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
        if is_no_weight or (weights is not None and tensor.name not in weights):
            told.update(initializers.array(tensor, path.parent).tobytes())
        for field in _VALUES:
            tensor.ClearField(field)
    del model.metadata_props[:]
    told.update(model.SerializeToString(deterministic=True))
    return told.hexdigest()

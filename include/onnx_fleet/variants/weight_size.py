"""The size of a graph's weights, and whether a variant is as small as its name promises."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnx_fleet.entities.variant import VariantGates
from onnx_fleet.entities.variant_report import Measure, WeightBytes
from onnx_fleet.graphs.initializers import size_bytes
from onnx_fleet.variants import preprocessing

_BYTES_A_CHANNEL = 16
"""The bytes of each output channel that fewer bits do not save: a scale, a zero point and a bias, or a norm's vectors.

In a layer that takes 32 numbers they are an eighth of its bytes in fp32, in one that takes 4,096 a thousandth.
"""
_MATRIX_AXES = 2


def weight_bytes(path: Path, *, tables: frozenset[str]) -> WeightBytes:
    """Return the bytes of a graph's initializers.

    Args:
        tables: the names of the fp32 graph's embeddings; converters keep such a name, and append to it.
    """
    layers = embeddings = 0
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if tensor.name in tables or any(tensor.name.startswith(f"{table}_") for table in tables):
            embeddings += size_bytes(tensor)
        else:
            layers += size_bytes(tensor)
    return WeightBytes(layers=layers, embeddings=embeddings)


def unavoidable_bytes(fp32: onnx.GraphProto) -> int:
    """Return the bytes that a variant's layers take beside their matrices, whatever a converter does.

    Args:
        fp32: the fp32 graph, as preprocessing.load returns it.
    """
    tables = preprocessing.embeddings(fp32)
    matrices = (tensor.dims for name, tensor in preprocessing.weights(fp32).items() if name not in tables)
    # [in, out] of a MatMul, [out, in, height, width] of a kernel
    channels = sum(int(dims[1] if len(dims) == _MATRIX_AXES else dims[0]) for dims in matrices)
    return _BYTES_A_CHANNEL * channels


def measure(found: WeightBytes, *, fp32: WeightBytes, unavoidable: int, gates: VariantGates) -> Measure:
    """Measure the layers' bytes less the unavoidable ones, as a share of fp32's; embeddings are not judged."""
    ratio = max(found.layers - unavoidable, 0) / max(fp32.layers, 1)
    limit = gates.max_layers_ratio
    return Measure(name="size", value=ratio, threshold=limit, passed=ratio <= limit, count=found.layers)

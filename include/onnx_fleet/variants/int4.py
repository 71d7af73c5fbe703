"""q4: 4-bit weights in blocks, by onnxruntime's own quantiser."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from functools import partial
from pathlib import Path

import onnx

from onnx_fleet.graphs.initializers import array, external_data
from onnx_fleet.variants import streamed
from onnx_fleet.variants.streamed import Streamed

BLOCK_SIZE = 32
"""The number of weights that share a scale: 5 bits a weight with it."""
_ACCURACY_LEVEL = 4
"""The level at which activations may be quantised to 8 bits inside the kernel, several times as fast on a CPU."""


def convert(path: Path, *, excluded: Iterable[str] = ()) -> Streamed:
    """Convert every MatMul by a constant to MatMulNBits, symmetric around zero; embeddings stay float32.

    Args:
        path: the graph, as preprocessing.prepare writes it.
        excluded: names of nodes to leave as they are.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import (  # type: ignore[import-untyped]  # it imports sympy, in 0.4 s
        MatMulNBitsQuantizer,
    )

    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        _place_absolutely(tensor, path.parent)  # so that the quantiser reads one at a time
    quantiser = MatMulNBitsQuantizer(
        model,
        block_size=BLOCK_SIZE,
        is_symmetric=True,
        accuracy_level=_ACCURACY_LEVEL,
        nodes_to_exclude=sorted(excluded),
    )
    quantiser.process()
    converted, values = quantiser.model.model, {}
    for tensor in converted.graph.initializer:
        if external_data(tensor):  # it stays as it is
            values[tensor.name] = partial(array, deepcopy(tensor), path.parent)
            tensor.CopyFrom(streamed.without_values(tensor))
    return Streamed(model=converted, values=values)


def _place_absolutely(tensor: onnx.TensorProto, folder: Path) -> None:
    for entry in tensor.external_data:
        if entry.key == "location":
            entry.value = str((folder / entry.value).absolute())

"""q4: 4-bit weights in blocks, by onnxruntime's own quantiser."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer  # type: ignore[import-untyped]

BLOCK_SIZE = 32
"""The number of weights that share a scale: 5 bits a weight with it."""
_ACCURACY_LEVEL = 4
"""The level at which activations may be quantised to 8 bits inside the kernel, several times as fast on a CPU."""


def convert(path: Path, *, excluded: Iterable[str] = ()) -> onnx.ModelProto:
    """Convert every MatMul by a constant to MatMulNBits, symmetric around zero; embeddings stay float32.

    Args:
        path: the graph, as preprocessing.prepare writes it.
        excluded: names of nodes to leave as they are.
    """
    quantiser = MatMulNBitsQuantizer(
        onnx.load(path),
        block_size=BLOCK_SIZE,
        is_symmetric=True,
        accuracy_level=_ACCURACY_LEVEL,
        nodes_to_exclude=sorted(excluded),
    )
    quantiser.process()
    converted: onnx.ModelProto = quantiser.model.model
    return converted

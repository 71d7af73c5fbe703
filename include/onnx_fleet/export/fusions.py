"""Rewrite what onnxruntime would fuse into a graph with other results, so that it leaves it alone.

onnx_ir is imported where it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_PADS_AXES = 3
"""The index of Pad's input that names the axes."""


def prevent(model: ir.Model) -> None:
    """Keep a MaxPool from taking over the padding before it, in place.

    onnxruntime (1.31, every optimisation level but none) fuses zeros around the image and a MaxPool behind them into a
    MaxPool with pads, which count as the least of all numbers and not as zeros: BiT's first layers see other maxima.
    It leaves a Pad alone that names its axes, and naming all axes means the same as naming none.
    """
    import numpy as np
    import onnx_ir as ir

    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "MaxPool" else None
        pad = source.producer() if source is not None else None
        if pad is None or pad.op_type != "Pad":
            continue
        rank = len(node.attributes["kernel_shape"].as_ints()) + 2
        if len(pad.inputs) <= _PADS_AXES:
            name = f"{pad.outputs[0].name}_axes"
            axes = ir.Value(name=name, const_value=ir.tensor(np.arange(rank), name=name))
            axes.shape, axes.dtype = ir.Shape([rank]), ir.DataType.INT64
            model.graph.initializers.add(axes)
            given = [*pad.inputs, *[None] * (_PADS_AXES - len(pad.inputs)), axes]
            pad.resize_inputs(len(given))
            for index, value in enumerate(given):
                pad.replace_input_with(index, value)

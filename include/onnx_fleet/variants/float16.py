"""fp16: half the bytes, with float32 kept where half precision overflows or means something else.

onnxruntime's converter does the work; this module says which nodes it has to leave alone. A CPU computes most of a half
graph in float32 and shows no overflow, so what overflows is read off the fp32 graph's own values on the corpus, and a
variant that passes here passes on an accelerator too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization.onnx_model import ONNXModel  # type: ignore[import-untyped]
from onnxruntime.transformers.float16 import (  # type: ignore[import-untyped]
    DEFAULT_OP_BLOCK_LIST,
    convert_float_to_float16,
    convert_np_to_float16,
)

from onnx_fleet.graphs.initializers import array
from onnx_fleet.graphs.recorded_feeds import Sample
from onnx_fleet.graphs.session import open_session
from onnx_fleet.variants import preprocessing, streamed
from onnx_fleet.variants.streamed import Streamed

_LARGEST = float(np.finfo(np.float16).max)
_HEADROOM = 0.5
"""The share of float16's range that values of the corpus may use: other inputs may reach further."""
_MASK_VALUE = 1e8
"""The magnitude beyond which a value is a mask's minus infinity, which the converter cuts to _MASK_IN_HALF."""
_MASK_IN_HALF = 1e4
"""The magnitude of a mask in float16: the sum of two masks stays finite, so a row of padding is no row of NaN."""
_SMALL = 1e-7
"""The magnitude below which a value may have no float16 of its own: the converter takes the smallest one."""
_KEPT_OPERATORS = ("Pow", "ReduceMean", "ReduceSum", "ReduceL2", "Sqrt", "Reciprocal", "CumSum", "Range")
"""The operators of norms, kept in float32 as in transformers: squares overflow from 256 on and vanish below 0.0002."""
_SIZES = ("Shape", "Size")
"""The operators that read a tensor's size: what follows, such as a distance of positions, is not about values."""
_SAMPLES = 4
_MIN_WEIGHT_AXES = 2


def convert(path: Path, *, excluded: Iterable[str] = ()) -> Streamed:
    """Convert a graph to half precision with float32 inputs and outputs, so that consumers feed what they always did.

    Args:
        path: the graph, as preprocessing.prepare writes it.
        excluded: names of nodes to leave in float32.
    """
    model, taken = streamed.emptied(path)
    model = onnx.shape_inference.infer_shapes(model)
    blocked = sorted({*excluded, *_before_weights(model.graph)})
    for tensor in model.graph.initializer:
        if tensor.name in taken:
            tensor.dims[:] = [0]  # the converter reads each, if only for its dimensions
    converted: onnx.ModelProto = convert_float_to_float16(
        model,
        keep_io_types=True,
        disable_shape_infer=True,
        max_finite_val=_MASK_IN_HALF,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_KEPT_OPERATORS],
        node_block_list=blocked,
    )
    _mend_casts(converted)
    values: dict[str, Callable[[], np.ndarray]] = {}
    for tensor in converted.graph.initializer:
        if tensor.name in taken:
            whole = taken[tensor.name]
            tensor.dims[:] = whole.dims
            read = _halved if tensor.data_type == onnx.TensorProto.FLOAT16 else array
            values[tensor.name] = partial(read, whole, path.parent)
    preprocessing.unfold_transposes(converted.graph)
    return Streamed(model=converted, values=values)


def _halved(tensor: onnx.TensorProto, folder: Path) -> np.ndarray:
    return streamed.converted(array(tensor, folder), to=np.dtype(np.float16), by=_rounded)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Round to float16 as the converter does, which is slow, and takes care of very small and very large numbers."""
    size = np.abs(values)
    with np.errstate(over="ignore"):
        found = values.astype(np.float16)
    careful = ((size < _SMALL) & (size > 0)) | ~(size < _MASK_IN_HALF)
    if careful.any():
        found[careful] = convert_np_to_float16(values[careful], max_finite_val=_MASK_IN_HALF)
    return found


def overflowing(path: Path, *, samples: Iterable[Sample]) -> frozenset[str]:
    """Return the nodes of a fp32 graph that read or write values which float16 cannot hold.

    Args:
        path: the graph, as preprocessing.prepare writes it.
        samples: the inputs to run it on; the first few are used.
    """
    probe = path.with_name(f"every-value-of-{path.name}")
    probe.write_bytes(_with_all_outputs(path))
    session = open_session(probe, threads=1)
    large: set[str] = set()
    for sample, _ in zip(samples, range(_SAMPLES), strict=False):
        large |= {name for name, array in session.run(sample.feeds).items() if _overflows(array)}
    graph = onnx.load(path, load_external_data=False).graph
    return frozenset(node.name for node in graph.node if large & {*node.input, *node.output})


def _mend_casts(model: onnx.ModelProto) -> None:
    """Remove needless casts, share equal ones, and order the nodes.

    The converter casts every value between two float32 nodes to half and back, so that they might as well be half; it
    puts its casts behind all other nodes, and makes two of a cast that two nodes want.
    """
    nodes = {node.output[0]: node for node in model.graph.node}  # of two that are the same, one
    for node in nodes.values():
        before = nodes.get(node.input[0]) if _casts(node, to=onnx.TensorProto.FLOAT) else None
        if before is not None and _casts(before, to=onnx.TensorProto.FLOAT16):
            node.input[0] = before.input[0]
    read = {name for node in nodes.values() for name in node.input} | {value.name for value in model.graph.output}
    kept = [node for node in nodes.values() if not _casts(node, to=onnx.TensorProto.FLOAT16) or node.output[0] in read]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    del model.graph.value_info[:]
    ONNXModel(model).topological_sort()


def _casts(node: onnx.NodeProto, *, to: int) -> bool:
    return node.op_type == "Cast" and any(attribute.name == "to" and attribute.i == to for attribute in node.attribute)


def _before_weights(graph: onnx.GraphProto) -> set[str]:
    """Return the nodes that no weight and no float input reaches: masks, and positions, whose angles half spoils."""
    large = {
        name
        for name, tensor in preprocessing.weights(graph).items()
        if sum(size > 1 for size in tensor.dims) >= _MIN_WEIGHT_AXES
    }
    reached = large | {
        value.name for value in graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    found = set()
    for node in graph.node:  # in topological order
        if reached & set(node.input) and node.op_type not in _SIZES:
            reached |= set(node.output)
        else:
            found.add(node.name)
    return found


def _with_all_outputs(path: Path) -> bytes:
    """Return the graph with every float value as an output, under its own name."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
    model.graph.output.extend(
        value for value in model.graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    )
    found: bytes = model.SerializeToString()
    return found


def _overflows(array: np.ndarray) -> bool:
    if array.dtype != np.float32 or not array.size:
        return False
    size = np.abs(array)
    return bool(size[size < _MASK_VALUE].max(initial=0.0) > _LARGEST * _HEADROOM)

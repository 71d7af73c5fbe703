"""A fp32 graph as the converters need it: all weights in memory, each as the second factor of a MatMul.

The exporter leaves a linear layer's weight as the checkpoint has it, [out, in], and transposes it in the graph: bound
to the checkpoint's own file it costs nothing. Converters look for MatMul with a constant [in, out], so here the
transposition is done once and for all; its result has no place in a file that others share.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel  # type: ignore[import-untyped]

from onnx_fleet.graphs.initializers import array, external_data

_SMALL_BYTES = 1024
_MATRIX_AXES = 2
TRANSPOSED = "_transposed"
"""The ending of a transposed weight's name; quantizers append their own endings to it."""


def prepare(path: Path, folder: Path) -> Path:
    """Write a graph as load returns it, with a data file beside it."""
    written = folder / path.name
    data = f"{path.name}_data"
    onnx.save(load(path), written, save_as_external_data=True, location=data, size_threshold=_SMALL_BYTES)
    return written


def load(path: Path) -> onnx.ModelProto:
    """Load a graph with all weights in memory, its transpositions done and every Gemm of constants a MatMul.

    Args:
        path: the path of the fp32 graph, with its data beside it.
    """
    model = onnx.load(path, load_external_data=False)
    read_weights(model.graph, path.parent)
    del model.graph.value_info[:]  # of what is about to change; converters infer shapes themselves
    _fold_transposes(model.graph)
    wrapped = ONNXModel(model)
    wrapped.replace_gemm_with_matmul()
    wrapped.topological_sort()
    return model


def weights(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return the float matrices and kernels that nodes multiply by, and the tables that they gather from."""
    return {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) >= 2}


def embeddings(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the names of the tables that tokens and positions are looked up in."""
    tables = weights(graph)
    return frozenset(node.input[0] for node in graph.node if node.op_type == "Gather" and node.input[0] in tables)


def read_weights(graph: onnx.GraphProto, folder: Path) -> None:
    """Read the weights that lie beside a graph into memory."""
    for tensor in graph.initializer:
        if external_data(tensor):
            tensor.raw_data = array(tensor, folder).tobytes()
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT


def unfold_transposes(graph: onnx.GraphProto) -> None:
    """Keep a table that a graph has both as it is and transposed only once, and transpose it in the graph.

    An output layer shares such a table with the embeddings; onnxruntime transposes it once, when it loads the graph.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for name, tensor in tensors.items():
        plain = tensors.get(name.removesuffix(TRANSPOSED)) if name.endswith(TRANSPOSED) else None
        if plain is not None and plain.data_type == tensor.data_type and len(plain.dims) == _MATRIX_AXES:
            graph.initializer.remove(tensor)
            graph.node.insert(0, helper.make_node("Transpose", [plain.name], [name], name=f"node_{name}", perm=[1, 0]))


def _fold_transposes(graph: onnx.GraphProto) -> None:
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    folded = {}
    for node in list(graph.node):
        if node.op_type == "Transpose" and node.input[0] in initializers:
            folded[node.output[0]] = _transposed(initializers[node.input[0]], node)
            graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [folded[name].name if name in folded else name for name in node.input]
    new = {tensor.name: tensor for tensor in folded.values()}
    graph.initializer.extend(new.values())
    used = Counter(name for node in graph.node for name in node.input)
    outputs = {value.name for value in graph.output}
    for tensor in list(graph.initializer):
        if not used[tensor.name] and tensor.name not in outputs and not _has_subgraphs(graph):
            graph.initializer.remove(tensor)


def _transposed(tensor: onnx.TensorProto, node: onnx.NodeProto) -> onnx.TensorProto:
    order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
    array = np.ascontiguousarray(numpy_helper.to_array(tensor).transpose(order))
    plain = order is None or order == list(reversed(range(array.ndim)))
    ending = TRANSPOSED if plain else f"{TRANSPOSED}_{'_'.join(map(str, order or ()))}"
    return numpy_helper.from_array(array, tensor.name + ending)


def _has_subgraphs(graph: onnx.GraphProto) -> bool:
    """Say whether a graph has subgraphs, whose nodes may use initializers of the graph around them."""
    kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return any(attribute.type in kinds for node in graph.node for attribute in node.attribute)

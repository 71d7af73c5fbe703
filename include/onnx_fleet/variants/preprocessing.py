"""A fp32 graph as the converters need it: each weight the second factor of a MatMul.

The exporter leaves a linear layer's weight as the checkpoint has it, [out, in], and transposes it in the graph: bound
to the checkpoint's own file it costs nothing. Converters look for MatMul with a constant [in, out], so here the
transposition is done once and for all; its result has no place in a file that others share.

Weights stay in their files until they are asked for, one at a time: a process holds no copy of a model.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnxruntime.quantization.onnx_model import ONNXModel  # type: ignore[import-untyped]

from onnx_fleet.graphs.initializers import array, tensors_of
from onnx_fleet.variants.streamed import Streamed

_MATRIX_AXES = 2
TRANSPOSED = "_transposed"
"""The ending of a transposed weight's name; quantizers append their own endings to it."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where an initializer's values are."""

    tensor: onnx.TensorProto
    """The initializer of the exported graph that they are of."""
    order: tuple[int, ...] | None = None
    """The order of its axes; None for its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A graph whose transpositions are done, and in which every Gemm of constants is a MatMul."""

    model: onnx.ModelProto
    """The graph; weights that lay beside it, and transposed ones, have a name, a type and dimensions here."""
    folder: Path
    """The folder of the exported graph."""
    sources: dict[str, _Source]

    def array(self, name: str) -> np.ndarray:
        """Return the values of an initializer, as a view of the file that they lie in."""
        source = self.sources[name]
        values = array(source.tensor, self.folder)
        return values if source.order is None else values.transpose(source.order)


def prepare(path: Path, folder: Path) -> Path:
    """Write a graph as load returns it, with a data file beside it."""
    prepared, written = load(path), folder / path.name
    values = {name: partial(prepared.array, name) for name in prepared.sources}
    Streamed(model=prepared.model, values=values).write(written)
    return written


def load(path: Path) -> Prepared:
    """Load a graph without its weights, its transpositions done and every Gemm of constants a MatMul.

    Args:
        path: the path of the fp32 graph, with its data beside it.
    """
    model = onnx.load(path, load_external_data=False)
    sources = {tensor.name: _Source(deepcopy(tensor)) for tensor in tensors_of(model)}
    prepared = Prepared(model=model, folder=path.parent, sources=sources)
    del model.graph.value_info[:]  # of what is about to change; converters infer shapes themselves
    _fold_transposes(model.graph, sources)
    wrapped = ONNXModel(model)
    wrapped.replace_gemm_with_matmul()
    wrapped.topological_sort()
    return prepared


def weights(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return the float matrices and kernels that nodes multiply by, and the tables that they gather from."""
    return {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) >= 2}


def embeddings(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the names of the tables that tokens and positions are looked up in."""
    tables = weights(graph)
    return frozenset(node.input[0] for node in graph.node if node.op_type == "Gather" and node.input[0] in tables)


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


def _fold_transposes(graph: onnx.GraphProto, sources: dict[str, _Source]) -> None:
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    folded: dict[str, onnx.TensorProto] = {}
    for node in list(graph.node):
        if node.op_type == "Transpose" and node.input[0] in initializers:
            folded[node.output[0]] = _transposed(initializers[node.input[0]], sources, order=_attribute(node, "perm"))
            graph.node.remove(node)
        elif node.op_type == "Gemm" and _attribute(node, "transB") and node.input[1] in initializers:
            tensor = _transposed(initializers[node.input[1]], sources)
            folded[tensor.name] = tensor
            node.input[1] = tensor.name
            next(attribute for attribute in node.attribute if attribute.name == "transB").i = 0
    for node in graph.node:
        node.input[:] = [folded[name].name if name in folded else name for name in node.input]
    new = {tensor.name: tensor for tensor in folded.values()}
    graph.initializer.extend(new.values())
    used = Counter(name for node in graph.node for name in node.input)
    outputs = {value.name for value in graph.output}
    for tensor in list(graph.initializer):
        if not used[tensor.name] and tensor.name not in outputs and not _has_subgraphs(graph):
            graph.initializer.remove(tensor)


def _transposed(
    tensor: onnx.TensorProto, sources: dict[str, _Source], *, order: tuple[int, ...] | None = None
) -> onnx.TensorProto:
    """Return an initializer without values, which are those of another one.

    Args:
        order: the axes of the other one; None for their reverse.
    """
    reverse = tuple(range(len(tensor.dims)))[::-1]
    order = order or reverse
    name = tensor.name + (TRANSPOSED if order == reverse else f"{TRANSPOSED}_{'_'.join(map(str, order))}")
    sources[name] = _Source(sources[tensor.name].tensor, order)
    return onnx.TensorProto(name=name, data_type=tensor.data_type, dims=[tensor.dims[axis] for axis in order])


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    """Return an attribute's value; None where a node has none of that name."""
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    return None if found is None else tuple(found.ints) or found.i


def _has_subgraphs(graph: onnx.GraphProto) -> bool:
    """Say whether a graph has subgraphs, whose nodes may use initializers of the graph around them."""
    kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return any(attribute.type in kinds for node in graph.node for attribute in node.attribute)

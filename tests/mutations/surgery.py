"""Cuts in a loaded graph, in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


def nodes(model: ModelProto, op_type: str) -> list[NodeProto]:
    """All of one kind, in order."""
    return [node for node in model.graph.node if node.op_type == op_type]


def add_constant(model: ModelProto, name: str, value: np.ndarray) -> str:
    """An initializer of one's own; its name."""
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def change_weight(model: ModelProto, ending: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace the one initializer whose name ends so."""
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name.endswith(ending))
    changed = np.ascontiguousarray(change(numpy_helper.to_array(tensor)))
    tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))


def insert_before(model: ModelProto, place: NodeProto, new: Sequence[NodeProto]) -> None:
    """Put nodes where their results are read."""
    index = list(model.graph.node).index(place)
    for offset, node in enumerate(new):
        model.graph.node.insert(index + offset, node)


def read_instead(model: ModelProto, name: str, new: Sequence[NodeProto], *, of: Sequence[NodeProto] = ()) -> None:
    """Every reader of an input, but for its shape, reads what the last of these nodes makes of it.

    Args:
        of: only these readers; empty for all.
    """
    made = new[-1].output[0]
    for node in of or model.graph.node:
        if node.op_type != "Shape":
            node.input[:] = [made if value == name else value for value in node.input]
    insert_before(model, model.graph.node[0], new)


def as_ones(name: str) -> list[NodeProto]:
    """Nodes that make a mask of ones, as large as the given one."""
    one = numpy_helper.from_array(np.array([1]))
    return [
        helper.make_node("Shape", [name], ["shape_of_mask"]),
        helper.make_node("ConstantOfShape", ["shape_of_mask"], ["all_ones"], value=one),
    ]


def as_prefix(name: str) -> list[NodeProto]:
    """Nodes that make a mask with as many ones, all of them on the left."""
    zero, one = (numpy_helper.from_array(np.array(value)) for value in (0, 1))
    axis = numpy_helper.from_array(np.array([1]))
    return [
        helper.make_node("Constant", [], ["none"], value=zero),
        helper.make_node("Constant", [], ["one_more"], value=one),
        helper.make_node("Constant", [], ["of_tokens"], value=axis),
        helper.make_node("Shape", [name], ["shape_of_mask"]),
        helper.make_node("Gather", ["shape_of_mask", "one_more"], ["length_of_mask"]),
        helper.make_node("Range", ["none", "length_of_mask", "one_more"], ["places"]),
        helper.make_node("ReduceSum", [name, "of_tokens"], ["real_tokens"], keepdims=1),
        helper.make_node("Less", ["places", "real_tokens"], ["is_before"]),
        helper.make_node("Cast", ["is_before"], ["prefix"], to=TensorProto.INT64),
    ]


def behind_output(model: ModelProto, name: str, new: Sequence[NodeProto]) -> None:
    """Make an output of the value that was its own: readers inside keep the right one, ``right.<name>``."""
    for node in model.graph.node:
        node.output[:] = [f"right.{name}" if output == name else output for output in node.output]
        node.input[:] = [f"right.{name}" if value == name else value for value in node.input]
    model.graph.node.extend(new)


def swap_outputs(model: ModelProto, one: str, other: str) -> None:
    """The names stay, the values change places."""
    for name, taken in ((one, other), (other, one)):
        behind_output(model, name, [helper.make_node("Identity", [f"right.{taken}"], [name])])


def behind_node(model: ModelProto, node: NodeProto, new: Sequence[NodeProto]) -> None:
    """Change a value on its way: the new nodes read ``before`` and the last of them makes what was read."""
    (name,) = node.output
    node.output[:] = ["before"]
    index = list(model.graph.node).index(node) + 1
    for offset, each in enumerate(new):
        model.graph.node.insert(index + offset, each)
    assert new[-1].output[0] == name


def upstream(model: ModelProto, name: str, *, stop: str) -> list[NodeProto]:
    """The nodes that an output comes from, without those before another value."""
    producers = {output: node for node in model.graph.node for output in node.output}
    found: dict[str, NodeProto] = {}
    waiting = [name]
    while waiting:
        value = waiting.pop()
        if value != stop and value in producers and value not in found:
            found[value] = producers[value]
            waiting += producers[value].input
    return list(found.values())


def producer(model: ModelProto, name: str) -> NodeProto:
    """The node that makes a value."""
    found: NodeProto = next(node for node in model.graph.node if name in node.output)
    return found


def read_the_first_row(model: ModelProto, name: str) -> None:
    """Whatever reads a value reads its first row, repeated as often as it has rows."""
    for constant, value in {"row_from": [0], "row_to": [1], "row_axis": [0]}.items():
        add_constant(model, constant, np.array(value))
    made = [
        helper.make_node("Slice", [name, "row_from", "row_to", "row_axis"], ["first_row"]),
        helper.make_node("Shape", [name], ["shape_of_all_rows"]),
        helper.make_node("Expand", ["first_row", "shape_of_all_rows"], ["first_for_all"]),
    ]
    read_instead(model, name, made)

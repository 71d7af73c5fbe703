"""Finish a graph: I/O names, symbolic dims, metadata, checker."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from onnx_fleet.entities.graph_info import NUMBERS_TO_THE_MODEL, Shape
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.graphs.initializers import external_data

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir


class AxesFrozen(ExportUnsupported):
    """The trace holds for some sizes only of axes that must be dynamic.

    Attributes:
        axes: the contract's symbols.
    """

    def __init__(self, message: str, *, axes: Iterable[str]) -> None:
        super().__init__(message)
        self.axes = frozenset(axes)


def finish(
    model: ir.Model,
    *,
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    traced_names: Mapping[str, str],
    parameters: Mapping[str, str],
) -> None:
    """Give a traced graph the contract's names, in place.

    Args:
        inputs: every input by name, with the contract's symbol for each axis that must stay dynamic.
        outputs: every output by name, in the order that consumers rely on.
        traced_names: name of an input in the trace -> its own.
        parameters: name of a parameter in the trace -> its own.
    Raises:
        ExportUnsupported: an input was traced away, or an axis that must be dynamic was frozen.
    """
    for value in model.graph.inputs:
        value.name = traced_names.get(str(value.name), value.name)
    _require_names("input", [value.name for value in model.graph.inputs], wanted=list(inputs))
    _require_names("output", [value.name for value in model.graph.outputs], wanted=list(outputs))
    symbols: dict[str, str] = {}
    for value in model.graph.inputs:
        symbols |= _symbols(value, inputs[str(value.name)])
    _rename_symbols(model.graph, symbols)
    for value in model.graph.inputs:
        _name_axes(value, inputs[str(value.name)])
    for value in model.graph.outputs:
        _require_shape(value, outputs[str(value.name)])
        _name_axes(value, outputs[str(value.name)])
    for name in list(model.graph.initializers):
        if name in parameters:
            _rename_initializer(model.graph, name, parameters[name])
    _forget_origin(model)
    model.producer_name = "onnx-fleet"
    model.producer_version = ""


def check(model: onnx.ModelProto, *, role: str = "model") -> None:
    """Run the ONNX checker with shape inference on a graph; weights that are not in it are taken on trust.

    Raises:
        ExportUnsupported: the graph is not valid ONNX.
    """
    import onnx

    given = onnx.ModelProto()
    given.CopyFrom(model)
    outside = [tensor for tensor in given.graph.initializer if external_data(tensor)]
    for tensor in outside:  # the checker would look for their files
        given.graph.initializer.remove(tensor)
        given.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        onnx.checker.check_model(given, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise ExportUnsupported(f"{role}: the traced graph is not valid ONNX ({err}); try another opset") from err


def put_in_order(model: onnx.ModelProto, *, inputs: Collection[str], outputs: Collection[str]) -> None:
    """Bring a graph's inputs and outputs into the order that consumers rely on.

    Raises:
        ExportUnsupported: the graph has other inputs or outputs than these.
    """
    for kind, values, names in (("input", model.graph.input, inputs), ("output", model.graph.output, outputs)):
        known = {value.name: value for value in values}
        if known.keys() != set(names):
            raise ExportUnsupported(f"the graph has the {kind}s {', '.join(known)} where {', '.join(names)} are wanted")
        ordered = [known[name] for name in names]
        copies = [type(value).FromString(value.SerializeToString()) for value in ordered]
        del values[:]
        values.extend(copies)


def stamp(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Write into a graph which bundle it belongs to, in place of earlier metadata."""
    del model.metadata_props[:]
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)


def _require_names(kind: str, found: Sequence[str | None], *, wanted: Sequence[str]) -> None:
    if list(found) != list(wanted):
        raise ExportUnsupported(
            f"the traced graph has the {kind}s {', '.join(map(str, found))} where {', '.join(wanted)} were wanted: "
            f"one without an effect on the example is traced away; the model needs a recipe with its own example"
        )


def _symbols(value: ir.Value, wanted: Shape) -> dict[str, str]:
    """Return the tracer's symbols of one input, each with the contract's name for it."""
    found = list(value.shape or ())
    symbols = {}
    for axis, (dim, name) in enumerate(zip(found, wanted, strict=True)):
        if not isinstance(name, str) or name in NUMBERS_TO_THE_MODEL:
            continue
        if isinstance(dim, int) or dim.value is None:
            raise AxesFrozen(
                f"axis {axis} ({name}) of {value.name} was frozen to {dim} while tracing; the model branches on its "
                f"size and needs a recipe",
                axes=[name],
            )
        symbols[str(dim.value)] = name
    return symbols


def _name_axes(value: ir.Value, wanted: Shape) -> None:
    """Name a value's axes by the contract: the trace may have a sum of lengths, or a number that stays open."""
    import onnx_ir as ir

    value.shape = ir.Shape(
        [name if isinstance(name, str) else dim for dim, name in zip(value.shape or (), wanted, strict=True)]
    )


def _rename_symbols(graph: ir.Graph, symbols: Mapping[str, str]) -> None:
    """Rename the tracer's symbols everywhere in a graph: alone, and inside expressions such as ``2*s41``."""
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, symbols)) + r")\b")
    values = [*graph.inputs, *graph.initializers.values(), *(out for node in graph for out in node.outputs)]
    for value in values:
        shape = value.shape
        if shape is None or shape.frozen:
            continue
        for axis, dim in enumerate(shape):
            if not isinstance(dim, int) and dim.value is not None:
                shape[axis] = pattern.sub(lambda match: symbols[match.group()], str(dim.value))


def _require_shape(value: ir.Value, wanted: Shape) -> None:
    """Require rank and numbers, and that no axis with a symbol was frozen; validation tries the sizes themselves."""
    found = [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape or ()]
    agree = len(found) == len(wanted) and all(
        dim == name if isinstance(name, int) else isinstance(dim, int) == (name is None)
        for dim, name in zip(found, wanted, strict=True)
    )
    if not agree:
        asked = ["a number" if name is None else name for name in wanted]
        raise AxesFrozen(
            f"output {value.name} was traced with the shape {found} where {asked} was wanted; the model branches on a "
            f"size and needs a recipe",
            axes=[
                name for dim, name in zip(found, wanted, strict=False) if isinstance(dim, int) and isinstance(name, str)
            ],
        )


def _rename_initializer(graph: ir.Graph, old: str, new: str) -> None:
    value = graph.initializers.pop(old)
    value.name = new
    graph.initializers[new] = value


def _forget_origin(model: ir.Model) -> None:
    """Remove the Python stack traces that the tracer notes on every node: they hold paths of this machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for graph in model.graphs():
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()

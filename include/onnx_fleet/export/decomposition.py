"""Decomposition: a traced program in the operators that the exporter translates to ONNX. Imports torch.

torch traces the program a second time for that, which takes nearly as long as the first. In most programs there is next
to nothing to decompose: nothing is written to, and every operator has a translation, but for a few that stand for
another one where no weight is trained. Those are replaced where they stand, and the graph has the nodes that torch's
way leads to. A program with anything else is left to torch. docs/decisions/export.md has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch._export.utils import _is_cia_op, _is_preservable_cia_op
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Node
from torch.onnx._internal.exporter import _decomp, _fx_passes
from torch.onnx._internal.exporter._registration import ONNXRegistry

_ATEN: Final = torch.ops.aten

_Call = tuple[OpOverload, tuple[Any, ...], dict[str, Any]]
"""An operator, and what it is called with."""


@contextmanager
def in_place() -> Iterator[None]:
    """Have the exporter decompose a program without tracing it again, where that can be, for the length of a block."""
    by_torch = _fx_passes.decompose_with_registry

    def decompose(exported_program: ExportedProgram, registry: ONNXRegistry) -> ExportedProgram:
        return exported_program if _decompose(exported_program, registry) else by_torch(exported_program, registry)

    _fx_passes.decompose_with_registry = decompose
    try:
        yield
    finally:
        _fx_passes.decompose_with_registry = by_torch


def _decompose(program: ExportedProgram, registry: ONNXRegistry) -> bool:
    """Replace what has no translation of its own; return False, with nothing changed, where more is to be done."""
    graphs = [module for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    if len(graphs) > 1:
        return False  # those of a branch or of a loop
    translated = frozenset(_decomp.get_onnx_implemented_overloads(registry))
    # What is no operator of torch's is Python's own, of sizes.
    nodes = [node for node in program.graph.nodes if isinstance(node.target, OpOverload)]
    if not all(_is_replaced(node) or _stays(node, translated) for node in nodes):
        return False
    for node in nodes:
        if node.target in _REPLACED:
            node.target, node.args, node.kwargs = _REPLACED[node.target](node)
    program.graph_module.recompile()
    return True


def _is_replaced(node: Node) -> bool:
    """Say whether another operator does the same; a shape of several sizes that are open is better put by torch."""
    if node.target is _ATEN.dropout.default:
        return node.args[2:] == (False,)
    if node.target is _ATEN.flatten.using_ints:
        given: Any = node.args[0]
        return given.meta["val"].dim() > 0 and sum(isinstance(size, torch.SymInt) for size in _kept(node).values()) <= 1
    return node.target in _REPLACED


def _stays(node: Node, translated: frozenset[Any]) -> bool:
    """Say whether an operator is translated as it is: torch keeps it too, or it only returns a view of its input."""
    target: Any = node.target
    if target is _ATEN._assert_tensor_metadata.default:
        return True  # the exporter drops it
    if target not in translated or target._schema.is_mutable or "val" not in node.meta:
        return False
    return target in _VIEWS or not _is_cia_op(target) or _is_preservable_cia_op(target)


def _its_input(node: Node) -> _Call:
    given: Any = node.args[0]
    node.meta.setdefault("val", given.meta["val"])
    return _ATEN.clone.default, (given,), {}


def _copied(node: Node) -> _Call:
    return _ATEN.clone.default, (node.args[0],), {"memory_format": torch.contiguous_format}


def _converted(node: Node) -> _Call:
    """Return the conversion to another type; where the type is the same, its input."""
    given: Any = node.args[0]
    dtype = node.meta["val"].dtype
    return (
        _its_input(node) if given.meta["val"].dtype == dtype else (_ATEN._to_copy.default, (given,), {"dtype": dtype})
    )


def _called(target: OpOverload) -> Callable[[Node], _Call]:
    """Return what has another operator called with the same arguments."""
    return lambda node: (target, node.args, dict(node.kwargs))


def _flattened(node: Node) -> _Call:
    """Return the reshape that makes one axis of several."""
    kept = _kept(node)
    sizes = [_size(node, axis) if isinstance(size, torch.SymInt) else size for axis, size in kept.items()]
    first = next((place for place, axis in enumerate(kept) if place != axis), len(sizes))
    return _ATEN.reshape.default, (node.args[0], [*sizes[:first], -1, *sizes[first:]]), {}


def _kept(node: Node) -> Mapping[int, Any]:
    """Return the axes that a flattening leaves as they are, with their sizes."""
    given: Any = node.args[0]
    bounds: list[Any] = [0, -1]
    bounds[: len(node.args) - 1] = node.args[1:]
    shape = given.meta["val"].shape
    first, last = (range(len(shape))[bound] for bound in bounds)
    return {axis: size for axis, size in enumerate(shape) if not first <= axis <= last}


def _size(node: Node, axis: int) -> Node:
    """Put the size of an operator's input before it."""
    given: Any = node.args[0]
    with node.graph.inserting_before(node):
        size = node.graph.call_function(_ATEN.sym_size.int, (given, axis))
    size.meta["val"] = given.meta["val"].shape[axis]
    return size


_VIEWS: Final = frozenset({_ATEN.chunk.default, _ATEN.expand_as.default, _ATEN.reshape.default})
"""Operators that torch takes apart only because their output may share its memory with their input."""
_REPLACED: Final[Mapping[object, Callable[[Node], _Call]]] = {
    _ATEN.detach.default: _its_input,
    _ATEN.detach_.default: _its_input,
    _ATEN.lift_fresh_copy.default: _its_input,
    _ATEN.dropout.default: _its_input,
    _ATEN.contiguous.default: _copied,
    _ATEN.flatten.using_ints: _flattened,
    _ATEN.to.device: _converted,
    _ATEN.to.dtype: _converted,
    _ATEN.to.dtype_layout: _converted,
    _ATEN.to.other: _converted,
    _ATEN.type_as.default: _converted,
    _ATEN.min.other: _called(_ATEN.minimum.default),
    _ATEN.max.other: _called(_ATEN.maximum.default),
    _ATEN.__and__.Tensor: _called(_ATEN.bitwise_and.Tensor),
    _ATEN.__or__.Tensor: _called(_ATEN.bitwise_or.Tensor),
    _ATEN.__xor__.Tensor: _called(_ATEN.bitwise_xor.Tensor),
}
"""What stands for each of these operators in a program in which nothing is written to."""

"""Layer replication: from the graph of a shallow model to that of the deep one, by repeating the layer that it shows.

A traced graph lists its nodes in the order of the layers: what comes before, layer 0, layer 1, layer 2, what comes
after. The last two have to be the same but for their weights and caches, node by node and input by input; the last one
is then repeated until the stack is as deep as the model's. Anything that does not fit this is Irregular, and the model
is traced whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.export import weight_placement

if TYPE_CHECKING:
    import onnx

Table = Sequence[Sequence[str]]
"""The names of a stack's weights: one row per parameter, with its name in layer 0, layer 1, …"""

_CACHE = re.compile(r"(?P<kind>past_key_values|present)\.(?P<layer>\d+)\.(?P<rest>.+)")
_SHOWN, _REPEATED = 1, 2
"""The layer that is compared, and the equal one that is repeated; layer 0 may differ from all others."""


class Irregular(ExportUnsupported):
    """The graph is not one layer after the other, or its layers are not alike."""


def unroll(model: onnx.ModelProto, table: Table, *, path: str) -> None:
    """Make a graph of three layers as deep as its table of weights, in place; one that reads none of them stays.

    New inputs and outputs stand behind the others; the caller brings them into order.

    Args:
        model: the graph, which refers to the checkpoint's tensors.
        path: the path of the stack in the model, which makes new names unique.
    Raises:
        Irregular: it cannot be told what another layer would be.
    """
    graph = model.graph
    stack = _Stack(graph, table=table, path=path)
    if not any(stack.is_weight(tensor.name) for tensor in graph.initializer):
        return
    start, length = stack.bounds()
    end = start + 2 * length
    nodes = list(graph.node)
    shown, repeated = nodes[start : start + length], nodes[start + length : end]
    stack.release_outputs(repeated)
    place = {name: index for index, name in enumerate(_outputs(repeated))}
    earlier = {name: index for index, name in enumerate(_outputs(shown))}
    made: list[onnx.NodeProto] = []
    last = _outputs(repeated)
    for layer in range(_REPEATED + 1, stack.depth):
        own = [stack.name_of(name, layer) for name in place]
        names = iter(own)
        for pattern, other in zip(repeated, shown, strict=True):
            node = type(pattern)()
            node.CopyFrom(pattern)
            node.name = f"{pattern.name}/{path}.{layer}"
            node.output[:] = [next(names) if name else "" for name in pattern.output]
            for index, (name, before) in enumerate(zip(pattern.input, other.input, strict=True)):
                if name in place:
                    node.input[index] = own[place[name]]
                elif name in earlier:
                    node.input[index] = last[earlier[name]]
                elif name != before:
                    node.input[index] = stack.in_layer(name, layer)
            made.append(node)
        last = own
    after = nodes[end:]
    stack.require_apart(nodes[:start], after, inner=earlier)
    final = dict(zip(place, last, strict=True))
    for node in after:
        node.input[:] = [final.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend([*nodes[:end], *made, *after])
    stack.add_shapes(place)
    stack.add_weights()
    stack.add_caches()


class _Stack:
    """A stack of layers in a graph that shows three of them."""

    def __init__(self, graph: onnx.GraphProto, *, table: Table, path: str) -> None:
        self._graph = graph
        self._table = table
        self._path = path
        self.depth = len(table[0])
        self._places = {name: (row, layer) for row, names in enumerate(table) for layer, name in enumerate(names)}
        self._constants = {tensor.name: tensor for tensor in graph.initializer if not tensor.external_data}
        self._graph_outputs = {value.name for value in graph.output}
        self._finals: dict[str, str] = {}
        """The graph outputs that the last layer makes instead of layer 2, by their names inside layer 2."""

    def is_weight(self, name: str) -> bool:
        return name in self._places

    def bounds(self) -> tuple[int, int]:
        """Return the index of layer 1's first node, and its number of nodes; layer 2 follows it with as many."""
        nodes = list(self._graph.node)
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for index, node in enumerate(nodes):
            for name in node.input:
                if name in self._places:
                    first.setdefault(self._places[name][1], index)
                    last[self._places[name][1]] = index
        if sorted(first) != [0, 1, 2] or not first[0] < first[1] < first[2]:
            raise Irregular(f"{self._path}: the layers do not follow one another")
        length = first[2] - first[1]
        # A layer may begin before its first weight is read, with the root mean square of a norm; not before the last
        # one of the layer before. The latest beginning is tried first: what is in front of it would not be compared.
        for start in range(first[1], max(last[0], first[1] - length), -1):
            shown, repeated = nodes[start : start + length], nodes[start + length : start + 2 * length]
            if self._are_alike(shown, repeated):
                return start, length
        raise Irregular(f"{self._path}: the second layer is not what the third is")

    def _are_alike(self, shown: Sequence[onnx.NodeProto], repeated: Sequence[onnx.NodeProto]) -> bool:
        if len(shown) != len(repeated) or any(
            _kind(one) != _kind(other) for one, other in zip(shown, repeated, strict=True)
        ):
            return False
        earlier = {name: index for index, name in enumerate(_outputs(shown))}
        place = {name: index for index, name in enumerate(_outputs(repeated))}
        carried: dict[int, str] = {}
        for one, other in zip(shown, repeated, strict=True):
            for before, name in zip(one.input, other.input, strict=True):
                if name in place or before in earlier:
                    if place.get(name) != earlier.get(before):
                        return False
                elif name in earlier:
                    if carried.setdefault(earlier[name], before) != before:
                        return False
                elif name != before and not self._follows(before, name):
                    return False
        return len(set(carried.values())) == len(carried)

    def _follows(self, before: str, name: str) -> bool:
        """Say whether two names are the same thing of layer 1 and of layer 2."""
        if name in self._places:
            row, layer = self._places[name]
            return layer == _REPEATED and self._table[row][_SHOWN] == before
        if match := _CACHE.fullmatch(name):
            return int(match["layer"]) == _REPEATED and _renumbered(name, _SHOWN) == before
        one, other = self._constants.get(before), self._constants.get(name)
        return one is not None and other is not None and _content(one) == _content(other)

    def in_layer(self, name: str, layer: int) -> str:
        """Return what another layer reads where layer 2 reads this."""
        if name in self._places:
            return self._table[self._places[name][0]][layer]
        return _renumbered(name, layer) if _CACHE.fullmatch(name) else name

    def release_outputs(self, repeated: Sequence[onnx.NodeProto]) -> None:
        """Give layer 2 a name of its own for each graph output that it makes: the last layer will make that output."""
        given = {name for name in _outputs(repeated) if name in self._graph_outputs and not _CACHE.fullmatch(name)}
        inner = {name: f"{name}/{self._path}.{_REPEATED}" for name in given}
        self._finals = {own: name for name, own in inner.items()}
        for node in repeated:
            node.output[:] = [inner.get(name, name) for name in node.output]
            node.input[:] = [inner.get(name, name) for name in node.input]

    def name_of(self, name: str, layer: int) -> str:
        """Return the name in another layer of what layer 2 makes under this name."""
        if layer == self.depth - 1 and name in self._finals:
            return self._finals[name]
        if _CACHE.fullmatch(name) and name in self._graph_outputs:
            return _renumbered(name, layer)
        return f"{name}/{self._path}.{layer}"

    def require_apart(
        self, before: Iterable[onnx.NodeProto], after: Iterable[onnx.NodeProto], *, inner: Mapping[str, int]
    ) -> None:
        """Refuse a graph in which something outside reads weights of these layers, or what layer 1 makes."""
        for name in (name for node in before for name in node.input):
            if name in self._places and self._places[name][1] != 0:
                raise Irregular(f"{self._path}: {name} is read before its layer")
        for name in (name for node in after for name in node.input):
            if name in self._places or name in inner:
                raise Irregular(f"{self._path}: {name} is read after the last layer")

    def add_shapes(self, made: Iterable[str]) -> None:
        """Give every layer's values the shapes of layer 2's."""
        known = {value.name: value for value in self._graph.value_info}
        for name in made:
            value = known.get(self._finals.get(name, name))
            if value is None:
                continue
            for layer in range(_REPEATED + 1, self.depth):
                self._graph.value_info.add().CopyFrom(value)
                self._graph.value_info[-1].name = self.name_of(name, layer)

    def add_weights(self) -> None:
        """Add references to the weights of the new layers."""
        for tensor in list(self._graph.initializer):
            row, layer = self._places.get(tensor.name, (0, 0))
            if layer != _REPEATED:
                continue
            for name in self._table[row][_REPEATED + 1 :]:
                added = self._graph.initializer.add()
                added.CopyFrom(tensor)
                added.name = name
                del added.external_data[:]
                added.external_data.add(key="location", value=f"{weight_placement.SCHEME}{name}")

    def add_caches(self) -> None:
        """Add the inputs and outputs of the new layers' caches."""
        for values in (self._graph.input, self._graph.output):
            for value in list(values):
                match = _CACHE.fullmatch(value.name)
                if match is None or int(match["layer"]) != _REPEATED:
                    continue
                for layer in range(_REPEATED + 1, self.depth):
                    values.add().CopyFrom(value)
                    values[-1].name = _renumbered(value.name, layer)


def _outputs(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    return [name for node in nodes for name in node.output if name]


def _kind(node: onnx.NodeProto) -> tuple[object, ...]:
    """Return what a node does, whatever it reads."""
    attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
    return node.domain, node.op_type, len(node.input), [bool(name) for name in node.output], attributes


def _content(tensor: onnx.TensorProto) -> bytes:
    unnamed = type(tensor)()
    unnamed.CopyFrom(tensor)
    unnamed.ClearField("name")
    data: bytes = unnamed.SerializeToString(deterministic=True)
    return data


def _renumbered(name: str, layer: int) -> str:
    """Return a cache's name in another layer."""
    return _CACHE.sub(lambda match: f"{match['kind']}.{layer}.{match['rest']}", name)

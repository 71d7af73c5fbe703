"""Which layers stay in float32, where a variant that has all of them in fewer bits misses its gates.

Every kind of layer (``encoder.layer.*.output.dense.weight``) is converted alone, and what that costs the outputs is
measured. Those that cost most for their bytes are spared, as many as the variant's size allows, and of these, found by
halving, as few as hold the gates. A kind that is too large to be spared in all layers is measured in bands of
neighbouring layers, and spared in the worst of them. The number of graphs that are tried is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

import onnx

from onnx_fleet.graphs.initializers import size_bytes
from onnx_fleet.variants import preprocessing

_OPERATORS: Final = ("MatMul", "Gather", "Conv", "Gemm")
_MAX_RANKED: Final = 16
"""The number of kinds that are measured, the largest ones; models have about ten."""
_MAX_BANDS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Layers that are converted together, or left together."""

    names: tuple[str, ...]
    """The names of the weights, for people: one name for all layers of a kind, or several."""
    weights: tuple[str, ...]
    """The name of each node's weight."""
    nodes: tuple[str, ...]
    """The nodes' names, in the graph's order."""
    size_bytes: tuple[int, ...]
    """The size of each node's weight in float32, in bytes."""
    is_table: bool
    """Whether the layers count with the embeddings, whose bytes are not judged."""

    @property
    def bands(self) -> tuple[Layers, ...]:
        """The same layers in several pieces, from the first to the last."""
        count = min(len(self.nodes), _MAX_BANDS)
        edges = [index * len(self.nodes) // count for index in range(count + 1)]
        return tuple(
            Layers(
                names=self.weights[start:end],
                weights=self.weights[start:end],
                nodes=self.nodes[start:end],
                size_bytes=self.size_bytes[start:end],
                is_table=self.is_table,
            )
            for start, end in pairwise(edges)
        )

    @property
    def judged_bytes(self) -> int:
        """The float32 bytes that the size gate judges."""
        return 0 if self.is_table else sum(self.size_bytes)


class Trials(Protocol):
    """Graphs of one variant, tried with some layers in float32."""

    @property
    def are_left(self) -> bool:
        """Whether one more graph may be tried."""

    def harm(self, nodes: Iterable[str]) -> float:
        """Return what converting only these nodes costs: 1 - cosine of the outputs."""

    def passes(self, spared: Iterable[str]) -> bool:
        """Say whether the gates hold with these nodes in float32; the last graph that passed is kept."""


def kinds(model: onnx.ModelProto) -> tuple[Layers, ...]:
    """Group the nodes that multiply by a weight or gather from one, by what the weight is called in every layer.

    Args:
        model: the graph, as preprocessing.prepare writes it; its weights may lie outside.
    """
    weights, tables = preprocessing.weights(model.graph), preprocessing.embeddings(model.graph)
    found: dict[str, dict[str, str]] = {}
    for node in model.graph.node:
        named = next((name for name in node.input[:2] if name in weights), None)
        if named and node.op_type in _OPERATORS:
            kind = re.sub(r"\.\d+(?=\.)", ".*", named.removesuffix(preprocessing.TRANSPOSED))
            found.setdefault(kind, {})[node.name] = named
    return tuple(
        Layers(
            names=(kind,),
            weights=tuple(name.removesuffix(preprocessing.TRANSPOSED) for name in named.values()),
            nodes=tuple(named),
            size_bytes=tuple(size_bytes(weights[name]) for name in named.values()),
            is_table=kind in tables,
        )
        for kind, named in found.items()
    )


def spare(layers: Iterable[Layers], trials: Trials, *, room_bytes: float) -> tuple[Layers, ...]:
    """Return the layers that stay in float32, so that the gates hold; none where that does not help, or takes too long.

    Args:
        room_bytes: the bytes of float32 weights that the variant's size allows.
    """
    largest = sorted(layers, key=lambda each: -sum(each.size_bytes))[:_MAX_RANKED]
    harm = {each: trials.harm(each.nodes) for each in largest if trials.are_left}
    tried: Sequence[Layers] = ()
    while True:
        worst_first = sorted(
            (each for each in harm if harm[each] > 0), key=lambda each: (-_cost(each, harm), each.names)
        )
        chosen = _that_fit(worst_first, room_bytes)
        if chosen != tried and trials.are_left:
            tried = chosen
            if trials.passes(_nodes(chosen)):
                return _fewest(chosen, trials)
        whole = next((each for each in worst_first if each not in chosen and len(each.nodes) > 1), None)
        if whole is None or not trials.are_left:
            return ()
        del harm[whole]
        harm |= {band: trials.harm(band.nodes) for band in whole.bands if trials.are_left}


def _cost(layers: Layers, harm: dict[Layers, float]) -> float:
    """Return the harm per byte: sparing a large matrix that hurts as much as a small one is a waste."""
    return harm[layers] / max(sum(layers.size_bytes), 1)


def _that_fit(worst_first: Sequence[Layers], room_bytes: float) -> tuple[Layers, ...]:
    chosen: list[Layers] = []
    for each in worst_first:
        if each.judged_bytes <= room_bytes:
            chosen.append(each)
            room_bytes -= each.judged_bytes
    return tuple(chosen)


def _fewest(chosen: tuple[Layers, ...], trials: Trials) -> tuple[Layers, ...]:
    """Find by halving the fewest layers that pass, given that all of them pass and none of them misses."""
    missing, passing = 0, len(chosen)
    while passing - missing > 1 and trials.are_left:
        middle = (missing + passing) // 2
        if trials.passes(_nodes(chosen[:middle])):
            passing = middle
        else:
            missing = middle
    return chosen[:passing]


def _nodes(layers: Iterable[Layers]) -> frozenset[str]:
    return frozenset(node for each in layers for node in each.nodes)

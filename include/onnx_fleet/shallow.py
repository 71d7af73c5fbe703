"""A shallow model: the first few of each stack of equal layers, and what the rest of them would refer to.

Tracing costs per layer. Where a model is a stack of equal ones, a few of them show the pattern; unrolling.py repeats it
in the graph. The model is cut in place, so that all else about it, its configuration above all, stays the deep one's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from onnx_fleet import hollow
from onnx_fleet.hollow import Place

LAYERS = 3
"""The first may differ from all others, and what the second shows the third has to confirm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A list of layers that are alike."""

    path: str
    """Of the list in the model: ``model.layers``."""
    layers: nn.ModuleList
    weights: tuple[tuple[str, ...], ...]
    """Of each parameter that all layers have, the checkpoint's name in the first layer, the second, …"""

    @property
    def depth(self) -> int:
        return len(self.layers)


def stacks(model: PreTrainedModel, names: Mapping[Place, str]) -> tuple[Stack, ...]:
    """The stacks that are deeper than a shallow model's, none inside another one.

    Args:
        names: where a parameter is -> the checkpoint's tensor that it is.
    """
    found: list[Stack] = []
    told_apart = {depth for config in _configs(model) for depth in _depths_told_apart(config)}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{stack.path}.") for stack in found)
        if not inside and isinstance(module, nn.ModuleList) and len(module) > LAYERS + 1:
            weights = _weights(module, names)
            if weights and len(module) not in told_apart:
                found.append(Stack(path=path, layers=module, weights=weights))
    return tuple(found)


def _depths_told_apart(config: PretrainedConfig) -> Iterator[int]:
    """How many layers have a word each in the configuration that is not the same for all: sliding or full attention."""
    for name, value in vars(config).items():
        if "layer" in name and isinstance(value, list) and len(set(map(str, value))) > 1:
            yield len(value)


def _weights(layers: nn.ModuleList, names: Mapping[Place, str]) -> tuple[tuple[str, ...], ...]:
    """As Stack.weights has them; empty where the layers are not alike, or share weights.

    The first layer may have more than the others, as T5's has the position bias for all of them.
    """
    first, second, *others = [dict(layer.named_parameters()) for layer in layers]
    shapes = {name: parameter.shape for name, parameter in second.items()}
    first = {name: parameter for name, parameter in first.items() if name in shapes}
    alike = all(
        type(layer) is type(layers[0]) and {name: parameter.shape for name, parameter in own.items()} == shapes
        for layer, own in zip(layers, (first, second, *others), strict=True)
    )
    if not alike or not shapes:
        return ()
    table = tuple(tuple(names.get(hollow.place(own[name]), "") for own in (first, second, *others)) for name in shapes)
    unbound_or_shared = any("" in row or len(set(row)) < len(row) for row in table)
    return () if unbound_or_shared else table


@contextmanager
def cut(model: PreTrainedModel, stacks: tuple[Stack, ...]) -> Iterator[None]:
    """The model with the first layers of each stack, for the length of a with block."""
    try:
        for stack in stacks:
            _set(model, stack.path, nn.ModuleList(list(stack.layers)[:LAYERS]))
        yield
    finally:
        for stack in stacks:
            _set(model, stack.path, stack.layers)


@contextmanager
def told(model: PreTrainedModel, stacks: tuple[Stack, ...]) -> Iterator[None]:
    """Have the configuration say how many layers there are, for caches that are made by it; not while tracing."""
    depths = {stack.depth for stack in stacks}
    changed: list[tuple[Any, str, Any]] = []
    for config in _configs(model):
        for name, value in list(vars(config).items()):
            if type(value) is int and value in depths and "layer" in name:
                changed.append((config, name, value))
                setattr(config, name, LAYERS)
            elif isinstance(value, list) and len(value) in depths and "layer" in name:
                changed.append((config, name, value))
                setattr(config, name, value[:LAYERS])
    try:
        yield
    finally:
        for config, name, value in changed:
            setattr(config, name, value)


def _configs(model: PreTrainedModel) -> list[PretrainedConfig]:
    """Of the model and its parts, each once: T5's decoder has its own."""
    found = (getattr(module, "config", None) for module in model.modules())
    own = [config for config in found if isinstance(config, PretrainedConfig)]
    return list({id(each): each for config in own for each in (config, *_parts(config))}.values())


def _parts(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    for value in vars(config).values():
        if isinstance(value, PretrainedConfig):
            yield value
            yield from _parts(value)


def _set(model: nn.Module, path: str, layers: nn.ModuleList) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layers)

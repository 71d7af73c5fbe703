"""A shallow model: the first few of each stack of equal layers, and what the rest of them would refer to.

Tracing costs per layer. Where a model is a stack of equal ones, a few of them show the pattern;
export/layer_replication.py repeats it in the graph. The model is cut in place, so that all else about it, its
configuration above all, stays the deep one's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from onnx_fleet.source import placeholder_weights
from onnx_fleet.source.placeholder_weights import Place

LAYERS = 3
"""The depth of a shallow model: the first layer may differ from all others, and the third has to confirm the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A list of layers that are alike."""

    path: str
    """The path of the list in the model: ``model.layers``."""
    layers: nn.ModuleList
    weights: tuple[tuple[str, ...], ...]
    """The checkpoint's names of each parameter that all layers have: in the first layer, the second, …"""

    @property
    def depth(self) -> int:
        return len(self.layers)


def stacks(model: PreTrainedModel, names: Mapping[Place, str]) -> tuple[Stack, ...]:
    """Return the stacks that are deeper than a shallow model's, none inside another one.

    Args:
        names: the checkpoint's tensor of each parameter, by the parameter's place in memory.
    """
    found: list[Stack] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{stack.path}.") for stack in found)
        if not inside and isinstance(module, nn.ModuleList) and len(module) > LAYERS + 1:
            weights = _weights(module, names)
            if weights and _settings_are_alike(module, names) and not _told_apart(model, depth=len(module)):
                found.append(Stack(path=path, layers=module, weights=weights))
    return tuple(found)


def _weights(layers: nn.ModuleList, names: Mapping[Place, str]) -> tuple[tuple[str, ...], ...]:
    """Return the names as Stack.weights has them; empty where the layers are not alike, or share weights.

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
    table = tuple(
        tuple(names.get(placeholder_weights.place(own[name]), "") for own in (first, second, *others))
        for name in shapes
    )
    unbound_or_shared = any("" in row or len(set(row)) < len(row) for row in table)
    return () if unbound_or_shared else table


def _settings_are_alike(layers: nn.ModuleList, names: Mapping[Place, str]) -> bool:
    """Say whether all layers but the first have the same settings; a number that counts the layers is the same.

    Only a few layers will be seen, and the others may be local where those are global, or without positions.
    """
    _, *others = [_settings(layer, names) for layer in layers]
    first = others[0]
    return all(
        own.keys() == first.keys()
        and all(value == first[key] or _counts(first[key], value, by=number) for key, value in own.items())
        for number, own in enumerate(others)
    )


def _settings(layer: nn.Module, names: Mapping[Place, str]) -> dict[tuple[str, str], object]:
    """Return what shapes a layer beside its weights: classes, plain attributes, and buffers that it makes by itself."""
    found: dict[tuple[str, str], object] = {}
    for path, module in layer.named_modules():
        found[path, "class"] = type(module)
        for name, value in vars(module).items():
            if isinstance(value, _PLAIN) and not name.startswith("_") and "drop" not in name:
                found[path, name] = value
        for name, buffer in module.named_buffers(recurse=False):
            if placeholder_weights.place(buffer) not in names:
                found[path, name] = (buffer.dtype, tuple(buffer.shape), buffer.numpy().tobytes())
    return found


_PLAIN = (bool, int, float, str, tuple, list, type(None))
"""The types of a module's attributes that are compared; dropout has no effect while a model is only run."""


def _counts(first: object, value: object, *, by: int) -> bool:
    """Say whether a value is the layer's own number."""
    return type(first) is type(value) is int and value - first == by


def _told_apart(model: PreTrainedModel, *, depth: int) -> bool:
    """Say whether a configuration has a list with something else for some layer: the model itself may look there."""
    return any(
        isinstance(value, list | tuple)
        and len(value) == depth
        and any(each != value[1] for each in value[2:])
        and "token" not in name
        for config in _configs(model)
        for name, value in vars(config).items()
    )


@contextmanager
def truncated(model: PreTrainedModel, stacks: tuple[Stack, ...]) -> Iterator[None]:
    """Give the model only the first layers of each stack, for the length of a with block."""
    try:
        for stack in stacks:
            _set(model, stack.path, nn.ModuleList(list(stack.layers)[:LAYERS]))
        yield
    finally:
        for stack in stacks:
            _set(model, stack.path, stack.layers)


@contextmanager
def truncated_config(model: PreTrainedModel, stacks: tuple[Stack, ...]) -> Iterator[None]:
    """Set the shallow number of layers in the configuration, for caches that are made by it; not while tracing."""
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


def _configs(model: PreTrainedModel) -> tuple[PretrainedConfig, ...]:
    """Return the configurations of the model and of all its parts, each once."""
    found = (getattr(module, "config", None) for module in model.modules())
    own = [config for config in found if isinstance(config, PretrainedConfig)]
    return tuple({id(each): each for config in own for each in (config, *_parts(config))}.values())


def _parts(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    for value in vars(config).values():
        if isinstance(value, PretrainedConfig):
            yield value
            yield from _parts(value)


def _set(model: nn.Module, path: str, layers: nn.ModuleList) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layers)

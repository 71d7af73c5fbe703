"""Modules that compute in float64: torch is imported when they are called."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


@contextmanager
def layer_by_layer(module: Module) -> Iterator[Module]:
    """Have a module compute in float64 in the block: the weights of each layer are in float64 while it runs.

    What belongs to no layer is in float64 all the time, but for tables of embeddings: what is looked up there is made
    float64. A module that uses a layer's weights without calling the layer fails, by the types of what it multiplies.
    """
    import torch

    layers = list(_layers(module))
    within = {part for layer in layers for part in layer.modules()}
    others = set(module.modules()) - within
    tables = {part for part in others if type(part) is torch.nn.Embedding and part.max_norm is None}
    with ExitStack() as stack:
        stack.enter_context(_widened(others - tables))
        for table in tables:
            stack.callback(table.register_forward_hook(lambda _, __, found: found.double()).remove)
        for layer in layers:
            while_it_runs = ExitStack()
            begin = layer.register_forward_pre_hook(
                lambda layer, _, own=while_it_runs: own.enter_context(_widened(layer.modules()))
            )
            end = layer.register_forward_hook(lambda *_, own=while_it_runs: own.close(), always_call=True)
            for hook in (begin, end):
                stack.callback(hook.remove)
        yield module


@contextmanager
def copied(module: Module) -> Iterator[Module]:
    """Yield a copy of a module in float64, for which no float32 copy is made first."""
    import torch

    wide: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            made = tensor.detach().double()
            wide[id(tensor)] = torch.nn.Parameter(made) if isinstance(tensor, torch.nn.Parameter) else made
    yield copy.deepcopy(module, wide).double()


def _layers(module: Module) -> Iterator[Module]:
    """Yield the members of a module's outermost lists of layers."""
    import torch

    for child in module.children():
        if isinstance(child, torch.nn.ModuleList) and len(child) > 1:
            yield from child
        else:
            yield from _layers(child)


@contextmanager
def _widened(modules: Iterable[Module]) -> Iterator[None]:
    """Put float64 in the place of the modules' own tensors for the length of a with block."""
    import torch

    before: list[tuple[dict[str, Any], str, Tensor]] = []
    made: dict[int, Tensor] = {}
    try:
        for module in modules:
            stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for store in stores:
                for name, tensor in store.items():
                    if tensor is not None and tensor.is_floating_point() and tensor.dtype != torch.float64:
                        before.append((store, name, tensor))
                        if id(tensor) not in made:
                            made[id(tensor)] = tensor.detach().double()
                        store[name] = made[id(tensor)]
        yield
    finally:
        for store, name, tensor in before:
            store[name] = tensor

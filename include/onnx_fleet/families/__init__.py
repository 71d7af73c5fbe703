"""Families: how a model is cut into graphs. One file a family; tracing and finishing know none by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_fleet.plan import WorkItem

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

Shape = tuple[str | int | None, ...]
"""Of an input or output: the contract's symbols; None is a number that the model decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """One graph to trace."""

    role: str
    """The file's stem: ``model``, ``encoder_model``, …"""
    module: Module
    """forward(**inputs) -> {name: output}; its parameters carry the checkpoint's names behind ``parameter_prefix``."""
    parameter_prefix: str
    example_inputs: Mapping[str, Tensor]
    """With real padding, and sizes of 2 and more that differ: an axis or a mask that looks constant is traced away."""
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A way to cut models into graphs."""

    name: str
    load: Callable[[WorkItem, Path], Module]
    """(item, folder of the source's files) -> the module that is traced and compared with."""
    graphs: Callable[[WorkItem, Module], tuple[GraphSpec, ...]]


def family(name: str) -> Family:
    """A family by its name; this imports torch and transformers.

    Raises:
        KeyError: there is no such family; catalogue and plan have checked the name.
    """
    from onnx_fleet.families import encoder

    return {"encoder": encoder.FAMILY}[name]

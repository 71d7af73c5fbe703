"""Families: how a model is cut into graphs. One file a family; tracing and finishing know none by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.graphs.further_inputs import FurtherInput

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel

    from onnx_fleet.source.placeholder_weights import PlaceholderWeights

FAMILIES = ("encoder", "decoder", "seq2seq", "vision", "speech", "dual", "vlm")

Shape = tuple[str | int | None, ...]
"""The axes of an input or output: the contract's symbols; None is a number that the model decides."""

PARAMETER_PREFIX = "model."
"""The prefix of parameters' names: a graph's module keeps the source's model as its attribute ``model``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """One graph to trace."""

    role: str
    """The file's stem: ``model``, ``encoder_model``, …"""
    module: Module
    """The module: forward(**inputs) -> {output: Tensor}, flat, by the contract's names (``past_key_values.0.key``)."""
    example_inputs: Mapping[str, Tensor]
    """The inputs to trace with, which have real padding, and sizes of 2 and more that differ.

    An axis or a mask that looks constant is traced away.
    """
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    fixable: tuple[str, ...] = ()
    """The symbols that may become the example's sizes, where the model cannot keep them; a fallback tells so.

    An entry may allow others: ``may_be_fixed``.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A way to cut models into graphs."""

    name: str
    load: Callable[[WorkItem, Path, PlaceholderWeights | None], PreTrainedModel]
    """The function that loads the source's model: float32, evaluation mode, eager attention.

    It takes the item, the folder of the source's files, and what stands for its weights; where nothing does, it loads
    the model whole.
    """
    whole: Callable[[WorkItem, PreTrainedModel], Module]
    """The model in one call, forward(**feeds) -> {output: Tensor}: the graphs together are compared with it."""
    graphs: Callable[[WorkItem, PreTrainedModel], tuple[GraphSpec, ...]]
    further: Callable[[PreTrainedModel], tuple[FurtherInput, ...]] = lambda _: ()
    """The inputs beside tokens, mask and token types; none in families that take other things."""


def family(name: str) -> Family:
    """Return a family by its name; this imports torch and transformers.

    Raises:
        KeyError: there is no such family; catalogue and plan have checked the name.
    """
    if name not in FAMILIES:
        raise KeyError(name)
    found: Family = import_module(f"onnx_fleet.source.families.{name}").FAMILY
    return found

"""A model of one forward pass: named inputs to exactly the outputs of its task, modules and recipe. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from onnx_fleet import recipes
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.source.families import Shape, chain


class Forward(torch.nn.Module):
    """The source's model with named outputs, in the contract's order, as its recipe wants them."""

    def __init__(self, item: WorkItem, model: PreTrainedModel, *, outputs: Mapping[str, Shape]) -> None:
        super().__init__()
        self.model = model
        self.config: PretrainedConfig = model.config
        self.given_outputs = tuple(outputs)
        """The names of the model's own outputs."""
        name = item.model.entry.recipe
        self.recipe = recipes.find(name) if name else None
        self._own = self.recipe.of(item.model.task, model) if self.recipe else None
        modules = chain.of(model)
        if modules and not (self.recipe and modules.answer in self.recipe.outputs):
            outputs = {**outputs, modules.answer: ("batch_size", None)}
        self.own_outputs = tuple(outputs)
        self.outputs = self.recipe.output_shapes(outputs) if self.recipe else dict(outputs)
        """The outputs of forward: name -> the contract's symbols."""

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        wanted = {"output_hidden_states": True} if self._own and self._own.hidden_states else {}
        given = self.model(**inputs, return_dict=True, **wanted)
        own = {name: given[name] for name in self.given_outputs}
        modules = chain.of(self.model)
        if modules and modules.answer in self.own_outputs:
            own[modules.answer] = modules(inputs, given)
        if self._own is None:
            return own
        layers = given.get("hidden_states") if self._own.hidden_states else None
        return self._own.outputs_of(inputs, own, layers=layers or ())

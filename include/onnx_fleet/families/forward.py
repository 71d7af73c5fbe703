"""A model of one forward pass: named inputs to exactly the outputs of its task and recipe. Imports torch."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from onnx_fleet.recipes import RECIPES


class Forward(torch.nn.Module):
    """The source's model with named outputs, in the contract's order, and the recipe's behind them."""

    def __init__(self, model: PreTrainedModel, *, outputs: Iterable[str], recipe: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.config: PretrainedConfig = model.config
        self.output_names = tuple(outputs)
        self.recipe = RECIPES[recipe] if recipe else None

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        given = self.model(**inputs, return_dict=True)
        outputs = {name: given[name] for name in self.output_names}
        if self.recipe is not None:
            outputs |= self.recipe.head(inputs, outputs)
        return outputs

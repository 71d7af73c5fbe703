"""Recipes: named ways to change what a model's graph gives out.

A recipe adds outputs; it never takes away or reorders the family's own: consumers read those by name or by place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Tensors = Mapping[str, "Tensor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """An output head on top of a family's graph."""

    name: str
    summary: str
    """For people: one line."""
    tasks: tuple[str, ...]
    """The tasks of onnx_fleet.tasks.TASKS that it applies to."""
    outputs: Mapping[str, tuple[str | int | None, ...]]
    """What it adds: name -> symbols; None is a number that the model decides."""
    head: Callable[[Tensors, Tensors], dict[str, Tensor]]
    """(inputs, the family's outputs) -> the added outputs."""


def _first_token(inputs: Tensors, outputs: Tensors) -> Tensor:
    """The hidden state of position 0, where BERT-like models put [CLS]: [batch_size, hidden]."""
    return outputs["last_hidden_state"][:, 0]


def _mean(inputs: Tensors, outputs: Tensors) -> Tensor:
    """The mean over real positions: [batch_size, hidden]. A row without any gives zeros."""
    hidden = outputs["last_hidden_state"]
    mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)


def _last_token(inputs: Tensors, outputs: Tensors) -> Tensor:
    """The hidden state of the last real position, whichever side is padded: [batch_size, hidden]."""
    import torch

    hidden, mask = outputs["last_hidden_state"], inputs["attention_mask"]
    positions = torch.arange(mask.shape[1], device=mask.device).unsqueeze(0)
    last = (positions * mask).argmax(dim=1)
    return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2])).squeeze(1)


def _normalised(vector: Tensor) -> Tensor:
    """Of L2 length 1, as sentence-transformers' Normalize module does."""
    import torch

    return torch.nn.functional.normalize(vector, p=2.0, dim=1)


def _embedding(name: str, summary: str, pool: Callable[[Tensors, Tensors], Tensor]) -> Recipe:
    return Recipe(
        name=name,
        summary=summary,
        tasks=("feature-extraction", "sentence-similarity"),
        outputs={"sentence_embedding": ("batch_size", None)},
        head=lambda inputs, outputs: {"sentence_embedding": pool(inputs, outputs)},
    )


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _embedding("cls", "adds sentence_embedding: the first token's hidden state", _first_token),
        _embedding(
            "cls-normalized",
            "adds sentence_embedding: the first token's hidden state, of length 1",
            lambda inputs, outputs: _normalised(_first_token(inputs, outputs)),
        ),
        _embedding("mean", "adds sentence_embedding: the mean over real tokens", _mean),
        _embedding(
            "mean-normalized",
            "adds sentence_embedding: the mean over real tokens, of length 1",
            lambda inputs, outputs: _normalised(_mean(inputs, outputs)),
        ),
        _embedding("last-token", "adds sentence_embedding: the last real token's hidden state", _last_token),
    )
}

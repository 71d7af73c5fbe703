"""A model that computes more for texts with a certain token: both ways go into one graph."""

from typing import Any

import numpy as np
import torch
from transformers.models.bert.modeling_bert import BertEmbeddings

from onnx_fleet.recipes import Feeds, Recipe

_MARK = 41
"""The token's id."""


class _Marking(BertEmbeddings):
    """The model's own code, as its author wrote it. Traced like this it is refused: only one way would be kept."""

    def forward(self, input_ids: Any = None, *others: Any, **named: Any) -> Any:
        hidden = super().forward(input_ids, *others, **named)
        marked = (input_ids == _MARK).unsqueeze(-1)
        if marked.any():
            hidden = torch.where(marked, hidden.tanh(), hidden)
        return hidden


class _MarkingInOneGraph(_Marking):
    """The same function, with a branch that can be traced: an If in the graph."""

    def forward(self, input_ids: Any = None, *others: Any, **named: Any) -> Any:
        hidden = BertEmbeddings.forward(self, input_ids, *others, **named)
        marked = (input_ids == _MARK).unsqueeze(-1)
        return torch.cond(
            marked.any(),
            lambda hidden, marked: torch.where(marked, hidden.tanh(), hidden),
            lambda hidden, marked: hidden.clone(),
            (hidden, marked),
        )


def _mark(model: Any) -> None:
    model.base_model.embeddings.__class__ = _Marking


def _mark_in_one_graph(model: Any) -> None:
    model.base_model.embeddings.__class__ = _MarkingInOneGraph


def _both_ways(feeds: Feeds) -> dict[str, Feeds]:
    """Without the token, with it in one row, with it everywhere."""
    ids = np.where(feeds["input_ids"] == _MARK, _MARK + 1, feeds["input_ids"])
    one = ids.copy()
    one[0, 1] = _MARK
    return {
        "no row is marked": {**feeds, "input_ids": ids},
        "one row is marked": {**feeds, "input_ids": one},
        "every token is marked": {**feeds, "input_ids": np.full_like(ids, _MARK)},
    }


as_written = Recipe(summary="a BERT with a branch in Python", prepare=_mark)

in_one_graph = Recipe(
    summary="a BERT with a branch, both ways of it in the graph",
    prepare=_mark,
    rewrite=_mark_in_one_graph,
    cases=_both_ways,
)

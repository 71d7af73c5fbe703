"""Encoders: one graph, tokens in, hidden states or a head's logits out. Imports torch and transformers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from onnx_fleet.entities.graph_info import JOINT_LENGTH
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.graphs import further_inputs, text_inputs
from onnx_fleet.graphs.further_inputs import FurtherInput
from onnx_fleet.source import model_limits
from onnx_fleet.source.families import Family, GraphSpec, Shape, chain, loading, model_class
from onnx_fleet.source.families.forward import Forward
from onnx_fleet.source.placeholder_weights import PlaceholderWeights

_TOKENS: Shape = ("batch_size", "sequence_length")
_CHOICES: Shape = ("batch_size", "num_choices", "sequence_length")
_HIDDEN: dict[str, Shape] = {"last_hidden_state": ("batch_size", "sequence_length", None)}
_PROJECTED: dict[str, Shape] = {"text_embeds": ("batch_size", None)}
_CLASSES: dict[str, Shape] = {"logits": ("batch_size", None)}

OUTPUTS: dict[str, dict[str, Shape]] = {
    "feature-extraction": _HIDDEN,
    "sentence-similarity": _HIDDEN,
    "fill-mask": {"logits": ("batch_size", "sequence_length", None)},
    "text-classification": _CLASSES,
    "zero-shot-classification": _CLASSES,
    "text-ranking": _CLASSES,
    "token-classification": {"logits": ("batch_size", "sequence_length", None)},
    "question-answering": {"start_logits": _TOKENS, "end_logits": _TOKENS},
    "document-question-answering": {"start_logits": _TOKENS, "end_logits": _TOKENS},
    "multiple-choice": {"logits": ("batch_size", "num_choices")},
}

_EXAMPLE_BATCH, _EXAMPLE_CHOICES, _EXAMPLE_LENGTH, _EXAMPLE_PADDING = 2, 3, 7, 3


def load(item: WorkItem, source_dir: Path, placeholders: PlaceholderWeights | None = None) -> PreTrainedModel:
    """Load the model, with the modules that a sentence-transformers source has behind it: see loading and chain."""
    model = loading.load(item, source_dir, placeholders)
    chain.attach(item, model, source_dir=source_dir, placeholders=placeholders)
    return model


def whole(item: WorkItem, model: PreTrainedModel) -> Forward:
    """Return the model with the outputs of its task, its source's modules and its recipe."""
    return Forward(item, model, outputs=outputs(item, model)).eval()


class _OfAnyBatch(Forward):
    """A model of mBART's kind, which shifts its input to the right and would lose the axis of a batch of one row."""

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        code: Any = sys.modules[type(self.model).__module__]
        own, code.shift_tokens_right = code.shift_tokens_right, _shifted
        try:
            return super().forward(**inputs)
        finally:
            code.shift_tokens_right = own


def _shifted(input_ids: torch.Tensor, pad_token_id: int) -> torch.Tensor:
    """Put the last token that is no padding first, and all others one place later, at any number of rows."""
    last = input_ids.ne(pad_token_id).sum(dim=1, keepdim=True) - 1
    return torch.cat([input_ids.gather(1, last), input_ids[:, :-1]], dim=1)


def _traced(item: WorkItem, model: PreTrainedModel) -> Forward:
    """Return the model that is traced: whole, but for functions of its own code that fix the batch."""
    shift = getattr(sys.modules[type(model).__module__], "shift_tokens_right", None)
    wraps = shift is not None and list(inspect.signature(shift).parameters) == ["input_ids", "pad_token_id"]
    return (_OfAnyBatch if wraps else Forward)(item, model, outputs=outputs(item, model)).eval()


def graphs(item: WorkItem, model: PreTrainedModel) -> tuple[GraphSpec, ...]:
    """Return the one graph of an encoder.

    Raises:
        ExportUnsupported: the model reads an input that no graph takes.
    """
    for refusal in further_inputs.refused(_parameters(model), model.config.to_dict()):
        raise ExportUnsupported(
            f"{item.model.at_commit}: {item.model.architecture} takes {refusal.name}, "
            f"{refusal.why}; its answers depend on it and no graph takes it: serve the model with PyTorch, or take it "
            f"out of the catalogue"
        )
    module, further = _traced(item, model), further_of(model)
    choices = item.model.task == "multiple-choice"
    axes = _CHOICES if choices else _TOKENS
    example = _example(model, further, choices=choices)
    return (
        GraphSpec(
            role="model",
            module=module,
            example_inputs=example,
            inputs=dict.fromkeys(example, axes) | {each.name: _axes(each, tokens=axes) for each in further},
            outputs=_outputs(module, example, further),
        ),
    )


def further_of(model: PreTrainedModel) -> tuple[FurtherInput, ...]:
    """Return what the model takes beside tokens, mask and token types."""
    return further_inputs.of_model(_parameters(model), model.config.to_dict())


def takes_token_types(model: PreTrainedModel) -> bool:
    """Say whether sentence A and B are told apart: RoBERTa has the argument, and one type only."""
    return "token_type_ids" in _parameters(model) and getattr(model.config, "type_vocab_size", 0) > 1


def _example(model: PreTrainedModel, further: Iterable[FurtherInput], *, choices: bool) -> dict[str, Tensor]:
    """Make rows of unequal lengths, with a valid value of everything that the model takes."""
    shape = (_EXAMPLE_BATCH, _EXAMPLE_CHOICES, _EXAMPLE_LENGTH) if choices else (_EXAMPLE_BATCH, _EXAMPLE_LENGTH)
    example = _rows(model, shape)
    if takes_token_types(model):
        example["token_type_ids"] = (torch.arange(_EXAMPLE_LENGTH) > _EXAMPLE_LENGTH // 2).long().expand(shape).clone()
    rng, real = np.random.default_rng(0), example["attention_mask"].numpy().astype(bool)
    return example | {each.name: torch.from_numpy(each.values(rng, real=real)) for each in further}


def outputs(item: WorkItem, model: PreTrainedModel) -> dict[str, Shape]:
    """Return the task's outputs; behind the hidden states, the projected text where a text model has a projection.

    Consumers that know no names take the first output.
    """
    of_task = OUTPUTS[item.model.task]
    projected = of_task == _HIDDEN and "text_embeds" in model_class.output_names(type(model))
    return {**of_task, **(_PROJECTED if projected else {})}


def _rows(model: PreTrainedModel, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Make texts as the source's tokenizer frames them, the last of the batch shorter and padded."""
    rng, space = (
        np.random.default_rng(0),
        text_inputs.token_space(Path(str(model.name_or_path)), model_limits.of(model)),
    )
    ids, short = text_inputs.random_ids(space, shape, rng=rng), shape[-1] - _EXAMPLE_PADDING
    mask = np.ones(shape, dtype=np.int64)
    ids[-1, ..., :short] = text_inputs.random_ids(space, (*shape[1:-1], short), rng=rng)
    ids[-1, ..., short:], mask[-1, ..., short:] = space.pad_token_id, 0
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def _axes(each: FurtherInput, *, tokens: Shape) -> Shape:
    return (*(tokens if each.per == "token" else ("batch_size",)), *(None for _ in each.shape))


def _outputs(module: Forward, example: Mapping[str, Tensor], further: Iterable[FurtherInput]) -> dict[str, Shape]:
    """Return the outputs; those with values for both text tokens and a page image's tokens get the joint length."""
    if all(each.per == "token" for each in further):
        return module.outputs
    with torch.inference_mode():
        found = module(**example)
    return {
        name: ("batch_size", JOINT_LENGTH, *shape[2:])
        if shape[:2] == _TOKENS and found[name].shape[1] != _EXAMPLE_LENGTH
        else shape
        for name, shape in module.outputs.items()
    }


def _parameters(model: PreTrainedModel) -> frozenset[str]:
    return frozenset(inspect.signature(model.forward).parameters)


FAMILY = Family(name="encoder", load=load, whole=whole, graphs=graphs, further=further_of)

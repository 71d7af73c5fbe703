"""Encoders: one graph, tokens in, hidden states or a head's logits out. Imports torch and transformers."""

from __future__ import annotations

import inspect

import torch
from transformers import PreTrainedModel

from onnx_fleet.families import Family, GraphSpec, Shape, model_class
from onnx_fleet.families.forward import Forward
from onnx_fleet.families.loading import load
from onnx_fleet.plan import WorkItem

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
    "multiple-choice": {"logits": ("batch_size", "num_choices")},
}

_EXAMPLE_BATCH, _EXAMPLE_CHOICES, _EXAMPLE_LENGTH, _EXAMPLE_PADDING = 2, 3, 7, 3


def whole(item: WorkItem, model: PreTrainedModel) -> Forward:
    """The model with the outputs of its task, and its recipe's."""
    return Forward(item, model, outputs=outputs(item, model)).eval()


def graphs(item: WorkItem, model: PreTrainedModel) -> tuple[GraphSpec, ...]:
    """The one graph of an encoder."""
    module, config = whole(item, model), model.config
    choices = item.model.task == "multiple-choice"
    shape = (_EXAMPLE_BATCH, _EXAMPLE_CHOICES, _EXAMPLE_LENGTH) if choices else (_EXAMPLE_BATCH, _EXAMPLE_LENGTH)
    attention_mask = torch.ones(shape, dtype=torch.int64)
    attention_mask[-1, ..., -_EXAMPLE_PADDING:] = 0
    tokens = (torch.arange(attention_mask.numel()).reshape(shape) * 31 + config.vocab_size // 2) % config.vocab_size
    padding = getattr(config, "pad_token_id", None) or 0
    example = {
        "input_ids": torch.where(attention_mask.bool(), tokens, padding),
        "attention_mask": attention_mask,
    }
    if takes_token_types(model):
        example["token_type_ids"] = (torch.arange(_EXAMPLE_LENGTH) > _EXAMPLE_LENGTH // 2).long().expand(shape).clone()
    return (
        GraphSpec(
            role="model",
            module=module,
            example_inputs=example,
            inputs=dict.fromkeys(example, _CHOICES if choices else _TOKENS),
            outputs=module.outputs,
        ),
    )


def outputs(item: WorkItem, model: PreTrainedModel) -> dict[str, Shape]:
    """The task's; a text model with a projection gives the projected text too, behind the hidden states.

    Consumers that know no names take the first output.
    """
    of_task = OUTPUTS[item.model.task]
    projected = of_task == _HIDDEN and "text_embeds" in model_class.output_names(type(model))
    return {**of_task, **(_PROJECTED if projected else {})}


def takes_token_types(model: PreTrainedModel) -> bool:
    """Whether sentence A and B are told apart: RoBERTa has the argument, and one type only."""
    accepts = "token_type_ids" in inspect.signature(model.forward).parameters
    return accepts and getattr(model.config, "type_vocab_size", 0) > 1


FAMILY = Family(name="encoder", load=load, whole=whole, graphs=graphs)

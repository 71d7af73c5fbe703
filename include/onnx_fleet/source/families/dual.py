"""Dual encoders: text and images in one space. Imports torch and transformers.

Three graphs: both sides with their similarities, and each side alone, so that a catalogue of images is encoded once.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.source.families import Family, GraphSpec, Shape
from onnx_fleet.source.families.loading import load
from onnx_fleet.source.families.vision import Sight, pixels, sight

OUTPUTS: dict[str, Shape] = {
    "logits_per_image": ("image_batch_size", "text_batch_size"),
    "logits_per_text": ("text_batch_size", "image_batch_size"),
    "text_embeds": ("text_batch_size", None),
    "image_embeds": ("image_batch_size", None),
}
_UNMASKED = frozenset({"siglip"})
"""The model types whose texts are always padded to the same length, and read with their padding."""
_PROJECTED = ("text_embeds", "image_embeds")
_POOLED = ("pooler_output", "pooler_output")
"""The outputs of SigLIP's sides: it has no projection, and consumers read their pooled vector."""

_IMAGES, _TEXTS, _LENGTH, _PADDING = 2, 3, 7, 3


class _Part(torch.nn.Module):
    """A part of the whole model's work."""

    def __init__(self, model: PreTrainedModel, *, seen: Sight) -> None:
        super().__init__()
        self.model = model
        self.config: PretrainedConfig = model.config
        self.seen = seen


class Both(_Part):
    """Texts and images together, with their similarities."""

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        self.seen.require(inputs["pixel_values"])
        given = self.model(**inputs, return_dict=True)
        return {name: given[name] for name in OUTPUTS}


class Text(_Part):
    """Texts alone, projected and not normalised: float32 [batch_size, size]."""

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        given = self.model.get_text_features(**inputs, return_dict=True)  # type: ignore[operator]
        return {_names(self.model)[0]: given["pooler_output"], "last_hidden_state": given["last_hidden_state"]}


class Vision(_Part):
    """Images alone, projected and not normalised: float32 [batch_size, size]."""

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        self.seen.require(inputs["pixel_values"])
        given = self.model.get_image_features(**inputs, return_dict=True)  # type: ignore[operator]
        return {_names(self.model)[1]: given["pooler_output"]}


def whole(item: WorkItem, model: PreTrainedModel) -> Both:
    """Return both sides in one call."""
    return Both(model, seen=_sight(item, model)).eval()


def graphs(item: WorkItem, model: PreTrainedModel) -> tuple[GraphSpec, ...]:
    """Return the graphs of the whole, then of each side.

    Raises:
        ExportUnsupported: the model's images are no images but patches in rows, each with a shape of its own.
    """
    seen = _sight(item, model)
    image = {"pixel_values": pixels(model, _IMAGES, seen)}
    text = _texts(model)
    both: dict[str, Tensor] = {"input_ids": text["input_ids"], **image, **text}
    axes: dict[str, Shape] = dict.fromkeys(text, ("text_batch_size", "sequence_length"))
    axes = {name: axes.get(name, ("image_batch_size", None, "height", "width")) for name in both}
    text_output, image_output = _names(model)
    return (
        GraphSpec(
            role="model",
            module=Both(model, seen=seen).eval(),
            example_inputs=both,
            inputs=axes,
            outputs=OUTPUTS,
            fixable=("height", "width"),
        ),
        GraphSpec(
            role="text_model",
            module=Text(model, seen=seen).eval(),
            example_inputs=text,
            inputs=dict.fromkeys(text, ("batch_size", "sequence_length")),
            outputs={text_output: ("batch_size", None), "last_hidden_state": ("batch_size", "sequence_length", None)},
        ),
        GraphSpec(
            role="vision_model",
            module=Vision(model, seen=seen).eval(),
            example_inputs=image,
            inputs={"pixel_values": ("batch_size", None, "height", "width")},
            outputs={image_output: ("batch_size", None)},
            fixable=("height", "width"),
        ),
    )


def _sight(item: WorkItem, model: PreTrainedModel) -> Sight:
    if model.config.model_type == "siglip2":
        raise ExportUnsupported(
            f"{item.model.at_commit}: {item.model.architecture} takes rows of patches and fits "
            f"its position table for every image of a batch by itself, which no graph can; take a checkpoint of one "
            f"image size, whose model_type is siglip"
        )
    return sight(item, model, see=model.get_image_features)  # type: ignore[arg-type]


def _texts(model: PreTrainedModel) -> Mapping[str, Tensor]:
    """Make rows of different lengths, each with its end token, which CLIP pools."""
    config = model.config.get_text_config()
    mask = torch.ones(_TEXTS, _LENGTH, dtype=torch.int64)
    mask[-1, -_PADDING:] = 0
    tokens = (torch.arange(mask.numel()).reshape(mask.shape) * 31 + config.vocab_size // 2) % config.vocab_size
    input_ids = torch.where(mask.bool(), tokens, config.pad_token_id or 0)
    end = config.eos_token_id
    if isinstance(end, int) and 0 <= end < config.vocab_size:
        input_ids.scatter_(1, mask.sum(dim=1, keepdim=True) - 1, end)
    masked = model.config.model_type not in _UNMASKED
    return {"input_ids": input_ids, "attention_mask": mask} if masked else {"input_ids": input_ids}


def _names(model: PreTrainedModel) -> tuple[str, str]:
    """Return the names of the outputs of text alone and of images alone."""
    return _POOLED if model.config.model_type in _UNMASKED else _PROJECTED


FAMILY = Family(name="dual", load=load, whole=whole, graphs=graphs)

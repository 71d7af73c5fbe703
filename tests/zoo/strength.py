"""Whether a model's outputs could tell a broken graph: of unit size, different everywhere, moved by every input."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.architecture import Architecture
from zoo.feeds import Feeds, feeds

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SMALLEST, LARGEST = 0.03, 100.0
"""Standard deviation of an output."""
MOVED = 0.005
"""The least movement, as a part of the output's size: five times what a graph may differ by."""

_OUTPUTS = (
    "logits",
    "class_queries_logits",
    "masks_queries_logits",
    "start_logits",
    "end_logits",
    "pred_boxes",
    "predicted_depth",
    "reconstruction",
    "logits_per_image",
    "text_embeds",
    "image_embeds",
    "last_hidden_state",
)
_CAUSAL_TEXT = ("CLIPModel", "CLIPSegModel", "MetaClip2Model", "GroupViTModel")
"""They pool the end token and look back only: padding behind it cannot matter, masked or not."""
_MASK_BEHIND = "attention_mask without_effect: outputs move by 0 of their size"
_PER_TOKEN = ("feature-extraction", "fill-mask", "token-classification", "question-answering", "text-generation")


def outputs(model: PreTrainedModel, given: Feeds) -> dict[str, Tensor]:
    """The float outputs that a graph would give."""
    with torch.inference_mode():
        found = model(**given, return_dict=True)
    named = {name: found[name] for name in _OUTPUTS if found.get(name) is not None}
    if "logits" in named and len(named) > 1:
        named.pop("last_hidden_state", None)
    return named


def weaknesses(architecture: Architecture, model: PreTrainedModel) -> list[str]:
    """Why the model would be a weak test; empty when it is a strong one."""
    found = _faults(architecture, model, feeds(architecture, model))
    if found == [_MASK_BEHIND] and "input_ids" in inspect.signature(model.forward).parameters:
        # What only looks back cannot see padding behind a text; it is held to padding in front as well.
        return _faults(architecture, model, feeds(architecture, model, left=True))
    return found


def _faults(architecture: Architecture, model: PreTrainedModel, given: Feeds) -> list[str]:
    own = outputs(model, given)
    found = [] if own else ["no output of a known name"]
    for name, output in own.items():
        found += [f"{name}: {fault}" for fault in _of_output(architecture, output)]
    for change, other in _changes(architecture, given):
        changed = outputs(model, other)
        real = _real(given)
        moved = {name: _distance(output, changed[name], real=real) for name, output in own.items()}
        if max(moved.values(), default=0.0) < MOVED:
            found.append(f"{change}: outputs move by {max(moved.values(), default=0.0):.2g} of their size")
    return found


def _of_output(architecture: Architecture, output: Tensor) -> Iterator[str]:
    if not torch.isfinite(output).all():
        yield "not finite"
        return
    size = float(output.std())
    if not SMALLEST <= size <= LARGEST:
        yield f"size {size:.2g}"
    if float((output[0] - output[1]).abs().max()) < MOVED * size:
        yield "identical rows"
    per_token = architecture.task in _PER_TOKEN and output.dim() > 1
    if per_token and float((output[0, 0] - output[0, 1]).abs().max()) < MOVED * size:
        yield "identical positions"


def _changes(architecture: Architecture, given: Feeds) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every input that a graph could lose, lost."""
    for name, change in _CHANGES.items():
        if name == "attention_mask" and (architecture.family == "vlm" or architecture.name in _CAUSAL_TEXT):
            continue
        if name in given:
            yield f"{name} {change.__name__.strip('_')}", {**given, name: change(given[name])}


def _without_effect(mask: Tensor) -> Tensor:
    return torch.ones_like(mask)


def _last_token_changed(ids: Tensor) -> Tensor:
    """The last word: an end token behind it stays, for those that are read there."""
    changed = ids.clone()
    place = -2 if int(ids.flatten(1)[0, -1]) < 8 else -1
    changed[:2, ..., place] = (ids[:2, ..., place] + 1 - 8) % (120 - 8) + 8
    return changed


def _corner_changed(pixels: Tensor) -> Tensor:
    changed = pixels.clone()
    changed[..., -pixels.shape[-2] // 4 :, -pixels.shape[-1] // 4 :] *= -1
    return changed


def _end_changed(sound: Tensor) -> Tensor:
    changed = sound.clone()
    changed[:2, ..., -400:] *= -1
    return changed


def _forgotten(values: Tensor) -> Tensor:
    return torch.zeros_like(values)


_CHANGES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "attention_mask": _without_effect,
    "input_ids": _last_token_changed,
    "decoder_input_ids": _last_token_changed,
    "pixel_values": _corner_changed,
    "input_features": _end_changed,
    "input_values": _end_changed,
    "bbox": _forgotten,
    "xpath_tags_seq": _forgotten,
    "xpath_subs_seq": _forgotten,
    "task_type_ids": _forgotten,
    "langs": _forgotten,
    "input_shape_ids": _forgotten,
    "input_pronunciation_ids": _forgotten,
}


def _real(given: Feeds) -> Tensor | None:
    real = given.get("attention_mask")
    return None if real is None else real.bool()


def _distance(output: Tensor, other: Tensor, *, real: Tensor | None) -> float:
    """Where tokens are real, and as a part of the output's size."""
    moved = (output - other).abs()
    if real is not None and moved.shape[: real.dim()] == real.shape:
        moved = moved[real]
    return float(moved.max() / output.std())

"""The tensors that a source's class takes, as the class declares, and those that its graphs may do without.

Imports torch and transformers. Nothing here is asked of the family that cuts the graphs: an input that it forgot is
found by the class's signature. A name that is not in the table is an input that the graphs need.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoFeatureExtractor, PretrainedConfig, PreTrainedModel

from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ExportUnsupported

_NO_TENSORS = ("output_", "return_", "use_")
"""The beginnings of flags' names that have no type annotation."""
_BEHIND_AN_ENCODER: Mapping[str, str] = {
    "decoder_input_ids": "input_ids",
    "attention_mask": "encoder_attention_mask",
}
"""The name in the decoder's graph of an input of the whole model."""
_OF_THE_TARGET = ("decoder_input_ids", "decoder_inputs_embeds")
"""The inputs that classifiers and readers among encoder-decoders make for themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfed:
    """A tensor that the class takes and no graph does."""

    name: str
    reason: str
    """The reason why the graphs may do without it, for people; empty where nothing says so."""
    doubtful: bool = False
    """Whether the class may take it and make no use of it: only trying it tells."""


def taken(model: PreTrainedModel) -> tuple[str, ...]:
    """Return every parameter of forward that is or may be a tensor; those that it hands on to its bare model, too."""
    parameters = dict(inspect.signature(model.forward).parameters)
    hands_on = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    bare = inspect.signature(model.base_model.forward).parameters
    if hands_on and model.main_input_name in bare:
        parameters = {**bare, **parameters}
    return tuple(name for name, parameter in parameters.items() if _is_tensor(parameter))


def unfed(
    item: WorkItem, model: PreTrainedModel, *, fed: Iterable[str], made: Collection[str] | None = None
) -> tuple[Unfed, ...]:
    """Return what the class takes beside the graphs' inputs.

    Args:
        fed: the names of all inputs of all graphs.
        made: the inputs that the source's own tokenizer and preprocessor make; None where they were not asked.
    """
    given = set(fed)
    if "encoder_hidden_states" in given:
        given |= {own for own, name in _BEHIND_AN_ENCODER.items() if name in given}
    found = (_judged(name, item=item, model=model, given=given) for name in taken(model) if name not in given)
    return tuple(_told(each, made) for each in found)


def _told(found: Unfed, made: Collection[str] | None) -> Unfed:
    """Take account of the source's own tokenizer: what that makes is tried, whatever the table of all models says."""
    if made is None:
        return found
    if found.name in _OF_THE_MODEL and found.name in made:
        return replace(found, doubtful=True)
    if found.doubtful and found.name not in made:
        return replace(found, reason="the source's own tokenizer and preprocessor make none", doubtful=False)
    return found


def require_fed(item: WorkItem, model: PreTrainedModel, *, fed: Iterable[str]) -> None:
    """Refuse a model of which an input would be lost, before it is traced.

    Raises:
        ExportUnsupported: nothing says that the graphs may do without an input of the class.
    """
    lost = [each.name for each in unfed(item, model, fed=fed) if not each.reason and not each.doubtful]
    if lost:
        raise ExportUnsupported(f"{item.model.at_commit}: {complaint(model, lost)}")


def complaint(model: PreTrainedModel, lost: Iterable[str]) -> str:
    """Say for people what is lost, and what to do."""
    return (
        f"{type(model).__name__} takes {', '.join(lost)}, and the graphs of this task have no such input: they would "
        f"be right only where nobody gives it; serve it with PyTorch, or remove the entry"
    )


def _is_tensor(parameter: inspect.Parameter) -> bool:
    if parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL) or parameter.name == "self":
        return False
    if parameter.annotation is inspect.Parameter.empty:
        return not isinstance(parameter.default, bool) and not parameter.name.startswith(_NO_TENSORS)
    return "Tensor" in str(parameter.annotation)


def _judged(name: str, *, item: WorkItem, model: PreTrainedModel, given: set[str]) -> Unfed:
    config = model.config
    if name in _OF_THE_MODEL:
        return Unfed(name=name, reason=_OF_THE_MODEL[name])
    if name in _INSTEAD and (instead := _INSTEAD[name]) and given & set(instead[0]):
        return Unfed(name=name, reason=instead[1])
    if name in _BY_CONFIGURATION and _BY_CONFIGURATION[name][0](config):
        return Unfed(name=name, reason=_BY_CONFIGURATION[name][1])
    if name in _OF_THE_TARGET and item.family == "encoder" and config.is_encoder_decoder:
        return Unfed(name=name, reason="the model makes its target of the text itself, moved on by one token")
    if name == "token_type_ids":
        return _token_types(item, config)
    if name == "attention_mask" and item.family == "vision":
        return Unfed(name=name, reason="every patch is seen by itself, and no image processor makes it")
    if name == "attention_mask" and item.family == "speech" and makes_no_mask(Path(str(model.name_or_path))):
        return Unfed(name=name, reason="its feature extractor makes none: it was trained on padded sound without it")
    return Unfed(name=name, reason="", doubtful=name in _DOUBTFUL or _is_unannotated(name, model))


def _is_unannotated(name: str, model: PreTrainedModel) -> bool:
    parameter = inspect.signature(model.forward).parameters.get(name)
    return parameter is not None and parameter.annotation is inspect.Parameter.empty


def _token_types(item: WorkItem, config: PretrainedConfig) -> Unfed:
    name = "token_type_ids"
    types = getattr(config.get_text_config(), "type_vocab_size", None)
    if isinstance(types, int) and types <= 1:
        return Unfed(name=name, reason="it has one token type only")
    if item.family in ("decoder", "seq2seq", "speech", "vlm"):
        return Unfed(name=name, reason="what a model goes on writing has no parts: generation feeds none")
    if item.family == "dual":
        return Unfed(name=name, reason="a text beside an image has one part: its tokens are of type 0, as by default")
    return Unfed(name=name, reason="", doubtful=True)


def makes_no_mask(source_dir: Path) -> bool:
    """Say whether a source's feature extractor of sound does not mark padding."""
    if not (source_dir / "preprocessor_config.json").is_file():
        return False
    extractor = AutoFeatureExtractor.from_pretrained(source_dir)  # type: ignore[no-untyped-call]
    return getattr(extractor, "return_attention_mask", None) is False


_KEPT = "the model keeps it between calls by itself, and the graphs have their own names for it"
_LOSS = "it is compared with outputs, and reaches the loss only"
_COUNTED = "the model counts places by itself where none are given"
_COMPUTED = "the model computes it from its other inputs"
_TRAINING = "it hides parts of an input for training"

_OF_THE_MODEL: Mapping[str, str] = {
    **dict.fromkeys(("past_key_values", "cache_position", "mems", "cache", "state", "past_buckets_states"), _KEPT),
    **dict.fromkeys(
        (
            "labels", "start_positions", "end_positions", "next_sentence_label", "sentence_order_label", "mask_labels",
            "class_labels", "entity_labels", "is_impossible", "cls_index", "p_mask", "bbox_first_token_mask",
            "loss_mask", "router_labels", "table_mask",
        ),
        _LOSS,
    ),
    **dict.fromkeys(("position_ids", "decoder_position_ids"), _COUNTED),
    **dict.fromkeys(
        (
            "encoder_outputs", "mm_encoder_outputs", "image_hidden_states", "per_layer_inputs", "question_positions",
            "question_lengths",
        ),
        _COMPUTED,
    ),
    **dict.fromkeys(("bool_masked_pos", "mask_time_indices", "noise"), _TRAINING),
    "patch_attention_mask": "every patch is seen by itself, and no image processor makes it",
    **dict.fromkeys(
        ("visual_pos_masks", "deepstack_visual_embeds"),
        "a larger model gives it of its images, and no tokenizer makes it",
    ),
    "head_mask": "it switches heads off to study them",
    "logits_to_keep": "it says which of the outputs are wanted",
    "decoder_attention_mask": "generated text has no padding in front, and what is behind is seen by no token",
    "global_attention_mask": "the model sets it by itself for the task, and no tokenizer makes it",
    "perm_mask": "it is for training on words in another order, and no tokenizer makes it",
    "target_mapping": "it is for training on words in another order, and no tokenizer makes it",
    "input_mask": "it says what attention_mask says, the other way round",
    "lengths": "it says what attention_mask says, in numbers",
    "sequence_id": "it says which of several chains in one row a token is of, and no tokenizer makes it",
}  # fmt: skip
"""The inputs that the model fills in by itself, or that no user of an exported model has."""

_INSTEAD: Mapping[str, tuple[tuple[str, ...], str]] = {
    "inputs_embeds": (("input_ids", "inputs", "pixel_values"), "it stands for what it is made of"),
    "decoder_inputs_embeds": (("decoder_input_ids", "pixel_values"), "the model has its own"),
    "inputs": (("input_ids", "pixel_values"), "it is the model's other name of what is fed"),
    "subsampled_output_points": (("input_ids", "pixel_values"), "it picks points of several kinds of input at once"),
    "image_grid_hw": (("pixel_values",), "it is for images that are cut into patches already"),
}
"""The inputs that stand for others which the graphs take."""


def _of(name: str, value: Any) -> Callable[[PretrainedConfig], bool]:
    return lambda config: getattr(config, name, None) == value


def _sees_one_size(config: PretrainedConfig) -> bool:
    """Say whether a model of LLaVA's kind sees one size only, because its tower takes no images of several."""
    sight = getattr(config, "vision_config", None)
    return config.model_type == "llava" and getattr(sight, "model_type", None) != "pixtral"


def _without_cross_attention(config: PretrainedConfig) -> bool:
    return not (getattr(config, "is_decoder", False) and getattr(config, "add_cross_attention", False))


_BY_CONFIGURATION: Mapping[str, tuple[Callable[[PretrainedConfig], bool], str]] = {
    "encoder_hidden_states": (_without_cross_attention, "it has no attention to another model's states"),
    "encoder_attention_mask": (_without_cross_attention, "it has no attention to another model's states"),
    "langs": (lambda config: getattr(config, "n_langs", 1) <= 1 or not config.use_lang_emb, "it knows one language"),
    "lang_ids": (lambda config: len(getattr(config, "languages", ())) <= 1, "it has adapters of one language"),
    "image_sizes": (_sees_one_size, "its images are all of one size"),
    "pixel_values": (_of("visual_embed", False), "its configuration has no images of pages"),
    "task_type_ids": (_of("use_task_id", False), "its configuration has no types of tasks"),
    "input_shape_ids": (_of("enable_shape", False), "its configuration has no shapes of characters"),
    "input_pronunciation_ids": (_of("enable_pronunciation", False), "its configuration has no pronunciations"),
}
"""The inputs that some configurations make no use of."""

_DOUBTFUL = frozenset({"attention_mask", "pixel_mask", "image_sizes"})
"""The inputs that some classes take for the sake of others, and never read."""

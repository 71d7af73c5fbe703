"""Vision-language models: three graphs for consumers to put together. Imports torch.

``embed_tokens`` turns the prompt into vectors, ``vision_encoder`` every image into as many vectors as the prompt has
image tokens for it, and ``decoder_model_merged`` goes on from both, with a cache. Putting the second's rows where the
image tokens are is the consumer's work.

A model is cut so when its images all have one size, each takes the same number of tokens, and its own
``get_image_features`` makes those of the pixels alone, as LLaVA's kin do. SmolVLM's class takes masks besides.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.graphs import image_inputs
from onnx_fleet.source.families import Family, GraphSpec, Shape, decoder, loading
from onnx_fleet.source.families.vision import pixels, sight
from onnx_fleet.source.placeholder_weights import PlaceholderWeights

_MASKED = frozenset({"smolvlm", "idefics3"})
"""The model types that take rows of images, filled up with masks: [batch_size, num_images, …]."""
_SIZES = "image_sizes"
"""The input that LLaVA hands on to a tower that takes it, as Pixtral's does; to the others it is nothing."""
_MARKS = ("token_type_ids", "mm_token_type_ids")
"""The inputs that mark a prompt's image tokens, by which a decoder attends otherwise: the cut has no place for them."""

_TOKENS: Shape = ("batch_size", "sequence_length")
_FLAT_IMAGES: Shape = ("image_batch_size", None, None, None)
_IMAGES: Shape = ("batch_size", "num_images", None, None, None)
_IMAGE_MASKS: Shape = ("batch_size", "num_images", None, None)
_EXAMPLE_BATCH, _EXAMPLE_IMAGES, _EXAMPLE_LENGTH = 2, 3, 5


class _Part(torch.nn.Module):
    """A part of the whole model's work."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.config: PretrainedConfig = model.config


class Whole(_Part):
    """Images and prompt in one pass, without a cache."""

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return {"logits": self.model(**inputs, use_cache=False, return_dict=True).logits}


class Embed(_Part):
    """Tokens to vectors: float32 [batch_size, sequence_length, size]."""

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return {"inputs_embeds": self.model.get_input_embeddings()(inputs["input_ids"])}


class Look(_Part):
    """Images to vectors: float32 [images, tokens of one image, size]."""

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        given = _looker(self.model).get_image_features(**inputs, return_dict=True)
        features = given.pooler_output
        return {"image_features": features if isinstance(features, Tensor) else torch.stack(tuple(features))}


class LookThroughMasks(_Part):
    """Images to vectors, without the images that are there only to fill up a row."""

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        own = self.model.model
        pixels = inputs["pixel_values"].flatten(0, 1)
        seen = inputs["pixel_attention_mask"].flatten(0, 1)
        # transformers takes the fillers out before the encoder: no other image sees them, and no trace can branch on
        # how many they are. Here they are taken out behind it.
        real = (pixels != 0).flatten(1).any(dim=1)
        patch = self.config.vision_config.patch_size
        patches = seen.unfold(1, patch, patch).unfold(2, patch, patch).flatten(3).any(dim=3)
        states = own.vision_model(pixel_values=pixels, patch_attention_mask=patches, return_dict=True)
        features = own.connector(states.last_hidden_state)
        return {"image_features": features.index_select(0, real.nonzero().squeeze(1))}


def load(item: WorkItem, source_dir: Path, placeholders: PlaceholderWeights | None = None) -> PreTrainedModel:
    """Load a model that looks at images in a way that is known here.

    Raises:
        ExportUnsupported: how many tokens an image takes, or where they go, is otherwise in this model.
    """
    model = loading.load(item, source_dir, placeholders)
    if model.config.model_type not in _MASKED and (why := "; ".join(obstacles(model))):
        raise ExportUnsupported(
            f"{item.model.at_commit}: {item.model.architecture} looks at images in a way that is "
            f"not proven here: {why}; serve it with PyTorch, or take it out of the catalogue"
        )
    return model


def obstacles(model: PreTrainedModel) -> Iterator[str]:
    """Say what keeps a model from being cut into prompt, images and decoder."""
    look = getattr(_looker(model), "get_image_features", None)
    if look is None:
        yield "it has no get_image_features"
        return
    for name, parameter in inspect.signature(look).parameters.items():
        takes = parameter.kind is not inspect.Parameter.VAR_KEYWORD and "Tensor" in str(parameter.annotation)
        idle = name == _SIZES and parameter.default is None and not _reaches_a_part(model, name)
        if takes and not idle and name != "pixel_values":
            yield f"it takes {name} beside the pixels"
    for name in _MARKS:
        if name in inspect.signature(model.forward).parameters:
            yield f"its decoder takes {name}"


def _looker(model: PreTrainedModel) -> Any:
    """Return the part that looks at images: the model itself, or, as in Janus, what is behind its language head."""
    return model if hasattr(model, "get_image_features") else getattr(model, "model", model)


def _reaches_a_part(model: PreTrainedModel, name: str) -> bool:
    parts = (part for part in model.modules() if not hasattr(part, "get_image_features"))
    return any(name in inspect.signature(part.forward).parameters for part in parts)


def whole(item: WorkItem, model: PreTrainedModel) -> Whole:
    """Return the model in one pass, with every position's logits."""
    return Whole(model).eval()


def graphs(item: WorkItem, model: PreTrainedModel) -> tuple[GraphSpec, ...]:
    """Return the graphs of the prompt's vectors, the images' vectors, and the decoder."""
    (plain,) = decoder.graphs(item, model)
    tokens = plain.example_inputs["input_ids"]
    with torch.inference_mode():
        embeds = model.get_input_embeddings()(tokens).clone()
    example = {name: tensor for name, tensor in plain.example_inputs.items() if name != "input_ids"}
    axes = {name: shape for name, shape in plain.inputs.items() if name != "input_ids"}
    return (
        GraphSpec(
            role="embed_tokens",
            module=Embed(model).eval(),
            example_inputs={"input_ids": tokens},
            inputs={"input_ids": _TOKENS},
            outputs={"inputs_embeds": (*_TOKENS, None)},
        ),
        _looking(item, model),
        replace(
            plain,
            role="decoder_model_merged",
            example_inputs={"inputs_embeds": embeds, **example},
            inputs={"inputs_embeds": (*_TOKENS, None), **axes},
        ),
    )


def _looking(item: WorkItem, model: PreTrainedModel) -> GraphSpec:
    """Return the graph that sees: images in rows with masks, or one after the other, all of the model's one size."""
    features: dict[str, Shape] = {"image_features": ("image_batch_size", None, None)}
    if model.config.model_type in _MASKED:
        return GraphSpec(
            role="vision_encoder",
            module=LookThroughMasks(model).eval(),
            example_inputs=_example_images(model),
            inputs={"pixel_values": _IMAGES, "pixel_attention_mask": _IMAGE_MASKS},
            outputs=features,
        )
    seen = sight(item, model, see=_looker(model).get_image_features)
    return GraphSpec(
        role="vision_encoder",
        module=Look(model).eval(),
        example_inputs={"pixel_values": pixels(model, _EXAMPLE_IMAGES, seen)},
        inputs={"pixel_values": _FLAT_IMAGES},
        outputs=features,
    )


def _example_images(model: PreTrainedModel) -> dict[str, Tensor]:
    """Make rows of unequally many images, one of them not filled to its edge."""
    sight = model.config.vision_config
    size = (int(sight.image_size), int(sight.image_size))
    made = image_inputs.batch(
        _EXAMPLE_BATCH * _EXAMPLE_IMAGES, channels=sight.num_channels, size=size, seed=0, kind="noise", settings={}
    )
    pixels = torch.from_numpy(made).reshape(_EXAMPLE_BATCH, _EXAMPLE_IMAGES, *made.shape[1:])
    mask = torch.ones(_EXAMPLE_BATCH, _EXAMPLE_IMAGES, *size, dtype=torch.bool)
    mask[0, 1, size[0] // 2 :] = False
    mask[1, 2] = False
    return {"pixel_values": pixels * mask.unsqueeze(2), "pixel_attention_mask": mask}


FAMILY = Family(name="vlm", load=load, whole=whole, graphs=graphs)

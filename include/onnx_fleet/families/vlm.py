"""Vision-language models of the SmolVLM class: three graphs for consumers to put together. Imports torch.

``embed_tokens`` turns the prompt into vectors, ``vision_encoder`` every image into as many vectors as the prompt has
image tokens for it, and ``decoder_model_merged`` goes on from both, with a cache. Putting the second's rows where the
image tokens are is the consumer's work.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from onnx_fleet import images
from onnx_fleet.errors import ExportUnsupported
from onnx_fleet.families import Family, GraphSpec, Shape, decoder, loading
from onnx_fleet.hollow import Hollow
from onnx_fleet.plan import WorkItem
from onnx_fleet.tasks import TASKS

MODEL_TYPES = frozenset(TASKS["image-text-to-text"].model_types)
"""Those whose images, cut into squares of one size by the preprocessor, each take the same number of tokens."""

_TOKENS: Shape = ("batch_size", "sequence_length")
_IMAGES: Shape = ("batch_size", "num_images", None, None, None)
_IMAGE_MASKS: Shape = ("batch_size", "num_images", None, None)
_EXAMPLE_BATCH, _EXAMPLE_IMAGES, _EXAMPLE_LENGTH = 2, 3, 5


class _Part(torch.nn.Module):
    """Some work of the whole model."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.config: PretrainedConfig = model.config


class Whole(_Part):
    """Images and prompt in one pass, without a cache."""

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return {"logits": self.model(**inputs, use_cache=False, return_dict=True).logits}


class Embed(_Part):
    """Tokens to vectors."""

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return {"inputs_embeds": self.model.get_input_embeddings()(inputs["input_ids"])}


class Look(_Part):
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


def load(item: WorkItem, source_dir: Path, hollow: Hollow | None = None) -> PreTrainedModel:
    """As every family, for the model types that are known here.

    Raises:
        ExportUnsupported: how many tokens an image takes, or where they go, is otherwise in this model.
    """
    if item.model.model_type not in MODEL_TYPES:
        raise ExportUnsupported(
            f"{item.model.repo_id}@{item.model.commit[:8]}: {item.model.architecture} looks at images in a way that is "
            f"not proven here, only {' and '.join(sorted(MODEL_TYPES))} are; serve it with PyTorch, or take it out of "
            f"the catalogue"
        )
    return loading.load(item, source_dir, hollow)


def whole(item: WorkItem, model: PreTrainedModel) -> Whole:
    """Every position's logits at once."""
    return Whole(model).eval()


def graphs(item: WorkItem, model: PreTrainedModel) -> tuple[GraphSpec, ...]:
    """The prompt's vectors, the images' vectors, and the decoder."""
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
        GraphSpec(
            role="vision_encoder",
            module=Look(model).eval(),
            example_inputs=_example_images(model),
            inputs={"pixel_values": _IMAGES, "pixel_attention_mask": _IMAGE_MASKS},
            outputs={"image_features": ("image_batch_size", None, None)},
        ),
        replace(
            plain,
            role="decoder_model_merged",
            example_inputs={"inputs_embeds": embeds, **example},
            inputs={"inputs_embeds": (*_TOKENS, None), **axes},
        ),
    )


def _example_images(model: PreTrainedModel) -> dict[str, Tensor]:
    """Rows of unequally many images, one of them not filled to its edge."""
    sight = model.config.vision_config
    size = (int(sight.image_size), int(sight.image_size))
    made = images.batch(
        _EXAMPLE_BATCH * _EXAMPLE_IMAGES, channels=sight.num_channels, size=size, seed=0, kind="noise", settings={}
    )
    pixels = torch.from_numpy(made).reshape(_EXAMPLE_BATCH, _EXAMPLE_IMAGES, *made.shape[1:])
    mask = torch.ones(_EXAMPLE_BATCH, _EXAMPLE_IMAGES, *size, dtype=torch.bool)
    mask[0, 1, size[0] // 2 :] = False
    mask[1, 2] = False
    return {"pixel_values": pixels * mask.unsqueeze(2), "pixel_attention_mask": mask}


FAMILY = Family(name="vlm", load=load, whole=whole, graphs=graphs)

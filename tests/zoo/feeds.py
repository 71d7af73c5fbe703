"""What a zoo model is fed: real padding, unequal sizes, every row different."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.architecture import VOCABULARY, Architecture

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

BATCH, LENGTH, TARGET_LENGTH, PADDING = 3, 11, 5, 4
_SPECIAL = 8
"""Ids below are kept for special tokens."""
_SAMPLES = 6000
"""Of audio at 16 kHz: some 18 frames of Wav2Vec2."""

_FEATURE_SIZES = ("feature_projection_input_dim", "input_feat_per_channel", "num_mel_bins")

Feeds = Mapping[str, Tensor]


def feeds(architecture: Architecture, model: PreTrainedModel, *, left: bool = False) -> dict[str, Tensor]:
    """Inputs of the plain model's forward, the first row full and the last one padded the most.

    Args:
        left: an encoder's tokens are padded in front; a decoder's always are.
    """
    generator = torch.Generator().manual_seed(20)
    make: Mapping[str, Callable[..., dict[str, Tensor]]] = {
        "encoder": partial(_text, left=left),
        "decoder": _tokens,
        "seq2seq": _pair,
        "vision": _image,
        "speech": _audio,
        "dual": _tokens_and_image,
        "vlm": _prompt_with_image,
    }[architecture.family]
    given = make(architecture, model, generator)
    taken = inspect.signature(model.forward).parameters
    return {name: tensor for name, tensor in given.items() if name in taken}


def mask(length: int, *, left: bool = False) -> Tensor:
    """int64 [BATCH, length]: row 0 full, PADDING positions off in the last row."""
    made = torch.ones(BATCH, length, dtype=torch.int64)
    made[-1, : min(PADDING, length - 2)] = 0
    return made if left else made.flip(1)


def _ids(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(_SPECIAL, VOCABULARY, shape, generator=generator)


def _tokens(
    architecture: Architecture, model: PreTrainedModel, generator: torch.Generator, *, left: bool = False
) -> dict[str, Tensor]:
    in_front = left or architecture.family == "decoder" or model.config.model_type == "xlnet"
    attention_mask = mask(LENGTH, left=in_front)
    pad = getattr(model.config, "pad_token_id", None) or 0
    input_ids = torch.where(attention_mask.bool(), _ids((BATCH, LENGTH), generator), pad)
    read_at_its_end = architecture.family == "encoder" and model.config.is_encoder_decoder
    if read_at_its_end and isinstance(model.config.eos_token_id, int):
        input_ids.scatter_(1, attention_mask.sum(dim=1, keepdim=True) - 1, model.config.eos_token_id)
    if architecture.task == "multiple-choice":
        second = torch.where(attention_mask.bool(), _ids((BATCH, LENGTH), generator), pad)
        return {
            "input_ids": torch.stack([input_ids, second], dim=1),
            "attention_mask": torch.stack([attention_mask, attention_mask], dim=1),
        }
    beside = {name: make(model.config, generator) for name, make in _BESIDE_TOKENS.items()}
    real = attention_mask.bool()
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        **{
            name: torch.where(real.reshape(*real.shape, *[1] * (made.dim() - 2)), made, 0)
            for name, made in beside.items()
            if made is not None
        },
    }


def _boxes(config: PreTrainedConfig, generator: torch.Generator) -> Tensor | None:
    """[BATCH, LENGTH, 4], x0 <= x1 and y0 <= y1: places in a table, or parts of the page."""
    largest = getattr(config, "max_2d_position_embeddings", None)
    corners = torch.rand(BATCH, LENGTH, 2, 2, generator=generator).sort(dim=-2).values.flatten(2)
    if largest is not None:
        return (corners * (largest - 1)).round().long()
    return corners if hasattr(config, "bbox_scale") else None


def _steps(size: str) -> Callable[[PreTrainedConfig, torch.Generator], Tensor | None]:
    """[BATCH, LENGTH, steps]: a number below a size of the configuration for each step down a tree."""
    return lambda config, generator: (
        torch.randint(1, getattr(config, size), (BATCH, LENGTH, config.max_depth), generator=generator)
        if hasattr(config, size)
        else None
    )


def _numbers(size: str, *, read: str) -> Callable[[PreTrainedConfig, torch.Generator], Tensor | None]:
    """[BATCH, LENGTH]: a number below a size of the configuration for each token, where a setting has it read."""
    return lambda config, generator: (
        torch.randint(1, getattr(config, size), (BATCH, LENGTH), generator=generator)
        if getattr(config, read, False) and getattr(config, size) > 1
        else None
    )


_BESIDE_TOKENS: Mapping[str, Callable[[PreTrainedConfig, torch.Generator], Tensor | None]] = {
    "bbox": _boxes,
    "xpath_tags_seq": _steps("max_xpath_tag_unit_embeddings"),
    "xpath_subs_seq": _steps("max_xpath_subs_unit_embeddings"),
    "task_type_ids": _numbers("task_type_vocab_size", read="use_task_id"),
    "langs": _numbers("n_langs", read="use_lang_emb"),
    "input_shape_ids": _numbers("shape_vocab_size", read="enable_shape"),
    "input_pronunciation_ids": _numbers("pronunciation_vocab_size", read="enable_pronunciation"),
}
"""What some models of text take of every token; None where this one does not."""


def _text(
    architecture: Architecture, model: PreTrainedModel, generator: torch.Generator, *, left: bool
) -> dict[str, Tensor]:
    tokens = _tokens(architecture, model, generator, left=left)
    if not getattr(model.config, "visual_embed", False):
        return tokens
    return {**tokens, **_image(architecture, model, generator)}


def _pair(architecture: Architecture, model: PreTrainedModel, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        **_tokens(architecture, model, generator),
        "decoder_input_ids": _ids((BATCH, TARGET_LENGTH), generator),
    }


def _image(architecture: Architecture, model: PreTrainedModel, generator: torch.Generator) -> dict[str, Tensor]:
    channels = getattr(model.config, "num_channels", None) or 3
    return {"pixel_values": torch.randn(BATCH, channels, *architecture.image, generator=generator)}


def _audio(architecture: Architecture, model: PreTrainedModel, generator: torch.Generator) -> dict[str, Tensor]:
    config = model.config
    decoder = {"decoder_input_ids": _ids((BATCH, TARGET_LENGTH), generator)}
    if model.main_input_name == "input_values" and config.model_type != "audio-spectrogram-transformer":
        sound = torch.randn(BATCH, _SAMPLES, generator=generator)
        real = torch.ones(BATCH, _SAMPLES, dtype=torch.int64)
        real[-1, _SAMPLES // 2 :] = 0
        return {"input_values": sound * real, "attention_mask": real, **decoder}
    if config.model_type == "audio-spectrogram-transformer":
        return {"input_values": torch.randn(BATCH, config.max_length, config.num_mel_bins, generator=generator)}
    if config.model_type == "whisper":
        shape = (BATCH, config.num_mel_bins, 2 * config.max_source_positions)
        return {"input_features": torch.randn(shape, generator=generator), **decoder}
    width = next(
        size for name in _FEATURE_SIZES if (size := getattr(getattr(config, "encoder_config", config), name, None))
    )
    real = mask(40)
    return {"input_features": torch.randn(BATCH, 40, width, generator=generator), "attention_mask": real, **decoder}


def _tokens_and_image(
    architecture: Architecture, model: PreTrainedModel, generator: torch.Generator
) -> dict[str, Tensor]:
    tokens = _tokens(architecture, model, generator)
    end = tokens["attention_mask"].sum(dim=1, keepdim=True) - 1
    tokens["input_ids"].scatter_(1, end, model.config.text_config.eos_token_id)
    if model.config.model_type == "siglip2":
        return {**tokens, **_patches(model, generator)}
    return {**tokens, **_image(architecture, model, generator)}


def _patches(model: PreTrainedModel, generator: torch.Generator) -> dict[str, Tensor]:
    """SigLIP 2's images are rows of patches, each image with a shape of its own."""
    sight = model.config.vision_config
    return {
        "pixel_values": torch.randn(BATCH, 12, 3 * sight.patch_size**2, generator=generator),
        "pixel_attention_mask": torch.tensor([[1] * 12, [1] * 12, [1] * 8 + [0] * 4]),
        "spatial_shapes": torch.tensor([[3, 4], [4, 3], [4, 2]]),
    }


def _prompt_with_image(
    architecture: Architecture, model: PreTrainedModel, generator: torch.Generator
) -> dict[str, Tensor]:
    config = model.config
    tokens = _tokens(architecture, model, generator)
    count = architecture.image_tokens
    image = torch.full((BATCH, count), config.image_token_id)
    pixels = torch.randn(BATCH, 3, *architecture.image, generator=generator)
    several = config.model_type in ("smolvlm", "idefics3")  # [batch, images, …]
    sizes: dict[str, Tensor] = {}
    if config.model_type == "llava_next":  # [batch, the whole and its tiles, …]
        pixels = torch.stack([pixels, pixels.flip(1)], dim=1)
        sizes = {"image_sizes": torch.tensor([architecture.image] * BATCH)}
    return {
        **sizes,
        "input_ids": torch.cat([tokens["input_ids"][:, :4], image, tokens["input_ids"][:, 4:]], dim=1),
        "attention_mask": torch.ones(BATCH, LENGTH + count, dtype=torch.int64),
        "pixel_values": pixels[:, None] if several else pixels,
    }

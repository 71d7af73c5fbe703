"""Vision-language models: a prompt with an image in, text out."""

from __future__ import annotations

from typing import Any

from zoo.architecture import POSITIONS, VOCABULARY, Architecture

_TEXT: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SIGHT: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
_IMAGE_TOKEN = 7


def _row(name: str, *, image_tokens: int, **differing: Any) -> Architecture:
    """image_tokens: how many positions of the prompt one image takes."""
    return Architecture(
        name=name,
        family="vlm",
        task="image-text-to-text",
        config={"text_config": _TEXT, "pad_token_id": 0, **differing},
        image_tokens=image_tokens,
    )


VLMS: tuple[Architecture, ...] = (
    _row(
        "SmolVLMForConditionalGeneration",
        image_tokens=4,
        image_token_id=_IMAGE_TOKEN,
        vision_config=_SIGHT,
        scale_factor=2,
    ),
    _row(
        "Idefics3ForConditionalGeneration",
        image_tokens=4,
        image_token_id=_IMAGE_TOKEN,
        vision_config=_SIGHT,
        scale_factor=2,
    ),
    _row(
        "LlavaForConditionalGeneration",
        image_tokens=16,
        image_token_index=_IMAGE_TOKEN,
        vision_config={"model_type": "clip_vision_model", **_SIGHT},
        vision_feature_layer=-2,
    ),
)

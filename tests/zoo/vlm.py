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


_CLIP = {"model_type": "clip_vision_model", **_SIGHT}
_SIGLIP = {"model_type": "siglip_vision_model", **_SIGHT}
_VIT = {**_SIGHT, "image_size": [32, 32], "patch_size": [8, 8]}
_COHERE = {
    **_TEXT,
    "model_type": "cohere2",
    "sliding_window": 64,
    "layer_types": ["sliding_attention", "full_attention"],
}


def _row(name: str, *, image_tokens: int, **differing: Any) -> Architecture:
    """image_tokens: how many positions of the prompt one image takes."""
    image = differing.pop("image", (32, 32))
    return Architecture(
        name=name,
        family="vlm",
        task="image-text-to-text",
        config={"text_config": _TEXT, "pad_token_id": 0, **differing},
        image=image,
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
        vision_config=_CLIP,
        vision_feature_layer=-2,
    ),
    _row(
        "LlavaNextForConditionalGeneration",
        image_tokens=36,
        image_token_index=_IMAGE_TOKEN,
        vision_config=_CLIP,
        vision_feature_layer=-2,
        image_grid_pinpoints=[[32, 32], [64, 32]],
    ),
    _row(
        "VipLlavaForConditionalGeneration",
        image_tokens=16,
        image_token_index=_IMAGE_TOKEN,
        vision_config=_CLIP,
        vision_feature_layer=[-2, 1],
    ),
    _row(
        "AyaVisionForConditionalGeneration",
        image_tokens=4,
        image_token_index=_IMAGE_TOKEN,
        vision_config=_SIGLIP,
        text_config=_COHERE,
    ),
    _row(
        "Cohere2VisionForConditionalGeneration",
        image_tokens=4,
        image_token_id=_IMAGE_TOKEN,
        vision_config=_SIGLIP,
        text_config=_COHERE,
        alignment_intermediate_size=64,
    ),
    _row(
        "GotOcr2ForConditionalGeneration",
        image_tokens=4,
        image_token_index=_IMAGE_TOKEN,
        image=(128, 128),
        vision_config={
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 128,
            "patch_size": 16,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 64,
        },
        text_config={**_TEXT, "model_type": "qwen2"},
    ),
    _row(
        "InternVLForConditionalGeneration",
        image_tokens=4,
        image_token_id=_IMAGE_TOKEN,
        vision_config=_VIT,
        text_config={**_TEXT, "model_type": "qwen2"},
    ),
    _row(
        "QianfanOCRForConditionalGeneration",
        image_tokens=4,
        image_token_id=_IMAGE_TOKEN,
        vision_config=_VIT,
        text_config={**_TEXT, "model_type": "qwen3", "head_dim": 8},
    ),
    _row(
        "DeepseekVLForConditionalGeneration",
        image_tokens=16,
        image_token_id=_IMAGE_TOKEN,
        vision_config=_SIGLIP,
    ),
    _row(
        "JanusForConditionalGeneration",
        image_tokens=16,
        image_token_id=_IMAGE_TOKEN,
        vision_config={**_SIGHT, "projection_dim": 32, "mlp_ratio": 2.0, "num_image_tokens": 16},
        vq_config={
            "embed_dim": 8,
            "num_embeddings": 16,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "num_patches": 4,
            "projection_dim": 32,
            "image_token_embed_dim": 32,
        },
    ),
)

"""Dual encoders: text and images in one space."""

from __future__ import annotations

from typing import Any

from zoo.architecture import POSITIONS, VOCABULARY, Architecture

_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": VOCABULARY - 1,
}
_SIGHT: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def _row(name: str, text: dict[str, Any], sight: dict[str, Any], **differing: Any) -> Architecture:
    return Architecture(
        name=name,
        family="dual",
        task="zero-shot-image-classification",
        image=differing.pop("image", (32, 32)),
        config={"text_config": text, "vision_config": sight, **differing},
    )


DUAL_ENCODERS: tuple[Architecture, ...] = (
    _row("CLIPModel", {**_TEXT, "projection_dim": 24}, {**_SIGHT, "projection_dim": 24}, projection_dim=24),
    _row("MetaClip2Model", {**_TEXT, "projection_dim": 24}, {**_SIGHT, "projection_dim": 24}, projection_dim=24),
    _row("SiglipModel", {**_TEXT, "projection_size": 48}, _SIGHT),
    _row("Siglip2Model", {**_TEXT, "projection_size": 48}, {**_SIGHT, "num_patches": 16}),
    _row(
        "AltCLIPModel",
        {
            **_TEXT,
            "project_dim": 24,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "type_vocab_size": 1,
            "max_position_embeddings": POSITIONS + 2,
        },
        {**_SIGHT, "projection_dim": 24},
        projection_dim=24,
    ),
    _row("ChineseCLIPModel", {**_TEXT, "type_vocab_size": 2}, {**_SIGHT, "projection_dim": 24}, projection_dim=24),
    _row(
        "AlignModel",
        {**_TEXT, "type_vocab_size": 2},
        {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 80},
        projection_dim=80,
        image=(64, 64),
    ),
    _row("CLIPSegModel", _TEXT, _SIGHT, projection_dim=24, extract_layers=[0, 1], reduce_dim=8),
    _row(
        "BlipModel",
        {**_TEXT, "projection_dim": 24, "encoder_hidden_size": 48, "sep_token_id": VOCABULARY - 1},
        _SIGHT,
        projection_dim=24,
    ),
    _row(
        "Tipsv2Model",
        _TEXT,
        {**{key: value for key, value in _SIGHT.items() if key != "intermediate_size"}, "hidden_size": 32},
        temperature_init_value=0.2,
    ),
    _row(
        "GroupViTModel",
        _TEXT,
        {**_SIGHT, "depths": [1, 1, 1], "num_group_tokens": [8, 4, 0], "num_output_groups": [8, 4, 4]},
        projection_dim=24,
        projection_intermediate_dim=32,
    ),
)

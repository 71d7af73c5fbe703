"""Towers that see: pixels in, features out. Most are the eyes of a larger model, published by themselves."""

from __future__ import annotations

from typing import Any

from zoo.architecture import Architecture
from zoo.detection import HGNET

_VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
_WINDOWED: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 8,
    "window_size": 4,
    "global_attn_indexes": [1],
}
"""SAM's: attention within windows of 4 x 4 patches in the first layer, over everything in the second."""
_SAM: dict[str, Any] = {**_WINDOWED, "output_channels": 16, "mlp_dim": 64, "num_pos_feats": 16}
_HIERA: dict[str, Any] = {
    "hidden_size": 16,
    "image_size": [64, 64],
    "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [16, 32, 64, 128],
    "num_attention_heads_per_stage": [1, 2, 4, 8],
    "window_size_per_stage": [8, 4, 4, 2],
    "global_attention_blocks": [3],
    "window_positional_embedding_background_size": [4, 4],
}
_SAM3: dict[str, Any] = {
    **_WINDOWED,
    "intermediate_size": 64,
    "pretrain_image_size": 32,
}


_LCNET: dict[str, Any] = {
    "block_configs": [
        [[3, 8, 8, 1, False]],
        [[3, 8, 16, 2, False]],
        [[3, 16, 16, 2, False]],
        [[3, 16, 16, 2, False]],
        [[5, 16, 16, 2, True]],
    ],
    "stem_channels": 8,
    "out_features": ["stage5"],
}
_LINES: dict[str, Any] = {"hidden_size": 24, "head_out_channels": 20}
"""PP-OCR's readers: a line of text shrinks to one row of features."""
_HGNET: dict[str, Any] = {**HGNET, "out_features": ["stage4"]}


def _row(name: str, sizes: dict[str, Any], **differing: Any) -> Architecture:
    image = differing.pop("image", (32, 32))
    config = {**sizes, **differing}
    return Architecture(name=name, family="vision", task="image-feature-extraction", config=config, image=image)


TOWERS: tuple[Architecture, ...] = (
    _row("Aimv2VisionModel", _VIT),
    _row("ChineseCLIPVisionModel", _VIT),
    _row("InternVLVisionModel", _VIT, image_size=[32, 32], patch_size=[8, 8]),
    _row("QianfanOCRVisionModel", _VIT, image_size=[32, 32], patch_size=[8, 8]),
    _row("MLCDVisionModel", _VIT),
    _row("PixioModel", _VIT, mlp_ratio=2, n_cls_tokens=2),
    _row("RadioModel", _VIT, mlp_ratio=2.0, max_img_size=64, num_cls_tokens=2, num_registers=2, summary_idxs=[0, 1]),
    _row(
        "Sapiens2Model",
        _VIT,
        num_register_tokens=2,
        num_key_value_attention_heads=2,
        num_first_full_attention_layers=1,
        num_last_full_attention_layers=1,
    ),
    _row("Tipsv2VisionModel", _VIT, mlp_ratio=2),
    _row("VitDetModel", _VIT, mlp_ratio=2, pretrain_image_size=32, use_relative_position_embeddings=True),
    _row("SamVisionModel", _SAM, image=(64, 64)),
    _row("SamHQVisionModel", _SAM, image=(64, 64)),
    _row("Sam2HieraDetModel", _HIERA, image=(64, 64)),
    _row(
        "Sam2VisionModel",
        {},
        backbone_config={"model_type": "sam2_hiera_det_model", **_HIERA},
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=16,
        image=(64, 64),
    ),
    _row("Sam3ViTModel", _SAM3, image=(64, 64)),
    _row(
        "Sam3VisionModel",
        {},
        backbone_config={"model_type": "sam3_vit_model", **_SAM3},
        fpn_hidden_size=16,
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        scale_factors=[4.0, 2.0, 1.0, 0.5],
        image=(64, 64),
    ),
    _row("TextNetModel", {}, hidden_sizes=[8, 8, 16, 16, 32], stem_out_channels=8, image_size=[64, 64], image=(64, 64)),
    _row(
        "MaskFormerSwinModel",
        {},
        image_size=32,
        patch_size=4,
        embed_dim=16,
        depths=[2, 1],
        num_heads=[2, 4],
        window_size=4,
    ),
    _row(
        "Swin2SRModel",
        {},
        image_size=32,
        embed_dim=16,
        depths=[2, 1],
        num_heads=[2, 4],
        window_size=4,
    ),
    _row("Idefics3VisionTransformer", _VIT),
    _row("SmolVLMVisionTransformer", _VIT),
    _row(
        "PPOCRV5MobileRecModel",
        _LINES,
        backbone_config={"model_type": "pp_lcnet_v3", **_LCNET},
        image=(96, 128),
    ),
    _row("PPOCRV5ServerRecModel", _LINES, backbone_config=_HGNET, image=(96, 128)),
    _row(
        "PPOCRV6SmallRecModel",
        _LINES,
        backbone_config={"model_type": "pp_lcnet_v3", **_LCNET},
        image=(96, 128),
    ),
    _row(
        "PPOCRV6TinyRecModel",
        _LINES,
        backbone_config={"model_type": "pp_lcnet_v3", **_LCNET},
        image=(96, 128),
    ),
    _row(
        "UVDocModel",
        {},
        backbone_config={
            "model_type": "uvdoc_backbone",
            "resnet_head": [[3, 8], [8, 8]],
            "resnet_configs": [[[8, 8, 1, False]], [[8, 16, 1, True]], [[16, 16, 1, True]]],
            "stage_configs": [[[16, 1]], [[16, 2], [16, 3]]],
            "out_features": ["stage1", "stage2"],
        },
        bridge_connector=[16, 16],
        out_point_positions2D=[[16, 8], [8, 2]],
        image=(96, 96),
    ),
)

"""Detection: pixels in; boxes out, with what they are, or a map of where text is."""

from __future__ import annotations

from typing import Any

from zoo.architecture import Architecture

_DETR: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 6,
    "num_labels": 5,
}
_FOUR_STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}
_BACKBONE: dict[str, Any] = {"model_type": "resnet", **_FOUR_STAGES, "layer_type": "basic"}
_RT_DETR: dict[str, Any] = {
    **_DETR,
    "encoder_layers": 1,
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [16, 16, 32],
    "decoder_in_channels": [32, 32, 32],
    "backbone_config": {
        "model_type": "rt_detr_resnet",
        **_FOUR_STAGES,
        "layer_type": "basic",
        "out_features": ["stage2", "stage3", "stage4"],
    },
    "hidden_expansion": 0.5,
}
HGNET: dict[str, Any] = {
    "model_type": "hgnet_v2",
    "stem_channels": [3, 8, 8],
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [16, 16, 32, 32],
    "stage_in_channels": [8, 16, 16, 32],
    "stage_mid_channels": [8, 8, 8, 8],
    "stage_out_channels": [16, 16, 32, 32],
    "stage_num_blocks": [1, 1, 1, 1],
    "stage_numb_of_layers": [1, 1, 1, 1],
    "out_features": ["stage2", "stage3", "stage4"],
}
_HYBRID: dict[str, Any] = {
    **_DETR,
    "encoder_layers": 1,
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [16, 32, 32],
    "decoder_in_channels": [32, 32, 32],
    "hidden_expansion": 0.5,
}
"""RT-DETR's kin: an encoder over three maps, and queries that are its likeliest places."""
_DISTRIBUTED: dict[str, Any] = {**_HYBRID, "max_num_bins": 8, "lqe_hidden_dim": 16}
"""D-FINE's kin: an edge of a box is a distribution over bins."""
_WINDOWED: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "mlp_ratio": 2,
    "image_size": 64,
    "patch_size": 8,
    "num_windows": 4,
}
_GROUPED: dict[str, Any] = {
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_self_attention_heads": 4,
    "decoder_cross_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "num_queries": 6,
    "group_detr": 2,
    "num_labels": 5,
}
_VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "patch_size": 8,
    "num_labels": 5,
}
_LCNET = {
    "block_configs": [
        [[3, 8, 8, 1, False]],
        [[3, 8, 16, 2, False]],
        [[3, 16, 16, 2, False]],
        [[3, 16, 16, 2, False]],
        [[5, 16, 16, 2, True]],
    ],
    "stem_channels": 8,
}


_RATIOS = {"long": 7, "mid": 5, "short": 3}
_SERVER: dict[str, Any] = {
    "neck_out_channels": 16,
    "scale_factor_list": [1, 2, 4, 8],
    "kernel_list": [3, 2, 2],
    "intraclass_block_config": {
        "reduce_channel": [1, 1, 0],
        "return_channel": [1, 1, 0],
        **{f"vertical_long_to_small_conv_{ratio}ratio": [[k, 1], [1, 1], [k // 2, 0]] for ratio, k in _RATIOS.items()},
        **{
            f"horizontal_small_to_long_conv_{ratio}ratio": [[1, k], [1, 1], [0, k // 2]] for ratio, k in _RATIOS.items()
        },
        **{f"symmetric_conv_long_{ratio}ratio": [[k, k], [1, 1], [k // 2, k // 2]] for ratio, k in _RATIOS.items()},
    },
}
"""PP-OCR's large detectors look along lines of text: seven, five and three pixels, down, across and both ways."""


def _row(name: str, sizes: dict[str, Any], **differing: Any) -> Architecture:
    image = differing.pop("image", (64, 64))
    config = {**sizes, **differing}
    return Architecture(name=name, family="vision", task="object-detection", config=config, image=image)


DETECTORS: tuple[Architecture, ...] = (
    _row("DetrForObjectDetection", _DETR, backbone_config=_BACKBONE, image=(64, 96)),
    _row("ConditionalDetrForObjectDetection", _DETR, backbone_config=_BACKBONE, image=(64, 96)),
    _row(
        "DeformableDetrForObjectDetection",
        _DETR,
        backbone_config={**_BACKBONE, "out_features": ["stage2", "stage3", "stage4"]},
        num_feature_levels=3,
        image=(64, 96),
    ),
    _row("TableTransformerForObjectDetection", _DETR, backbone_config=_BACKBONE, image=(64, 96)),
    _row("RTDetrForObjectDetection", _RT_DETR),
    _row("RTDetrV2ForObjectDetection", _RT_DETR),
    _row(
        "YolosForObjectDetection",
        _VIT,
        image_size=[32, 32],
        image=(32, 32),
        num_detection_tokens=6,
        use_mid_position_embeddings=True,
    ),
    _row(
        "DabDetrForObjectDetection",
        {**{key: value for key, value in _DETR.items() if key != "d_model"}, "hidden_size": 32},
        backbone_config=_BACKBONE,
        image=(64, 96),
    ),
    _row("DFineForObjectDetection", _DISTRIBUTED, backbone_config=HGNET),
    _row("Deimv2ForObjectDetection", _DISTRIBUTED, backbone_config=HGNET),
    _row(
        "PPDocLayoutV2ForObjectDetection",
        _HYBRID,
        backbone_config=HGNET,
        reading_order_config={
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "intermediate_size": 64,
            "coordinate_size": 6,
            "shape_size": 4,
            "num_classes": 5,
            "global_pointer_head_size": 8,
        },
        class_order=[0, 1, 2, 3, 4],
        class_thresholds=[0.5] * 5,
    ),
    _row(
        "PPDocLayoutV3ForObjectDetection",
        _HYBRID,
        backbone_config={**HGNET, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        mask_feature_channels=[8, 8],
        x4_feat_dim=16,
        num_prototypes=4,
        global_pointer_head_size=8,
    ),
    _row(
        "PPDocLayoutV4ForObjectDetection",
        {**{key: value for key, value in _HYBRID.items() if key != "d_model"}, "hidden_size": 32},
        backbone_config=HGNET,
        global_pointer_head_size=8,
    ),
    _row(
        "LwDetrForObjectDetection",
        _GROUPED,
        backbone_config={
            "model_type": "lw_detr_vit",
            **_WINDOWED,
            "pretrain_image_size": 32,
            "window_block_indices": [0],
            "out_indices": [1, 2],
        },
        projector_scale_factors=[1.0],
    ),
    _row(
        "RfDetrForObjectDetection",
        _GROUPED,
        backbone_config={"model_type": "rf_detr_dinov2", **_WINDOWED, "num_windows": 2, "out_indices": [1, 2]},
        intermediate_size=64,
    ),
    _row(
        "PPOCRV5MobileDetForObjectDetection",
        {},
        backbone_config={
            "model_type": "pp_lcnet_v3",
            **_LCNET,
            "out_features": ["stage2", "stage3", "stage4", "stage5"],
        },
        neck_out_channels=16,
        layer_list_out_channels=[8, 8, 16, 16],
    ),
    _row(
        "PPOCRV5ServerDetForObjectDetection",
        _SERVER,
        backbone_config={**HGNET, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
    ),
    _row(
        "PPOCRV6MediumDetForObjectDetection",
        _SERVER,
        backbone_config={**HGNET, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
    ),
    _row(
        "PPOCRV6SmallDetForObjectDetection",
        {},
        backbone_config={
            "model_type": "pp_lcnet_v3",
            **_LCNET,
            "out_features": ["stage2", "stage3", "stage4", "stage5"],
        },
        neck_out_channels=16,
        layer_list_out_channels=[16, 16, 16, 16],
    ),
)

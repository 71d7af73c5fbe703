"""Speech: sound or spectrograms in; tokens, characters or classes out."""

from __future__ import annotations

from typing import Any

from zoo.architecture import VOCABULARY, Architecture

_TOKENS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SOUND: dict[str, Any] = {
    **_TOKENS,
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "num_labels": 5,
    "classifier_proj_size": 16,
}
"""Wav2Vec2's kin: seven strided convolutions over the samples (320 a frame), then a transformer."""
_STABLE: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
"""The large models' form, which takes an attention mask."""
_ENCODER_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}
_WHISPER_TOKENS: dict[str, Any] = {
    "begin_suppress_tokens": [6, 2],
    "suppress_tokens": [],
    "lang_to_id": {"<|en|>": 10, "<|de|>": 11},
    "task_to_id": {"transcribe": 12, "translate": 13},
    "no_timestamps_token_id": 14,
    "is_multilingual": True,
}
RECOGNITION, CLASSES = "automatic-speech-recognition", "audio-classification"


def _row(name: str, task: str, sizes: dict[str, Any], **differing: Any) -> Architecture:
    generation = differing.pop("generation", {})
    config = {**sizes, **differing}
    return Architecture(name=name, family="speech", task=task, config=config, generation=generation)


SPEECH: tuple[Architecture, ...] = (
    _row(
        "WhisperForConditionalGeneration",
        RECOGNITION,
        _ENCODER_DECODER,
        num_mel_bins=16,
        max_source_positions=30,
        max_target_positions=48,
        generation=_WHISPER_TOKENS,
    ),
    _row(
        "WhisperForAudioClassification",
        CLASSES,
        _ENCODER_DECODER,
        num_mel_bins=16,
        max_source_positions=30,
        max_target_positions=48,
        num_labels=5,
        classifier_proj_size=16,
    ),
    _row(
        "Speech2TextForConditionalGeneration",
        RECOGNITION,
        _ENCODER_DECODER,
        input_feat_per_channel=16,
        conv_channels=32,
        max_source_positions=128,
        max_target_positions=64,
    ),
    _row(
        "MoonshineForConditionalGeneration",
        RECOGNITION,
        {
            **_TOKENS,
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 64,
            "encoder_num_hidden_layers": 2,
            "decoder_num_hidden_layers": 2,
            "encoder_num_attention_heads": 4,
            "decoder_num_attention_heads": 4,
            "max_position_embeddings": 128,
            "decoder_start_token_id": 1,
        },
    ),
    _row("Wav2Vec2ForCTC", RECOGNITION, _SOUND),
    _row("Wav2Vec2ForSequenceClassification", CLASSES, _SOUND, **_STABLE),
    _row("HubertForCTC", RECOGNITION, _SOUND, **_STABLE),
    _row("HubertForSequenceClassification", CLASSES, _SOUND),
    _row("WavLMForCTC", RECOGNITION, _SOUND, **_STABLE),
    _row("WavLMForSequenceClassification", CLASSES, _SOUND),
    _row(
        "Wav2Vec2ConformerForCTC",
        RECOGNITION,
        _SOUND,
        feat_extract_norm="layer",
        position_embeddings_type="relative",
        conv_depthwise_kernel_size=5,
    ),
    _row("SEWForCTC", RECOGNITION, {**_SOUND, "conv_dim": [16] * 13}, squeeze_factor=2),
    _row(
        "SEWDForCTC",
        RECOGNITION,
        {**_SOUND, "conv_dim": [16] * 13},
        squeeze_factor=2,
        max_position_embeddings=64,
        position_buckets=8,
    ),
    _row("UniSpeechForCTC", RECOGNITION, {**_SOUND, "num_ctc_classes": 32}, **_STABLE),
    _row("UniSpeechSatForCTC", RECOGNITION, _SOUND),
    _row("Data2VecAudioForCTC", RECOGNITION, _SOUND, conv_pos_kernel_size=5, num_conv_pos_embeddings=2),
    _row(
        "Wav2Vec2BertForCTC",
        RECOGNITION,
        {key: value for key, value in _SOUND.items() if not key.startswith(("conv_", "num_conv"))},
        feature_projection_input_dim=16,
        conv_depthwise_kernel_size=5,
        left_max_position_embeddings=8,
        right_max_position_embeddings=4,
    ),
    _row(
        "ParakeetForCTC",
        RECOGNITION,
        {"vocab_size": 32, "pad_token_id": 31},
        encoder_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "num_mel_bins": 16,
            "subsampling_conv_channels": 8,
            "conv_kernel_size": 5,
            "subsampling_factor": 4,
        },
    ),
    _row(
        "ASTForAudioClassification",
        CLASSES,
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "num_mel_bins": 32,
            "max_length": 48,
            "patch_size": 8,
            "frequency_stride": 8,
            "time_stride": 8,
            "num_labels": 5,
        },
    ),
)

"""Encoder-decoders: tokens in, tokens out, with a cache on either side."""

from __future__ import annotations

from typing import Any

from zoo.architecture import POSITIONS, VOCABULARY, Architecture

_TOKENS: dict[str, Any] = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
_BART: dict[str, Any] = {
    **_TOKENS,
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": POSITIONS,
}
_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
_T5_OWN_HEAD_SIZE: dict[str, Any] = {
    **_T5,
    "d_kv": 16,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
"""T5 v1.1's kin: heads that are not d_model / num_heads, gated feed-forward, an untied head."""


def _row(name: str, sizes: dict[str, Any], **differing: Any) -> Architecture:
    generation = differing.pop("generation", {})
    return Architecture(
        name=name,
        family="seq2seq",
        task=differing.pop("task", "summarization"),
        config={**sizes, **differing},
        generation=generation,
    )


def _translator(name: str, sizes: dict[str, Any], **differing: Any) -> Architecture:
    return _row(name, sizes, task="translation", **differing)


SEQ2SEQ: tuple[Architecture, ...] = (
    _translator("T5ForConditionalGeneration", _T5),
    _row("MT5ForConditionalGeneration", _T5_OWN_HEAD_SIZE),
    _row("UMT5ForConditionalGeneration", _T5_OWN_HEAD_SIZE),
    _row("LongT5ForConditionalGeneration", _T5, local_radius=5, encoder_attention_type="local"),
    _row(
        "SwitchTransformersForConditionalGeneration",
        _T5,
        num_experts=4,
        expert_capacity=64,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
    ),
    _row("BartForConditionalGeneration", _BART, generation={"forced_bos_token_id": 0}),
    _translator("MBartForConditionalGeneration", _BART),
    _translator("MarianMTModel", _BART, decoder_start_token_id=1, generation={"bad_words_ids": [[1]]}),
    _row("PegasusForConditionalGeneration", _BART, pad_token_id=0, decoder_start_token_id=0),
    _row(
        "PegasusXForConditionalGeneration",
        _BART,
        pad_token_id=0,
        decoder_start_token_id=0,
        block_size=4,
        num_global_tokens=4,
    ),
    _row("BigBirdPegasusForConditionalGeneration", _BART, pad_token_id=0, block_size=4, num_random_blocks=1),
    _row("BlenderbotForConditionalGeneration", _BART, decoder_start_token_id=0),
    _row("BlenderbotSmallForConditionalGeneration", _BART, decoder_start_token_id=0),
    _translator("M2M100ForConditionalGeneration", _BART, generation={"forced_bos_token_id": 5}),
    _translator(
        "NllbMoeForConditionalGeneration",
        _BART,
        num_experts=4,
        expert_capacity=64,
        encoder_sparse_step=2,
        decoder_sparse_step=2,
    ),
    _row(
        "LEDForConditionalGeneration",
        _BART,
        max_encoder_position_embeddings=POSITIONS,
        max_decoder_position_embeddings=POSITIONS,
        attention_window=4,
    ),
    _row(
        "ProphetNetForConditionalGeneration",
        {
            **_TOKENS,
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "num_encoder_attention_heads": 4,
            "num_decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": POSITIONS,
            "num_buckets": 8,
            "relative_max_distance": 16,
        },
    ),
    _translator(
        "FSMTForConditionalGeneration", _BART, src_vocab_size=VOCABULARY, tgt_vocab_size=VOCABULARY, langs=["en", "de"]
    ),
    _row("PLBartForConditionalGeneration", _BART),
    _row("MvpForConditionalGeneration", _BART),
    _row(
        "T5GemmaForConditionalGeneration",
        {
            "vocab_size": VOCABULARY,
            "encoder": {
                "vocab_size": VOCABULARY,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "sliding_window": 5,
                "query_pre_attn_scalar": 16,
                "max_position_embeddings": POSITIONS,
            },
            "decoder": {
                "vocab_size": VOCABULARY,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "sliding_window": 5,
                "query_pre_attn_scalar": 16,
                "max_position_embeddings": POSITIONS,
            },
        },
    ),
)

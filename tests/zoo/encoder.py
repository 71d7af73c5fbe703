"""Encoders: tokens in, hidden states or a head's logits out."""

from __future__ import annotations

from typing import Any

from zoo.architecture import POSITIONS, VOCABULARY, Architecture

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_labels": 3,
}
_ROBERTA: dict[str, Any] = {
    "pad_token_id": 1,
    "bos_token_id": 0,
    "type_vocab_size": 1,
    "max_position_embeddings": POSITIONS + 2,
}
"""RoBERTa's kin count positions from the padding id on, and know one token type."""
_T5: dict[str, Any] = {
    **dict.fromkeys(_SIZES),
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "feed_forward_proj": "gated-gelu",
}
"""Encoders of encoder-decoders: distances instead of positions, by names of their own."""
_DEBERTA: dict[str, Any] = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "max_relative_positions": -1,
    "position_biased_input": False,
    "type_vocab_size": 0,
}

_XLM: dict[str, Any] = {"pad_index": 0, "mask_index": 4, "type_vocab_size": 0}
"""Token types are words to it, and its tokenizers give none."""

_BART: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    "num_labels": 3,
}
_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "num_labels": 3,
}
_LLAMA: dict[str, Any] = {"pad_token_id": 1, "bos_token_id": 0, "type_vocab_size": None, "num_key_value_heads": 2}

FEATURES, FILL_MASK = "feature-extraction", "fill-mask"
CLASSES, TOKENS, ANSWERS, ANSWERS_ON_PAGES, CHOICE = (
    "text-classification",
    "token-classification",
    "question-answering",
    "document-question-answering",
    "multiple-choice",
)

_PAGE: dict[str, Any] = {"max_2d_position_embeddings": 64}
_LILT: dict[str, Any] = {**_ROBERTA, **_PAGE, "hidden_size": 48, "channel_shrink_ratio": 2}
_PAGE_AND_IMAGE: dict[str, Any] = {
    **_ROBERTA,
    **_PAGE,
    "hidden_size": 48,
    "coordinate_size": 8,
    "shape_size": 8,
    "input_size": 32,
    "patch_size": 16,
    "rel_pos_bins": 8,
    "max_rel_pos": 16,
    "rel_2d_pos_bins": 8,
    "max_rel_2d_pos": 32,
}
"""LayoutLMv3's parts of a place make up the hidden size; an image of 32 x 32 is four patches and one token more."""
_MARKUP: dict[str, Any] = {
    "max_depth": 5,
    "max_xpath_tag_unit_embeddings": 16,
    "tag_pad_id": 13,
    "max_xpath_subs_unit_embeddings": 18,
    "subs_pad_id": 15,
    "xpath_unit_hidden_size": 8,
}


def _row(name: str, task: str, **differing: Any) -> Architecture:
    """None takes a size away: some configurations refuse what they do not have."""
    sizes = {key: value for key, value in {**_SIZES, **differing}.items() if value is not None}
    return Architecture(name=name, family="encoder", task=task, config=sizes)


def _of_another_kind(name: str, task: str, **config: Any) -> Architecture:
    """Sizes of its own: encoder-decoders call none of theirs as encoders do."""
    return Architecture(name=name, family="encoder", task=task, config=config)


# Not here: MRA and YOSO need a CUDA kernel for attention; without it PyTorch itself gives zeros, or loses the mask.
ENCODERS: tuple[Architecture, ...] = (
    _row("BertModel", FEATURES),
    _row("BertForMaskedLM", FILL_MASK),
    _row("BertForSequenceClassification", CLASSES),
    _row("BertForTokenClassification", TOKENS),
    _row("BertForQuestionAnswering", ANSWERS, num_labels=2),
    _row("BertForMultipleChoice", CHOICE),
    _of_another_kind("BartForSequenceClassification", CLASSES, **_BART, problem_type="multi_label_classification"),
    _of_another_kind("MBartForSequenceClassification", CLASSES, **_BART),
    _of_another_kind("BartForQuestionAnswering", ANSWERS, **{**_BART, "num_labels": 2}),
    _of_another_kind("T5ForSequenceClassification", CLASSES, **_T5),
    _of_another_kind("T5ForTokenClassification", TOKENS, **_T5),
    _row("LlamaForSequenceClassification", CLASSES, **_LLAMA),
    _row("Qwen2ForTokenClassification", TOKENS, **_LLAMA),
    _row("GPT2ForSequenceClassification", CLASSES, **{**_LLAMA, "num_key_value_heads": None}),
    _row("RobertaModel", FEATURES, **_ROBERTA),
    _row("RobertaForMaskedLM", FILL_MASK, **_ROBERTA),
    _row("RobertaForSequenceClassification", CLASSES, **_ROBERTA),
    _row("RobertaForMultipleChoice", CHOICE, **_ROBERTA),
    _row("DistilBertForSequenceClassification", CLASSES, hidden_dim=64),
    _row("DistilBertForQuestionAnswering", ANSWERS, hidden_dim=64, num_labels=2),
    _row("AlbertForMaskedLM", FILL_MASK, embedding_size=16),
    _row("ElectraForTokenClassification", TOKENS, embedding_size=16),
    _row("DebertaForMaskedLM", FILL_MASK, **_DEBERTA),
    _row(
        "DebertaV2ForSequenceClassification",
        CLASSES,
        **_DEBERTA,
        position_buckets=8,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
    ),
    _row("XLMRobertaModel", FEATURES, **_ROBERTA),
    _row("XLMRobertaXLForMaskedLM", FILL_MASK, **_ROBERTA),
    _row("MPNetModel", FEATURES, **{**_ROBERTA, "type_vocab_size": 0}),
    _row("CamembertForMaskedLM", FILL_MASK, **_ROBERTA),
    _row("ModernBertForMaskedLM", FILL_MASK, local_attention=8, layer_types=["full_attention", "sliding_attention"]),
    _row("NomicBertModel", FEATURES),
    _row(
        "MobileBertForQuestionAnswering",
        ANSWERS,
        embedding_size=16,
        true_hidden_size=16,
        intra_bottleneck_size=16,
        num_feedforward_networks=2,
        num_labels=2,
    ),
    _row("SqueezeBertForSequenceClassification", CLASSES, embedding_size=32),
    _row("RoFormerForMaskedLM", FILL_MASK, embedding_size=16),
    _row("ConvBertForTokenClassification", TOKENS, embedding_size=16, head_ratio=2, conv_kernel_size=3),
    _row("LayoutLMModel", FEATURES, **_PAGE),
    _row("LayoutLMForTokenClassification", TOKENS, **_PAGE),
    _row("LayoutLMForQuestionAnswering", ANSWERS_ON_PAGES, **_PAGE, num_labels=2),
    _row("LiltModel", FEATURES, **_LILT),
    _row("LiltForTokenClassification", TOKENS, **_LILT),
    _row("LayoutLMv3Model", FEATURES, **_PAGE_AND_IMAGE),
    _row("LayoutLMv3ForTokenClassification", TOKENS, **_PAGE_AND_IMAGE),
    _row("LayoutLMv3ForSequenceClassification", CLASSES, **_PAGE_AND_IMAGE),
    _row("LayoutLMv3ForQuestionAnswering", ANSWERS_ON_PAGES, **_PAGE_AND_IMAGE, num_labels=2),
    _row("BrosModel", FEATURES, hidden_size=64),
    _row("BrosForTokenClassification", TOKENS, hidden_size=64),
    _row("MarkupLMModel", FEATURES, **_MARKUP),
    _row("MarkupLMForQuestionAnswering", ANSWERS, **_MARKUP, num_labels=2),
    _row("ErnieForSequenceClassification", CLASSES),
    _row("ErnieForTokenClassification", TOKENS, use_task_id=True, task_type_vocab_size=3),
    _row("MegatronBertForMaskedLM", FILL_MASK),
    _row("RemBertForTokenClassification", TOKENS, input_embedding_size=16, output_embedding_size=24),
    _row("XLNetModel", FEATURES, d_inner=64, d_head=8, max_position_embeddings=None),
    _row("FNetForMaskedLM", FILL_MASK),
    _row("LongformerModel", FEATURES, **_ROBERTA, attention_window=4),
    _row("BigBirdModel", FEATURES, block_size=4, num_random_blocks=1),
    _row("FunnelForTokenClassification", TOKENS, num_hidden_layers=None, block_sizes=[1, 1], d_head=8, d_inner=64),
    _row("IBertForSequenceClassification", CLASSES, **_ROBERTA),
    _row("NystromformerForMaskedLM", FILL_MASK, num_landmarks=8, segment_means_seq_len=8),
    _row("XLMWithLMHeadModel", FILL_MASK, **_XLM),
    _row("XLMForSequenceClassification", CLASSES, **_XLM, n_langs=3, use_lang_emb=True),
    _row("FlaubertWithLMHeadModel", FILL_MASK, **_XLM),
    _row("EuroBertForMaskedLM", FILL_MASK, num_key_value_heads=2),
    _row("XmodForSequenceClassification", CLASSES, **_ROBERTA, languages=["en_XX", "de_DE"], default_language="en_XX"),
    _row("Data2VecTextForSequenceClassification", CLASSES, **_ROBERTA),
    _row("RobertaPreLayerNormForMaskedLM", FILL_MASK, **_ROBERTA),
    _row("CanineForSequenceClassification", CLASSES, num_hash_buckets=64, downsampling_rate=2),
    _row(
        "EsmForMaskedLM",
        FILL_MASK,
        position_embedding_type="rotary",
        token_dropout=True,
        mask_token_id=4,
        pad_token_id=1,
        bos_token_id=0,
        emb_layer_norm_before=False,
    ),
    _row("SplinterModel", FEATURES),
    _row("LukeModel", FEATURES, **_ROBERTA, entity_vocab_size=20, entity_emb_size=16),
    _row("RoCBertModel", FEATURES, enable_pronunciation=False, enable_shape=False),
    _row(
        "RoCBertForTokenClassification",
        TOKENS,
        shape_vocab_size=20,
        shape_embed_dim=8,
        pronunciation_vocab_size=24,
        pronunciation_embed_dim=8,
    ),
    _row("BertGenerationEncoder", FEATURES),
    _row("T5EncoderModel", FEATURES, **_T5),
    _row("MT5EncoderModel", FEATURES, **_T5),
    _row("UMT5EncoderModel", FEATURES, **_T5),
    _row("CLIPTextModel", FEATURES),
    _row("CLIPTextModelWithProjection", FEATURES, projection_dim=24),
    _row("GteModel", FEATURES, type_vocab_size=1),
    _row("JinaEmbeddingsV3Model", FEATURES, type_vocab_size=1),
    _row("EsmcModel", FEATURES),
    _row("UltrabertModel", FEATURES),
    _row(
        "OpenAIPrivacyFilterForTokenClassification",
        TOKENS,
        head_dim=16,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=5,
    ),
)

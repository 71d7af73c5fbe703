"""What is loaded, and by whom: one row a bundle. Adding a family is adding its rows, and its blocks to the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnx_fleet.entities.entry import WeightPlacement
from onnx_fleet_demo.models import CLASSIFIER, FILL_MASK, MINILM

RAW, OPTIMUM, SENTENCES, FASTEMBED = "onnxruntime", "optimum", "sentence-transformers", "fastembed"
NODE, WASM = "transformers.js", "transformers.js-wasm"

Given = Mapping[str, list[Any]]
"""The variables that the page's lines find: one list entry an input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One bundle: how its source is made, what it is asked, and the page's block that asks, for each consumer."""

    name: str
    task: str
    given: Given
    blocks: Mapping[str, str]
    """Consumer -> the block's name."""
    repo: str | None = None
    """Of the demo's, or else ``model``."""
    model: str = ""
    """A class of transformers."""
    config: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str = "wordpiece"
    """A key of sources.PREPROCESSING."""
    pooling: str | None = None
    """Makes the source a sentence-transformers folder."""
    modules: str = ""
    """A key of sources.MODULES: the source is one that sentence-transformers itself has saved."""
    damaged: bool = False
    """One weight of the bundle is another one: no consumer may give the right answers."""
    recipe: str | None = None
    weights: WeightPlacement = "auto"
    """Tiny weights go into the graph by themselves; here they can lie beside it, as large ones do."""
    variant: str = ""
    """Beside fp32; then answers are as close as its gates ask, not equal."""
    one_by_one: tuple[str, ...] = ()
    """Consumers that take no batches of such inputs."""


def everywhere(block: str, *consumers: str) -> dict[str, str]:
    """The same block name for several consumers; without any, for those that take every family."""
    return dict.fromkeys(consumers or (RAW, OPTIMUM, NODE, WASM), block)


_TEXTS: Given = {
    "texts": [
        "The harbour was quiet.",
        "Nobody expected the old lighthouse keeper to sing so well at the wedding, least of all his sister!",
        "Rain.",
    ]
}
_QUESTIONS: Given = {
    "questions": ["Who sang?", "What was quiet, and when?"],
    "contexts": ["The old keeper sang at the wedding while his sister danced with the captain.", "The harbour."],
}
_RANKED: Given = {
    "queries": ["Who sang?", "What was quiet, and when?"],
    "passages": ["The old keeper sang at the wedding while his sister danced with the captain.", "The harbour."],
}
_MASKED: Given = {
    "texts": ["The [MASK] was quiet.", "Nobody expected the old [MASK] keeper to sing so well.", "[MASK]."]
}

_FORMS: Given = {
    "texts": ["Invoice No. 4711", "Total due: 1,299.00 euros, payable within fourteen days", "Rain."],
    "boxes": [
        [[80, 40, 210, 70], [220, 40, 260, 70], [270, 38, 390, 72]],
        [[80 + 90 * word, 700, 160 + 90 * word, 730] for word in range(8)],
        [[500, 480, 620, 520]],
    ],
    "images": ["image-0.png", "image-1.png", "image-2.png"],
}
"""Each text's words have boxes, x0 y0 x1 y1 from 0 to 1,000, on a page of which there is an image."""

_ENCODER = {
    "vocab_size": 1200,
    "hidden_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
}

_DECODER = {
    "vocab_size": 600,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_T5 = {
    "vocab_size": 600,
    "d_model": 32,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
_BART = {
    "vocab_size": 600,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    **_SPECIAL,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}


def _generating(name: str, task: str, model: str, config: Mapping[str, Any], **differing: Any) -> Case:
    start = {key: value for key, value in config.items() if key == "decoder_start_token_id"}
    settings: dict[str, Any] = {
        "given": _TEXTS,
        "blocks": everywhere(task),
        "tokenizer": "bpe",
        "generation": {**_SPECIAL, **start},
        **differing,
    }
    return Case(name=name, task=task, model=model, config=config, **settings)


def _sounds() -> Given:
    """Two chirps over noise, 0.9 s and 1.4 s at 16 kHz."""
    random = np.random.default_rng(3)
    waves = []
    for seconds, pitch in ((0.9, 300), (1.4, 220)):
        time = np.arange(int(16000 * seconds)) / 16000
        wave = 0.3 * np.sin(2 * np.pi * (pitch + 200 * time) * time) + 0.05 * random.standard_normal(len(time))
        waves.append(np.round(wave, 5).tolist())
    return {"audio": waves}


_WAV2VEC2 = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "pad_token_id": 0,
}
_WHISPER_TOKENS = {"pad_token_id": 3, "bos_token_id": 3, "eos_token_id": 3, "decoder_start_token_id": 4}
_WHISPER = {
    "vocab_size": 600,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_source_positions": 100,
    "max_target_positions": 64,
    "num_mel_bins": 80,
    **_WHISPER_TOKENS,
}
_WHISPER_GENERATION = {
    **_WHISPER_TOKENS,
    "is_multilingual": True,
    "lang_to_id": {"<|en|>": 5, "<|de|>": 6},
    "task_to_id": {"transcribe": 7, "translate": 8},
    "no_timestamps_token_id": 9,
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "max_length": 40,
}

_SIGHT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}

CASES: tuple[Case, ...] = (
    Case(
        name="minilm",
        task="sentence-similarity",
        repo=MINILM,
        given=_TEXTS,
        blocks={
            **everywhere("mean-embeddings", RAW, FASTEMBED, NODE, WASM),
            OPTIMUM: "feature-extraction",
            SENTENCES: "embeddings",
        },
    ),
    Case(
        name="minilm-int8",
        task="sentence-similarity",
        repo=MINILM,
        variant="int8",
        given=_TEXTS,
        blocks={
            **everywhere("int8-mean-embeddings", FASTEMBED, NODE, WASM),
            OPTIMUM: "int8-feature-extraction",
            SENTENCES: "int8-embeddings",
        },
    ),
    Case(
        name="minilm-fp16",
        task="sentence-similarity",
        repo=MINILM,
        variant="fp16",
        given=_TEXTS,
        blocks=everywhere("fp16-mean-embeddings", NODE, WASM),
    ),
    Case(
        name="minilm-q4",
        task="sentence-similarity",
        repo=MINILM,
        variant="q4",
        given=_TEXTS,
        blocks=everywhere("q4-mean-embeddings", NODE, WASM),
    ),
    Case(
        name="mean-in-the-graph",
        task="sentence-similarity",
        model="RobertaModel",
        config={**_ENCODER, "type_vocab_size": 1},
        pooling="mean",
        recipe="mean-normalized",
        given=_TEXTS,
        blocks={
            **everywhere("embeddings-from-the-graph", RAW, NODE, WASM),
            OPTIMUM: "feature-extraction",
            SENTENCES: "embeddings",
            FASTEMBED: "mean-embeddings",
        },
    ),
    Case(
        name="first-token",
        task="feature-extraction",
        model="BertModel",
        config=_ENCODER,
        pooling="cls",
        given=_TEXTS,
        blocks={
            **everywhere("feature-extraction"),
            SENTENCES: "embeddings",
            FASTEMBED: "first-token-embeddings",
        },
    ),
    Case(
        name="dense-layer",
        task="sentence-similarity",
        modules="dense",
        given=_TEXTS,
        blocks={
            **everywhere("embeddings-from-the-graph", RAW, NODE, WASM),
            OPTIMUM: "feature-extraction",
            SENTENCES: "embeddings",
        },
    ),
    Case(
        name="table-of-vectors",
        task="sentence-similarity",
        modules="table",
        tokenizer="its-own",
        given=_TEXTS,
        blocks={
            **everywhere("embeddings-from-the-graph", RAW, NODE, WASM),
            SENTENCES: "embeddings",
            FASTEMBED: "mean-embeddings",
        },
    ),
    Case(
        name="re-ranker",
        task="text-ranking",
        modules="re-ranker",
        given=_RANKED,
        blocks=everywhere("re-ranking", RAW, SENTENCES),
    ),
    Case(
        name="sparse",
        task="fill-mask",
        modules="sparse",
        given=_TEXTS,
        blocks={
            **everywhere("embeddings-from-the-graph", RAW, NODE, WASM),
            OPTIMUM: "fill-mask",
            SENTENCES: "sparse-embeddings",
        },
    ),
    Case(
        name="text-classification",
        task="text-classification",
        repo=CLASSIFIER,
        given=_TEXTS,
        blocks=everywhere("text-classification"),
    ),
    Case(
        name="token-classification",
        task="token-classification",
        model="ElectraForTokenClassification",
        config={**_ENCODER, "embedding_size": 24, "num_labels": 5},
        given=_TEXTS,
        blocks=everywhere("token-classification"),
    ),
    Case(
        name="words-on-pages",
        task="token-classification",
        model="LayoutLMv3ForTokenClassification",
        config={
            **_ENCODER,
            **_SPECIAL,
            "vocab_size": 600,
            "max_position_embeddings": 130,
            "coordinate_size": 8,
            "shape_size": 8,
            "input_size": 32,
            "patch_size": 16,
            "type_vocab_size": 1,
            "num_labels": 5,
        },
        tokenizer="words-and-page",
        given=_FORMS,
        blocks=everywhere("words-on-pages", RAW, OPTIMUM),
    ),
    Case(
        name="question-answering",
        task="question-answering",
        model="BertForQuestionAnswering",
        config=_ENCODER,
        weights="external",
        given=_QUESTIONS,
        blocks=everywhere("question-answering"),
    ),
    Case(
        name="fill-mask",
        task="fill-mask",
        repo=FILL_MASK,
        given=_MASKED,
        blocks=everywhere("fill-mask"),
    ),
    # Deep enough for its third layer to be repeated.
    _generating("gpt2", "text-generation", "GPT2LMHeadModel", {**_DECODER, "num_hidden_layers": 6}, weights="external"),
    # The head size is not hidden_size / heads, which would be 8.
    _generating("qwen3", "text-generation", "Qwen3ForCausalLM", {**_DECODER, "num_key_value_heads": 2, "head_dim": 16}),
    _generating("bart", "text2text-generation", "BartForConditionalGeneration", _BART),
    # The table of tokens is in both graphs, and neither needs the other's file.
    _generating(
        "bart-fp16",
        "text2text-generation",
        "BartForConditionalGeneration",
        _BART,
        weights="external",
        variant="fp16",
        blocks=everywhere("fp16-text2text-generation", NODE, WASM),
    ),
    # T5 v1.1: gated, untied, and with a head size of its own.
    _generating(
        "t5-v1.1",
        "text2text-generation",
        "T5ForConditionalGeneration",
        {**_T5, "d_kv": 16, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    Case(
        name="whisper",
        task="automatic-speech-recognition",
        model="WhisperForConditionalGeneration",
        config=_WHISPER,
        generation=_WHISPER_GENERATION,
        tokenizer="whisper",
        given=_sounds(),
        blocks=everywhere("speech-to-text"),
        one_by_one=(NODE, WASM),
    ),
    Case(
        name="ctc",
        task="automatic-speech-recognition",
        model="Wav2Vec2ForCTC",
        config=_WAV2VEC2,
        tokenizer="ctc",
        given=_sounds(),
        blocks=everywhere("ctc", RAW, NODE, WASM),
        one_by_one=(NODE, WASM),
    ),
    Case(
        name="ctc-without-mask",
        task="automatic-speech-recognition",
        model="Wav2Vec2ForCTC",
        config={**_WAV2VEC2, "feat_extract_norm": "group", "do_stable_layer_norm": False},
        tokenizer="ctc",
        given=_sounds(),
        blocks=everywhere("ctc", OPTIMUM),
        one_by_one=(OPTIMUM,),
    ),
    Case(
        name="image-classification",
        task="image-classification",
        model="ViTForImageClassification",
        config={
            **_SIGHT,
            "num_labels": 5,
        },
        tokenizer="images",
        weights="external",
        given={"images": ["image-0.png", "image-1.png"]},
        blocks={**everywhere("image-classification"), WASM: "image-classification-from-pixels"},
    ),
    Case(
        name="clip",
        task="zero-shot-image-classification",
        model="CLIPModel",
        config={
            "text_config": {**_DECODER, "num_hidden_layers": 1, "eos_token_id": 3, "projection_dim": 24},
            "vision_config": {
                **_SIGHT,
                "projection_dim": 24,
            },
            "projection_dim": 24,
        },
        tokenizer="clip",
        given={"texts": _TEXTS["texts"][:2], "images": ["image-0.png", "image-1.png"]},
        blocks={**everywhere("text-and-images"), NODE: "text-or-images", WASM: "text-or-images"},
    ),
)

DAMAGED = Case(
    name="damaged",
    task="sentence-similarity",
    model="RobertaModel",
    config={**_ENCODER, "type_vocab_size": 1},
    pooling="mean",
    given=_TEXTS,
    damaged=True,
    blocks={
        **everywhere("embeddings-from-the-graph", RAW, NODE, WASM),
        OPTIMUM: "feature-extraction",
        SENTENCES: "embeddings",
        FASTEMBED: "mean-embeddings",
    },
)
"""None of CASES: it shows that the harness of each consumer can fail."""

"""What is loaded, and by whom: one row a bundle. Adding a family is adding its rows, and its blocks to the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
    recipe: str | None = None
    atol: float = 2e-5


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
_MASKED: Given = {
    "texts": ["The [MASK] was quiet.", "Nobody expected the old [MASK] keeper to sing so well.", "[MASK]."]
}

_ENCODER = {
    "vocab_size": 1200,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
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
        name="question-answering",
        task="question-answering",
        model="BertForQuestionAnswering",
        config=_ENCODER,
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
)

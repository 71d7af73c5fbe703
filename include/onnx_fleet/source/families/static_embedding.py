"""sentence-transformers' StaticEmbedding as a model of transformers' kind. Imports torch and transformers.

``register`` makes it known to transformers' auto classes, by the model type of ``onnx_fleet.source.static_embedding``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from onnx_fleet.source import static_embedding


class StaticEmbeddingConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """The table's configuration: ``vocab_size`` rows of ``hidden_size`` numbers, and its name in the checkpoint."""

    model_type = static_embedding.MODEL_TYPE

    vocab_size: int = 0
    hidden_size: int = 0
    table: str = static_embedding.TABLES[0]


@dataclass
class StaticEmbeddingOutput(ModelOutput):
    """The output: one vector per token, float32 [batch_size, sequence_length, hidden_size]."""

    last_hidden_state: torch.Tensor | None = None


class StaticEmbedding(PreTrainedModel):  # type: ignore[no-untyped-call]
    """A table of vectors. What they are pooled to, families.chain adds: their mean over the tokens of a text."""

    config_class = StaticEmbeddingConfig
    _supports_sdpa = _supports_flash_attn = True

    def __init__(self, config: StaticEmbeddingConfig) -> None:
        super().__init__(config)
        shape = (config.vocab_size, config.hidden_size)
        if config.table == static_embedding.TABLES[0]:
            self.embedding = nn.Embedding(*shape)
        else:
            self.embeddings = nn.Parameter(torch.empty(shape))
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: every weight comes from the checkpoint."""

    def forward(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None, **_: Any
    ) -> StaticEmbeddingOutput:
        """Return the vector of each token.

        Args:
            input_ids: int64 [batch_size, sequence_length].
            attention_mask: int64 [batch_size, sequence_length]; what pools the vectors reads it.
        """
        table = self.embedding.weight if self.config.table == static_embedding.TABLES[0] else self.embeddings
        return StaticEmbeddingOutput(last_hidden_state=functional.embedding(input_ids, table))


@cache
def register() -> None:
    """Make the class known to transformers' AutoConfig and AutoModel."""
    AutoConfig.register(static_embedding.MODEL_TYPE, StaticEmbeddingConfig)
    AutoModel.register(StaticEmbeddingConfig, StaticEmbedding)

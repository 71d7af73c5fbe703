"""The limits of a loaded model's tokens, as the model says: its tables before its configuration. Imports torch."""

from __future__ import annotations

import inspect
from typing import Any

from torch.nn import Embedding

from onnx_fleet.graphs import text_inputs
from onnx_fleet.graphs.further_inputs import FurtherInput
from onnx_fleet.graphs.text_inputs import ModelLimits

_POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe", "position_embedding")


def of(model: Any, *, further: tuple[FurtherInput, ...] = ()) -> ModelLimits:
    """Return the limits of a transformers model that takes tokens.

    Args:
        further: the inputs that its family says it takes beside them.
    """
    config = model.config.get_text_config()
    takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
    size = int(config.vocab_size)
    return ModelLimits(
        vocab_size=size,
        max_length=_max_length(model),
        token_types=max(1, int(getattr(config, "type_vocab_size", None) or 1)) if takes_types else 1,
        pad_token_id=text_inputs.known_token(getattr(config, "pad_token_id", None), size) or 0,
        special=text_inputs.special_tokens(model.config.to_dict(), vocab_size=size),
        end=text_inputs.known_token(getattr(config, "eos_token_id", None), size) if _reads_the_end(model) else None,
        further=further,
    )


def _reads_the_end(model: Any) -> bool:
    """Say whether texts must end with the end token: encoder-decoders are trained so, and classify there."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def _max_length(model: Any) -> int | None:
    """Return the position table's length where there is one, without RoBERTa's first rows, which are for padding."""
    seeing = tuple(f"{name}." for name, part in model.named_modules() if name and _sees_only(part))
    for name, module in model.named_modules():
        if name.startswith(seeing):
            continue  # its positions are an image's
        if name.rpartition(".")[2] in _POSITION_TABLES and isinstance(module, Embedding):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            return int(module.num_embeddings) - reserved - int(getattr(module, "offset", 0))
    stated = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(stated) if stated and stated > 0 else None


def _sees_only(part: Any) -> bool:
    """Say whether a part of a model takes pixels and no text."""
    modalities = tuple(getattr(part, "input_modalities", None) or ())
    sees = "image" in modalities or getattr(part, "main_input_name", None) == "pixel_values"
    return sees and "text" not in modalities

"""Generate tokens with a decoder's graph as its consumers do: the prompt at once, then token by token. numpy only.

Padding stands on the left; positions count the real tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from onnx_fleet.runtime import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one call of the graph gave."""

    logits: np.ndarray
    """float32 [batch_size, sequence_length, vocabulary]."""
    cache: Mapping[str, np.ndarray]
    """By the names of the inputs: ``past_key_values.0.key``, each [batch_size, heads, tokens, head size]."""

    def rows(self, order: np.ndarray) -> Mapping[str, np.ndarray]:
        """The cache with its rows in another order, as beam search leaves it."""
        return {name: array[order] for name, array in self.cache.items()}


def empty_cache(session: Session, *, batch_size: int) -> dict[str, np.ndarray]:
    """The cache before the prompt: float32 [batch_size, heads, 0, head size]."""
    head_sizes = {
        spec.name.replace("present", "past_key_values"): spec.shape[3]
        for spec in session.outputs
        if spec.name.startswith("present.")
    }
    return {
        spec.name: np.zeros((batch_size, int(spec.shape[1]), 0, int(head_sizes[spec.name])), dtype=spec.dtype)
        for spec in session.inputs
        if spec.name.startswith("past_key_values.")
    }


def step(
    session: Session,
    input_ids: np.ndarray,
    *,
    attention_mask: np.ndarray,
    cache: Mapping[str, np.ndarray] | None = None,
) -> Step:
    """One call of a decoder's graph.

    Args:
        input_ids: int64 [batch_size, sequence_length], the new tokens.
        attention_mask: int64 [batch_size, cached + sequence_length], over all tokens so far.
        cache: of the call before; None starts anew.
    Raises:
        ValidationFailed: onnxruntime refuses the feeds.
    """
    cache = cache if cache is not None else empty_cache(session, batch_size=len(input_ids))
    feeds = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": positions(attention_mask)[:, -input_ids.shape[1] :],
        **cache,
    }
    outputs = session.run(feeds)
    present = {
        name.replace("present", "past_key_values"): array
        for name, array in outputs.items()
        if name.startswith("present.")
    }
    return Step(logits=outputs["logits"], cache=present)


def greedy(
    session: Session,
    input_ids: np.ndarray,
    *,
    attention_mask: np.ndarray,
    max_new_tokens: int,
    eos_token_ids: Collection[int] = (),
    pad_token_id: int = 0,
) -> np.ndarray:
    """The likeliest token, again and again; a row that has ended is padded.

    Args:
        input_ids: int64 [batch_size, sequence_length], padded on the left.
    Returns:
        int64 [batch_size, new tokens], without the prompt; it ends with the last row.
    """
    tokens: list[np.ndarray] = []
    ended = np.zeros(len(input_ids), dtype=bool)
    new, cache = input_ids, None
    for _ in range(max_new_tokens):
        found = step(session, new, attention_mask=attention_mask, cache=cache)
        chosen = np.where(ended, pad_token_id, found.logits[:, -1].argmax(axis=-1)).astype(np.int64)
        tokens.append(chosen)
        ended |= np.isin(chosen, list(eos_token_ids))
        if ended.all():
            break
        new, cache = chosen[:, None], found.cache
        attention_mask = np.concatenate([attention_mask, np.ones_like(new)], axis=1)
    return np.stack(tokens, axis=1)


def positions(attention_mask: np.ndarray) -> np.ndarray:
    """int64, as the mask: the place of each real token among the real ones; 0 for padding before them."""
    places: np.ndarray = np.maximum(attention_mask.cumsum(axis=1) - 1, 0).astype(np.int64)
    return places

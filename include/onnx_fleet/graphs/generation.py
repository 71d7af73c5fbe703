"""Generate tokens with a graph as its consumers do: the prompt at once, then token by token. numpy only.

``greedy`` knows no family: it is given what makes one call. ``behind`` makes the calls of a decoder, where padding
stands on the left and positions count the real tokens; generation_seq2seq has those of encoder-decoders.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one call of the graph returned."""

    logits: np.ndarray
    """float32 [batch_size, new tokens, vocabulary]."""
    cache: Mapping[str, np.ndarray]
    """float32 [batch_size, heads, tokens, head size] by the names of the inputs: ``past_key_values.0.key``."""

    def rows(self, order: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return the cache with its rows in another order, as beam search leaves it.

        Args:
            order: int64 [rows], which row stands in each place.
        """
        return {name: array[order] for name, array in self.cache.items()}


class Call(Protocol):
    """One call of a graph, on int64 [batch_size, new tokens] with the cache of the call before; None starts anew."""

    def __call__(self, input_ids: np.ndarray, *, cache: Mapping[str, np.ndarray] | None) -> Step: ...


def empty_cache(session: Session, *, batch_size: int, head_size: int | None = None) -> dict[str, np.ndarray]:
    """Return every cache before the first call: float32 [batch_size, heads, 0, head size] by input.

    Args:
        head_size: the size that all have; None takes each one's own. Consumers guess one number, and may be wrong.
    """
    head_sizes = {
        spec.name.replace("present", "past_key_values"): spec.shape[3]
        for spec in session.outputs
        if spec.name.startswith("present.")
    }
    return {
        spec.name: np.zeros(
            (batch_size, int(spec.shape[1]), 0, int(head_sizes[spec.name]) if head_size is None else head_size),
            dtype=spec.dtype,
        )
        for spec in session.inputs
        if spec.name.startswith("past_key_values.")
    }


def cache_of(outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what a call keeps for the next one: [batch_size, heads, tokens, head size] by the names of the inputs."""
    return {
        name.replace("present", "past_key_values"): array
        for name, array in outputs.items()
        if name.startswith("present.")
    }


def step(
    session: Session,
    input_ids: np.ndarray,
    *,
    attention_mask: np.ndarray,
    cache: Mapping[str, np.ndarray] | None = None,
) -> Step:
    """Call a decoder's graph once.

    Args:
        input_ids: int64 [batch_size, sequence_length], the new tokens.
        attention_mask: int64 [batch_size, cached + sequence_length], over all tokens so far.
        cache: the cache of the call before, shaped as in Step; None starts anew.
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
    return Step(logits=outputs["logits"], cache=cache_of(outputs))


def behind(session: Session, *, attention_mask: np.ndarray) -> Call:
    """Return the calls of a decoder's graph from a prompt on.

    Args:
        attention_mask: int64 [batch_size, sequence_length]: the mask of the prompt, padded on the left.
    """

    def call(input_ids: np.ndarray, *, cache: Mapping[str, np.ndarray] | None) -> Step:
        return step(session, input_ids, attention_mask=extended(attention_mask, input_ids, cache=cache), cache=cache)

    return call


def extended(attention_mask: np.ndarray, new: np.ndarray, *, cache: Mapping[str, np.ndarray] | None) -> np.ndarray:
    """Return a prompt's mask up to the end of a call's new tokens: int64 [batch_size, cached + new tokens].

    Nothing behind a prompt is padding.

    Args:
        attention_mask: int64 [batch_size, sequence_length], of the prompt.
        cache: the cache of the call before, shaped as in Step; None where there was none.
        new: [batch_size, new tokens, …]: the call's tokens, or their vectors.
    Raises:
        ValidationFailed: the cache holds less than the prompt: a graph has forgotten some of it.
    """
    cached = next(iter(cache.values())).shape[2] if cache else 0
    missing = cached + new.shape[1] - attention_mask.shape[1]
    if missing < 0:
        raise ValidationFailed(f"the cache has {cached} tokens after a prompt of {attention_mask.shape[1]}")
    return np.pad(attention_mask, ((0, 0), (0, missing)), constant_values=1)


def in_pieces(call: Callable[[slice, Mapping[str, np.ndarray] | None], Step], sizes: Sequence[int]) -> np.ndarray:
    """Return the logits of tokens that are fed piece by piece: float32 [batch_size, tokens, vocabulary].

    Args:
        call: (which tokens, the cache of the call before or None) -> what the graph returns for them.
        sizes: how many tokens each piece has.
    """
    logits: list[np.ndarray] = []
    cache: Mapping[str, np.ndarray] | None = None
    done = 0
    for size in sizes:
        found = call(slice(done, done + size), cache)
        logits.append(found.logits)
        cache, done = found.cache, done + size
    return np.concatenate(logits, axis=1)


def greedy(
    call: Call,
    start: np.ndarray,
    *,
    max_new_tokens: int,
    eos_token_ids: Collection[int] = (),
    pad_token_id: int = 0,
) -> np.ndarray:
    """Generate the likeliest token, again and again; a row that has ended is padded.

    Args:
        start: int64 [batch_size, tokens]: a prompt, padded on the left, or the start token and forced ones behind it.
        max_new_tokens: how many tokens are generated at most; one at least.
    Returns:
        int64 [batch_size, new tokens], without the start; it ends with the last row.
    """
    tokens: list[np.ndarray] = []
    ended = np.zeros(len(start), dtype=bool)
    new, cache = start, None
    for _ in range(max_new_tokens):
        found = call(new, cache=cache)
        chosen = np.where(ended, pad_token_id, found.logits[:, -1].argmax(axis=-1)).astype(np.int64)
        tokens.append(chosen)
        ended |= np.isin(chosen, list(eos_token_ids))
        if ended.all():
            break
        new, cache = chosen[:, None], found.cache
    return np.stack(tokens, axis=1)


def positions(attention_mask: np.ndarray) -> np.ndarray:
    """Return the place of each real token among the real ones, and 0 for padding before them: int64, as the mask.

    Args:
        attention_mask: int64 [batch_size, sequence_length].
    """
    places: np.ndarray = np.maximum(attention_mask.cumsum(axis=1) - 1, 0).astype(np.int64)
    return places

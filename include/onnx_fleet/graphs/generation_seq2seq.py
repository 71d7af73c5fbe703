"""Generate tokens with an encoder-decoder's graphs as their consumers do: encode once, then token by token. numpy only.

optimum and transformers.js take the encoder's part of the cache from the first step, and feed it at every later one
whatever the graph returns then; so does this loop, unless it is told otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_fleet.graphs.generation import Call, Step, cache_of, empty_cache
from onnx_fleet.graphs.session import Session

_NEVER = -1e9
"""The logarithm of a probability that is out of the running."""
_SO_FAR = "input_ids"
"""The name of all tokens so far, which a decoder without a cache has in the place of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What a decoder reads of its encoder at every step."""

    states: np.ndarray
    """float32 [batch_size, encoder_sequence_length, width]."""
    mask: np.ndarray | None
    """int64 [batch_size, encoder_sequence_length], or over the encoder's own input; None where there is none."""

    def rows(self, order: np.ndarray) -> Encoded:
        """Return the same with its rows in another order, or repeated.

        Args:
            order: int64 [rows], which row stands in each place.
        """
        return Encoded(states=self.states[order], mask=None if self.mask is None else self.mask[order])


def encode(session: Session, feeds: Mapping[str, np.ndarray]) -> Encoded:
    """Run the encoder's graph.

    Args:
        feeds: arrays by the names of its inputs; what it does not take is left out.
    Raises:
        ValidationFailed: onnxruntime refuses the feeds.
    """
    return Encoded(states=session.run(feeds)["last_hidden_state"], mask=feeds.get("attention_mask"))


def takes_cache(session: Session) -> bool:
    """Return whether a decoder's graph keeps what it has read, or is given all tokens at every step."""
    return any(spec.name.startswith("past_key_values.") for spec in session.inputs)


def step(
    session: Session,
    input_ids: np.ndarray,
    *,
    encoded: Encoded,
    cache: Mapping[str, np.ndarray] | None = None,
    keeps_encoder_cache: bool = True,
) -> Step:
    """Call a decoder's graph once.

    Args:
        input_ids: int64 [batch_size, new tokens].
        cache: the cache of the call before; None starts anew.
        keeps_encoder_cache: whether the encoder's part of a cache is passed on as it was fed, as consumers do, or is
            the one that this call returned.
    Raises:
        ValidationFailed: onnxruntime refuses the feeds.
    """
    before = cache if cache is not None else empty_cache(session, batch_size=len(input_ids))
    tokens = np.concatenate([before[_SO_FAR], input_ids], axis=1) if _SO_FAR in before else input_ids
    feeds = {**before, "input_ids": tokens, "encoder_hidden_states": encoded.states}
    if encoded.mask is not None:
        feeds["encoder_attention_mask"] = encoded.mask
    outputs = session.run(feeds)
    if not takes_cache(session):
        return Step(logits=outputs["logits"][:, -input_ids.shape[1] :], cache={_SO_FAR: tokens})
    present = cache_of(outputs)
    if keeps_encoder_cache and cache is not None:
        present |= {name: array for name, array in before.items() if ".encoder." in name}
    return Step(logits=outputs["logits"], cache=present)


def step_of_one_graph(
    session: Session,
    input_ids: np.ndarray,
    *,
    source: Mapping[str, np.ndarray],
    cache: Mapping[str, np.ndarray] | None = None,
) -> Step:
    """Call a graph that takes source and target together: all of both at every call.

    Args:
        input_ids: int64 [batch_size, new tokens].
        source: what an encoder would take, arrays by name.
        cache: what the call before returned; None starts anew.
    Raises:
        ValidationFailed: onnxruntime refuses the feeds.
    """
    tokens = input_ids if cache is None else np.concatenate([cache[_SO_FAR], input_ids], axis=1)
    feeds = {**source, "decoder_input_ids": tokens, "decoder_attention_mask": np.ones_like(tokens)}
    return Step(logits=session.run(feeds)["logits"][:, -input_ids.shape[1] :], cache={_SO_FAR: tokens})


def beams(
    call: Call,
    start: np.ndarray,
    *,
    num_beams: int,
    max_new_tokens: int,
    eos_token_ids: Collection[int] = (),
    pad_token_id: int = 0,
    length_penalty: float = 1.0,
) -> np.ndarray:
    """Search for the best of several running texts, as transformers does with ``early_stopping=False``.

    Args:
        call: takes num_beams rows for each row of start, those of one row side by side.
        start: int64 [batch_size, tokens], as for greedy.
        num_beams: how many texts run side by side for each row.
        length_penalty: a finished text's score is its logarithm of probability, divided by its length to this power.
    Returns:
        int64 [batch_size, new tokens], without the start; rows that ended early are padded.
    """
    searches = [_Search(beams=num_beams, ends=tuple(eos_token_ids), penalty=length_penalty) for _ in start]
    new, cache = np.repeat(start, num_beams, axis=0), None
    for count in range(1, max_new_tokens + 1):
        found = call(new, cache=cache)
        logs = _log_softmax(found.logits[:, -1]).reshape(len(start), num_beams, -1)
        for search, of_row in zip(searches, logs, strict=True):
            search.advance(of_row, last=count == max_new_tokens)
        if not any(search.improvable for search in searches):
            break
        origins = [search.origins + index * num_beams for index, search in enumerate(searches)]
        cache = found.rows(np.concatenate(origins))
        new = np.concatenate([search.tokens[:, -1:] for search in searches])
    best = [search.best for search in searches]
    padded = np.full((len(start), max(map(len, best))), pad_token_id, dtype=np.int64)
    for index, tokens in enumerate(best):
        padded[index, : len(tokens)] = tokens
    return padded


@dataclass(slots=True, kw_only=True)
class _Search:
    """One row's running and finished texts."""

    beams: int
    ends: tuple[int, ...]
    penalty: float
    tokens: np.ndarray = field(init=False)
    """int64 [beams, new tokens]: the running texts, the likeliest first."""
    scores: np.ndarray = field(init=False)
    origins: np.ndarray = field(init=False)
    """int64 [beams]: which running text of the step before each one continues."""
    finished: list[tuple[float, np.ndarray]] = field(default_factory=list)
    improvable: bool = True
    """Whether a running text may still beat the finished ones."""

    def __post_init__(self) -> None:
        self.tokens = np.empty((self.beams, 0), dtype=np.int64)
        self.scores = np.full(self.beams, _NEVER, dtype=np.float32)
        self.scores[0] = 0  # all texts are alike before the first step: only one may branch
        self.origins = np.arange(self.beams)

    def advance(self, logs: np.ndarray, *, last: bool) -> None:
        """Take one token more.

        Args:
            logs: float32 [beams, vocabulary]: logarithms of the next token's probability, for each running text.
            last: whether every text ends here.
        """
        kept = max(2, 1 + len(self.ends)) * self.beams  # so many that enough go on where the best ones end
        totals = (self.scores[:, None] + logs).ravel()
        top = _largest(totals, kept)
        texts = np.concatenate([self.tokens[top // logs.shape[1]], (top % logs.shape[1])[:, None]], axis=1)
        ending = np.full(len(top), last) | np.isin(texts[:, -1], self.ends)
        if self.improvable:
            length = texts.shape[1] ** self.penalty
            ended = [i for i in range(self.beams) if ending[i]]
            self.finished += [(float(totals[top[i]] / length), texts[i]) for i in ended]
            self.finished = sorted(self.finished, key=lambda scored: -scored[0])[: self.beams]
        going = _largest(np.where(ending, _NEVER, totals[top]), self.beams)
        self.tokens, self.scores, self.origins = texts[going], totals[top][going], top[going] // logs.shape[1]
        full = len(self.finished) == self.beams
        self.improvable &= not full or self.scores[0] / texts.shape[1] ** self.penalty > self.finished[-1][0]

    @property
    def best(self) -> np.ndarray:
        return self.finished[0][1]


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Where the largest values stand, the largest first."""
    top = np.argpartition(-values, min(count, len(values)) - 1)[:count]
    return top[np.argsort(-values[top], kind="stable")]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logs: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logs


def until_end(tokens: Sequence[int] | np.ndarray, eos_token_ids: Collection[int]) -> list[int]:
    """Return a row's tokens up to and with the first that ends it: what stands behind is padding.

    Args:
        tokens: int64 [tokens].
    """
    listed = [int(token) for token in tokens]
    place = next((i for i, token in enumerate(listed) if token in eos_token_ids), len(listed) - 1)
    return listed[: place + 1]

"""Two texts that encoder-decoders generated from one source: by how much PyTorch prefers its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_fleet.validation.checks import seq2seq_feeds as feeding
from onnx_fleet.validation.checks.context import CheckContext
from onnx_fleet.validation.checks.float64 import most_off, word
from onnx_fleet.validation.checks.seq2seq_feeds import TARGET
from onnx_fleet.validation.checks.single_graph import Feeds
from onnx_fleet.validation.checks.ties import Margin, weighed


def margin_of(
    subject: CheckContext, feeds: Feeds, pair: Sequence[list[int]], *, whole_texts: bool
) -> tuple[Margin, str]:
    """Return by how much PyTorch prefers its own text, and what is weighed, for people.

    Args:
        pair: generate's text and the graphs', of one source.
        whole_texts: whether texts are weighed as beams are, or the tokens where they part.
    """
    logits = [_text_logits(subject, feeds, text) for text in pair]
    shared = min(map(len, pair))
    place = next((i for i in range(shared) if pair[0][i] != pair[1][i]), shared)
    if whole_texts or place == shared:
        scores = [_mean_log_probability(own, text) for own, text in zip(logits, pair, strict=True)]
        size = scores[0] - scores[1]
        what = f"texts part at token {place}; PyTorch's mean log-probabilities of the two"
    else:
        own, other = pair[0][place], pair[1][place]
        size = float(logits[0][place, own] - logits[0][place, other])
        what = f"token {place} is {other} where generate gives {own}; PyTorch's logits of the two"
    tolerances = subject.tolerances

    def rounding() -> float:
        exact = [_exact_text_logits(subject, feeds, text) for text in pair]
        return max(most_off(own, wide, tolerances=tolerances) for own, wide in zip(logits, exact, strict=True))

    largest = max(float(np.abs(own).max()) for own in logits)
    return weighed(size, largest=largest, tolerances=tolerances, rounding=rounding), what


def _text_logits(subject: CheckContext, feeds: Feeds, text: Sequence[int]) -> np.ndarray:
    """Return the logits by which PyTorch weighs each token of a generated text: float32 [tokens, vocabulary]."""
    logits: np.ndarray = subject.reference({**feeds, TARGET: _started(subject, text)})["logits"][0]
    return logits


def _exact_text_logits(subject: CheckContext, feeds: Feeds, text: Sequence[int]) -> np.ndarray | None:
    given = {**feeds, TARGET: _started(subject, text)}
    return word(subject, given, "logits", read=lambda logits: logits[0])()


def _started(subject: CheckContext, text: Sequence[int]) -> np.ndarray:
    """What the decoder is given to say how likely each token of a text was."""
    return np.array([[feeding.start_token(subject, source=True), *text[:-1]]], dtype=np.int64)


def _mean_log_probability(logits: np.ndarray, text: Sequence[int]) -> float:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return float(logs[np.arange(len(text)), text].mean())

"""Put real text to the fp32 graphs, as consumers of their family do, so that a recorder can keep what they were fed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onnx_fleet import generation, generation_seq2seq, inputs

if TYPE_CHECKING:
    from onnx_fleet.checks.subject import Subject
    from onnx_fleet.inputs import Batch, Side

ROWS = 4
"""Texts in a batch, of different lengths."""
MAX_LENGTH = 64
"""Tokens of a text: attention and caches grow with it, and ranges and rates hardly change."""


def ask(subject: Subject, texts: Sequence[str]) -> None:
    """Feed the texts to every graph, in padded batches; every fourth batch is one row alone.

    Raises:
        ValidationFailed: onnxruntime refuses the feeds.
    """
    ASKING[subject.item.family](subject, texts)


def foretells(subject: Subject) -> bool:
    """Whether what is asked is how a text goes on."""
    return subject.item.family in _FORETELLING


def has_words(subject: Subject) -> bool:
    """Whether texts can be put to these graphs at all; of the others, what their checks fed is kept."""
    return subject.item.family in ASKING and (subject.stage_dir / "tokenizer.json").exists()


def _encode(subject: Subject, texts: Sequence[str]) -> None:
    for batch in _batches(subject, texts, side="right"):
        subject.session().run(subject.feeds(batch))


def _continue(subject: Subject, texts: Sequence[str]) -> None:
    """All tokens but the last at once, then the last one behind the cache."""
    for batch in _batches(subject, texts, side="left"):
        mask = batch.attention_mask
        first = generation.step(subject.session(), batch.input_ids[:, :-1], attention_mask=mask[:, :-1])
        generation.step(subject.session(), batch.input_ids[:, -1:], attention_mask=mask, cache=first.cache)


def _translate(subject: Subject, texts: Sequence[str]) -> None:
    """A text is its own translation: what is compared are the same graphs in two precisions."""
    from onnx_fleet.checks import source_and_target

    encoder, *rest = subject.sessions.values()
    start = source_and_target.start_token(subject)
    for batch in _batches(subject, texts, side="right"):
        tokens = np.concatenate([np.full((len(batch), 1), start), batch.input_ids], axis=1)[:, :-1]
        if not rest:
            generation_seq2seq.step_of_one_graph(encoder, tokens, source=batch.feeds)
            continue
        encoded = generation_seq2seq.encode(encoder, batch.feeds)
        first = generation_seq2seq.step(rest[0], tokens[:, :-1], encoded=encoded)
        generation_seq2seq.step(rest[0], tokens[:, -1:], encoded=encoded, cache=first.cache)


def _batches(subject: Subject, texts: Sequence[str], *, side: Side) -> Iterator[Batch]:
    from tokenizers import Tokenizer

    space = subject.space
    tokenizer = Tokenizer.from_file(str(subject.stage_dir / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(MAX_LENGTH, space.max_length))
    rows = [inputs.row_of(tokenizer.encode(text), space) for text in texts]
    rows = [row for row in rows if row.input_ids.shape[1] > 1]
    for index, start in enumerate(range(0, len(rows), ROWS)):
        chosen = rows[start : start + (1 if index % 4 == 3 else ROWS)]
        yield inputs.pad(chosen, side=side, space=space)


ASKING: Mapping[str, Callable[[Subject, Sequence[str]], None]] = {
    "encoder": _encode,
    "decoder": _continue,
    "seq2seq": _translate,
}
"""By family."""
_FORETELLING = ("decoder", "seq2seq")

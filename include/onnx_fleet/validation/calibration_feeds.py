"""Put real text or pictures to the fp32 graphs, as consumers of their family do, so that a recorder can keep what they
were fed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnx_fleet.bundles.stage import Stage
from onnx_fleet.errors import ModelInvalid
from onnx_fleet.graphs import generation, generation_seq2seq, packed_tokenizer, text_inputs
from onnx_fleet.graphs.session import Session
from onnx_fleet.graphs.text_inputs import Batch, Side
from onnx_fleet.planning.calibration import images, texts
from onnx_fleet.planning.calibration import source as calibration_source
from onnx_fleet.planning.calibration.texts import ROOT

if TYPE_CHECKING:
    from onnx_fleet.validation.checks.context import CheckContext

ROWS = 4
"""Texts in a batch, of different lengths."""
MAX_DESCRIBED = 16
"""Pictures that a language model is shown."""
MAX_LENGTH = 64
"""Tokens of a text: attention and caches grow with it, and ranges and rates hardly change."""


def asks(stage: Stage) -> bool:
    """Say whether an entry's own texts or pictures, or the built-in texts, are what the graphs are fed for variants.

    Otherwise it is what their checks feed them.
    """
    family, source = stage.item.family, stage.item.model.entry.calibration
    shows = source is not None and calibration_source.kind(source) == "image" and family in LOOKING
    return shows or (family in ASKING and (stage.folder / "tokenizer.json").exists())


def question(subject: CheckContext, source: str | None, *, root: Path = ROOT) -> Callable[[], None] | None:
    """Return what feeds an entry's own texts or pictures, or the built-in texts, to every graph.

    Every fourth batch is one row alone. It returns None where what their checks fed is all that there is. What it
    returns raises ValidationFailed where onnxruntime refuses the feeds; graphs that nothing is fed from are only told.

    Args:
        source: the entry's calibration; None takes the built-in texts.
        root: the folder that it is relative to.
    Raises:
        ModelInvalid: the texts or pictures are not there.
    """
    family = subject.item.family
    if not asks(subject.stage):
        return None
    if source is not None and calibration_source.kind(source) == "image" and family in LOOKING:
        return partial(LOOKING[family], subject, images.of(source, root=root))
    return partial(ASKING[family], subject, texts.of(source, root=root))


def predicts_next_token(subject: CheckContext) -> bool:
    """Whether what is asked is how a text goes on."""
    return subject.item.family in _FORETELLING


def _encode(subject: CheckContext, lines: Sequence[str]) -> None:
    """No other graph is fed what an encoder returns, so it need not compute it."""
    for batch in _batches(subject, lines, side="right"):
        subject.session().note(subject.feeds(batch))


def _continue(subject: CheckContext, lines: Sequence[str]) -> None:
    """All tokens but the last at once, then the last one behind the cache."""
    for batch in _batches(subject, lines, side="left"):
        mask = batch.attention_mask
        first = generation.step(subject.session(), batch.input_ids[:, :-1], attention_mask=mask[:, :-1])
        generation.step(subject.session(), batch.input_ids[:, -1:], attention_mask=mask, cache=first.cache)


def _translate(subject: CheckContext, lines: Sequence[str]) -> None:
    """A text is its own translation: what is compared are the same graphs in two precisions."""
    from onnx_fleet.validation.checks import seq2seq_feeds

    encoder, *rest = subject.sessions.values()
    start = seq2seq_feeds.start_token(subject)
    for batch in _batches(subject, lines, side="right"):
        tokens = np.concatenate([np.full((len(batch), 1), start), batch.input_ids], axis=1)[:, :-1]
        if not rest:
            generation_seq2seq.step_of_one_graph(encoder, tokens, source=batch.feeds)
            continue
        encoded = generation_seq2seq.encode(encoder, batch.feeds)
        first = generation_seq2seq.step(rest[0], tokens[:, :-1], encoded=encoded)
        generation_seq2seq.step(rest[0], tokens[:, -1:], encoded=encoded, cache=first.cache)


def _look(subject: CheckContext, paths: Sequence[Path]) -> None:
    session = subject.session()
    for feeds in picture_feeds(subject, paths):
        session.run(_taken(session, feeds))


def _match(subject: CheckContext, paths: Sequence[Path]) -> None:
    """Every text with every picture of a batch, and either side alone."""
    for feeds, batch in zip(
        picture_feeds(subject, paths), cycle(_batches(subject, texts.LINES, side="right")), strict=False
    ):
        for session in subject.sessions.values():
            session.run(_taken(session, {**feeds, **batch.feeds}))


def _describe(subject: CheckContext, paths: Sequence[Path]) -> None:
    """A picture in a prompt, and a step behind it; a large one is many tiles, and each many tokens."""
    from onnx_fleet.validation.checks import vlm

    for feeds in picture_feeds(subject, paths[:MAX_DESCRIBED], rows=1):
        pixels = _taken(subject.session("vision_encoder"), feeds)
        count = len(pixels["pixel_values"]) if pixels["pixel_values"].ndim == 4 else pixels["pixel_values"].shape[1]
        prompt = vlm.prompt_of(subject, (count,), pixels=pixels, said="of the entry's own")
        mask = prompt.feeds["attention_mask"]
        vectors = vlm.embedded(subject, prompt.feeds)
        first = vlm.decode(subject, vectors[:, :-1], mask[:, :-1], cache=None)
        vlm.decode(subject, vectors[:, -1:], mask, cache=first.cache)


def _taken(session: Session, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What one graph takes of a batch, as it takes it."""
    return {spec.name: feeds[spec.name].astype(spec.dtype) for spec in session.inputs if spec.name in feeds}


def _batches(subject: CheckContext, lines: Sequence[str], *, side: Side) -> Iterator[Batch]:
    space = subject.space
    tokenizer = packed_tokenizer.parsed(subject.stage_dir / "tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(MAX_LENGTH, space.max_length))
    rows = [text_inputs.row_of(tokenizer.encode(text), space) for text in lines]
    rows = [row for row in rows if row.input_ids.shape[1] > 1]
    for index, start in enumerate(range(0, len(rows), ROWS)):
        chosen = rows[start : start + (1 if index % 4 == 3 else ROWS)]
        yield text_inputs.pad(chosen, side=side, space=space)


ASKING: Mapping[str, Callable[[CheckContext, Sequence[str]], None]] = {
    "encoder": _encode,
    "decoder": _continue,
    "seq2seq": _translate,
}
"""What feeds texts to the graphs, by family."""
LOOKING: Mapping[str, Callable[[CheckContext, Sequence[Path]], None]] = {
    "vision": _look,
    "dual": _match,
    "vlm": _describe,
}
"""What feeds pictures to the graphs, by family."""
_FORETELLING = ("decoder", "seq2seq")


PICTURE_ROWS = 4
"""Pictures in a batch."""


def picture_feeds(
    subject: CheckContext, paths: Sequence[Path], *, rows: int = PICTURE_ROWS
) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches as the packed preprocessor makes them: arrays by the names of inputs, ``pixel_values`` among them
    as float32 [pictures, channels, height, width]; every fourth batch is one picture alone.

    Args:
        rows: pictures in a batch; pictures that it leaves in sizes of their own come one by one.
    Raises:
        ModelInvalid: a picture cannot be read, or the preprocessor takes none.
    """
    from transformers import AutoImageProcessor

    process = AutoImageProcessor.from_pretrained(subject.stage_dir)  # type: ignore[no-untyped-call]  # theirs
    for index, start in enumerate(range(0, len(paths), rows)):
        chosen = [images.read(path) for path in paths[start : start + (1 if index % 4 == 3 else rows)]]
        try:
            yield dict(process(images=chosen, return_tensors="np"))
        except ValueError as err:
            if len(chosen) == 1:
                raise ModelInvalid(f"{paths[start].name}: the packed preprocessor does not take it: {err}") from err
            for picture in chosen:
                yield dict(process(images=[picture], return_tensors="np"))

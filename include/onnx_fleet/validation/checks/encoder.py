"""What encoders are held to: tokens in, one graph, the whole of it against PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np

from onnx_fleet.entities.graph_info import TensorSpec
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.graphs import text_inputs
from onnx_fleet.graphs.comparison import Case, Outputs, at_real_positions, is_per_token, real_places
from onnx_fleet.graphs.text_inputs import Batch, Side
from onnx_fleet.processes.two_threads import beside
from onnx_fleet.validation.checks.context import REPEATED_ROWS, REPEATED_TEXTS, SEED, CheckContext, checks_of
from onnx_fleet.validation.checks.padding import Parts, Run, Runners, padded_rows
from onnx_fleet.validation.checks.sensitivity import moved_by
from onnx_fleet.validation.checks.single_graph import Feeds, against_pytorch, rows_of, run

BATCH_SIZES = (1, 2, 7)
LENGTHS = (1, 2, 17, 64)
"""The model's maximum is fed, too. 17 is odd and no multiple of a vector register."""
REPEATED_LENGTHS = (17,)
"""What is fed where the same graphs were held to all of it with other weights; the maximum is fed then, too."""
TOKENS_AT_MAXIMUM = 1024
"""Batches at the maximum length hold as many rows as fit in this: cost grows with the square of the length."""
PADDED_LENGTHS = (17, 9, 1)
_NOT_MEANT = "the model is not meant for this padding"


def parity(subject: CheckContext) -> Iterator[CheckRow]:
    """Every output equals PyTorch's on random tokens, over batch sizes and lengths up to the model's maximum."""
    maximum = subject.space.max_length
    batch_sizes = subject.sizes(BATCH_SIZES, repeated=(REPEATED_ROWS,))
    most = subject.sizes(TOKENS_AT_MAXIMUM, repeated=maximum)
    lengths = subject.sizes(LENGTHS, repeated=REPEATED_LENGTHS)
    for length in sorted({min(length, maximum) for length in lengths} | {maximum}):
        rows = max(1, min(batch_sizes[-1], most // length))
        largest = subject.filled(text_inputs.random_batch(subject.space, batch_size=rows, length=length, seed=SEED))
        expected = cache(partial(subject.reference, subject.feeds(largest)))
        for batch_size in sorted({min(size, rows) for size in batch_sizes}, reverse=True):
            # PyTorch computes the same values for a row in a batch of any size, to 1e-6; the graph has to as well.
            text = f"batch_size {batch_size}, sequence_length {length}, seed {SEED}"
            yield from _against(subject, subject.case("parity", text), largest[:batch_size], expected=expected)


def text(subject: CheckContext) -> Iterator[CheckRow]:
    """Every output equals PyTorch's on real text through the packed tokenizer, sentence pairs too."""
    if subject.without_text:
        yield subject.case("text", "texts of several scripts").row("skipped", passed=True, detail=subject.without_text)
        return
    texts, pairs = text_inputs.text_batches(subject.stage_dir, subject.space)
    asked = subject.sizes(((texts, "texts"), (pairs, "pairs of texts")), repeated=((texts[:REPEATED_TEXTS], "texts"),))
    for batch, what in asked:
        case = subject.case("text", f"{len(batch)} {what} of several scripts, padded right")
        yield from _against(subject, case, batch, expected=partial(subject.reference, subject.feeds(batch)))


def padding_left(subject: CheckContext) -> Iterator[CheckRow]:
    """Rows padded on the left equal PyTorch's, the same rows alone, and themselves with other tokens under the mask."""
    yield from _padding(subject, side="left")


def padding_right(subject: CheckContext) -> Iterator[CheckRow]:
    """The same holds for padding on the right, which every tokenizer for encoders makes."""
    yield from _padding(subject, side="right")


def sensitivity(subject: CheckContext) -> Iterator[CheckRow]:
    """The comparisons can tell: PyTorch's own outputs move by more than the tolerance when an input is ignored."""
    rows = subject.random_rows(PADDED_LENGTHS)
    batch = text_inputs.pad(rows, side="right", space=subject.space)
    changes = {
        "the mask ignored": replace(batch, attention_mask=batch.attention_mask * 0 + 1),
        "tokens in another order": text_inputs.pad(
            [replace(row, input_ids=row.input_ids[:, ::-1]) for row in rows], side="right", space=subject.space
        ),
    }
    if subject.space.token_types > 1:
        changes["token types ignored"] = replace(batch, token_type_ids=batch.token_type_ids * 0)
    for each in subject.space.further:
        changes[f"{each.name} ignored"] = text_inputs.ignored(batch, each)
    feeds = subject.feeds(batch)
    yield from moved_by(
        subject,
        {change: (feeds, subject.feeds(other)) for change, other in changes.items()},
        read=partial(at_real_positions, real=batch.real, specs=subject.outputs),
    )


def _against(subject: CheckContext, case: Case, batch: Batch, *, expected: Callable[[], Outputs]) -> Iterator[CheckRow]:
    """The graph's outputs at real positions against the first rows of what PyTorch returns beside it."""
    feeds = subject.feeds(batch)
    told, (actual, faults) = beside(expected, partial(run, subject, feeds, case=case))
    wanted = rows_of(told, slice(len(batch)))
    read = partial(at_real_positions, real=batch.real, specs=subject.outputs)
    yield from faults or against_pytorch(subject, feeds, wanted, actual, case=case, read=read)


def _padding(subject: CheckContext, *, side: Side) -> Iterator[CheckRow]:
    """BERT counts positions from the left edge, padding included, so that PyTorch's own rows change with it there."""
    rows = subject.random_rows(PADDED_LENGTHS)
    padded = text_inputs.pad(rows, side=side, space=subject.space)
    noisy = text_inputs.replace_masked(padded, space=subject.space, seed=SEED)
    singles = [text_inputs.pad([row], side=side, space=subject.space) for row in rows]
    real = partial(at_real_positions, real=padded.real, specs=subject.outputs)

    def feed(run: Run) -> Parts:
        alone = [(batch, run(subject.feeds(batch))) for batch in singles]
        return {
            "alone": {spec.name: _stacked(spec, alone) for spec in subject.outputs if spec.name in alone[0][1]},
            "batch": real(run(subject.feeds(padded))),
            "noisy": real(run(subject.feeds(noisy))),
        }

    lengths = ", ".join(str(row.input_ids.shape[1]) for row in rows)
    case = subject.case(f"padding_{side}", f"rows of {lengths} tokens, seed {SEED}")
    runners = Runners.of(subject, graph=subject.session().run)
    yield from padded_rows(subject, feed, runners=runners, case=case, meaning=_NOT_MEANT)


def _stacked(spec: TensorSpec, singles: Sequence[tuple[Batch, Outputs]]) -> np.ndarray:
    """One output of single rows, laid out as at_real_positions lays it out for a batch of them."""
    arrays = [outputs[spec.name] for _, outputs in singles]
    if is_per_token(spec):
        places = [real_places(spec, array, real=batch.real) for array, (batch, _) in zip(arrays, singles, strict=True)]
        arrays = [
            array[where] if array.shape[:2] == where.shape else array[0]
            for array, where in zip(arrays, places, strict=True)
        ]
    if len({array.shape[1:] for array in arrays}) > 1:
        return np.empty(0, dtype=arrays[0].dtype)  # whose shape is a finding
    return np.concatenate(arrays)


def probe(subject: CheckContext) -> Feeds:
    """Return two full rows of random tokens: int64 [2, tokens] each."""
    length = min(PADDED_LENGTHS[0], subject.space.max_length)
    return subject.feeds(
        subject.filled(text_inputs.random_batch(subject.space, batch_size=2, length=length, seed=SEED))
    )


CHECKS = checks_of(parity, text, padding_left, padding_right, sensitivity, once=(padding_left, sensitivity))

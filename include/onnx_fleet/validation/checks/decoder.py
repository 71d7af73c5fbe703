"""What decoders are held to: the prompt, the same tokens in pieces, padding on either side, and what they generate.

PyTorch's word is always the plain model's: one pass without a cache, and transformers' own generate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache as cached
from functools import partial

import numpy as np

from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs import generation, text_inputs
from onnx_fleet.graphs.comparison import Case, Outputs, at_places
from onnx_fleet.graphs.generation import Step
from onnx_fleet.graphs.text_inputs import Batch, Side
from onnx_fleet.processes.two_threads import beside
from onnx_fleet.validation.checks import tokenized_texts as reading
from onnx_fleet.validation.checks.context import REPEATED_ROWS, REPEATED_TEXTS, SEED, CheckContext, checks_of
from onnx_fleet.validation.checks.float64 import word
from onnx_fleet.validation.checks.padding import Parts, Run, Runners, padded_rows
from onnx_fleet.validation.checks.sensitivity import moved_by
from onnx_fleet.validation.checks.single_graph import Feeds, logits_equal, or_fault
from onnx_fleet.validation.checks.ties import tokens_equal

REPEATED_LENGTHS, REPEATED_SPLITS, REPEATED_NEW_TOKENS = (17,), (7,), 12
"""What is fed where the same graphs were held to all of it with other weights; the maximum is fed then, too."""
BATCH_SIZES = (1, 2, 7)
LENGTHS = (1, 2, 17, 64)
"""The model's maximum is fed, too. 17 is odd, and longer than the sliding windows of small models."""
TOKENS_AT_MAXIMUM = 1024
"""Batches at the maximum length hold as many rows as fit in this."""
PADDED_LENGTHS = (17, 9, 1)
SPLIT_LENGTH, SPLITS = 19, (1, 7, 18)
"""How long prompts in two pieces are, and after which tokens they are parted."""
SPLIT_ANYWHERE = 8
"""How long the prompt is that is parted at every place."""
STEPS = 6
NEW_TOKENS = 32


def prompt(subject: CheckContext) -> Iterator[CheckRow]:
    """A prompt's logits equal PyTorch's at every position, over batch sizes and lengths up to the model's maximum."""
    maximum = subject.space.max_length
    batch_sizes = subject.sizes(BATCH_SIZES, repeated=(REPEATED_ROWS,))
    most = subject.sizes(TOKENS_AT_MAXIMUM, repeated=maximum)
    lengths = subject.sizes(LENGTHS, repeated=REPEATED_LENGTHS)
    for length in sorted({min(length, maximum) for length in lengths} | {maximum}):
        rows = max(1, min(batch_sizes[-1], most // length))
        largest = text_inputs.random_batch(subject.space, batch_size=rows, length=length, seed=SEED)
        expected = cached(partial(_pytorch, subject, largest))
        for batch_size in sorted({min(size, rows) for size in batch_sizes}, reverse=True):
            case = subject.case("prompt", f"batch_size {batch_size}, sequence_length {length}, seed {SEED}")
            few = largest[:batch_size]
            run, exact = partial(_graph, subject, few), partial(_exact, subject, few)
            yield from logits_equal(subject, partial(_rows, expected, batch_size), run, case=case, exact=exact)


def cache(subject: CheckContext) -> Iterator[CheckRow]:
    """A prompt in two pieces, single steps, and rows in another order return what PyTorch returns without a cache."""
    length = min(SPLIT_LENGTH, subject.space.max_length)
    batch = text_inputs.random_batch(subject.space, batch_size=3, length=length, seed=SEED)
    expected, exact = cached(partial(_pytorch, subject, batch)), partial(_exact, subject, batch)
    for split in (split for split in subject.sizes(SPLITS, repeated=REPEATED_SPLITS) if split < length):
        case = subject.case("cache", f"{length} tokens in two pieces, parted after {split}, seed {SEED}")
        run = partial(_in_pieces, subject, batch, [split, length - split])
        yield from logits_equal(subject, expected, run, case=case, exact=exact)
    if subject.repeats:
        yield from _padded_steps(subject)
        return
    short = batch[:1].cut(min(SPLIT_ANYWHERE, length))
    whole = cached(partial(_pytorch, subject, short))
    for split in range(1, short.input_ids.shape[1]):
        case = subject.case("cache", f"1 row of {short.input_ids.shape[1]} tokens, parted after {split}, seed {SEED}")
        run = partial(_in_pieces, subject, short, [split, short.input_ids.shape[1] - split])
        yield from logits_equal(subject, whole, run, case=case, exact=partial(_exact, subject, short))
    yield from _padded_steps(subject)
    steps = min(STEPS, length - 1)
    case = subject.case("cache", f"{length - steps} tokens, then {steps} one by one, seed {SEED}")
    run = partial(_in_pieces, subject, batch, [length - steps, *[1] * steps])
    yield from logits_equal(subject, expected, run, case=case, exact=exact)
    order = np.array([2, 0, 0])
    case = subject.case("cache", f"{length - 1} tokens, then one with rows {order.tolist()}, as beams do, seed {SEED}")
    run = partial(_reordered, subject, batch, order)
    last = partial(_exact, subject, batch, read=lambda logits: logits[order, -1:])
    yield from logits_equal(subject, lambda: expected()[order, -1:], run, case=case, exact=last)


def _padded_steps(subject: CheckContext) -> Iterator[CheckRow]:
    """A batch that is padded on the left, its last tokens one by one."""
    rows = subject.random_rows(PADDED_LENGTHS)
    batch = text_inputs.pad(rows, side="left", space=subject.space)
    length = batch.input_ids.shape[1]
    steps = min(STEPS, length - 1)
    said = ", ".join(str(row.input_ids.shape[1]) for row in rows)
    case = subject.case("cache", f"rows of {said} tokens, padded left, the last {steps} one by one, seed {SEED}")
    run = partial(_in_pieces, subject, batch, [length - steps, *[1] * steps])
    yield from _real_equal(subject, batch, run, case=case)


def text(subject: CheckContext) -> Iterator[CheckRow]:
    """Logits equal PyTorch's on real text, tokenized by the packed tokenizer, padded left."""
    both = reading.sides(subject)
    count = subject.sizes(len(text_inputs.TEXTS), repeated=REPEATED_TEXTS)
    case = subject.case("text", f"{count} texts of several scripts through the packed tokenizer")
    if both is None:
        yield case.row("skipped", passed=True, detail=subject.without_text)
        return
    rows = [both[1].encode([text]) for text in _texts(subject)]
    batch = text_inputs.pad(rows, side="left", space=subject.space)
    yield from _real_equal(subject, batch, partial(_graph, subject, batch), case=case)


def padding_left(subject: CheckContext) -> Iterator[CheckRow]:
    """Rows padded on the left, as for generation, equal PyTorch's, the rows alone, and other tokens under the mask."""
    yield from _padding(subject, side="left")


def padding_right(subject: CheckContext) -> Iterator[CheckRow]:
    """The same holds for padding on the right."""
    yield from _padding(subject, side="right")


def greedy(subject: CheckContext) -> Iterator[CheckRow]:
    """The likeliest tokens are those of transformers' generate, in a padded batch of random prompts and real text."""
    room = subject.space.max_length - max(PADDED_LENGTHS)
    new_tokens = min(subject.sizes(NEW_TOKENS, repeated=REPEATED_NEW_TOKENS), room)
    random, both = subject.random_rows(PADDED_LENGTHS), reading.sides(subject)
    written = [both[1].encode([text]).cut(PADDED_LENGTHS[0]) for text in _texts(subject)] if both else []
    said = f"{len(random)} random prompts and {len(written)} texts of up to {PADDED_LENGTHS[0]} tokens"
    case = subject.case("greedy", f"{said}, padded left, {new_tokens} new, seed {SEED}")
    if new_tokens < 1:
        yield case.row("skipped", passed=True, detail="the model has no room for a prompt and new tokens")
        return
    batch = text_inputs.pad([*random, *written], side="left", space=subject.space)
    ends = subject.end_tokens
    generate = partial(
        subject.reference.generate,
        {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask},
        max_new_tokens=new_tokens,
        pad_token_id=subject.space.pad_token_id,
        eos_token_id=ends or None,
    )
    search = partial(
        generation.greedy,
        generation.behind(subject.session(), attention_mask=batch.attention_mask),
        batch.input_ids,
        max_new_tokens=new_tokens,
        eos_token_ids=ends,
        pad_token_id=subject.space.pad_token_id,
    )
    wanted, found = beside(generate, partial(or_fault, search))
    if isinstance(found, ValidationFailed):
        yield case.row("error", detail=str(found))
        return
    yield from tokens_equal(
        wanted[:, batch.input_ids.shape[1] :],
        found,
        case=case,
        row="prompt",
        next_logits=partial(_next_logits, subject, batch),
        exact_logits=partial(_exact_next_logits, subject, batch),
    )
    if both is None:
        return
    for index, tokens in enumerate(found):
        where = replace(case, case=f"{case.case}, prompt {index}")
        yield reading.read_alike(subject, tokens.tolist(), both=both, case=where)


def sensitivity(subject: CheckContext) -> Iterator[CheckRow]:
    """The comparisons can tell: PyTorch's own logits move by more than the tolerance when an input is ignored."""
    batch = text_inputs.pad(subject.random_rows(PADDED_LENGTHS), side="left", space=subject.space)
    feeds, reversed_ids = _feeds(batch), batch.input_ids[:, ::-1].copy()
    changes: dict[str, Feeds] = {
        "the mask ignored": {**feeds, "attention_mask": np.ones_like(batch.attention_mask)},
        "tokens in another order": {**feeds, "input_ids": np.where(batch.real, reversed_ids, batch.input_ids)},
    }
    if "position_ids" in {spec.name for spec in subject.graph().inputs}:
        plain = np.broadcast_to(np.arange(batch.input_ids.shape[1]), batch.input_ids.shape).astype(np.int64)
        changes["positions counted from the left edge"] = {**feeds, "position_ids": plain}
    yield from moved_by(
        subject,
        {change: (feeds, other) for change, other in changes.items()},
        read=lambda outputs: {"logits": outputs["logits"][batch.real]},
        single="logits",
    )


def _padding(subject: CheckContext, *, side: Side) -> Iterator[CheckRow]:
    rows = subject.random_rows(PADDED_LENGTHS)
    batch = text_inputs.pad(rows, side=side, space=subject.space)
    noisy = text_inputs.replace_masked(batch, space=subject.space, seed=SEED)

    def feed(run: Run) -> Parts:
        return {
            "batch": {"logits": at_places(batch.real, run(_feeds(batch))["logits"])},
            "alone": {"logits": np.concatenate([run(_feeds(row))["logits"][0] for row in rows])},
            "noisy": {"logits": at_places(batch.real, run(_feeds(noisy))["logits"])},
        }

    def graph(feeds: Feeds) -> Outputs:
        mask = feeds["attention_mask"]
        return {"logits": generation.step(subject.session(), feeds["input_ids"], attention_mask=mask).logits}

    lengths = ", ".join(str(row.input_ids.shape[1]) for row in rows)
    case = subject.case(f"padding_{side}", f"rows of {lengths} tokens, seed {SEED}")
    runners = Runners.of(subject, graph=graph)
    yield from padded_rows(subject, feed, runners=runners, case=case, even_if_pytorch_does_not=True)


def _next_logits(subject: CheckContext, batch: Batch, index: int, generated: np.ndarray) -> np.ndarray:
    """What PyTorch, of one row by itself, finds of the token behind these: float32 [vocabulary]."""
    logits: np.ndarray = _pytorch(subject, _continued(batch, index, generated))[0, -1]
    return logits


def _exact_next_logits(subject: CheckContext, batch: Batch, index: int, generated: np.ndarray) -> np.ndarray | None:
    feeds = _feeds(_continued(batch, index, generated))
    return word(subject, feeds, "logits", read=lambda logits: logits[0, -1])()


def _continued(batch: Batch, index: int, generated: np.ndarray) -> Batch:
    """One row by itself, and what was generated behind it."""
    own = batch[index : index + 1]
    tokens = np.concatenate([own.input_ids[own.real], generated])[None]
    return Batch(input_ids=tokens, attention_mask=np.ones_like(tokens), token_type_ids=np.zeros_like(tokens))


def _real_equal(
    subject: CheckContext, batch: Batch, run: Callable[[], np.ndarray], *, case: Case
) -> Iterator[CheckRow]:
    """The logits of a padded batch at real positions."""
    exact = partial(_exact, subject, batch, read=lambda logits: logits[batch.real])
    yield from logits_equal(
        subject,
        lambda: _pytorch(subject, batch)[batch.real],
        lambda: at_places(batch.real, run()),
        case=case,
        exact=exact,
    )


def _exact(
    subject: CheckContext, batch: Batch, *, read: Callable[[np.ndarray], np.ndarray] = lambda logits: logits
) -> Outputs:
    """PyTorch's logits in float64, or none."""
    wide = subject.reference.in_float64(_feeds(batch))
    return {"logits": read(wide["logits"])} if wide else {}


def _feeds(batch: Batch) -> dict[str, np.ndarray]:
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": generation.positions(batch.attention_mask),
    }


def _pytorch(subject: CheckContext, batch: Batch) -> np.ndarray:
    """PyTorch's logits in one pass without a cache: float32 [batch_size, sequence_length, vocabulary]."""
    return subject.reference(_feeds(batch))["logits"]


def _rows(logits: Callable[[], np.ndarray], count: int) -> np.ndarray:
    """The logits of the first rows."""
    return logits()[:count]


def _graph(subject: CheckContext, batch: Batch) -> np.ndarray:
    """The same from the graph, with an empty cache."""
    return generation.step(subject.session(), batch.input_ids, attention_mask=batch.attention_mask).logits


def _in_pieces(subject: CheckContext, batch: Batch, sizes: Sequence[int]) -> np.ndarray:
    """The logits of a batch fed piece by piece."""
    ids, mask = batch.input_ids, batch.attention_mask

    def call(piece: slice, cache: Feeds | None) -> Step:
        return generation.step(subject.session(), ids[:, piece], attention_mask=mask[:, : piece.stop], cache=cache)

    return generation.in_pieces(call, sizes)


def _reordered(subject: CheckContext, batch: Batch, order: np.ndarray) -> np.ndarray:
    """The last token's logits, its cache's rows taken in another order."""
    first = generation.step(subject.session(), batch.input_ids[:, :-1], attention_mask=batch.attention_mask[:, :-1])
    return generation.step(
        subject.session(), batch.input_ids[order, -1:], attention_mask=batch.attention_mask[order],
        cache=first.rows(order),
    ).logits  # fmt: skip


def _texts(subject: CheckContext) -> list[reading.Text]:
    asked = [(text, None) for text in text_inputs.TEXTS]
    return reading.known(subject, subject.sizes(asked, repeated=asked[:REPEATED_TEXTS]))


def probe(subject: CheckContext) -> Feeds:
    """Return two prompts of random tokens: int64 [2, tokens] each."""
    length = min(SPLIT_LENGTH, subject.space.max_length)
    return _feeds(text_inputs.random_batch(subject.space, batch_size=2, length=length, seed=SEED))


CHECKS = checks_of(
    prompt, text, cache, padding_left, padding_right, greedy, sensitivity, once=(padding_right, sensitivity)
)

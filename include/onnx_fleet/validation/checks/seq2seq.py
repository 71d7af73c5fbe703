"""What encoder-decoders are held to: every token of a given text, the same in pieces, padding, and what they generate.

PyTorch's word is always the plain model's: one pass without a cache, and transformers' own generate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache as cached
from functools import partial
from typing import Any

import numpy as np

from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs import generation, generation_seq2seq, text_inputs
from onnx_fleet.graphs.comparison import Case, Outputs, at_places
from onnx_fleet.graphs.generation import Call, Step
from onnx_fleet.graphs.generation_seq2seq import Encoded
from onnx_fleet.graphs.session import Session
from onnx_fleet.graphs.text_inputs import Side
from onnx_fleet.processes.two_threads import beside
from onnx_fleet.validation.checks import seq2seq_feeds as feeding
from onnx_fleet.validation.checks import tokenized_texts as reading
from onnx_fleet.validation.checks.context import REPEATED_ROWS, REPEATED_TEXTS, SEED, CheckContext, checks_of
from onnx_fleet.validation.checks.padding import EACH_ROW_ALONE, OTHER_TOKENS, Parts, Run, Runners, padded_rows
from onnx_fleet.validation.checks.sensitivity import moved_by
from onnx_fleet.validation.checks.seq2seq_feeds import TARGET
from onnx_fleet.validation.checks.seq2seq_margins import margin_of
from onnx_fleet.validation.checks.single_graph import Feeds, or_fault, outputs_equal, rows_of

SIZES = ((1, 1), (2, 13), (17, 2), (64, 64))
"""Lengths of source and target; the model's maxima are fed, too. 17 and 13 are longer than small models' windows."""
REPEATED_SIZES, REPEATED_NEW_TOKENS = ((17, 13),), 12
"""What is fed where the same graphs were held to all of it with other weights; the maxima are fed then, too."""
BATCH_SIZES = (1, 2, 7)
TOKENS_AT_MAXIMUM = 1024
"""Batches at the maximum lengths hold as many rows as fit in this."""
PADDED_LENGTHS = (17, 9, 1)
TARGET_LENGTH = 12
PIECES = ((1,) * TARGET_LENGTH, (4,) + (1,) * 8, (3, 4, 5))
"""How a target of TARGET_LENGTH tokens is fed: one by one, behind forced ones, and several at a time."""
NEW_TOKENS, BEAMS, NEW_TOKENS_OF_BEAMS, NEW_TOKENS_OF_TEXTS = 32, 2, 20, 20
_TARGET_MASK = "decoder_attention_mask"
"""The input that only a graph of source and target has."""
_KEPT = (
    replace(EACH_ROW_ALONE, is_expected=False),
    replace(OTHER_TOKENS, said="noise under the mask changes nothing"),
)


def parity(subject: CheckContext) -> Iterator[CheckRow]:
    """A given text's logits equal PyTorch's at every position, over batch sizes and lengths up to the maxima."""
    source_limit, target_limit = feeding.source_limit(subject), feeding.target_limit(subject)
    batch_sizes = subject.sizes(BATCH_SIZES, repeated=(REPEATED_ROWS,))
    most = subject.sizes(TOKENS_AT_MAXIMUM, repeated=max(source_limit, target_limit))
    wanted = subject.sizes(SIZES, repeated=REPEATED_SIZES)
    sizes = [(min(source, source_limit), min(target, target_limit)) for source, target in wanted]
    for source, target in dict.fromkeys([*sizes, (source_limit, target_limit)]):
        rows = max(1, min(batch_sizes[-1], most // max(source, target)))
        tokens = feeding.targets(subject, rows=rows, length=target)
        given = {**feeding.sources(subject, [source] * rows), TARGET: tokens}
        expected = cached(partial(subject.reference, given))
        for size in sorted({min(size, rows) for size in batch_sizes}, reverse=True):
            text = f"batch_size {size}, source of {source}, target of {target}, seed {SEED}"
            few = slice(size)
            first = rows_of(given, few)
            run, exact = partial(_graphs, subject, first), partial(subject.reference.in_float64, first)
            case = subject.case("parity", text)
            yield from outputs_equal(subject, partial(_rows, expected, few), run, case=case, exact=exact)


def padding(subject: CheckContext) -> Iterator[CheckRow]:
    """Sources padded on either side equal PyTorch's, the same rows alone, and themselves with noise under the mask."""
    yield from _padding(subject, side="right")
    if subject.repeats:
        return
    if "input_ids" in subject.reference.parameters and subject.space.fixed_length is None:  # sound has one side only
        yield from _padding(subject, side="left")


def _padding(subject: CheckContext, *, side: Side) -> Iterator[CheckRow]:
    """Convolutions over sound read across the edge of a mask: PyTorch's own rows may change with what is under it."""
    text, feeds, tokens = _padded(subject, side=side)
    case = subject.case("padding", text)
    if "attention_mask" not in feeds:
        same = replace(case, case=f"{text}: as PyTorch on the same batch")
        yield same.row("skipped", passed=True, detail="the model takes sources of one length, and no mask")
        return
    noisy = {**feeding.with_noise(subject, feeds), TARGET: tokens}
    rows = [feeding.sources(subject, _lengths(subject), only=row) for row in range(len(tokens))]
    singles = [{**source, TARGET: tokens[row : row + 1]} for row, source in enumerate(rows)]

    def feed(run: Run) -> Parts:
        return {
            "alone": {"logits": np.concatenate([run(given)["logits"] for given in singles])},
            "batch": _logits(run({**feeds, TARGET: tokens})),
            "noisy": _logits(run(noisy)),
        }

    runners = Runners.of(subject, graph=partial(_graphs, subject))
    yield from padded_rows(subject, feed, runners=runners, case=case, kept=_KEPT)


def target_padding(subject: CheckContext) -> Iterator[CheckRow]:
    """Targets padded on either side equal PyTorch's at real positions, and themselves with noise under their mask."""
    if _TARGET_MASK not in {spec.name for spec in list(subject.graphs.values())[-1].inputs}:
        return
    for side in ("left", "right"):
        text, feeds, real = _with_padded_targets(subject, side=side)
        noise = feeding.targets(subject, rows=len(real), length=real.shape[1])[::-1]
        noisy = {**feeds, TARGET: np.where(real, feeds[TARGET], noise)}
        yield from padded_rows(
            subject,
            partial(_target_parts, feeds=feeds, noisy=noisy, real=real),
            runners=Runners.of(subject, graph=subject.session().run),
            case=subject.case("target_padding", text),
            kept=(OTHER_TOKENS,),
        )


def _target_parts(run: Run, *, feeds: Feeds, noisy: Feeds, real: np.ndarray) -> Parts:
    """Logits at real positions of the target."""
    batch, masked = ({"logits": at_places(real, run(given)["logits"])} for given in (feeds, noisy))
    return {"batch": batch, "noisy": masked}


def cache(subject: CheckContext) -> Iterator[CheckRow]:
    """Text in pieces, rows in another order, and caches as consumers begin them return what PyTorch returns at once."""
    session = _decoder(subject)
    if session is None or not generation_seq2seq.takes_cache(session):
        return
    text, feeds, tokens = _padded(subject)
    given = {**feeds, TARGET: tokens}
    expected = cached(lambda: _logits(subject.reference(given)))
    exact = cached(lambda: _logits(subject.reference.in_float64(given)))
    for pieces in subject.sizes(PIECES, repeated=PIECES[-1:]):
        sizes = _fitting(pieces, tokens.shape[1])
        for keeps, whose in ((True, "the first step's"), (False, "each step's own")):
            said = f"{text}, target in pieces of {', '.join(map(str, sizes))}, {whose} encoder cache"
            run = partial(_in_pieces, subject, session, feeds, tokens, sizes, keeps_encoder_cache=keeps)
            yield from outputs_equal(subject, expected, run, case=subject.case("cache", said), exact=exact)
    if subject.repeats:
        return
    order = np.array([2, 0, 0])
    case = subject.case("cache", f"{text}, the last token with rows {order.tolist()}, as beams do")
    run = partial(_reordered, subject, session, feeds, tokens, order)
    last = lambda: {"logits": expected()["logits"][order, -1:]}  # noqa: E731
    of_last = lambda: {name: array[order, -1:] for name, array in exact().items()}  # noqa: E731
    yield from outputs_equal(subject, last, run, case=case, exact=of_last)
    for head_size in (0, 1):
        case = subject.case("cache", f"{text}, an empty cache whose head size is guessed as {head_size}")
        run = partial(_from_guessed_cache, subject, session, feeds, tokens, head_size)
        yield from outputs_equal(subject, expected, run, case=case, exact=exact)


def greedy(subject: CheckContext) -> Iterator[CheckRow]:
    """The likeliest tokens are those of transformers' generate, in a padded batch of sources."""
    room = feeding.target_limit(subject) - 1
    text, feeds, _ = _padded(subject)
    new = min(subject.sizes(NEW_TOKENS, repeated=REPEATED_NEW_TOKENS), room)
    case = subject.case("greedy", f"{text}, padded right, {new} new")
    yield from _generated(subject, case, feeds, num_beams=1, new_tokens=new, ends=())


def text(subject: CheckContext) -> Iterator[CheckRow]:
    """Real text becomes the text that the source makes of it, each side with its own tokenizer."""
    case = subject.case("text", f"texts of several scripts, {NEW_TOKENS_OF_TEXTS} new")
    both = reading.sides(subject) if "input_ids" in subject.reference.parameters else None
    if both is None:
        why = subject.without_text or "the model reads no text"
        yield case.row("skipped", passed=True, detail=why)
        return
    asked = [(text, None) for text in text_inputs.TEXTS]
    texts = reading.known(subject, subject.sizes(asked, repeated=asked[:REPEATED_TEXTS]))
    own, found = (side.encode(texts) for side in both)
    if not np.array_equal(own.input_ids[own.real], found.input_ids[found.real]):
        yield case.row("different", output="tokens", detail="the packed tokenizer makes other tokens of them")
        return
    feeds = {"input_ids": found.input_ids, "attention_mask": found.attention_mask}
    room = feeding.target_limit(subject) - 1
    new = min(NEW_TOKENS_OF_TEXTS, room)
    yield from _generated(subject, case, feeds, num_beams=1, new_tokens=new, ends=subject.end_tokens)


def beams(subject: CheckContext) -> Iterator[CheckRow]:
    """Beam search finds the texts that transformers' generate finds, where texts may end."""
    room = feeding.target_limit(subject) - 1
    new = min(NEW_TOKENS_OF_BEAMS, room)
    text, feeds, _ = _padded(subject)
    case = subject.case("beams", f"{text}, padded right, {new} new")
    yield from _generated(subject, case, feeds, num_beams=BEAMS, new_tokens=new, ends=subject.end_tokens)


def sensitivity(subject: CheckContext) -> Iterator[CheckRow]:
    """The comparisons can tell: PyTorch's own logits move by more than the tolerance when an input is ignored."""
    _, padded, tokens = _padded(subject)
    target = {TARGET: tokens}
    feeds = {**feeding.sources(subject, [feeding.source_limit(subject)] * len(tokens)), **target}
    name = feeding.source_name(feeds)
    time = 2 if name == "input_features" and "attention_mask" not in feeds else 1  # Whisper's frames stand last
    changes: dict[str, tuple[Feeds, Feeds]] = {
        "the source in another order": (feeds, {**feeds, name: np.flip(feeds[name], axis=time).copy()}),
        "the target in another order": (feeds, {**feeds, TARGET: tokens[:, ::-1].copy()}),
    }
    if "attention_mask" in padded:
        ignored = {**padded, **target, "attention_mask": np.ones_like(padded["attention_mask"])}
        changes["the mask ignored"] = ({**padded, **target}, ignored)
    if _TARGET_MASK in {spec.name for spec in list(subject.graphs.values())[-1].inputs}:
        _, masked, _ = _with_padded_targets(subject, side="left")
        changes["the target's mask ignored"] = (masked, {**masked, _TARGET_MASK: np.ones_like(masked[_TARGET_MASK])})
    yield from moved_by(subject, changes)


def _generated(
    subject: CheckContext, case: Case, feeds: Feeds, *, num_beams: int, new_tokens: int, ends: Sequence[int]
) -> Iterator[CheckRow]:
    """Our loop on the graphs, transformers' own on the model, the same settings and no others: tokens, then text."""
    rows, both = len(next(iter(feeds.values()))), reading.sides(subject)
    settings = {"num_beams": num_beams, "max_new_tokens": new_tokens, "eos_token_id": list(ends) or None}
    start = np.full((rows, 1), feeding.start_token(subject), dtype=np.int64)
    search = partial(generation_seq2seq.beams, num_beams=num_beams) if num_beams > 1 else generation.greedy

    def searched() -> np.ndarray:
        call = _calls(subject, rows_of(feeds, np.repeat(np.arange(rows), num_beams)))
        return search(call, start, max_new_tokens=new_tokens, eos_token_ids=ends)

    wanted, found = beside(partial(_generate, subject, feeds, **settings), partial(or_fault, searched))
    if isinstance(found, ValidationFailed):
        yield case.row("error", detail=str(found))
        return
    for row in range(rows):
        pair = [generation_seq2seq.until_end(tokens[row], ends) for tokens in (wanted, found)]
        where = replace(case, case=f"{case.case}, source {row}")
        if both is not None:
            yield reading.read_alike(subject, pair[1], both=both, case=where)
        if pair[0] == pair[1]:
            yield where.row("equal", output="tokens", passed=True, detail=f"{len(pair[0])} tokens")
            continue
        margin, what = margin_of(subject, rows_of(feeds, slice(row, row + 1)), pair, whole_texts=num_beams > 1)
        yield margin.row(where, output="tokens", detail=f"{what} {margin.said}")


def _generate(subject: CheckContext, feeds: Feeds, **settings: Any) -> np.ndarray:
    """PyTorch's tokens behind the start token: int64 [rows, new tokens]."""
    start = feeding.start_token(subject, source=True)
    return subject.reference.generate(
        feeds, decoder_start_token_id=start, pad_token_id=subject.space.pad_token_id, **settings
    )[:, 1:]


def _calls(subject: CheckContext, feeds: Feeds) -> Call:
    """What makes one call of the graphs on these sources, whatever form they have."""
    session = _decoder(subject)
    if session is None:
        return partial(generation_seq2seq.step_of_one_graph, subject.session(), source=feeds)
    encoded = generation_seq2seq.encode(subject.session("encoder_model"), feeds)
    return partial(generation_seq2seq.step, session, encoded=encoded)


def _rows(outputs: Callable[[], Outputs], rows: slice) -> Outputs:
    """Some rows of the outputs."""
    return rows_of(outputs(), rows)


def _graphs(subject: CheckContext, feeds: Feeds) -> Outputs:
    """Source and target through the graphs, all tokens at once."""
    session, tokens = _decoder(subject), feeds[TARGET]
    if session is None:
        return {"logits": _calls(subject, feeds)(tokens, cache=None).logits}
    encoded = generation_seq2seq.encode(subject.session("encoder_model"), feeds)
    found = generation_seq2seq.step(session, tokens, encoded=encoded)
    return {"logits": found.logits, "last_hidden_state": encoded.states}


def _in_pieces(
    subject: CheckContext,
    session: Session,
    feeds: Feeds,
    tokens: np.ndarray,
    sizes: Sequence[int],
    *,
    keeps_encoder_cache: bool,
) -> Outputs:
    encoded = generation_seq2seq.encode(subject.session("encoder_model"), feeds)

    def call(piece: slice, cache: Feeds | None) -> Step:
        return generation_seq2seq.step(
            session, tokens[:, piece], encoded=encoded, cache=cache, keeps_encoder_cache=keeps_encoder_cache
        )

    return {"logits": generation.in_pieces(call, sizes)}


def _reordered(subject: CheckContext, session: Session, feeds: Feeds, tokens: np.ndarray, order: np.ndarray) -> Outputs:
    """The last token's logits, its cache's rows taken in another order."""
    encoded = generation_seq2seq.encode(subject.session("encoder_model"), feeds)
    first = generation_seq2seq.step(session, tokens[:, :-1], encoded=encoded)
    last = generation_seq2seq.step(session, tokens[order, -1:], encoded=encoded.rows(order), cache=first.rows(order))
    return {"logits": last.logits}


def _from_guessed_cache(
    subject: CheckContext, session: Session, feeds: Feeds, tokens: np.ndarray, head_size: int
) -> Outputs:
    """optimum takes hidden size by heads, transformers.js none where a size has a name: both are wrong at times."""
    encoded: Encoded = generation_seq2seq.encode(subject.session("encoder_model"), feeds)
    empty = generation.empty_cache(session, batch_size=len(tokens), head_size=head_size)
    return {"logits": generation_seq2seq.step(session, tokens, encoded=encoded, cache=empty).logits}


def _logits(outputs: Outputs) -> Outputs:
    return {name: outputs[name] for name in ("logits",) if name in outputs}


def _decoder(subject: CheckContext) -> Session | None:
    """The graph that returns one token after the other; None where one graph takes source and target."""
    return next((session for role, session in subject.sessions.items() if role.startswith("decoder_model")), None)


def _lengths(subject: CheckContext) -> list[int]:
    return [min(length, feeding.source_limit(subject)) for length in PADDED_LENGTHS]


def _padded(subject: CheckContext, *, side: Side = "right") -> tuple[str, dict[str, np.ndarray], np.ndarray]:
    """A batch of sources of different lengths and a target for each, and how to make them again."""
    lengths = _lengths(subject)
    target = min(TARGET_LENGTH, feeding.target_limit(subject))
    padded = ", padded left" if side == "left" else ""
    text = f"sources of {', '.join(map(str, lengths))}{padded}, seed {SEED}"
    tokens = feeding.targets(subject, rows=len(lengths), length=target)
    return text, feeding.sources(subject, lengths, side=side), tokens


def _with_padded_targets(subject: CheckContext, *, side: str) -> tuple[str, dict[str, np.ndarray], np.ndarray]:
    """Sources, targets of different lengths padded on one side, and where those are real: bool [rows, tokens]."""
    _, feeds, tokens = _padded(subject)
    most = tokens.shape[1]
    lengths = [max(1, most * part // len(tokens)) for part in range(len(tokens), 0, -1)]
    real = np.array([np.arange(most) < length for length in lengths])
    real = real[:, ::-1] if side == "left" else real
    text = f"targets of {', '.join(map(str, lengths))}, padded {side}, seed {SEED}"
    given = {**feeds, TARGET: tokens, _TARGET_MASK: real.astype(np.int64)}
    return text, given, real


def _fitting(pieces: Sequence[int], length: int) -> list[int]:
    """Pieces of a shorter text."""
    ends = [min(end, length) for end in np.cumsum(pieces)]
    return [size for size in np.diff([0, *ends]).tolist() if size]


def decodes(subject: CheckContext) -> bool:
    """Whether the model writes; Whisper's encoder with a classifier's head says in its configuration that it does."""
    model: Any = subject.reference.model
    return bool(model.config.is_encoder_decoder and model.can_generate())


def _where_it_decodes(run: Callable[[CheckContext], Iterator[CheckRow]], subject: CheckContext) -> Iterator[CheckRow]:
    if decodes(subject):
        yield from run(subject)


def probe(subject: CheckContext) -> Feeds:
    """Return padded sources, as feeding.sources makes them, and a target for each, int64 [rows, tokens]."""
    _, feeds, tokens = _padded(subject)
    return {**feeds, TARGET: tokens}


CHECKS = checks_of(
    parity, padding, target_padding, cache, greedy, text, beams, sensitivity, once=(target_padding, beams, sensitivity)
)

CHECKS_OF_SPEECH = tuple(replace(check, run=partial(_where_it_decodes, check.run)) for check in CHECKS)
"""The same checks; models that return letters or classes without a decoder are asked nothing."""

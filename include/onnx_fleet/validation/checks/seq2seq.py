"""What encoder-decoders are held to: every token of a given text, the same in pieces, padding, and what they generate.

PyTorch's word is always the plain model's: one pass without a cache, and transformers' own generate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache as cached
from functools import partial
from typing import Any

import numpy as np

from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs import generation, generation_seq2seq, text_inputs
from onnx_fleet.graphs.comparison import Case, Outputs, compare
from onnx_fleet.graphs.generation import Call
from onnx_fleet.graphs.generation_seq2seq import Encoded
from onnx_fleet.graphs.session import Session
from onnx_fleet.graphs.text_inputs import Side
from onnx_fleet.validation.checks import seq2seq_feeds as feeding
from onnx_fleet.validation.checks import tokenized_texts as reading
from onnx_fleet.validation.checks.context import SEED, CheckContext, checks_of
from onnx_fleet.validation.checks.float64 import Side as Compared
from onnx_fleet.validation.checks.float64 import judged, most_off, word
from onnx_fleet.validation.checks.sensitivity import moved_by
from onnx_fleet.validation.checks.single_graph import Feeds, rows_of, where_pytorch_holds
from onnx_fleet.validation.checks.ties import Margin, weighed

SIZES = ((1, 1), (2, 13), (17, 2), (64, 64))
"""Lengths of source and target; and the model's maxima. Both 17 and 13 are longer than small models' windows."""
BATCH_SIZES = (1, 2, 7)
TOKENS_AT_MAXIMUM = 1024
"""Batches at the maximum lengths hold as many rows as fit in this."""
PADDED_LENGTHS = (17, 9, 1)
TARGET_LENGTH = 12
PIECES = ((1,) * TARGET_LENGTH, (4,) + (1,) * 8, (3, 4, 5))
"""How a target of TARGET_LENGTH tokens is fed: one by one, behind forced ones, and several at a time."""
NEW_TOKENS, BEAMS, NEW_TOKENS_OF_BEAMS, NEW_TOKENS_OF_TEXTS = 32, 2, 20, 20
_TARGET_MASK = "decoder_attention_mask"
"""What only a graph of source and target takes."""


def parity(subject: CheckContext) -> Iterator[CheckRow]:
    """A given text's logits equal PyTorch's at every position, over batch sizes and lengths up to the maxima."""
    source_limit, target_limit = feeding.source_limit(subject), feeding.target_limit(subject)
    sizes = [(min(source, source_limit), min(target, target_limit)) for source, target in SIZES]
    for source, target in dict.fromkeys([*sizes, (source_limit, target_limit)]):
        rows = max(1, min(BATCH_SIZES[-1], TOKENS_AT_MAXIMUM // max(source, target)))
        feeds, tokens = feeding.sources(subject, [source] * rows), feeding.targets(subject, rows=rows, length=target)
        expected = _pytorch(subject, feeds, tokens)
        for size in sorted({min(size, rows) for size in BATCH_SIZES}):
            text = f"batch_size {size}, source of {source}, target of {target}, seed {SEED}"
            few = slice(size)
            run = partial(_graphs, subject, rows_of(feeds, few), tokens[few])
            exact = partial(subject.reference.in_float64, {**rows_of(feeds, few), "decoder_input_ids": tokens[few]})
            yield from _compared(subject, subject.case("parity", text), rows_of(expected, few), run, exact=exact)


def padding(subject: CheckContext) -> Iterator[CheckRow]:
    """Sources padded on either side equal PyTorch's, the same rows alone, and themselves with noise under the mask."""
    yield from _padding(subject, side="right")
    if "input_ids" in subject.reference.parameters and subject.space.fixed_length is None:  # sound has one side only
        yield from _padding(subject, side="left")


def _padding(subject: CheckContext, *, side: Side) -> Iterator[CheckRow]:
    text, feeds, tokens = _padded(subject, side=side)
    case = subject.case("padding", f"{text}: as PyTorch on the same batch")
    if "attention_mask" not in feeds:
        yield case.row("skipped", passed=True, detail="the model takes sources of one length, and no mask")
        return
    own = _PaddedRuns.of(partial(_pytorch, subject), subject, feeds, tokens)
    try:
        found = _PaddedRuns.of(partial(_graphs, subject), subject, feeds, tokens)
    except ValidationFailed as err:
        yield case.row("error", detail=str(err))
        return
    exact = cached(lambda: _PaddedRuns.of(partial(_exact, subject), subject, feeds, tokens))
    batch, single, masked = (
        Compared(expected=getattr(own, name), actual=getattr(found, name), exact=partial(_exactly, exact, name))
        for name in ("batch", "alone", "noisy")
    )
    yield from judged(subject, compare(own.batch, found.batch, case=case), batch)
    alone = replace(case, case=f"{text}: each row as that row alone")
    yield from _kept(subject, batch, single, case=alone)
    noisy = replace(case, case=f"{text}: noise under the mask changes nothing")
    yield from _kept(subject, batch, masked, case=noisy)


def target_padding(subject: CheckContext) -> Iterator[CheckRow]:
    """Targets padded on either side equal PyTorch's at real positions, and themselves with noise under their mask."""
    if _TARGET_MASK not in {spec.name for spec in list(subject.graphs.values())[-1].inputs}:
        return
    for side in ("left", "right"):
        text, feeds, real = _with_padded_targets(subject, side=side)
        noise = feeding.targets(subject, rows=len(real), length=real.shape[1])[::-1]
        noisy = {**feeds, "decoder_input_ids": np.where(real, feeds["decoder_input_ids"], noise)}
        case = subject.case("target_padding", f"{text}: as PyTorch on the same batch")
        own, own_noisy = ({"logits": subject.reference(given)["logits"][real]} for given in (feeds, noisy))
        try:
            found, found_noisy = (subject.session().run(given)["logits"] for given in (feeds, noisy))
            if found.shape[:2] == real.shape:  # else the shape is what is found
                found, found_noisy = found[real], found_noisy[real]
        except ValidationFailed as err:
            yield case.row("error", detail=str(err))
            continue

        def exact(given: Feeds, real: np.ndarray = real) -> Outputs:
            wide = subject.reference.in_float64(given)
            return {"logits": wide["logits"][real]} if wide else {}

        plain = Compared(expected=own, actual={"logits": found}, exact=partial(exact, feeds))
        masked = Compared(expected=own_noisy, actual={"logits": found_noisy}, exact=partial(exact, noisy))
        yield from judged(subject, compare(plain.expected, plain.actual, case=case), plain)
        leak = replace(case, case=f"{text}: other tokens under the mask change nothing")
        yield from _kept(subject, plain, masked, case=leak)


def cache(subject: CheckContext) -> Iterator[CheckRow]:
    """A text in pieces, rows in another order, and caches as consumers begin them give what PyTorch gives at once."""
    session = _decoder(subject)
    if session is None or not generation_seq2seq.takes_cache(session):
        return
    text, feeds, tokens = _padded(subject)
    expected = _logits(_pytorch(subject, feeds, tokens))
    exact = cached(lambda: _logits(_exact(subject, feeds, tokens)))
    for pieces in PIECES:
        sizes = _fitting(pieces, tokens.shape[1])
        for keeps, whose in ((True, "the first step's"), (False, "each step's own")):
            said = f"{text}, target in pieces of {', '.join(map(str, sizes))}, {whose} encoder cache"
            run = partial(_in_pieces, subject, session, feeds, tokens, sizes, keeps_encoder_cache=keeps)
            yield from _compared(subject, subject.case("cache", said), expected, run, exact=exact)
    order = np.array([2, 0, 0])
    case = subject.case("cache", f"{text}, the last token with rows {order.tolist()}, as beams do")
    run = partial(_reordered, subject, session, feeds, tokens, order)
    last = {"logits": expected["logits"][order, -1:]}
    of_last = lambda: {name: array[order, -1:] for name, array in exact().items()}  # noqa: E731
    yield from _compared(subject, case, last, run, exact=of_last)
    for head_size in (0, 1):
        case = subject.case("cache", f"{text}, an empty cache whose head size is guessed as {head_size}")
        run = partial(_from_guessed_cache, subject, session, feeds, tokens, head_size)
        yield from _compared(subject, case, expected, run, exact=exact)


def greedy(subject: CheckContext) -> Iterator[CheckRow]:
    """The likeliest tokens are those of transformers' generate, in a padded batch of sources."""
    room = feeding.target_limit(subject) - 1
    text, feeds, _ = _padded(subject)
    case = subject.case("greedy", f"{text}, padded right, {min(NEW_TOKENS, room)} new")
    yield from _generated(subject, case, feeds, num_beams=1, new_tokens=min(NEW_TOKENS, room), ends=())


def text(subject: CheckContext) -> Iterator[CheckRow]:
    """Real text in gives the text out that the source gives, each side with its own tokenizer."""
    case = subject.case("text", f"texts of several scripts, {NEW_TOKENS_OF_TEXTS} new")
    both = reading.sides(subject) if "input_ids" in subject.reference.parameters else None
    if both is None:
        why = subject.without_text or "the model reads no text"
        yield case.row("skipped", passed=True, detail=why)
        return
    texts = reading.known(subject, [(text, None) for text in text_inputs.TEXTS])
    own, found = (side.encode(texts) for side in both)
    if not np.array_equal(own.input_ids[own.real], found.input_ids[found.real]):
        yield case.row("different", output="tokens", detail="the packed tokenizer makes other tokens of them")
        return
    feeds = {"input_ids": found.input_ids, "attention_mask": found.attention_mask}
    ends = _listed(subject.reference.model.generation_config.eos_token_id)
    room = feeding.target_limit(subject) - 1
    yield from _generated(subject, case, feeds, num_beams=1, new_tokens=min(NEW_TOKENS_OF_TEXTS, room), ends=ends)


def beams(subject: CheckContext) -> Iterator[CheckRow]:
    """Beam search finds the texts that transformers' generate finds, where texts may end."""
    room = feeding.target_limit(subject) - 1
    ends = _listed(subject.reference.model.generation_config.eos_token_id)
    text, feeds, _ = _padded(subject)
    case = subject.case("beams", f"{text}, padded right, {min(NEW_TOKENS_OF_BEAMS, room)} new")
    yield from _generated(subject, case, feeds, num_beams=BEAMS, new_tokens=min(NEW_TOKENS_OF_BEAMS, room), ends=ends)


def sensitivity(subject: CheckContext) -> Iterator[CheckRow]:
    """The comparisons can tell: PyTorch's own logits move by more than the tolerance when an input is ignored."""
    _, padded, tokens = _padded(subject)
    target = {"decoder_input_ids": tokens}
    feeds = {**feeding.sources(subject, [feeding.source_limit(subject)] * len(tokens)), **target}
    name = feeding.source_name(feeds)
    time = 2 if name == "input_features" and "attention_mask" not in feeds else 1  # Whisper's frames stand last
    changes: dict[str, tuple[Feeds, Feeds]] = {
        "the source in another order": (feeds, {**feeds, name: np.flip(feeds[name], axis=time).copy()}),
        "the target in another order": (feeds, {**feeds, "decoder_input_ids": tokens[:, ::-1].copy()}),
    }
    if "attention_mask" in padded:
        ignored = {**padded, **target, "attention_mask": np.ones_like(padded["attention_mask"])}
        changes["the mask ignored"] = ({**padded, **target}, ignored)
    if _TARGET_MASK in {spec.name for spec in list(subject.graphs.values())[-1].inputs}:
        _, masked, _ = _with_padded_targets(subject, side="left")
        changes["the target's mask ignored"] = (masked, {**masked, _TARGET_MASK: np.ones_like(masked[_TARGET_MASK])})
    yield from moved_by(subject, changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PaddedRuns:
    """One runner's logits: of a padded batch, of its rows alone, and with other values under the mask."""

    batch: Outputs
    alone: Outputs
    noisy: Outputs

    @classmethod
    def of(
        cls, run: Callable[[Feeds, np.ndarray], Outputs], subject: CheckContext, feeds: Feeds, tokens: np.ndarray
    ) -> _PaddedRuns:
        rows = [feeding.sources(subject, _lengths(subject), only=row) for row in range(len(tokens))]
        single = [_logits(run(own, tokens[row : row + 1])) for row, own in enumerate(rows)]
        return cls(
            batch=_logits(run(feeds, tokens)),
            alone={"logits": np.concatenate([each["logits"] for each in single])} if all(single) else {},
            noisy=_logits(run(feeding.with_noise(subject, feeds), tokens)),
        )


def _exactly(runs: Callable[[], _PaddedRuns], name: str) -> Outputs:
    outputs: Outputs = getattr(runs(), name)
    return outputs


def _kept(subject: CheckContext, one: Compared, other: Compared, *, case: Case) -> Iterator[CheckRow]:
    """That the graphs keep what PyTorch keeps. Convolutions over sound read across the edge of a mask."""
    own, found = compare(one.expected, other.expected, case=case), compare(one.actual, other.actual, case=case)
    return where_pytorch_holds(subject, own, found, case=case, sides=(one, other))


def _generated(
    subject: CheckContext, case: Case, feeds: Feeds, *, num_beams: int, new_tokens: int, ends: Sequence[int]
) -> Iterator[CheckRow]:
    """Our loop on the graphs, transformers' own on the model, the same settings and no others: tokens, then text."""
    rows, both = len(next(iter(feeds.values()))), reading.sides(subject)
    wanted = _generate(subject, feeds, num_beams=num_beams, max_new_tokens=new_tokens, eos_token_id=list(ends) or None)
    start = np.full((rows, 1), feeding.start_token(subject), dtype=np.int64)
    search = partial(generation_seq2seq.beams, num_beams=num_beams) if num_beams > 1 else generation.greedy
    try:
        call = _calls(subject, rows_of(feeds, np.repeat(np.arange(rows), num_beams)))
        found = search(call, start, max_new_tokens=new_tokens, eos_token_ids=ends)
    except ValidationFailed as err:
        yield case.row("error", detail=str(err))
        return
    for row in range(rows):
        pair = [generation_seq2seq.until_end(tokens[row], ends) for tokens in (wanted, found)]
        where = replace(case, case=f"{case.case}, source {row}")
        if both is not None:
            yield reading.read_alike(subject, pair[1], both=both, case=where)
        if pair[0] == pair[1]:
            yield where.row("equal", output="tokens", passed=True, detail=f"{len(pair[0])} tokens")
            continue
        margin, what = _judge(subject, rows_of(feeds, slice(row, row + 1)), pair, whole_texts=num_beams > 1)
        yield margin.row(where, output="tokens", detail=f"{what} {margin.said}")


def _judge(subject: CheckContext, feeds: Feeds, pair: Sequence[list[int]], *, whole_texts: bool) -> tuple[Margin, str]:
    """By how much PyTorch prefers its own text, and what is weighed, for people.

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
    """float32 [tokens, vocabulary]: what PyTorch gave each token of a generated text its chance."""
    logits: np.ndarray = _pytorch(subject, feeds, _started(subject, text))["logits"][0]
    return logits


def _exact_text_logits(subject: CheckContext, feeds: Feeds, text: Sequence[int]) -> np.ndarray | None:
    given = {**feeds, "decoder_input_ids": _started(subject, text)}
    return word(subject, given, "logits", read=lambda logits: logits[0])()


def _started(subject: CheckContext, text: Sequence[int]) -> np.ndarray:
    """What the decoder is given to say how likely each token of a text was."""
    return np.array([[feeding.start_token(subject, source=True), *text[:-1]]], dtype=np.int64)


def _mean_log_probability(logits: np.ndarray, text: Sequence[int]) -> float:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return float(logs[np.arange(len(text)), text].mean())


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


def _graphs(subject: CheckContext, feeds: Feeds, tokens: np.ndarray) -> Outputs:
    """Source and target through the graphs, all tokens at once."""
    session = _decoder(subject)
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
    logits, cached, done = [], None, 0
    for size in sizes:
        found = generation_seq2seq.step(
            session,
            tokens[:, done : done + size],
            encoded=encoded,
            cache=cached,
            keeps_encoder_cache=keeps_encoder_cache,
        )
        logits.append(found.logits)
        cached, done = found.cache, done + size
    return {"logits": np.concatenate(logits, axis=1)}


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


def _pytorch(subject: CheckContext, feeds: Feeds, tokens: np.ndarray) -> Outputs:
    """One pass without a cache."""
    return subject.reference({**feeds, "decoder_input_ids": tokens})


def _exact(subject: CheckContext, feeds: Feeds, tokens: np.ndarray) -> Outputs:
    """The same in float64, or nothing."""
    return subject.reference.in_float64({**feeds, "decoder_input_ids": tokens})


def _compared(
    subject: CheckContext, case: Case, expected: Outputs, run: Callable[[], Outputs], *, exact: Callable[[], Outputs]
) -> Iterator[CheckRow]:
    try:
        found = run()
    except ValidationFailed as err:
        yield case.row("error", detail=str(err))
        return
    own = {name: array for name, array in expected.items() if name in found}
    yield from judged(subject, compare(own, found, case=case), Compared(expected=own, actual=found, exact=exact))


def _logits(outputs: Outputs) -> Outputs:
    return {name: outputs[name] for name in ("logits",) if name in outputs}


def _decoder(subject: CheckContext) -> Session | None:
    """The graph that gives one token after the other; None where one graph takes source and target."""
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
    given = {**feeds, "decoder_input_ids": tokens, _TARGET_MASK: real.astype(np.int64)}
    return text, given, real


def _fitting(pieces: Sequence[int], length: int) -> list[int]:
    """Pieces of a shorter text."""
    ends = [min(end, length) for end in np.cumsum(pieces)]
    return [size for size in np.diff([0, *ends]).tolist() if size]


def _listed(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else ids if isinstance(ids, list) else [ids]


def decodes(subject: CheckContext) -> bool:
    """Whether the model writes; Whisper's encoder with a classifier's head says in its configuration that it does."""
    model: Any = subject.reference.model
    return bool(model.config.is_encoder_decoder and model.can_generate())


def _where_it_decodes(run: Callable[[CheckContext], Iterator[CheckRow]], subject: CheckContext) -> Iterator[CheckRow]:
    if decodes(subject):
        yield from run(subject)


def probe(subject: CheckContext) -> Feeds:
    """Padded sources, and a target for each."""
    _, feeds, tokens = _padded(subject)
    return {**feeds, "decoder_input_ids": tokens}


CHECKS = checks_of(parity, padding, target_padding, cache, greedy, text, beams, sensitivity)

CHECKS_OF_SPEECH = tuple(replace(check, run=partial(_where_it_decodes, check.run)) for check in CHECKS)
"""The same; models that give letters or classes without a decoder are asked nothing."""

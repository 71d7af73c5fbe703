"""What vision-language models are held to: three graphs put together as consumers do, against the plain model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache as cached
from functools import partial
from itertools import cycle

import numpy as np

from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs import generation, image_inputs, text_inputs
from onnx_fleet.graphs.comparison import Outputs, at_places
from onnx_fleet.graphs.generation import Step
from onnx_fleet.graphs.image_inputs import Kind
from onnx_fleet.source import preprocessor
from onnx_fleet.validation.checks import tokenized_texts as reading
from onnx_fleet.validation.checks.context import SEED, CheckContext, checks_of
from onnx_fleet.validation.checks.float64 import word
from onnx_fleet.validation.checks.padding import EACH_ROW_ALONE, OTHER_TOKENS, Parts, Run, Runners, padded_rows
from onnx_fleet.validation.checks.sensitivity import moved_by
from onnx_fleet.validation.checks.single_graph import Feeds, logits_equal
from onnx_fleet.validation.checks.ties import tokens_equal

NEW_TOKENS, STEPS = 32, 6
TEXT_LENGTHS = (7, 4)
"""How many tokens of text the rows of a batch have, in turn."""
COUNTS = ((1,), (2,), (2, 1), (0,), (1,) * 7)
"""How many images the rows of a batch have."""
LENGTHS = (1, 2, 17, 64)
"""How many tokens rows without an image have; with one the model's maximum is fed, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Rows of text and images, padded on the left, as the plain model takes them.

    The feeds are ``input_ids``, ``attention_mask`` and ``position_ids``, each int64 [batch_size, sequence_length]; and
    ``pixel_values``, float32 [images, channels, height, width], or [batch_size, images, channels, height, width] with
    ``pixel_attention_mask``, bool [batch_size, images, height, width].
    """

    feeds: dict[str, np.ndarray]
    counts: tuple[int, ...]
    """How many images each row has."""
    text: str

    @property
    def real(self) -> np.ndarray:
        """Where a token is no padding: bool [batch_size, sequence_length]."""
        return self.feeds["attention_mask"].astype(bool)

    def row(self, index: int) -> Prompt:
        """Return one row by itself, without padding, and with its own images alone."""
        names = ("input_ids", "attention_mask", "position_ids")
        feeds = {name: self.feeds[name][index : index + 1, self.real[index]] for name in names}
        first, count = sum(self.counts[:index]), self.counts[index]
        if count and "pixel_attention_mask" in self.feeds:
            both = ("pixel_values", "pixel_attention_mask")
            feeds |= {name: self.feeds[name][index : index + 1, :count] for name in both}
        elif count:
            feeds["pixel_values"] = self.feeds["pixel_values"][first : first + count]
        return replace(self, feeds=feeds, counts=(count,))

    def longer(self, tokens: np.ndarray) -> Prompt:
        """Return the prompt with more tokens behind each row.

        Args:
            tokens: int64 [batch_size, tokens].
        """
        mask = np.concatenate([self.feeds["attention_mask"], np.ones_like(tokens)], axis=1)
        ids = np.concatenate([self.feeds["input_ids"], tokens], axis=1)
        own = {"input_ids": ids, "attention_mask": mask, "position_ids": generation.positions(mask)}
        return replace(self, feeds={**self.feeds, **own})


def parity(subject: CheckContext) -> Iterator[CheckRow]:
    """Logits at every position equal PyTorch's: one image, several, rows of unequally many, none, and the longest."""
    for counts in COUNTS:
        for kind in _KINDS if counts == (2, 1) else _KINDS[:1]:
            yield from _equal(subject, "parity", _prompt(subject, counts, kind=kind))
    maximum = subject.space.max_length
    for length in dict.fromkeys(min(length, maximum) for length in LENGTHS):
        yield from _equal(subject, "parity", _prompt(subject, (0, 0), kind="noise", lengths=(length,)))
    if maximum > _vectors(subject):
        yield from _equal(
            subject, "parity", _prompt(subject, (1,), kind="noise", lengths=(maximum - _vectors(subject),))
        )


def text(subject: CheckContext) -> Iterator[CheckRow]:
    """Logits equal PyTorch's on real text, tokenized by the packed tokenizer, padded left."""
    said = f"{len(text_inputs.TEXTS)} texts of several scripts through the packed tokenizer"
    both = reading.sides(subject)
    if both is None:
        yield subject.case("text", said).row("skipped", passed=True, detail=subject.without_text)
        return
    texts = reading.known(subject, [(text, None) for text in text_inputs.TEXTS])
    batch = text_inputs.pad([both[1].encode([text]) for text in texts], side="left", space=subject.space)
    feeds = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    feeds["position_ids"] = generation.positions(batch.attention_mask)
    yield from _equal(subject, "text", Prompt(feeds=feeds, counts=(0,) * len(feeds["input_ids"]), text=said))


def padding(subject: CheckContext) -> Iterator[CheckRow]:
    """Rows padded on the left equal the same rows alone, and themselves with other tokens under the mask."""
    prompt = _prompt(subject, (2, 1), kind="noise")
    ids = prompt.feeds["input_ids"]
    noise = np.random.default_rng(SEED).choice(subject.space.tokens, size=ids.shape)
    noisy = replace(prompt, feeds={**prompt.feeds, "input_ids": np.where(prompt.real, ids, noise)})
    rows = [prompt.row(index) for index in range(len(ids))]

    def feed(run: Run) -> Parts:
        whole, *alone = (at_places(each.real, run(each.feeds)["logits"]) for each in (prompt, *rows))
        return {
            "batch": {"logits": whole},
            "alone": {"logits": np.concatenate(alone)},
            "noisy": {"logits": at_places(noisy.real, run(noisy.feeds)["logits"])},
        }

    yield from padded_rows(
        subject,
        feed,
        runners=Runners.of(subject, graph=lambda feeds: {"logits": _graphs(subject, feeds)}),
        case=subject.case("padding", prompt.text),
        as_pytorch=None,
        kept=(EACH_ROW_ALONE, replace(OTHER_TOKENS, is_expected=True)),
    )


def cache(subject: CheckContext) -> Iterator[CheckRow]:
    """A prompt in two pieces, single steps, and rows in another order return what PyTorch returns without a cache."""
    prompt = _prompt(subject, (2, 1), kind="noise")
    length, expected = prompt.real.shape[1], cached(partial(_pytorch, subject, prompt))
    pieces = [[split, length - split] for split in (1, length // 2, length - 1)]
    for sizes in [*pieces, [length - STEPS, *[1] * STEPS]]:
        case = subject.case("cache", f"{prompt.text}, in pieces of {', '.join(map(str, sizes))}")
        run = partial(_in_pieces, subject, prompt, sizes)
        yield from logits_equal(subject, expected, run, case=case, exact=partial(_exact, subject, prompt))
    order = np.array([1, 0, 0])
    case = subject.case("cache", f"{prompt.text}, the last token with rows {order.tolist()}, as beams do")

    def last() -> np.ndarray:
        logits: np.ndarray = subject.reference(prompt.feeds)["logits"][order, -1:]
        return logits

    def reordered() -> np.ndarray:
        vectors, mask = embedded(subject, prompt.feeds), prompt.feeds["attention_mask"]
        first = decode(subject, vectors[:, :-1], mask[:, :-1], cache=None)
        return decode(subject, vectors[order, -1:], mask[order], cache=first.rows(order)).logits

    def of_last() -> Outputs:
        wide = subject.reference.in_float64(prompt.feeds)
        return {"logits": wide["logits"][order, -1:]} if wide else {}

    yield from logits_equal(subject, last, reordered, case=case, exact=of_last)


def greedy(subject: CheckContext) -> Iterator[CheckRow]:
    """The likeliest tokens, one by one with the cache, are those of transformers' generate, in padded batches."""
    for counts, kind in (((2, 1), _KINDS[1]), ((1, 0), _KINDS[0])):
        prompt = _prompt(subject, counts, kind=kind)
        length = prompt.real.shape[1]
        new = min(NEW_TOKENS, subject.space.max_length - length)
        case = subject.case("greedy", f"{prompt.text}, {new} new")
        settings = {"num_beams": 1, "eos_token_id": None, "pad_token_id": subject.space.pad_token_id}
        given = {name: array for name, array in prompt.feeds.items() if name != "position_ids"}
        wanted = subject.reference.generate(given, max_new_tokens=new, **settings)[:, length:]
        try:
            found = _generated(subject, prompt, new_tokens=new)
        except ValidationFailed as err:
            yield case.row("error", detail=str(err))
            continue
        yield from tokens_equal(
            wanted,
            found,
            case=case,
            row="row",
            next_logits=partial(_next_logits, subject, prompt),
            exact_logits=partial(_exact_next_logits, subject, prompt),
        )


def sensitivity(subject: CheckContext) -> Iterator[CheckRow]:
    """The comparisons can tell: PyTorch's own logits move when an image, its mask or the prompt's mask changes."""
    feeds = _prompt(subject, (2, 1), kind="noise").feeds
    pixels = feeds["pixel_values"]
    turned = pixels[:, ::-1] if "pixel_attention_mask" in feeds else pixels[::-1]
    changes = {
        "images in another order": {**feeds, "pixel_values": np.ascontiguousarray(turned)},
        "the prompt's mask ignored": {**feeds, "attention_mask": np.ones_like(feeds["attention_mask"])},
    }
    if "pixel_attention_mask" in feeds:
        mask = np.ones_like(feeds["pixel_attention_mask"])
        changes["an image's mask ignored"] = {**feeds, "pixel_attention_mask": mask}
    yield from moved_by(subject, {change: (feeds, other) for change, other in changes.items()})


_KINDS: tuple[Kind, ...] = ("noise", "picture")


def _equal(subject: CheckContext, check: str, prompt: Prompt) -> Iterator[CheckRow]:
    def run() -> np.ndarray:
        return at_places(prompt.real, _graphs(subject, prompt.feeds))

    case, exact = subject.case(check, prompt.text), partial(_exact, subject, prompt)
    yield from logits_equal(subject, partial(_pytorch, subject, prompt), run, case=case, exact=exact)


def _exact(subject: CheckContext, prompt: Prompt) -> Outputs:
    """PyTorch's logits in float64 at real positions, or none."""
    wide = subject.reference.in_float64(prompt.feeds)
    return {"logits": wide["logits"][prompt.real]} if wide else {}


def _pytorch(subject: CheckContext, prompt: Prompt) -> np.ndarray:
    """PyTorch's logits in one pass without a cache: float32 [real tokens, vocabulary]."""
    logits: np.ndarray = subject.reference(prompt.feeds)["logits"][prompt.real]
    return logits


def _graphs(subject: CheckContext, feeds: Feeds) -> np.ndarray:
    """The graphs' logits of a prompt's feeds: float32 [batch_size, sequence_length, vocabulary]."""
    return decode(subject, embedded(subject, feeds), feeds["attention_mask"], cache=None).logits


def _in_pieces(subject: CheckContext, prompt: Prompt, sizes: Sequence[int]) -> np.ndarray:
    """The graphs' logits of a prompt fed piece by piece, at real positions: float32 [real tokens, vocabulary]."""
    vectors, mask = embedded(subject, prompt.feeds), prompt.feeds["attention_mask"]

    def call(piece: slice, cache: Feeds | None) -> Step:
        return decode(subject, vectors[:, piece], mask[:, : piece.stop], cache=cache)

    return at_places(prompt.real, generation.in_pieces(call, sizes))


def _next_logits(subject: CheckContext, prompt: Prompt, index: int, generated: np.ndarray) -> np.ndarray:
    """What PyTorch, of one row by itself, finds of the token behind these: float32 [vocabulary]."""
    logits: np.ndarray = _pytorch(subject, prompt.row(index).longer(generated[np.newaxis]))[-1]
    return logits


def _exact_next_logits(subject: CheckContext, prompt: Prompt, index: int, generated: np.ndarray) -> np.ndarray | None:
    feeds = prompt.row(index).longer(generated[np.newaxis]).feeds
    return word(subject, feeds, "logits", read=lambda logits: logits[0, -1])()


def _vectors(subject: CheckContext) -> int:
    """How many positions one image takes."""
    return int(subject.graph("vision_encoder").outputs[0].shape[1])


def _prompt(
    subject: CheckContext, counts: tuple[int, ...], *, kind: Kind, lengths: Sequence[int] = TEXT_LENGTHS
) -> Prompt:
    """One row a count of images; the first image of the first row is not filled to its lower edge.

    Args:
        counts: images in each row.
        lengths: tokens of text, in turn.
    """
    pixels = _pixels(subject, counts, kind=kind) if any(counts) else {}
    return prompt_of(subject, counts, pixels=pixels, said=f"({kind})", lengths=lengths)


def prompt_of(
    subject: CheckContext,
    counts: tuple[int, ...],
    *,
    pixels: Feeds,
    said: str,
    lengths: Sequence[int] = TEXT_LENGTHS,
) -> Prompt:
    """Return a prompt of random tokens around the places of images.

    Args:
        counts: how many images each row has.
        pixels: the images by the names of inputs, shaped as in Prompt; empty where there are none.
        said: what they are, for people.
        lengths: how many tokens of text the rows have, in turn.
    """
    config = subject.reference.model.config
    rng = np.random.default_rng((SEED, *counts, *lengths))
    rows = []
    for count, length in zip(counts, cycle(lengths)):
        text = rng.choice(subject.space.tokens, size=length)
        image = np.full(count * _vectors(subject), config.image_token_id)
        rows.append(np.concatenate([text[:2], image, text[2:]]))
    longest = max(map(len, rows))
    ids = np.stack([np.pad(row, (longest - len(row), 0), constant_values=subject.space.pad_token_id) for row in rows])
    mask = np.stack([np.pad(np.ones(len(row)), (longest - len(row), 0)) for row in rows])
    feeds = {"input_ids": ids.astype(np.int64), "attention_mask": mask.astype(np.int64)}
    feeds["position_ids"] = generation.positions(feeds["attention_mask"])
    about = f"rows of {' and '.join(map(str, counts))} images {said} and up to {longest} tokens, seed {SEED}"
    return Prompt(feeds={**feeds, **pixels}, counts=counts, text=about)


def _pixels(subject: CheckContext, counts: tuple[int, ...], *, kind: Kind) -> dict[str, np.ndarray]:
    """Every row's images one after the other; or in rows filled up to the longest, with masks, where these are taken.

    Of rows with masks the first image is not filled to its lower edge.
    """
    specs = {spec.name: spec for spec in subject.graph("vision_encoder").inputs}
    channels, height, width = (int(axis) for axis in specs["pixel_values"].shape[-3:])
    size, settings = (height, width), preprocessor.settings(subject.stage_dir)
    most = max(counts)
    made = image_inputs.batch(len(counts) * most, channels=channels, size=size, seed=SEED, kind=kind, settings=settings)
    rows = made.reshape(len(counts), most, *made.shape[1:])
    if "pixel_attention_mask" not in specs:
        return {"pixel_values": np.concatenate([row[:count] for row, count in zip(rows, counts, strict=True)])}
    seen = np.ones((len(counts), most, *size), dtype=bool)
    seen[0, 0, size[0] // 2 :] = False
    for row, count in enumerate(counts):
        seen[row, count:] = False
    return {"pixel_values": (rows * seen[:, :, np.newaxis]).astype(np.float32), "pixel_attention_mask": seen}


def embedded(subject: CheckContext, feeds: Feeds) -> np.ndarray:
    """Return a prompt's vectors, with the images' in their places: float32 [batch_size, sequence_length, size].

    Args:
        feeds: as the plain model takes them, images and all.
    Raises:
        ValidationFailed: onnxruntime refuses them.
    """
    ids = feeds["input_ids"]
    vectors = subject.session("embed_tokens").run({"input_ids": ids})["inputs_embeds"].copy()
    if "pixel_values" in feeds:
        given = {spec.name: feeds[spec.name] for spec in subject.graph("vision_encoder").inputs}
        features = subject.session("vision_encoder").run(given)["image_features"]
        vectors[ids == subject.reference.model.config.image_token_id] = features.reshape(-1, vectors.shape[-1])
    return vectors


def decode(subject: CheckContext, vectors: np.ndarray, attention_mask: np.ndarray, *, cache: Feeds | None) -> Step:
    """Run the decoder's graph once.

    Args:
        vectors: float32 [batch_size, new tokens, size].
        attention_mask: int64 [batch_size, cached + new tokens].
        cache: the cache of the call before; None starts anew.
    Raises:
        ValidationFailed: onnxruntime refuses them.
    """
    session = subject.session("decoder_model_merged")
    cache = cache if cache is not None else generation.empty_cache(session, batch_size=len(vectors))
    places = generation.positions(attention_mask)[:, -vectors.shape[1] :]
    given = {"inputs_embeds": vectors, "attention_mask": attention_mask, "position_ids": places, **cache}
    outputs = session.run(given)
    return Step(logits=outputs["logits"], cache=generation.cache_of(outputs))


def _generated(subject: CheckContext, prompt: Prompt, *, new_tokens: int) -> np.ndarray:
    """Return the likeliest tokens behind a prompt: int64 [batch_size, new_tokens]."""

    def call(input_ids: np.ndarray, *, cache: Feeds | None) -> Step:
        if cache is None:
            vectors = embedded(subject, prompt.feeds)
        else:
            vectors = subject.session("embed_tokens").run({"input_ids": input_ids})["inputs_embeds"]
        mask = generation.extended(prompt.feeds["attention_mask"], vectors, cache=cache)
        return decode(subject, vectors, mask, cache=cache)

    return generation.greedy(call, prompt.feeds["input_ids"], max_new_tokens=new_tokens)


def probe(subject: CheckContext) -> Feeds:
    """Return two rows of unequally many images of noise, shaped as in Prompt."""
    return _prompt(subject, (2, 1), kind="noise").feeds


CHECKS = checks_of(parity, text, padding, cache, greedy, sensitivity, once=(sensitivity,))

"""What vision-language models are held to: three graphs put together as consumers do, against the plain model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from onnx_fleet import generation, images, preprocessor
from onnx_fleet.checks.feeds import Feeds, sensitive
from onnx_fleet.checks.subject import SEED, Subject, checks_of
from onnx_fleet.comparison import CheckRow, compare
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.generation import Step
from onnx_fleet.images import Kind

NEW_TOKENS = 8
_TEXT_LENGTHS = (7, 4)
"""Tokens of text in the rows of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Rows of text and images, padded on the left, as the plain model takes them."""

    feeds: dict[str, np.ndarray]
    text: str

    @property
    def real(self) -> np.ndarray:
        """bool [batch_size, sequence_length]"""
        return self.feeds["attention_mask"].astype(bool)


def parity(subject: Subject) -> Iterator[CheckRow]:
    """Logits at every position equal PyTorch's: one image, several, rows of unequally many, and none."""
    for counts in ((1,), (2,), (2, 1), (0,)):
        for kind in _KINDS if counts == (2, 1) else _KINDS[:1]:
            asked = _prompt(subject, counts, kind=kind)
            case = subject.case("parity", asked.text)
            expected = {"logits": subject.reference(asked.feeds)["logits"][asked.real]}
            try:
                found = decode(subject, embedded(subject, asked), asked.feeds["attention_mask"], cache=None)
            except ValidationFailed as err:
                yield case.row("error", detail=str(err))
                continue
            yield from compare(expected, {"logits": found.logits[asked.real]}, case=case)


def greedy(subject: Subject) -> Iterator[CheckRow]:
    """The likeliest tokens, one by one with the cache, are those of transformers' generate, in a padded batch."""
    asked = _prompt(subject, (2, 1), kind="picture")
    case = subject.case("greedy", f"{asked.text}, {NEW_TOKENS} new")
    length = asked.real.shape[1]
    settings = {"num_beams": 1, "eos_token_id": None, "pad_token_id": subject.space.pad_token_id}
    given = {name: array for name, array in asked.feeds.items() if name != "position_ids"}
    wanted = subject.reference.generate(given, max_new_tokens=NEW_TOKENS, **settings)[:, length:]
    try:
        found = _generated(subject, asked)
    except ValidationFailed as err:
        yield case.row("error", detail=str(err))
        return
    for row, (own, other) in enumerate(zip(wanted, found, strict=True)):
        where = replace(case, case=f"{case.case}, row {row}")
        same = bool((own == other).all())
        detail = "" if same else f"{other.tolist()} where generate gives {own.tolist()}"
        yield where.row("equal" if same else "different", output="tokens", passed=same, detail=detail)


def sensitivity(subject: Subject) -> Iterator[CheckRow]:
    """The comparisons can tell: PyTorch's own logits move when an image, its mask or the prompt's mask changes."""
    feeds = _prompt(subject, (2, 1), kind="noise").feeds
    swapped = feeds["pixel_values"].copy()
    swapped[0] = swapped[0, ::-1]
    changes = {
        "two images in another order": {**feeds, "pixel_values": swapped},
        "an image's mask ignored": {**feeds, "pixel_attention_mask": np.ones_like(feeds["pixel_attention_mask"])},
        "the prompt's mask ignored": {**feeds, "attention_mask": np.ones_like(feeds["attention_mask"])},
    }
    for change, other in changes.items():
        yield sensitive(subject, feeds, other, case=subject.case("sensitivity", change))


_KINDS: tuple[Kind, ...] = ("noise", "picture")


def _prompt(subject: Subject, counts: tuple[int, ...], *, kind: Kind) -> Prompt:
    """One row a count of images; the first image of the first row is not filled to its lower edge."""
    pixels = _pixels(subject, counts, kind=kind) if any(counts) else {}
    return prompt(subject, counts, pixels=pixels, said=f"({kind})")


def prompt(subject: Subject, counts: tuple[int, ...], *, pixels: Feeds, said: str) -> Prompt:
    """Text of random tokens around the places of images.

    Args:
        counts: images in each row.
        pixels: of these images; empty where there are none.
        said: what they are, for people.
    """
    config = subject.reference.model.config
    vectors = subject.graph("vision_encoder").outputs[0].shape[1]
    rng = np.random.default_rng((SEED, *counts))
    words = subject.space.tokens[subject.space.tokens != config.image_token_id]
    rows = []
    for count, length in zip(counts, _TEXT_LENGTHS, strict=False):
        text = rng.choice(words, size=length)
        rows.append(np.concatenate([text[:2], np.full(count * int(vectors), config.image_token_id), text[2:]]))
    longest = max(map(len, rows))
    ids = np.stack([np.pad(row, (longest - len(row), 0), constant_values=subject.space.pad_token_id) for row in rows])
    mask = np.stack([np.pad(np.ones(len(row)), (longest - len(row), 0)) for row in rows])
    feeds = {"input_ids": ids.astype(np.int64), "attention_mask": mask.astype(np.int64)}
    feeds["position_ids"] = generation.positions(feeds["attention_mask"])
    about = f"rows of {' and '.join(map(str, counts))} images {said} and up to {longest} tokens, seed {SEED}"
    return Prompt(feeds={**feeds, **pixels}, text=about)


def _pixels(subject: Subject, counts: tuple[int, ...], *, kind: Kind) -> dict[str, np.ndarray]:
    channels, height, width = subject.graph("vision_encoder").inputs[0].shape[2:]
    size = (int(height), int(width))
    settings = preprocessor.settings(subject.stage_dir)
    most = max(counts)
    made = images.batch(len(counts) * most, channels=int(channels), size=size, seed=SEED, kind=kind, settings=settings)
    seen = np.ones((len(counts), most, *size), dtype=bool)
    seen[0, 0, size[0] // 2 :] = False
    for row, count in enumerate(counts):
        seen[row, count:] = False
    pixels = made.reshape(len(counts), most, *made.shape[1:]) * seen[:, :, np.newaxis]
    return {"pixel_values": pixels.astype(np.float32), "pixel_attention_mask": seen}


def embedded(subject: Subject, given: Prompt) -> np.ndarray:
    """[batch_size, sequence_length, size]: the prompt's vectors, and the images' where its image tokens are."""
    ids = given.feeds["input_ids"]
    vectors = subject.session("embed_tokens").run({"input_ids": ids})["inputs_embeds"].copy()
    if "pixel_values" in given.feeds:
        seen = {name: given.feeds[name] for name in ("pixel_values", "pixel_attention_mask")}
        features = subject.session("vision_encoder").run(seen)["image_features"]
        vectors[ids == subject.reference.model.config.image_token_id] = features.reshape(-1, vectors.shape[-1])
    return vectors


def decode(subject: Subject, vectors: np.ndarray, attention_mask: np.ndarray, *, cache: Feeds | None) -> Step:
    session = subject.session("decoder_model_merged")
    cache = cache if cache is not None else generation.empty_cache(session, batch_size=len(vectors))
    places = generation.positions(attention_mask)[:, -vectors.shape[1] :]
    given = {"inputs_embeds": vectors, "attention_mask": attention_mask, "position_ids": places, **cache}
    outputs = session.run(given)
    return Step(logits=outputs["logits"], cache=generation.cache_of(outputs))


def _generated(subject: Subject, asked: Prompt) -> np.ndarray:
    """int64 [batch_size, NEW_TOKENS]"""

    def call(input_ids: np.ndarray, *, cache: Feeds | None) -> Step:
        if cache is None:
            vectors = embedded(subject, asked)
        else:
            vectors = subject.session("embed_tokens").run({"input_ids": input_ids})["inputs_embeds"]
        mask = generation.extended(asked.feeds["attention_mask"], vectors, cache=cache)
        return decode(subject, vectors, mask, cache=cache)

    return generation.greedy(call, asked.feeds["input_ids"], max_new_tokens=NEW_TOKENS)


CHECKS = checks_of(parity, greedy, sensitivity)

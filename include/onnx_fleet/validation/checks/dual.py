"""What dual encoders are held to: texts against images, and each side alone, at every batch size and with padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial

import numpy as np

from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.graphs import image_inputs, text_inputs
from onnx_fleet.graphs.comparison import Outputs, compare
from onnx_fleet.graphs.image_inputs import Kind
from onnx_fleet.graphs.text_inputs import Batch, Side
from onnx_fleet.processes.two_threads import beside
from onnx_fleet.source import preprocessor
from onnx_fleet.validation.checks.context import SEED, CheckContext, checks_of
from onnx_fleet.validation.checks.float64 import word
from onnx_fleet.validation.checks.padding import EACH_ROW_ALONE, OTHER_TOKENS, Parts, Run, Runners, padded_rows
from onnx_fleet.validation.checks.sensitivity import moved_by
from onnx_fleet.validation.checks.single_graph import Feeds, against_pytorch, batches_equal, rows_of, run
from onnx_fleet.validation.checks.ties import choices_equal

BATCH_SIZES = (1, 2, 7)
LENGTHS = (1, 2, 17, 64)
"""The model's maximum is fed, too."""
PADDED_LENGTHS = (17, 9, 3)
COUNTS = ((1, 1), (1, 3), (4, 2))
"""Texts and images that meet: one label, several labels of an image, and neither as many."""
_KEPT = (OTHER_TOKENS, replace(EACH_ROW_ALONE, said="each text as that text alone"))


def parity(subject: CheckContext) -> Iterator[CheckRow]:
    """Similarities and embeddings equal PyTorch's, for every number of texts and images, and so does the best match."""
    for texts, pictures in COUNTS:
        said = f"{texts} texts of 9 tokens, {pictures} images of noise, seed {SEED}"
        case = subject.case("parity", said, role="model")
        feeds = {**_text(subject, texts, length=9), **_image(subject, pictures, kind="noise")}
        expected, (actual, faults) = beside(partial(subject.reference, feeds), partial(run, subject, feeds, case=case))
        yield from faults or against_pytorch(subject, feeds, expected, actual, case=case)
        if "logits_per_image" in actual and texts > 1:
            chosen = replace(case, case=f"{said}: the text that fits best")
            name = "logits_per_image"
            exact = word(subject, feeds, name)
            yield choices_equal(expected[name], actual[name], axis=-1, output=name, case=chosen, exact=exact)


def text_alone(subject: CheckContext) -> Iterator[CheckRow]:
    """Texts by themselves equal PyTorch's, over batch sizes and lengths up to the maximum, and real text too."""
    role, maximum = "text_model", subject.space.max_length
    for length in sorted({min(length, maximum) for length in (*LENGTHS, maximum)}):
        feeds = _text(subject, BATCH_SIZES[-1] if length < maximum else 2, length=length)
        expected = cache(partial(subject.reference.graph, role, feeds))
        text = f"sequence_length {length}, seed {SEED}"
        yield from batches_equal(
            subject, feeds, expected=expected, check="text_alone", text=text, sizes=BATCH_SIZES, role=role
        )
    if (subject.stage_dir / "tokenizer.json").exists():
        case = subject.case("text_alone", "texts of several scripts through the packed tokenizer", role=role)
        feeds = _taken(subject, text_inputs.text_batches(subject.stage_dir, subject.space)[0])
        actual, faults = run(subject, feeds, case=case, role=role)
        wanted = subject.reference.graph(role, feeds)
        yield from faults or against_pytorch(subject, feeds, wanted, actual, case=case, role=role)


def image_alone(subject: CheckContext) -> Iterator[CheckRow]:
    """Images by themselves equal PyTorch's, over batch sizes, noise and pictures."""
    role = "vision_model"
    kinds: tuple[Kind, ...] = ("noise", "picture")
    for kind in kinds:
        feeds = _image(subject, BATCH_SIZES[-1], kind=kind)
        expected = cache(partial(subject.reference.graph, role, feeds))
        yield from batches_equal(
            subject,
            feeds,
            expected=expected,
            check="image_alone",
            text=f"{kind}, seed {SEED}",
            sizes=BATCH_SIZES,
            role=role,
        )


def parts(subject: CheckContext) -> Iterator[CheckRow]:
    """Each side's own graph returns the embeddings of the whole, but for their length."""
    feeds = {**_text(subject, 3, length=9), **_image(subject, 2, kind="picture")}
    case = subject.case("parts", f"3 texts and 2 pictures, seed {SEED}: alone, normalised, as together", role="model")
    together, faults = run(subject, feeds, case=case)
    yield from faults
    for role, name in {"text_model": "text_embeds", "vision_model": "image_embeds"}.items():
        alone, faults = run(subject, feeds, case=case, role=role)
        yield from faults
        if alone and name in together:
            embeds = next(iter(alone.values()))
            normal = embeds / np.linalg.norm(embeds, axis=-1, keepdims=True)
            yield from compare({name: together[name]}, {name: normal.astype(embeds.dtype)}, case=case)


def padding(subject: CheckContext) -> Iterator[CheckRow]:
    """Texts padded on either side equal PyTorch's, the same texts alone, and themselves with others under the mask."""
    yield from _padding(subject, side="right")
    yield from _padding(subject, side="left")


def _padding(subject: CheckContext, *, side: Side) -> Iterator[CheckRow]:
    role = "text_model"
    rows = _rows(subject)
    batch = text_inputs.pad(rows, side=side, space=subject.space)
    padded = _taken(subject, batch)
    noisy = _taken(subject, text_inputs.replace_masked(batch, space=subject.space, seed=SEED))
    singles = [_taken(subject, subject.filled(row)) for row in rows]
    is_masked, pooled = "attention_mask" in padded, subject.graph(role).outputs[0].name

    def feed(run: Run) -> Parts:
        def of(*given: Feeds) -> Outputs:
            return {pooled: np.concatenate([run(feeds)[pooled] for feeds in given])}

        whole = run(padded)
        if not is_masked:
            return {"whole": whole}
        # The batch is fed again, as ever: variants are tuned on what graphs are fed here, call by call.
        return {"whole": whole, "batch": of(padded), "noisy": of(noisy), "alone": of(*singles)}

    reference, lengths = subject.reference, ", ".join(str(row.input_ids.shape[1]) for row in rows)
    yield from padded_rows(
        subject,
        feed,
        runners=Runners(
            torch=partial(reference.graph, role),
            graph=subject.session(role).run,
            float64=partial(reference.in_float64, role=role),
        ),
        case=subject.case("padding", f"rows of {lengths} tokens, padded {side}, seed {SEED}", role=role),
        as_pytorch="whole",
        kept=_KEPT if is_masked else (),
    )


def sensitivity(subject: CheckContext) -> Iterator[CheckRow]:
    """The comparisons can tell: PyTorch's own outputs move when tokens, the mask or a corner of the image change."""
    feeds = {**_text(subject, 2, length=9), **_image(subject, 2, kind="noise")}
    ids, corner = feeds["input_ids"].copy(), feeds["pixel_values"].copy()
    ids[:, 1:-1] = ids[:, -2:0:-1]
    corner[..., -(corner.shape[-2] // 4) :, -(corner.shape[-1] // 4) :] *= -1
    changes = {
        "tokens in another order": (feeds, {**feeds, "input_ids": ids}),
        "another corner, a sixteenth of the image": (feeds, {**feeds, "pixel_values": corner}),
    }
    if "attention_mask" in feeds:
        padded = {
            **rows_of(feeds, slice(1)),
            **_taken(subject, text_inputs.pad(_rows(subject), side="right", space=subject.space)),
        }
        ignored = {**padded, "attention_mask": np.ones_like(padded["attention_mask"])}
        changes["the mask ignored"] = (padded, ignored)
    yield from moved_by(subject, changes, role="model")


def _rows(subject: CheckContext) -> list[Batch]:
    """Texts of random tokens, to pad."""
    return [_ended(subject, row) for row in subject.random_rows(PADDED_LENGTHS)]


def _text(subject: CheckContext, count: int, *, length: int) -> dict[str, np.ndarray]:
    fitting = min(length, subject.space.max_length)
    batch = _ended(subject, text_inputs.random_batch(subject.space, batch_size=count, length=fitting, seed=SEED))
    return _taken(subject, subject.filled(batch))


def _ended(subject: CheckContext, batch: Batch) -> Batch:
    """Return a batch with the end token that CLIP pools where the tokenizer puts none."""
    end = subject.reference.model.config.get_text_config().eos_token_id
    if subject.space.frame.suffix or not isinstance(end, int) or not 0 <= end < subject.reference.limits.vocab_size:
        return batch
    return replace(batch, input_ids=np.concatenate([batch.input_ids[:, :-1], np.full((len(batch), 1), end)], axis=1))


def _taken(subject: CheckContext, batch: Batch) -> dict[str, np.ndarray]:
    """What the graph of texts takes of a batch."""
    names = {spec.name for spec in subject.graph("text_model").inputs}
    return {name: array for name, array in batch.feeds.items() if name in names}


def _image(subject: CheckContext, count: int, *, kind: Kind) -> dict[str, np.ndarray]:
    shape = subject.graph("vision_model").inputs[0].shape
    channels, height, width = (axis if isinstance(axis, int) else image_inputs.USUAL_SIZE for axis in shape[1:])
    settings = preprocessor.settings(subject.stage_dir)
    made = image_inputs.batch(count, channels=channels, size=(height, width), seed=SEED, kind=kind, settings=settings)
    return {"pixel_values": made}


def probe(subject: CheckContext) -> Feeds:
    """Return two texts, int64 [2, tokens], and two images of noise, float32 [2, channels, height, width]."""
    return {**_text(subject, 2, length=9), **_image(subject, 2, kind="noise")}


CHECKS = checks_of(parity, text_alone, image_alone, parts, padding, sensitivity, once=(sensitivity,))

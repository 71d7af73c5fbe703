"""What vision models are held to: one graph, pixels in, at every batch size and every image size that it offers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial

import numpy as np

from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.graphs import image_inputs
from onnx_fleet.graphs.comparison import compare
from onnx_fleet.graphs.image_inputs import Kind
from onnx_fleet.processes.two_threads import beside
from onnx_fleet.source import preprocessor
from onnx_fleet.validation.checks import tokenized_texts
from onnx_fleet.validation.checks.context import SEED, CheckContext, checks_of
from onnx_fleet.validation.checks.float64 import word
from onnx_fleet.validation.checks.sensitivity import moved_by
from onnx_fleet.validation.checks.single_graph import (
    Feeds,
    against_pytorch,
    parity_over_sizes,
    run,
)
from onnx_fleet.validation.checks.ties import choices_equal

BATCH_SIZES = (1, 2, 7)
LARGEST_SIDE = 256
"""Models whose images may have any size are proven up to about here: attention costs the fourth power of the side."""
CONSUMERS_MASK = (64, 64)
"""What transformers.js sends as pixel_mask, whatever the image's size: all ones."""
_CHOOSING = frozenset({"image-classification", "object-detection", "image-segmentation"})
_CHOICES = ("logits", "class_queries_logits")
"""Outputs whose largest value along the labels is the answer for the image, or for each box, mask or pixel."""


def parity(subject: CheckContext) -> Iterator[CheckRow]:
    """Every output equals PyTorch's on noise, over batch sizes and, where they are open, image sizes, odd ones too."""
    yield from parity_over_sizes(
        subject,
        sizes(subject),
        feed=lambda count, size: image_feeds(subject, count, size=size, kind="noise"),
        said=lambda size: f"{size[0]} x {size[1]} pixels of noise, seed {SEED}",
        batch_sizes=BATCH_SIZES,
    )


def pictures(subject: CheckContext) -> Iterator[CheckRow]:
    """Every output equals PyTorch's on pictures with edges and flat areas, normalised as the preprocessor does."""
    feeds = image_feeds(subject, 4, size=sizes(subject)[0], kind="picture")
    case = subject.case("pictures", "4 pictures: slopes, checkerboards and discs, as preprocessor_config.json has them")
    expected, (actual, faults) = beside(partial(subject.reference, feeds), partial(run, subject, feeds, case=case))
    yield from faults or against_pytorch(subject, feeds, expected, actual, case=case)


def answers(subject: CheckContext) -> Iterator[CheckRow]:
    """The label of every picture, box or pixel, in the packed config.json's words, is the source's."""
    case = subject.case("answers", f"5 images of noise, seed {SEED}, and 4 pictures")
    if subject.item.model.task not in _CHOOSING:
        yield case.row("skipped", passed=True, detail=f"{subject.item.model.task} chooses no label")
        return
    own, packed = (tokenized_texts.labels_of(folder) for folder in (subject.source_dir, subject.stage_dir))
    words = partial(tokenized_texts.label, own), partial(tokenized_texts.label, packed)
    kinds: tuple[tuple[int, Kind], ...] = ((5, "noise"), (4, "picture"))
    for count, kind in kinds:
        feeds = image_feeds(subject, count, size=sizes(subject)[0], kind=kind)
        actual, faults = run(subject, feeds, case=case)
        yield from faults
        for name in actual.keys() & _CHOICES:
            expected = subject.reference(feeds)[name]
            axis = 1 if expected.ndim == 4 else -1  # a map of pixels has the labels behind the batch
            exact = word(subject, feeds, name)
            yield choices_equal(expected, actual[name], axis=axis, output=name, case=case, words=words, exact=exact)


def pixel_mask(subject: CheckContext) -> Iterator[CheckRow]:
    """Images padded to one size equal PyTorch's, with a mask of the image's own size and with one of 64 x 64."""
    if "pixel_mask" not in {spec.name for spec in subject.graph().inputs}:
        yield from _mask_is_idle(subject)
        return
    height, width = sizes(subject)[0]
    feeds = _padded(image_feeds(subject, 3, size=(height, width), kind="noise"))
    small = {**feeds, "pixel_mask": np.ones((3, *CONSUMERS_MASK), dtype=np.int64)}
    for text, given in {"a mask as large as the image": feeds, "a mask of 64 x 64 ones": small}.items():
        case = subject.case("pixel_mask", f"3 images of up to {height} x {width} pixels, {text}, seed {SEED}")
        actual, faults = run(subject, given, case=case)
        yield from faults or against_pytorch(subject, given, subject.reference(given), actual, case=case)


def _mask_is_idle(subject: CheckContext) -> Iterator[CheckRow]:
    """Where a graph takes no mask, the source's own answers are the same with the lower half and a side masked."""
    if "pixel_mask" not in inspect.signature(subject.reference.model.forward).parameters:
        return
    feeds = image_feeds(subject, 2, size=sizes(subject)[0], kind="noise")
    mask = np.ones((2, *feeds["pixel_values"].shape[2:]), dtype=np.int64)
    mask[:, mask.shape[1] // 2 :] = mask[:, :, -mask.shape[2] // 3 :] = 0
    case = subject.case("pixel_mask", f"2 images, seed {SEED}: a mask, which the graph does not take, changes nothing")
    yield from compare(subject.reference({**feeds, "pixel_mask": mask}), subject.reference(feeds), case=case)


def sensitivity(subject: CheckContext) -> Iterator[CheckRow]:
    """The comparisons can tell: PyTorch's own outputs move when a corner of the image, or the mask, is another one."""
    feeds = image_feeds(subject, 2, size=sizes(subject)[0], kind="noise")
    corner = feeds["pixel_values"].copy()
    corner[..., -(corner.shape[-2] // 4) :, -(corner.shape[-1] // 4) :] *= -1
    changes = {"another corner, a sixteenth of the image": (feeds, {**feeds, "pixel_values": corner})}
    if "pixel_mask" in feeds:
        padded = _padded(feeds)
        changes["the mask ignored"] = (padded, {**padded, "pixel_mask": feeds["pixel_mask"]})
    yield from moved_by(subject, changes)


def sizes(subject: CheckContext) -> tuple[tuple[int, int], ...]:
    """Return the sizes to feed, each (height, width) in pixels: the model's own first, and where it is open unequal,
    larger and odd ones too.
    """
    spec = next(spec for spec in subject.graph().inputs if spec.name == "pixel_values")
    height, width = spec.shape[2:]
    if isinstance(height, int) and isinstance(width, int):
        return ((height, width),)
    fixed = (height if isinstance(height, int) else None, width if isinstance(width, int) else None)
    settings = preprocessor.settings(subject.stage_dir)
    config = subject.reference.model.config
    own = (
        image_inputs.size_of_preprocessor(settings)
        or image_inputs.size_of_config(config)
        or (image_inputs.USUAL_SIZE,) * 2
    )
    unit = image_inputs.unit(config)
    native = own if max(own) <= LARGEST_SIDE else (max(unit, LARGEST_SIDE // unit * unit),) * 2
    least = max(native[0], 2 * unit)
    offered = (native, (least, least + unit), (least + 2 * unit, least), (least + 5, least + unit - 3))
    return tuple(dict.fromkeys((fixed[0] or rows, fixed[1] or columns) for rows, columns in offered))


def image_feeds(subject: CheckContext, count: int, *, size: tuple[int, int], kind: Kind) -> dict[str, np.ndarray]:
    """Return a batch as the graph takes it, nothing of it padding: float32 [count, channels, height, width], and the
    mask, int64 [count, height, width], where it is taken.

    Args:
        size: (height, width) in pixels.
    """
    specs = {spec.name: spec for spec in subject.graph().inputs}
    channels = specs["pixel_values"].shape[1]
    made = image_inputs.batch(
        count,
        channels=channels if isinstance(channels, int) else 3,
        size=size,
        seed=SEED,
        kind=kind,
        settings=preprocessor.settings(subject.stage_dir),
    )
    feeds = {"pixel_values": made}
    if "pixel_mask" in specs:
        feeds["pixel_mask"] = np.ones((count, *size), dtype=np.int64)
    return feeds


def _padded(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same images, all but the first cut short and filled up with zeros, as preprocessors batch them."""
    mask = feeds["pixel_mask"].copy()
    for row in range(1, len(mask)):
        mask[row, -row * mask.shape[1] // 4 :] = 0
        mask[row, :, -mask.shape[2] // 3 :] = 0
    return {"pixel_values": feeds["pixel_values"] * mask[:, np.newaxis].astype(np.float32), "pixel_mask": mask}


def probe(subject: CheckContext) -> Feeds:
    """Return two images of noise of the model's own size, as ``image_feeds`` does."""
    return image_feeds(subject, 2, size=sizes(subject)[0], kind="noise")


CHECKS = checks_of(parity, pictures, answers, pixel_mask, sensitivity, once=(pixel_mask, sensitivity))

"""What users read of a bundle: transformers' own pipeline, once of the source's folder and once of the bundle's.

It proves the reference and the bundle at once, against code that is not ours: class, configuration, label maps,
problem_type, tokenizer, processor and graph. The source's side knows nothing of the export.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs.comparison import Case, compare
from onnx_fleet.validation.checks.context import CheckContext, checks_of
from onnx_fleet.validation.checks.ties import weighed

if TYPE_CHECKING:
    from onnx_fleet.validation.pipeline_tasks import Answer, Question

LARGEST_STEP = 1
"""How far apart two whole numbers may be that fractions were cut off from."""
MOST_PIXELS = 1e-3
"""The share of an image's pixels that may have another label: on the border of two areas two are as good."""


def pipeline(subject: CheckContext) -> Iterator[CheckRow]:
    """The answers of transformers' own pipeline: of the source's folder, and of the bundle's with its graph."""
    from onnx_fleet.validation import pipelines

    said = subject.said or pipelines.ask_source(subject.item, subject.source_dir, graphs=subject.graphs.values())
    case = subject.case("pipeline", f"{subject.item.model.task}, as transformers' own pipeline answers")
    if said.reason:
        yield case.row("skipped", passed=True, detail=said.reason)
        return
    try:
        ask = pipelines.of_bundle(subject.item, subject.stage_dir, subject.session())
    except ValidationFailed as err:
        yield case.row("error", detail=str(err))
        return
    for number, (question, wanted) in enumerate(zip(said.questions, said.answers, strict=True)):
        yield from _alike(ask, question, wanted, case=replace(case, case=f"{case.case}, question {number}"))


def _alike(ask: Callable[[Question], Answer], question: Question, wanted: Answer, *, case: Case) -> Iterator[CheckRow]:
    from onnx_fleet.validation.pipelines import NotGiven

    try:
        found = ask(question)
    except NotGiven as err:
        yield case.row("skipped", passed=True, detail=str(err))
        return
    except ValidationFailed as err:
        yield case.row("error", detail=str(err))
        return
    if found.words != wanted.words:
        yield _other_words(wanted, found, case=case)
        return
    if wanted.words:
        yield case.row("equal", output="words", passed=True)
    yield from compare(wanted.numbers, found.numbers, case=case, source="the source's pipeline")
    for name, values in wanted.rounded.items():
        yield _rounded_alike(name, values, found.rounded[name], case=case)
    for name, masks in wanted.masks.items():
        yield _masks_alike(name, masks, found.masks[name], case=case)


def _other_words(wanted: Answer, found: Answer, *, case: Case) -> CheckRow:
    """Where PyTorch finds two answers as good, either is right."""
    margin = weighed(wanted.margin, largest=wanted.scale, tolerances=case.tolerances)
    pairs = zip(wanted.words, found.words, strict=False)
    first = next(((own, other) for own, other in pairs if own != other), None)
    said = (
        f"{first[1]!r} where the source's pipeline says {first[0]!r}"
        if first
        else f"{len(found.words)} answers where the source's pipeline gives {len(wanted.words)}"
    )
    clear = "nothing is chosen" if wanted.margin == float("inf") else f"its choice is clear by {wanted.margin:.2g}"
    return margin.row(case, output="words", detail=f"{said}; {clear}")


def _rounded_alike(name: str, wanted: np.ndarray, found: np.ndarray, *, case: Case) -> CheckRow:
    if wanted.shape != found.shape:
        return case.row("shape", output=name, detail=f"{list(found.shape)} where the source has {list(wanted.shape)}")
    off = int(np.abs(wanted.astype(np.int64) - found).max(initial=0))
    passed = off <= LARGEST_STEP
    return case.row("equal" if passed else "different", output=name, passed=passed, detail=f"by up to {off}")


def _masks_alike(name: str, wanted: np.ndarray, found: np.ndarray, *, case: Case) -> CheckRow:
    if wanted.shape != found.shape:
        return case.row("shape", output=name, detail=f"{list(found.shape)} where the source has {list(wanted.shape)}")
    share = float((wanted != found).any(axis=0).mean())
    passed = share <= MOST_PIXELS
    detail = f"{share:.2%} of the pixels have another label"
    return case.row("equal" if passed else "different", output=name, passed=passed, detail=detail)


CHECKS = checks_of(pipeline)

"""How each task's pipeline of transformers is asked, and how its answer is read. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.utils.generic import ModelOutput

from onnx_fleet.graphs import audio_inputs, image_inputs

Runner = Callable[..., Any]
Question = Any
"""What a pipeline is called with: a text, a pair, a picture, a sound, or several of them."""

TEXTS = (
    "The museum is closed on Mondays.",
    "Prices rose 3.5% -- really?",
    "東京は日本の首都です。 Привет, мир!",
)
PAIRS = (
    ("When is the museum closed?", "The museum is closed on Mondays, and on the first of May."),
    ("Who raised the prices?", "In March the harbour raised its prices by a tenth."),
    ("What is the capital?", "東京は日本の首都です。"),
)
BLANKS = ("The museum is {} on Mondays.", "Prices {} by a tenth.")
LABELS = ("travel", "money", "a holiday abroad")
_BEST = 5
"""How many words fill-mask names."""
_SECONDS = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a pipeline said to one question."""

    words: tuple[str, ...] = ()
    """Labels, spans or transcripts, in an order that depends on no score."""
    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Scores, depths or features, float32 of any shape by name, in the order of the words."""
    rounded: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Whole numbers that a fraction was cut off from: ``boxes`` [boxes, 4] in pixels, ``depth`` [height, width]."""
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Which pixels have which label: bool [segments, height, width] by name."""
    margin: float = math.inf
    """How much the model's own logits prefer what it chose to what comes next; infinite where nothing is chosen."""
    scale: float = 0.0
    """The largest of those logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How one task is asked."""

    pipeline: str | None
    """The task's name in transformers; None where its pipeline was removed, and the class and tokenizer are used."""
    questions: Callable[[Runner, int], Sequence[Question]]
    """(runner, the most tokens that may be fed) -> what it is asked."""
    ask: Callable[[Runner, Question], Answer]
    margin: Callable[[ModelOutput, Mapping[str, torch.Tensor], Runner], float] | None = None
    """(outputs, inputs of the model, runner) -> how clear the choice was."""
    logits: str = "logits"


def _fitting(text: str, runner: Any, bound: int, pair: str | None = None) -> str:
    """Return as many of a text's words as the model takes."""
    words = text.split(" ")
    while len(words) > 1 and len(runner.tokenizer(" ".join(words), pair)["input_ids"]) > bound:
        words.pop()
    return " ".join(words)


def _texts(runner: Any, bound: int) -> list[str]:
    return [_fitting(text, runner, bound) for text in TEXTS]


def _texts_and_a_pair(runner: Any, bound: int) -> list[Question]:
    first, second = PAIRS[0]
    return [*_texts(runner, bound), {"text": first, "text_pair": _fitting(second, runner, bound, first)}]


def _pairs(runner: Any, bound: int) -> list[Question]:
    return [{"text": first, "text_pair": _fitting(second, runner, bound, first)} for first, second in PAIRS]


def _questions(runner: Any, bound: int) -> list[tuple[str, str]]:
    return [(first, _fitting(second, runner, bound, first)) for first, second in PAIRS]


def _blanks(runner: Any, bound: int) -> list[str]:
    mask = runner.tokenizer.mask_token
    return [_fitting(blank.format(mask), runner, bound) for blank in BLANKS] if mask else []


def _pictures(runner: Any, bound: int) -> list[Any]:
    """Pictures of two shapes, as photographs come."""
    from PIL import Image

    found: list[Any] = []
    for size in ((96, 128), (75, 60)):
        (array,) = image_inputs.batch(1, channels=3, size=size, seed=len(found), kind="picture", settings=_PLAIN)
        shades = (np.clip(array, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
        found.append(Image.fromarray(shades))
    return found


_PLAIN = {"do_normalize": False}


def _sounds(runner: Any, bound: int) -> list[dict[str, Any]]:
    rate = int(runner.feature_extractor.sampling_rate)
    made = audio_inputs.batch(2, int(_SECONDS * rate), seed=5, kind="tones")
    return [{"array": row.copy(), "sampling_rate": rate} for row in made]


def _by_label(rows: Sequence[Mapping[str, Any]]) -> Answer:
    """Every label with its score, in the labels' own order."""
    ordered = sorted(rows, key=lambda row: (row["label"], row["score"]))
    return Answer(words=tuple(row["label"] for row in ordered), numbers=_scores(row["score"] for row in ordered))


def _scores(values: Any) -> dict[str, np.ndarray]:
    return {"scores": np.array(list(values), dtype=np.float32)}


def _classify(runner: Runner, question: Question) -> Answer:
    (rows,) = runner([question], top_k=None)
    return _by_label(rows)


def _rank(runner: Runner, question: Question) -> Answer:
    (rows,) = runner([question], top_k=None, function_to_apply="none")
    return _by_label(rows)


def _without_examples(runner: Runner, question: Question) -> Answer:
    """One of several labels, and any of them."""
    both = [runner(question, candidate_labels=list(LABELS), multi_label=several) for several in (False, True)]
    rows = [sorted(zip(each["labels"], each["scores"], strict=True)) for each in both]
    return Answer(
        words=tuple(label for each in rows for label, _ in each),
        numbers=_scores(score for each in rows for _, score in each),
    )


def _tag(runner: Runner, question: Question) -> Answer:
    """Every token with its label, and the groups that they make."""
    tokens = runner(question, ignore_labels=[])
    groups = runner(question, ignore_labels=[], aggregation_strategy="simple")
    words = [f"{each['word']} {each['start']} {each['entity']}" for each in tokens]
    words += [f"{each['word']} {each['start']} {each['entity_group']}" for each in groups]
    return Answer(words=tuple(words), numbers=_scores(each["score"] for each in (*tokens, *groups)))


def _fill(runner: Runner, question: Question) -> Answer:
    rows = runner(question, top_k=_BEST)
    return Answer(
        words=tuple(f"{row['token_str']}: {row['sequence']}" for row in rows),
        numbers=_scores(row["score"] for row in rows),
    )


def _features(runner: Runner, question: Question) -> Answer:
    return Answer(numbers={"features": runner(question, return_tensors=True).numpy()})


def _look(runner: Any, question: Question) -> Answer:
    return _by_label(runner(question, top_k=runner.model.config.num_labels))


def _listen(runner: Runner, question: Question) -> Answer:
    return _by_label(runner(dict(question), top_k=None))


def _transcribe(runner: Runner, question: Question) -> Answer:
    return Answer(words=(runner(dict(question))["text"],))


def _detect(runner: Runner, question: Question) -> Answer:
    rows = runner(question, threshold=0.0)
    corners = [[row["box"][corner] for corner in ("xmin", "ymin", "xmax", "ymax")] for row in rows]
    return Answer(
        words=tuple(row["label"] for row in rows),
        numbers=_scores(row["score"] for row in rows),
        rounded={"boxes": np.array(corners)},
    )


def _segment(runner: Runner, question: Question) -> Answer:
    rows = sorted(runner(question), key=lambda row: row["label"])
    return Answer(
        words=tuple(row["label"] for row in rows),
        masks={"masks": np.stack([np.asarray(row["mask"]) > 0 for row in rows])},
    )


def _measure(runner: Runner, question: Question) -> Answer:
    found = runner(question)
    return Answer(
        numbers={"predicted_depth": found["predicted_depth"].numpy()}, rounded={"depth": np.asarray(found["depth"])}
    )


def _match(runner: Runner, question: Question) -> Answer:
    return _by_label(runner(question, candidate_labels=list(LABELS)))


def _between_best_two(outputs: ModelOutput, given: Mapping[str, torch.Tensor], runner: Any) -> float:
    """The least margin of all rows of logits between the best two."""
    logits = outputs["logits"]
    best = logits.topk(min(2, logits.shape[-1]), dim=-1).values
    return float((best[..., 0] - best[..., 1]).min()) if best.shape[-1] > 1 else math.inf


def _between_best_words(outputs: ModelOutput, given: Mapping[str, torch.Tensor], runner: Any) -> float:
    """The least margin between any two of the words that are named for a mask, and the next one."""
    masked = given["input_ids"] == runner.tokenizer.mask_token_id
    best = outputs["logits"][masked].topk(_BEST + 1, dim=-1).values
    return float((best[..., :-1] - best[..., 1:]).min())


ASKING: Mapping[str, Asking] = {
    "text-classification": Asking(pipeline="text-classification", questions=_texts_and_a_pair, ask=_classify),
    "text-ranking": Asking(pipeline="text-classification", questions=_pairs, ask=_rank),
    "zero-shot-classification": Asking(pipeline="zero-shot-classification", questions=_texts, ask=_without_examples),
    "token-classification": Asking(
        pipeline="token-classification", questions=_texts, ask=_tag, margin=_between_best_two
    ),
    "fill-mask": Asking(pipeline="fill-mask", questions=_blanks, ask=_fill, margin=_between_best_words),
    "question-answering": Asking(
        pipeline=None, questions=_questions, ask=lambda runner, question: runner(*question), logits="start_logits"
    ),
    "feature-extraction": Asking(
        pipeline="feature-extraction", questions=_texts, ask=_features, logits="last_hidden_state"
    ),
    "sentence-similarity": Asking(
        pipeline="feature-extraction", questions=_texts, ask=_features, logits="last_hidden_state"
    ),
    "image-classification": Asking(pipeline="image-classification", questions=_pictures, ask=_look),
    "image-feature-extraction": Asking(
        pipeline="image-feature-extraction", questions=_pictures, ask=_features, logits="last_hidden_state"
    ),
    "image-segmentation": Asking(pipeline="image-segmentation", questions=_pictures, ask=_segment),
    "object-detection": Asking(pipeline="object-detection", questions=_pictures, ask=_detect, margin=_between_best_two),
    "depth-estimation": Asking(
        pipeline="depth-estimation", questions=_pictures, ask=_measure, logits="predicted_depth"
    ),
    "audio-classification": Asking(pipeline="audio-classification", questions=_sounds, ask=_listen),
    "automatic-speech-recognition": Asking(
        pipeline="automatic-speech-recognition", questions=_sounds, ask=_transcribe, margin=_between_best_two
    ),
    "zero-shot-image-classification": Asking(
        pipeline="zero-shot-image-classification", questions=_pictures, ask=_match, logits="logits_per_image"
    ),
}
"""Task -> how it is asked."""

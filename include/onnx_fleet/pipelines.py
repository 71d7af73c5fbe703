"""transformers' own pipelines, of a source's folder and of a bundle's: what users read, by code that is not ours.

A pipeline of the source loads everything by itself: class, weights, configuration, tokenizer, processor. That of the
bundle has the bundle's files, and the graph in the model's place. Imports torch and transformers.
"""

from __future__ import annotations

import gc
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from transformers.utils.generic import ModelOutput

from onnx_fleet import images, model_limits, recipes, sound, workloads
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.plan import WorkItem
from onnx_fleet.tasks import TASKS

if TYPE_CHECKING:
    from onnx_fleet.graph import GraphInfo, TensorSpec
    from onnx_fleet.runtime import Session

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
LONGEST_ANSWER = 15
"""Tokens, as question answering usually bounds them."""
_BEST = 5
"""Words that fill-mask names."""
_SECONDS = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a pipeline said to one question."""

    words: tuple[str, ...] = ()
    """In an order that depends on no score: labels, spans, transcripts."""
    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)
    """In the order of the words: scores, depths, features."""
    rounded: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Whole numbers that a fraction was cut off from: corners of boxes, shades."""
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    """bool [segments, height, width]: which pixels have which label."""
    margin: float = math.inf
    """By how much the model's own logits prefer what it chose to what comes next; infinite where nothing is chosen."""
    scale: float = 0.0
    """The largest of those logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the source's pipeline says."""

    questions: tuple[Question, ...] = ()
    answers: tuple[Answer, ...] = ()
    reason: str = ""
    """Why it says nothing; empty where it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asking:
    """How one task is asked."""

    pipeline: str | None
    """The task's name in transformers; None where its pipeline was removed, and the class and tokenizer are used."""
    questions: Callable[[Runner, int], Sequence[Question]]
    """(runner, the most tokens that may be fed) -> what it is asked."""
    ask: Callable[[Runner, Question], Answer]
    margin: Callable[[ModelOutput, Mapping[str, torch.Tensor], Runner], float] | None = None
    """(outputs, inputs of the model, runner) -> how clear the choice was."""
    logits: str = "logits"


def ask_source(item: WorkItem, source_dir: Path, *, graphs: Iterable[GraphInfo]) -> Said:
    """Load the source as its users do, ask it, and forget it.

    Args:
        graphs: those that are to be held to it.
    """
    graphs = tuple(graphs)
    if why := _unanswerable(item, graphs):
        return Said(reason=why)
    asking = _ASKING[item.model.task]
    with _quiet():
        try:
            runner = _source_runner(asking, item, source_dir)
            bound = min(_bound(runner), workloads.fixed_length(graphs) or _UNBOUND)
            questions = tuple(asking.questions(runner, bound))
            answers = tuple(_told(asking, runner, question) for question in questions)
        except Exception as err:  # noqa: BLE001 - whatever it is, there is nothing to hold a graph to
            said = f"{type(err).__name__}: {err}".splitlines()[0][:200]
            return Said(reason=f"transformers' own pipeline does not run on the source: {said}")
        finally:
            runner = None  # type: ignore[assignment]
            gc.collect()
    return Said(questions=questions, answers=answers, reason="" if questions else "the tokenizer has no mask token")


def of_bundle(item: WorkItem, stage_dir: Path, session: Session) -> Callable[[Question], Answer]:
    """The pipeline of a bundle's own files, whose model is its graph.

    Raises:
        ValidationFailed: it cannot be made of the bundle, or does not run.
    """
    asking = _ASKING[item.model.task]
    name = item.model.entry.recipe
    renamed = {new: old for old, new in recipes.find(name).rename.items()} if name else {}
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(stage_dir)
            model = _Graph(session, config, renamed=renamed)
            if asking.pipeline is None:
                runner: Runner = _Answering(model, transformers.AutoTokenizer.from_pretrained(stage_dir))
            else:
                parts = {name: str(stage_dir) for name in ("tokenizer", "image_processor", "feature_extractor")}
                runner = transformers.pipeline(
                    asking.pipeline, model=model, config=str(stage_dir), device="cpu", dtype=torch.float32, **parts
                )  # type: ignore[call-overload]
    except Exception as err:
        raise ValidationFailed(f"no pipeline can be made of the bundle's files: {type(err).__name__}: {err}") from err

    def ask(question: Question) -> Answer:
        try:
            with _quiet(), torch.inference_mode():
                return asking.ask(runner, question)
        except ValidationFailed:
            raise
        except Exception as err:
            raise ValidationFailed(f"the bundle's pipeline does not run: {type(err).__name__}: {err}") from err

    return ask


def _unanswerable(item: WorkItem, graphs: Sequence[GraphInfo]) -> str:
    """Why a task, its graphs or a recipe leave nothing to ask; empty where something is."""
    task, entry = item.model.task, item.model.entry
    whole = next((info for info in graphs if info.role == "model"), None)
    if whole is None or "decoder_input_ids" in {spec.name for spec in whole.inputs}:
        return "what the model writes token by token is held to transformers' generate by other checks"
    if task not in _ASKING:
        return f"transformers has no pipeline for {task} that a text or a picture by itself could be put to"
    if entry.trust_remote_code is not None:
        return "the source runs code of its own, which a bundle does not have"
    recipe = recipes.find(entry.recipe) if entry.recipe else None
    if recipe and (recipe.prepare or _ASKING[task].logits in recipe.drop):
        return f"the recipe {entry.recipe} changes what the model gives"
    return ""


_UNBOUND = 512


def _source_runner(asking: _Asking, item: WorkItem, source_dir: Path) -> Runner:
    if asking.pipeline is not None:
        return transformers.pipeline(asking.pipeline, model=str(source_dir), device="cpu", dtype=torch.float32)  # type: ignore[call-overload,no-any-return]
    auto = getattr(transformers, TASKS[item.model.task].auto_classes[0])
    model = auto.from_pretrained(source_dir, dtype=torch.float32).eval()
    return _Answering(model, transformers.AutoTokenizer.from_pretrained(source_dir))


def _bound(runner: Any) -> int:
    """The most tokens that the source may be fed."""
    tokenizer = getattr(runner, "tokenizer", None)
    if tokenizer is None:
        return _UNBOUND
    positions = model_limits.of(runner.model).max_length or _UNBOUND
    return int(min(tokenizer.model_max_length, positions, _UNBOUND))


def _told(asking: _Asking, runner: Any, question: Question) -> Answer:
    """The answer, and how clear it was to the model."""
    margins: list[tuple[float, float]] = []

    def watch(module: Any, args: Any, given: Mapping[str, Any], outputs: Any) -> None:
        if asking.margin is not None:
            logits = outputs[asking.logits]
            margins.append((asking.margin(outputs, given, runner), float(logits.abs().max())))

    handle = runner.model.register_forward_hook(watch, with_kwargs=True)
    try:
        with torch.inference_mode():
            answer = asking.ask(runner, question)
    finally:
        handle.remove()
    least = min((margin for margin, _ in margins), default=math.inf)
    scale = max((size for _, size in margins), default=0.0)
    return replace(answer, margin=min(least, answer.margin), scale=max(scale, answer.scale))


class _Graph:
    """Stands where a pipeline has its model: a call of it is a call of the graph."""

    base_model_prefix = ""
    hf_device_map = None
    generation_config = None

    def __init__(self, session: Session, config: Any, *, renamed: Mapping[str, str]) -> None:
        self.config = config
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self._session, self._renamed = session, renamed
        names = [spec.name for spec in session.inputs]
        self.main_input_name = next((name for name in names if not name.endswith("mask")), "input_ids")

    def can_generate(self) -> bool:
        return False

    def __call__(self, **given: Any) -> ModelOutput:
        return self.forward(**given)

    def forward(self, **given: Any) -> ModelOutput:
        """What the graph gives, of the length of what it was asked."""
        arrays = {name: value.numpy() for name, value in given.items() if torch.is_tensor(value)}
        length = arrays["input_ids"].shape[-1] if "input_ids" in arrays else None
        feeds = {spec.name: self._feed(spec, arrays).astype(spec.dtype) for spec in self._session.inputs}
        outputs = self._session.run(feeds)
        fed = feeds["input_ids"].shape[-1] if "input_ids" in feeds else None
        if fed != length:
            outputs = {
                name: array[:, :length] if array.shape[1:2] == (fed,) else array for name, array in outputs.items()
            }
        return ModelOutput(  # type: ignore[no-untyped-call]
            {self._renamed.get(name, name): torch.from_numpy(array) for name, array in outputs.items()}
        )

    def _feed(self, spec: TensorSpec, given: Mapping[str, np.ndarray]) -> np.ndarray:
        """One input: as given, or as models have it where it is left out; as long as the graph takes it."""
        array = given.get(spec.name)
        if array is None:
            array = self._left_out(spec, given)
        missing = spec.shape[-1] - array.shape[-1] if spec.name in _TOKENS and isinstance(spec.shape[-1], int) else 0
        filler = getattr(self.config, "pad_token_id", None) or 0 if spec.name == "input_ids" else 0
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, max(0, missing))], constant_values=filler)

    def _left_out(self, spec: TensorSpec, given: Mapping[str, np.ndarray]) -> np.ndarray:
        if spec.name == "pixel_mask" and "pixel_values" in given:
            pixels = given["pixel_values"]
            return np.ones((len(pixels), *pixels.shape[-2:]), dtype=np.int64)
        of = next((given[name] for name in ("input_ids", "input_features", "input_values") if name in given), None)
        if of is not None and spec.name == "attention_mask":
            return np.ones(of.shape[:2], dtype=np.int64)
        if of is not None and spec.name == "token_type_ids":
            return np.zeros(of.shape, dtype=np.int64)
        if of is not None and spec.name == "bbox":
            return np.zeros((*of.shape, 4), dtype=np.int64)
        raise NotGiven(f"the graph takes {spec.name}, which this pipeline never gives")


class NotGiven(ValidationFailed):
    """A pipeline leaves out what the graph cannot do without: what the source then does is another matter."""


_TOKENS = ("input_ids", "attention_mask", "token_type_ids")


class _Answering:
    """Question answering as transformers 4's pipeline did it: the best span of the context, or that there is none."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    def __call__(self, question: str, context: str) -> Answer:
        found = self.tokenizer(question, context, return_tensors="pt")
        taken = inspect.signature(self.model.forward).parameters
        open_ended = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values())
        given = {name: tensor for name, tensor in found.items() if open_ended or name in taken}
        outputs = self.model(**given)
        start, end = (outputs[name][0].numpy() for name in ("start_logits", "end_logits"))
        ids = found["input_ids"][0].tolist()
        allowed = np.triu(np.ones((len(ids),) * 2)) - np.triu(np.ones((len(ids),) * 2), LONGEST_ANSWER)
        allowed *= self._of_context(found, ids)
        scores = np.where(allowed > 0, start[:, None] + end[None], -np.inf)
        first, last = np.unravel_index(scores.argmax(), scores.shape)
        best, none = float(scores[first, last]), float(start[0] + end[0])
        second = float(np.partition(scores, -2, axis=None)[-2]) if scores.size > 1 else -math.inf
        words = self.tokenizer.decode(ids[first : last + 1]) if best >= none else "no answer"
        margin = min(best - second, abs(best - none))
        return Answer(
            words=(words,),
            numbers={"scores": np.array([best, none], dtype=np.float32)},
            margin=margin,
            scale=max(abs(best), abs(none)),
        )

    def _of_context(self, found: Any, ids: Sequence[int]) -> np.ndarray:
        """[tokens, tokens]: spans that lie in the context; anywhere, where a tokenizer cannot tell."""
        try:
            inside = np.array([part == 1 for part in found.sequence_ids(0)], dtype=float)
        except ValueError:
            inside = np.ones(len(ids))
        spans: np.ndarray = inside[:, None] * inside[None]
        return spans


@contextmanager
def _quiet() -> Iterator[None]:
    """Pipelines warn of much that is no fault here: of a class that is none of theirs, of one call after the other."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


def _fitting(text: str, runner: Any, bound: int, pair: str | None = None) -> str:
    """As many of a text's words as the model takes."""
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
    """Of two shapes, as photographs come."""
    from PIL import Image

    found: list[Any] = []
    for size in ((96, 128), (75, 60)):
        (array,) = images.batch(1, channels=3, size=size, seed=len(found), kind="picture", settings=_PLAIN)
        shades = (np.clip(array, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
        found.append(Image.fromarray(shades))
    return found


_PLAIN = {"do_normalize": False}


def _sounds(runner: Any, bound: int) -> list[dict[str, Any]]:
    rate = int(runner.feature_extractor.sampling_rate)
    made = sound.batch(2, int(_SECONDS * rate), seed=5, kind="tones")
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
    """Of every row of logits, the least."""
    logits = outputs["logits"]
    best = logits.topk(min(2, logits.shape[-1]), dim=-1).values
    return float((best[..., 0] - best[..., 1]).min()) if best.shape[-1] > 1 else math.inf


def _between_best_words(outputs: ModelOutput, given: Mapping[str, torch.Tensor], runner: Any) -> float:
    """Between any two of the words that are named for a mask, and the next one."""
    masked = given["input_ids"] == runner.tokenizer.mask_token_id
    best = outputs["logits"][masked].topk(_BEST + 1, dim=-1).values
    return float((best[..., :-1] - best[..., 1:]).min())


_ASKING: Mapping[str, _Asking] = {
    "text-classification": _Asking(pipeline="text-classification", questions=_texts_and_a_pair, ask=_classify),
    "text-ranking": _Asking(pipeline="text-classification", questions=_pairs, ask=_rank),
    "zero-shot-classification": _Asking(pipeline="zero-shot-classification", questions=_texts, ask=_without_examples),
    "token-classification": _Asking(
        pipeline="token-classification", questions=_texts, ask=_tag, margin=_between_best_two
    ),
    "fill-mask": _Asking(pipeline="fill-mask", questions=_blanks, ask=_fill, margin=_between_best_words),
    "question-answering": _Asking(
        pipeline=None, questions=_questions, ask=lambda runner, question: runner(*question), logits="start_logits"
    ),
    "feature-extraction": _Asking(
        pipeline="feature-extraction", questions=_texts, ask=_features, logits="last_hidden_state"
    ),
    "sentence-similarity": _Asking(
        pipeline="feature-extraction", questions=_texts, ask=_features, logits="last_hidden_state"
    ),
    "image-classification": _Asking(pipeline="image-classification", questions=_pictures, ask=_look),
    "image-feature-extraction": _Asking(
        pipeline="image-feature-extraction", questions=_pictures, ask=_features, logits="last_hidden_state"
    ),
    "image-segmentation": _Asking(pipeline="image-segmentation", questions=_pictures, ask=_segment),
    "object-detection": _Asking(
        pipeline="object-detection", questions=_pictures, ask=_detect, margin=_between_best_two
    ),
    "depth-estimation": _Asking(
        pipeline="depth-estimation", questions=_pictures, ask=_measure, logits="predicted_depth"
    ),
    "audio-classification": _Asking(pipeline="audio-classification", questions=_sounds, ask=_listen),
    "automatic-speech-recognition": _Asking(
        pipeline="automatic-speech-recognition", questions=_sounds, ask=_transcribe, margin=_between_best_two
    ),
    "zero-shot-image-classification": _Asking(
        pipeline="zero-shot-image-classification", questions=_pictures, ask=_match, logits="logits_per_image"
    ),
}

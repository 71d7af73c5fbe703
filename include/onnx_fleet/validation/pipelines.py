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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.utils.generic import ModelOutput

from onnx_fleet import recipes
from onnx_fleet.entities.graph_info import GraphInfo, TensorSpec
from onnx_fleet.entities.tasks import TASKS
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import ValidationFailed
from onnx_fleet.graphs import workloads
from onnx_fleet.graphs.session import Session
from onnx_fleet.source import model_limits
from onnx_fleet.validation.pipeline_tasks import ASKING, Answer, Asking, Question, Runner

LONGEST_ANSWER = 15
"""How many tokens an answer has at most, as question answering usually bounds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the source's pipeline says."""

    questions: tuple[Question, ...] = ()
    answers: tuple[Answer, ...] = ()
    reason: str = ""
    """Why it says nothing; empty where it does."""


def ask_source(item: WorkItem, source_dir: Path, *, graphs: Iterable[GraphInfo]) -> Said:
    """Load the source as its users do, ask it, and forget it.

    Where it does not load or run, what it returns says why; nothing is raised.

    Args:
        graphs: the graphs that are to be held to it.
    """
    graphs = tuple(graphs)
    if why := _unanswerable(item, graphs):
        return Said(reason=why)
    asking = ASKING[item.model.task]
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
    """Make the pipeline of a bundle's own files, whose model is its graph.

    Raises:
        ValidationFailed: it cannot be made of the bundle. What is returned raises it where it does not run.
    """
    asking = ASKING[item.model.task]
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
        return "other checks compare the generated tokens with transformers' generate"
    if task not in ASKING:
        return f"transformers has no pipeline for {task} that takes a text or a picture alone"
    if entry.trust_remote_code is not None:
        return "the source runs code of its own, which a bundle does not have"
    recipe = recipes.find(entry.recipe) if entry.recipe else None
    if recipe and (recipe.prepare or ASKING[task].logits in recipe.drop):
        return f"the recipe {entry.recipe} changes what the model gives"
    return ""


_UNBOUND = 512


def _source_runner(asking: Asking, item: WorkItem, source_dir: Path) -> Runner:
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


def _told(asking: Asking, runner: Any, question: Question) -> Answer:
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
        """Return what the graph returns, cut to the length of what it was asked."""
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
        """Return 1 for spans in the context, or for all where a tokenizer cannot tell: float64 [tokens, tokens]."""
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

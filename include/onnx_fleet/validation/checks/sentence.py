"""What sentence-transformers itself makes of a source, beside what a consumer makes of the bundle without that library.

The one side is the library on the source's files: its tokenizer, its modules, ``encode`` and ``predict``. The other
is the packed tokenizer.json, the graph, and the settings of the packed files: prompts, length, dimension, activation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_fleet import recipes
from onnx_fleet.conventions import sentence_modules
from onnx_fleet.conventions.sentence_modules import Settings
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.graphs import text_inputs
from onnx_fleet.graphs.comparison import Case, compare
from onnx_fleet.validation.checks import tokenized_texts as reading
from onnx_fleet.validation.checks.context import CheckContext, checks_of
from onnx_fleet.validation.checks.predictions import PAIRS
from onnx_fleet.validation.checks.single_graph import run
from onnx_fleet.validation.checks.tokenized_texts import Text

if TYPE_CHECKING:
    from sentence_transformers.base import BaseModel

_EMBEDDING = "sentence_embedding"
_SCORES = ("scores", "logits")
_PROMPTS_SHOWN = 3
_LONG_TEXT_WORDS = 600
"""More than any length that is fed: what is cut shows where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """Texts with one prompt, or pairs, asked of both sides."""

    said: str
    texts: Sequence[Text]
    prompt: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments for encode and predict."""


def sentences(subject: CheckContext) -> Iterator[CheckRow]:
    """Embeddings of texts and scores of pairs are those of sentence-transformers on the source, prompts too."""
    case = subject.case("sentences", "texts of several scripts")
    settings = sentence_modules.settings(subject.source_dir)
    output, why_not = _output(subject, settings)
    if output is None:
        yield case.row("skipped", passed=True, detail=why_not)
        return
    if output not in {spec.name for spec in subject.outputs}:
        yield case.row("missing", output=output, detail="modules.json defines it, and the graph does not give it")
        return
    try:
        library = _library(subject, settings)
    except (ImportError, OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError) as err:
        said = f"sentence-transformers cannot load the source ({type(err).__name__}: {err})"
        is_its_own = settings is not None
        yield case.row("error" if is_its_own else "skipped", output=output, passed=not is_its_own, detail=said)
        return
    if not _is_static(library) and (library.max_seq_length or np.inf) > subject.space.max_length:
        library.max_seq_length = subject.space.max_length  # positions of which the library knows nothing
    # What a consumer knows is what was packed.
    packed = sentence_modules.settings(subject.stage_dir) or settings or Settings(kind=_kind(subject, settings))
    for question in _questions(subject, packed, scored=output in _SCORES):
        yield from _asked(subject, question, library=library, packed=packed, output=output, case=case)


def _output(subject: CheckContext, settings: Settings | None) -> tuple[str | None, str]:
    """The graph's output that is the library's answer; else None, and why nothing is asked."""
    item, given = subject.item, {spec.name for spec in subject.outputs}
    recipe = recipes.find(item.model.entry.recipe) if item.model.entry.recipe else None
    if recipe and (recipe.prepare or recipe.rewrite):
        return None, f"the recipe {item.model.entry.recipe} changes the model, and the library would run it unchanged"
    answer = subject.reference.answer
    if answer is not None:
        if recipe and answer in recipe.drop:
            return None, f"the recipe {item.model.entry.recipe} leaves {answer} out"
        return (recipe.rename.get(answer, answer) if recipe else answer), ""
    if item.model.entry.recipe in recipes.POOLINGS:
        return _EMBEDDING, ""
    if _kind(subject, settings) == "CrossEncoder" and "logits" in given:
        return "logits", ""
    return None, "the source is no sentence-transformers model, or was made for another task than the entry's"


def _kind(subject: CheckContext, settings: Settings | None) -> sentence_modules.Kind:
    """A classifier of pairs is a re-ranker, whether or not its files say so."""
    ranks = subject.item.model.task == "text-ranking"
    says_so = settings is not None and settings.kind == "CrossEncoder"
    classifies = subject.item.model.task in ("text-classification", "text-ranking")
    return "CrossEncoder" if ranks or (says_so and classifies) else "SentenceTransformer"


def _library(subject: CheckContext, settings: Settings | None) -> BaseModel:
    """The library's own model of the source, in float32 with eager attention."""
    import torch
    from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder

    model = subject.item.model
    options: dict[str, Any] = {
        "device": "cpu",
        "local_files_only": True,
        "trust_remote_code": model.entry.trust_remote_code == model.commit,
    }
    loading = {
        "dtype": torch.float32,
        "attn_implementation": "eager",
        "use_safetensors": None if model.entry.allow_pickle == model.commit else True,
    }
    as_published = subject.source_dir / sentence_modules.AS_PUBLISHED
    folder = str(as_published if as_published.is_dir() else subject.source_dir)
    modules = sentence_modules.read(
        subject.source_dir, subject=model.repo_id, trusted=bool(options["trust_remote_code"])
    )
    if not modules and _kind(subject, settings) != "CrossEncoder":
        return _composed(subject, options=options, loading=loading)
    kind = settings.kind if modules and settings is not None else "CrossEncoder"
    known: Any = {"SentenceTransformer": SentenceTransformer, "SparseEncoder": SparseEncoder}.get(kind, CrossEncoder)
    made: BaseModel = known(folder, model_kwargs=loading, **options)
    return made.float()


def _is_static(library: BaseModel) -> bool:
    """Whether it looks tokens up in a table, which has no positions and whose length cannot be set."""
    return type(library[0]).__name__ == sentence_modules.STATIC


def _composed(subject: CheckContext, *, options: Mapping[str, Any], loading: Mapping[str, Any]) -> BaseModel:
    """The library's modules for a built-in recipe that pools a plain model."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    mode, normalised = recipes.POOLINGS[str(subject.item.model.entry.recipe)]
    trusted = {"trust_remote_code": options["trust_remote_code"]}
    transformer = Transformer(
        str(subject.source_dir),
        model_kwargs={**loading, **trusted},
        processor_kwargs=dict(trusted),
        config_kwargs=dict(trusted),
    )
    pooling = Pooling(transformer.get_embedding_dimension(), mode)
    modules = [transformer, pooling, *([Normalize()] if normalised else [])]
    made: BaseModel = SentenceTransformer(modules=modules, device="cpu")
    return made


def _questions(subject: CheckContext, packed: Settings, *, scored: bool) -> Iterator[_Question]:
    if scored:
        yield _Question(said=f"{len(PAIRS)} pairs", texts=reading.known(subject, PAIRS))
        return
    texts = reading.known(subject, [(text, None) for text in text_inputs.TEXTS])
    default = packed.prompts.get(packed.default_prompt_name or "", "")
    named = f" after the prompt {packed.default_prompt_name}, its default" if default else ""
    yield _Question(said=f"{len(texts)} texts{named}", texts=texts, prompt=default)
    for name, prompt in list(packed.prompts.items())[:_PROMPTS_SHOWN]:
        if prompt and name != packed.default_prompt_name:
            yield _Question(
                said=f"{len(texts)} texts after the prompt {name}",
                texts=texts,
                prompt=prompt,
                options={"prompt_name": name},
            )
    if packed.max_seq_length is not None and packed.max_seq_length <= subject.space.max_length:
        long = " ".join([*text_inputs.TEXTS[:2], *["rain"] * _LONG_TEXT_WORDS, text_inputs.TEXTS[-1]])
        yield _Question(
            said=f"a text that is cut to {packed.max_seq_length} tokens",
            texts=reading.known(subject, [(long, None)]),
            prompt=default,
        )


def _asked(
    subject: CheckContext, question: _Question, *, library: BaseModel, packed: Settings, output: str, case: Case
) -> Iterator[CheckRow]:
    case = replace(case, case=question.said)
    if not question.texts:
        yield case.row("skipped", passed=True, detail="no tokenizer.json can be exact on these texts")
        return
    given = [text if pair is None else (text, pair) for text, pair in question.texts]
    told: Any = library
    if output in _SCORES:
        expected = np.asarray(told.predict(given, show_progress_bar=False, **question.options))
    else:
        sparse = {"convert_to_sparse_tensor": False} if packed.kind == "SparseEncoder" else {}
        expected = _numpy(told.encode(given, show_progress_bar=False, **sparse, **question.options))
    feeds = _feeds(subject, question, library=library, packed=packed)
    found, faults = run(subject, feeds, case=case)
    yield from faults
    if not faults and output in found:
        answer = _finished(found[output], packed=packed, scored=output in _SCORES)
        yield from compare({output: expected}, {output: answer}, case=case, source="sentence-transformers")


def _feeds(
    subject: CheckContext, question: _Question, *, library: BaseModel, packed: Settings
) -> Mapping[str, np.ndarray]:
    """The graph's inputs as a consumer of the bundle makes them.

    A source that puts texts into a chat template leaves no choice: the library's own tokens are taken.
    """
    if "message" in library.modalities or not (subject.stage_dir / "tokenizer.json").is_file():
        given: Any = [text if pair is None else (text, pair) for text, pair in question.texts]
        made = library.preprocess(given, prompt=question.prompt or None)
        ids = made["input_ids"].numpy()
        types = made["token_type_ids"].numpy() if "token_type_ids" in made else np.zeros_like(ids)
        return {"input_ids": ids, "attention_mask": made["attention_mask"].numpy(), "token_type_ids": types}
    limit = min(packed.max_seq_length or subject.space.max_length, subject.space.max_length)
    side = reading.of_stage(subject, max_length=limit, lower_case=packed.do_lower_case)
    return subject.feeds(side.encode([(question.prompt + text, pair) for text, pair in question.texts]))


def _finished(values: np.ndarray, *, packed: Settings, scored: bool) -> np.ndarray:
    """What is left to do behind the graph, as the manifest says it."""
    if not scored:
        return values[:, : packed.truncate_dim] if packed.truncate_dim is not None else values
    scores = _activation(packed, labels=values.shape[-1])(values)
    return scores[:, 0] if values.shape[-1] == 1 else scores


def _activation(packed: Settings, *, labels: int) -> Callable[[np.ndarray], np.ndarray]:
    """A layer of torch's, by its name; where none is named, or one that is not torch's, the library's own choice."""
    import torch

    default = torch.nn.Sigmoid if labels == 1 else torch.nn.Identity
    named = getattr(torch.nn, (packed.activation or "").rpartition(".")[2], default)
    layer = named() if (packed.activation or "").startswith("torch.nn.") else default()
    return lambda values: _numpy(layer(torch.from_numpy(values)))


def _numpy(values: Any) -> np.ndarray:
    found: np.ndarray = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    return found


CHECKS = checks_of(sentences)

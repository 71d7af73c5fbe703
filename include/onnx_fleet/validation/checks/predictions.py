"""What a user reads of an encoder: labels, spans, words and cosines, from the packed files and from the source's.

The source's side is its own tokenizer, plain PyTorch and its own labels; the bundle's is the packed tokenizer.json, the
graph and the packed config.json. Neither sees anything of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnx_fleet.entities.graph_info import JOINT_LENGTH
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.graphs import text_inputs
from onnx_fleet.graphs.comparison import Case, Outputs, compare
from onnx_fleet.graphs.text_inputs import Batch
from onnx_fleet.processes.two_threads import beside
from onnx_fleet.validation.checks import tokenized_texts as reading
from onnx_fleet.validation.checks.context import REPEATED_TEXTS, CheckContext, checks_of
from onnx_fleet.validation.checks.float64 import exactly, most_off
from onnx_fleet.validation.checks.single_graph import run
from onnx_fleet.validation.checks.ties import choices_equal, weighed
from onnx_fleet.validation.checks.tokenized_texts import Side, Text

SINGLE: tuple[Text, ...] = tuple((text, None) for text in text_inputs.TEXTS)
PAIRS: tuple[Text, ...] = (
    ("What must be proven?", text_inputs.TEXTS[0]),
    ("How many euros?", text_inputs.TEXTS[1]),
    ("Who is said to doubt a vote?", text_inputs.TEXTS[4]),
)
BLANKS = ("A bundle is {} equal to PyTorch.", "Prices {} by half.", "The {} of the bill was put off.")
"""Texts for fill-mask: the mask token stands where the braces are."""
LONGEST_SPAN = 15
"""How many tokens an answer has at most, as question answering usually bounds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """One side's batch, what its runner made of it, and how to put that into words."""

    side: Side
    batch: Batch
    outputs: Outputs
    exact: Callable[[], Outputs] = dict
    """The outputs of the source's side in float64; nothing where nobody can tell."""

    def exactly(self, read: Callable[[np.ndarray], np.ndarray] = np.asarray) -> np.ndarray | None:
        """What float64 makes of the logits."""
        wide = self.exact().get("logits")
        return None if wide is None else read(wide)


Read = Callable[[_Told, _Told, Case], Iterator[CheckRow]]


def answers(subject: CheckContext) -> Iterator[CheckRow]:
    """Labels, spans, words or cosines of texts are those that the source returns, each side with its own files."""
    task = subject.item.model.task
    case = subject.case("answers", f"{task} of texts of several scripts")
    both = reading.sides(subject) if task in _READERS else None
    if both is None:
        what = f"{task} gives nothing to read" if task not in _READERS else subject.without_text
        yield case.row("skipped", passed=True, detail=what)
        return
    read = _READERS[task]
    own, packed = both
    asked = _texts(task, own)
    texts = reading.known(subject, subject.sizes(asked, repeated=asked[:REPEATED_TEXTS]))
    needed = _NEEDED.get(task, frozenset({"logits"}))
    if not texts or not needed & {spec.name for spec in subject.outputs}:
        yield case.row("skipped", passed=True, detail="no mask token, or no output that is read here")
        return
    batches = own.encode(texts), packed.encode(texts)
    if not np.array_equal(batches[0].input_ids[batches[0].real], batches[1].input_ids[batches[1].real]):
        yield case.row("different", output="tokens", detail="the packed tokenizer makes other tokens of them")
        return
    feeds = subject.feeds(batches[0])
    answered = partial(run, subject, subject.feeds(batches[1]), case=case)
    given, (outputs, faults) = beside(partial(subject.reference, feeds), answered)
    wanted = _Told(
        side=own,
        batch=batches[0],
        outputs=_of_text(given, batches[0], subject=subject),
        exact=lambda: _of_text(exactly(subject, feeds), batches[0], subject=subject),
    )
    for name in _PER_TOKEN.get(task, ()):
        if name in wanted.outputs and wanted.outputs[name].shape[:2] != batches[0].input_ids.shape:
            yield case.row("skipped", passed=True, detail=f"{name} has no value of its own for every token")
            return
    yield from faults
    if not faults and wanted.outputs.keys() <= outputs.keys():
        found = _Told(side=packed, batch=batches[1], outputs=_of_text(outputs, batches[1], subject=subject))
        yield from read(wanted, found, case)


def _of_text(outputs: Outputs, batch: Batch, *, subject: CheckContext) -> Outputs:
    """Return outputs without what they have for the image beside a text, behind its tokens."""
    joint = {spec.name for spec in subject.outputs if spec.shape[1:2] == (JOINT_LENGTH,)}
    length = batch.input_ids.shape[1]
    return {name: array[:, :length] if name in joint else array for name, array in outputs.items()}


def _texts(task: str, side: Side) -> Sequence[Text]:
    if task == "fill-mask":
        return [(blank.format(side.mask_token), None) for blank in BLANKS] if side.mask_token else []
    return PAIRS if task in _OF_PAIRS else SINGLE


def _label(own: _Told, packed: _Told, case: Case) -> Iterator[CheckRow]:
    logits = own.outputs["logits"], packed.outputs["logits"]
    if logits[0].shape[-1] == 1:
        highest = replace(case, case=f"{case.case}: the highest")
        yield choices_equal(*logits, axis=0, output="logits", case=highest, exact=own.exactly)
        return
    words = own.side.label, packed.side.label
    yield choices_equal(*logits, axis=-1, output="logits", case=case, words=words, exact=own.exactly)


def _label_a_token(own: _Told, packed: _Told, case: Case) -> Iterator[CheckRow]:
    logits = own.outputs["logits"][own.batch.real], packed.outputs["logits"][packed.batch.real]
    words, exact = (own.side.label, packed.side.label), partial(own.exactly, lambda wide: wide[own.batch.real])
    yield choices_equal(*logits, axis=-1, output="logits", case=case, words=words, exact=exact)


def _word(own: _Told, packed: _Told, case: Case) -> Iterator[CheckRow]:
    """What stands in the place of the mask."""
    ids = own.batch.input_ids[own.batch.real]
    masked = np.array([own.side.token(index) == own.side.mask_token for index in ids])
    logits = (told.outputs["logits"][told.batch.real][masked] for told in (own, packed))
    words, exact = (own.side.token, packed.side.token), partial(own.exactly, lambda wide: wide[own.batch.real][masked])
    yield choices_equal(*logits, axis=-1, output="logits", case=case, words=words, exact=exact)


def _span(own: _Told, packed: _Told, case: Case) -> Iterator[CheckRow]:
    """The best span of each row as text; where PyTorch finds both as good, either is right."""
    for row in range(len(own.batch)):
        where = replace(case, case=f"{case.case}, question {row}")
        scores = [_scores(told, row) for told in (own, packed)]
        spans = [np.unravel_index(each.argmax(), each.shape) for each in scores]
        said = [_words(told, row, span) for told, span in zip((own, packed), spans, strict=True)]
        best = float(scores[0][spans[0]])
        lost = best - float(scores[0][spans[1]])
        if said[0] == said[1]:
            yield where.row("equal", output="answer", passed=True)
            continue
        margin = weighed(
            lost, largest=best, tolerances=case.tolerances, rounding=partial(_rounding, own, row, case=case)
        )
        detail = f"{said[1]!r} where the source says {said[0]!r}; PyTorch's scores of the two differ by {lost:.2g}"
        yield margin.row(where, output="answer", detail=detail)


def _scores(told: _Told, row: int) -> np.ndarray:
    """Return the score of every span of one row's real tokens, by first and last: float32 [tokens, tokens]."""
    real = told.batch.real[row]
    start, end = (told.outputs[name][row][real] for name in ("start_logits", "end_logits"))
    allowed = np.triu(np.ones((len(start), len(start)))) - np.triu(np.ones((len(start), len(start))), LONGEST_SPAN)
    scores: np.ndarray = np.where(allowed > 0, start[:, None] + end[None], -np.inf)
    return scores


def _rounding(own: _Told, row: int, *, case: Case) -> float:
    """How far rounding alone may take the score of a span; 0 where nobody can tell."""
    exact, real = own.exact(), own.batch.real[row]
    if not exact:
        return 0.0
    names = ("start_logits", "end_logits")
    return sum(
        most_off(own.outputs[name][row][real], exact[name][row][real], tolerances=case.tolerances) for name in names
    )


def _words(told: _Told, row: int, span: Sequence[np.integer]) -> str:
    ids = told.batch.input_ids[row][told.batch.real[row]]
    return told.side.decode(ids[int(span[0]) : int(span[1]) + 1].tolist())


def _cosines(own: _Told, packed: _Told, case: Case) -> Iterator[CheckRow]:
    """How alike every two texts are: of the sentence embedding, or else of the mean over real tokens."""
    between = {"cosines": _cosine(own)}, {"cosines": _cosine(packed)}
    yield from compare(*between, case=replace(case, case=f"{case.case}: cosines of every two"))


def _cosine(told: _Told) -> np.ndarray:
    embeddings = told.outputs.get("sentence_embedding")
    if embeddings is None:
        mask = told.batch.attention_mask[..., None]
        embeddings = (told.outputs["last_hidden_state"] * mask).sum(axis=1) / mask.sum(axis=1)
    unit = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return np.asarray(unit @ unit.T, dtype=np.float32)


_READERS: Mapping[str, Read] = {
    "text-classification": _label,
    "zero-shot-classification": _label,
    "text-ranking": _label,
    "token-classification": _label_a_token,
    "fill-mask": _word,
    "question-answering": _span,
    "document-question-answering": _span,
    "sentence-similarity": _cosines,
    "feature-extraction": _cosines,
}
_NEEDED: Mapping[str, frozenset[str]] = {
    "question-answering": frozenset({"start_logits"}),
    "document-question-answering": frozenset({"start_logits"}),
    "sentence-similarity": frozenset({"sentence_embedding", "last_hidden_state"}),
    "feature-extraction": frozenset({"sentence_embedding", "last_hidden_state"}),
}
"""Task -> outputs of which one has to be there; logits for the others. A recipe may drop or rename them."""
_PER_TOKEN: Mapping[str, tuple[str, ...]] = {
    "token-classification": ("logits",),
    "fill-mask": ("logits",),
    "question-answering": ("start_logits", "end_logits"),
    "document-question-answering": ("start_logits", "end_logits"),
    "sentence-similarity": ("last_hidden_state",),
    "feature-extraction": ("last_hidden_state",),
}
"""Task -> the outputs that are read token by token."""
_OF_PAIRS = frozenset({"question-answering", "document-question-answering", "text-ranking", "zero-shot-classification"})

CHECKS = checks_of(answers)

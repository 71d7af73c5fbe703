"""The tasks that a catalogue may name, and the model class that does each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a model is used for."""

    name: str
    """The Hub's pipeline tag."""
    family: str
    """A key of onnx_fleet.families.FAMILIES."""
    auto_class: str
    """The class of transformers that loads a model for it."""
    architecture_suffix: str
    """How an architecture name that serves it ends; empty for a bare model."""


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="feature-extraction",
            family="encoder",
            auto_class="AutoModel",
            architecture_suffix="Model",
        ),
        Task(
            name="sentence-similarity",
            family="encoder",
            auto_class="AutoModel",
            architecture_suffix="Model",
        ),
        Task(
            name="fill-mask",
            family="encoder",
            auto_class="AutoModelForMaskedLM",
            architecture_suffix="ForMaskedLM",
        ),
        Task(
            name="text-classification",
            family="encoder",
            auto_class="AutoModelForSequenceClassification",
            architecture_suffix="ForSequenceClassification",
        ),
        Task(
            name="token-classification",
            family="encoder",
            auto_class="AutoModelForTokenClassification",
            architecture_suffix="ForTokenClassification",
        ),
        Task(
            name="question-answering",
            family="encoder",
            auto_class="AutoModelForQuestionAnswering",
            architecture_suffix="ForQuestionAnswering",
        ),
    )
}

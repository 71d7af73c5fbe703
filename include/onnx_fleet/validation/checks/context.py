"""What a check is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.entry import Tolerances
from onnx_fleet.entities.graph_info import GraphInfo, TensorSpec
from onnx_fleet.entities.validation_report import CheckRow
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.graphs import text_inputs, workloads
from onnx_fleet.graphs.comparison import Case
from onnx_fleet.graphs.session import Session
from onnx_fleet.graphs.text_inputs import Batch, TokenSpace
from onnx_fleet.source.reference import Reference
from onnx_fleet.source.tokenizers import pack

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from onnx_fleet.validation.pipelines import Said

SEED = 20
REPEATED_ROWS, REPEATED_TEXTS = 2, 3
"""How many rows and texts are fed where the same graphs were held to all of them with other weights."""

Sizes = TypeVar("Sizes")


@dataclass(frozen=True, kw_only=True)
class CheckContext:
    """The graphs of one bundle, and what they are held to."""

    stage: Stage
    source_dir: Path
    """The source's own files at the item's commit."""
    graphs: Mapping[str, GraphInfo]
    """The graphs by role, in the export's order."""
    sessions: Mapping[str, Session]
    """The graphs in onnxruntime by role; none has run yet."""
    reference: Reference
    tolerances: Tolerances = field(default_factory=Tolerances)
    """What its outputs are held to."""
    said: Said | None = None
    """What transformers' own pipeline says of the source; None where it was not asked beforehand."""
    repeats: bool = False
    """Whether the same graphs with other weights were held to everything before: see docs/decisions/repeat-proof.md."""

    def sizes(self, whole: Sizes, *, repeated: Sizes) -> Sizes:
        """Return the sizes that a check takes: all of them, or those of a proof that repeats an earlier one."""
        return repeated if self.repeats else whole

    @property
    def stage_dir(self) -> Path:
        """The stage's folder."""
        return self.stage.folder

    @property
    def item(self) -> WorkItem:
        """What the stage is made of."""
        return self.stage.item

    @cached_property
    def space(self) -> TokenSpace:
        """The tokens that may be fed."""
        return text_inputs.token_space(self.stage_dir, self.reference.limits, fixed_length=self.fixed_length)

    @property
    def fixed_length(self) -> int | None:
        """The only number of tokens that may be fed; None where any may, or none are."""
        return workloads.fixed_length(self.graphs.values())

    @cached_property
    def source_tokenizer(self) -> PreTrainedTokenizerBase:
        """The source's own tokenizer, in transformers."""
        return pack.load(self.item.model, self.source_dir)

    @property
    def without_text(self) -> str:
        """Why no text can be read, where the stage has no tokenizer.json; empty where it has one."""
        if (self.stage_dir / "tokenizer.json").is_file():
            return ""
        said = ": the entry says tokenizer: none" if self.item.model.entry.tokenizer == "none" else ""
        return f"the stage has no tokenizer.json{said}"

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs of the one graph that takes tokens; a length that became a number has its symbol again."""
        specs, fixed = self.graph().outputs, (self.space.fixed_length,)
        return tuple(
            replace(spec, shape=(spec.shape[0], "sequence_length", *spec.shape[2:]))
            if spec.shape[1:2] == fixed
            else spec
            for spec in specs
        )

    def filled(self, batch: Batch) -> Batch:
        """Return a batch of the length that the graph takes: padded on the right where that is a number."""
        return text_inputs.pad([batch], side="right", space=self.space)

    def feeds(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return a batch as the model takes it: int64 [batch_size, sequence_length] each, and what else it has.

        For multiple choice it is [batch_size, choices, sequence_length]: each row is every choice of its question, or
        the only one where their number is open.
        """
        if self.item.model.task != "multiple-choice":
            return batch.feeds
        choices = next(spec.shape[1] for spec in self.graph().inputs if spec.name == "input_ids")
        count = choices if isinstance(choices, int) else 1
        return {name: np.repeat(array[:, np.newaxis], count, axis=1) for name, array in batch.feeds.items()}

    def random_rows(self, lengths: Sequence[int]) -> list[Batch]:
        """Return one row of random tokens for each length, int64 [1, tokens]; no row is longer than what may be fed."""
        fitting = (min(length, self.space.max_length) for length in lengths)
        return [text_inputs.random_batch(self.space, batch_size=1, length=length, seed=SEED) for length in fitting]

    @property
    def end_tokens(self) -> list[int]:
        """The tokens that end a text, as transformers' generate reads them."""
        ends: int | list[int] | None = self.reference.model.generation_config.eos_token_id
        return [] if ends is None else ends if isinstance(ends, list) else [ends]

    def graph(self, role: str = "model") -> GraphInfo:
        """Return one graph as the export recorded it."""
        return self.graphs[role]

    def session(self, role: str = "model") -> Session:
        """Return one graph in onnxruntime."""
        return self.sessions[role]

    def case(self, check: str, text: str, *, role: str | None = None) -> Case:
        """Return what a row is about; where it is about all graphs it names the last, whose outputs are the model's."""
        info = self.graphs[role] if role else list(self.graphs.values())[-1]
        return Case(check=check, graph=info.path, case=text, tolerances=self.tolerances)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing to prove."""

    name: str
    proves: str
    run: Callable[[CheckContext], Iterator[CheckRow]]
    once: bool = False
    """Whether a proof that repeats another one leaves it out: the graphs decide it whatever their weights are, or it
    rejects nothing."""


def checks_of(
    *functions: Callable[[CheckContext], Iterator[CheckRow]],
    once: Sequence[Callable[[CheckContext], Iterator[CheckRow]]] = (),
) -> tuple[Check, ...]:
    """Make checks of functions: a name is a function's, the first line of its docstring says what it proves.

    Args:
        once: those of the functions that a proof that repeats another one leaves out.
    """
    return tuple(
        Check(name=run.__name__, proves=(run.__doc__ or "").partition("\n")[0], run=run, once=run in once)
        for run in functions
    )

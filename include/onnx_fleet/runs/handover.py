"""How the tasks of one model hand its stage on: in a folder that all workers see, or through the store.

Each task of a run may be on another worker, and any may be killed. The work item of a model is written when the run is
planned; each step then opens the model's stage as the steps before it left it, and leaves it for those behind.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from onnx_fleet import jsonio
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import BundleNotFound
from onnx_fleet.runs.services import Services
from onnx_fleet.runs.steps import STEPS, StepName

_DONE: Final = "done"
"""The folder, in the private part of a stage, of an empty file for each step that is done."""


class Handover(Protocol):
    """What one run's tasks share about its models.

    Every operation may raise what the store, the Hub and the disk raise.
    """

    def write_item(self, item: WorkItem) -> None:
        """Leave the work item of a model, for the tasks that make it."""

    def read_item(self, model_id: str) -> WorkItem:
        """Return the work item of a model.

        Raises:
            BundleNotFound: there is none any more, or none that this worker sees.
        """

    def opened(self, item: WorkItem, step: StepName) -> AbstractContextManager[Stage]:
        """Open the stage as the steps before this one left it; afterwards it is there for those behind.

        Where the step raises, what it has reported stays, and the step's next try begins as this one did.
        """

    def ended(self, item: WorkItem, step: StepName) -> AbstractContextManager[Stage]:
        """Open what there is of a model that ended at a step: how its graphs were made, and the reports."""

    def done(self, item: WorkItem) -> frozenset[StepName]:
        """Return the steps behind which the stage stands, for a task of several that is tried again."""

    def stored(self, item: WorkItem) -> Mapping[str, str]:
        """Return the files of the stage that the store has already: SHA-256 -> key."""

    def discard(self, item: WorkItem) -> None:
        """Remove the stage of a model that is published; its work item stays, so that its tasks can be run again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFolder:
    """A folder of one machine, or on a volume that all workers of a run see; no byte travels."""

    folder: Path
    """The run's own folder, in which the stages are."""
    services: Services

    def write_item(self, item: WorkItem) -> None:
        path = self._item(item.model_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jsonio.canonical(jsonio.to_json(item)))

    def read_item(self, model_id: str) -> WorkItem:
        path = self._item(model_id)
        try:
            return jsonio.parse(WorkItem, path.read_bytes())
        except FileNotFoundError as err:
            raise BundleNotFound(
                f"{model_id}: {path} is missing; clear the run's plan task. If workers do not share the folder"
                " [onnx_fleet] scratch, set [onnx_fleet] stages to store"
            ) from err

    @contextmanager
    def opened(self, item: WorkItem, step: StepName) -> Iterator[Stage]:
        stage = self.services.stage(item)
        marks = stage.private / _DONE
        later = itertools.dropwhile(lambda each: each.name != step, STEPS)
        for each in later:
            (marks / each.name).unlink(missing_ok=True)
        yield stage
        if step != STEPS[-1].name:
            marks.mkdir(parents=True, exist_ok=True)
            (marks / step).touch()

    def done(self, item: WorkItem) -> frozenset[StepName]:
        marks = self.services.stage(item).private / _DONE
        return frozenset(step.name for step in STEPS if (marks / step.name).exists())

    @contextmanager
    def ended(self, item: WorkItem, step: StepName) -> Iterator[Stage]:
        yield self.services.stage(item)

    def stored(self, item: WorkItem) -> Mapping[str, str]:
        return {}

    def discard(self, item: WorkItem) -> None:
        self.services.stage(item).discard()

    def _item(self, model_id: str) -> Path:
        return self.folder / "items" / f"{model_id}.json"

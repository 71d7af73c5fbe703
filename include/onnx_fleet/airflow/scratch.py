"""What the tasks of one run share besides XComs: the work items, and the stages in which bundles grow.

It is a folder that every worker of the run sees: of the machine, or of a shared volume. Work items outlive their
stages, so that a failed task can be cleared and run again long after its run ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx_fleet import jsonio
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import BundleNotFound
from onnx_fleet.runs import work_folder


@dataclass(frozen=True, slots=True)
class Scratch:
    """The subfolder of one run."""

    folder: Path

    def write_item(self, item: WorkItem) -> None:
        """Write the work item of a model, for the tasks that make it."""
        path = self._item(item.model_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jsonio.canonical(jsonio.to_json(item)))

    def read_item(self, model_id: str) -> WorkItem:
        """Read the work item of a model.

        Raises:
            BundleNotFound: the run's subfolder is gone, or on another machine.
        """
        path = self._item(model_id)
        try:
            return jsonio.parse(WorkItem, path.read_bytes())
        except FileNotFoundError as err:
            raise BundleNotFound(
                f"{model_id}: {path} is gone; clear the run's plan task, and where workers are several machines let"
                " [onnx_fleet] scratch name a volume that all of them see"
            ) from err

    def _item(self, model_id: str) -> Path:
        return self.folder / "items" / f"{model_id}.json"


def of_run(root: Path, *, dag_id: str, run_id: str) -> Scratch:
    """Return the subfolder of one run."""
    return Scratch(work_folder.of_run(root, f"{dag_id}__{run_id}"))

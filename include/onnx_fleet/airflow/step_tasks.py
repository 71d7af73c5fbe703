"""The tasks that make one model: one for each step, or one for all steps that a worker can take in a row."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from onnx_fleet.airflow.settings import FleetSettings
from onnx_fleet.runs.steps import STEPS, Step, StepName


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTask:
    """A task, by the steps that it takes one after the other."""

    steps: tuple[Step, ...]

    @property
    def task_id(self) -> str:
        """The step's name, or those of the first and the last: ``export_to_publish``."""
        first, last = self.steps[0].name, self.steps[-1].name
        return first if first == last else f"{first}_to_{last}"

    @property
    def on_gpu(self) -> bool:
        """Whether a worker with a GPU takes it."""
        return self.steps[0].on_gpu

    @property
    def measures(self) -> bool:
        """Whether it needs its machine for itself, if only at times."""
        return any(step.machine != "shared" for step in self.steps)

    def takes(self, name: StepName) -> bool:
        """Say whether a step is one of the task's."""
        return any(step.name == name for step in self.steps)


def of_model(settings: FleetSettings) -> tuple[StepTask, ...]:
    """Return the tasks of a model, in their order."""
    steps = [step for step in STEPS if settings.gpu_queue or not step.on_gpu]
    if settings.tasks == "staged":
        return tuple(StepTask(steps=(step,)) for step in steps)
    rows = itertools.groupby(steps, key=lambda step: step.on_gpu)
    return tuple(StepTask(steps=tuple(row)) for _, row in rows)

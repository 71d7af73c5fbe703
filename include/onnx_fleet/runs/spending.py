"""What the steps of a model take of the machine, counted while they run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from onnx_fleet.bundles.costs import EarlierCosts
from onnx_fleet.bundles.manifest import Manifest
from onnx_fleet.bundles.publish import Publication
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.provider import CPU
from onnx_fleet.entities.sizing import StepCost
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.planning import sizing
from onnx_fleet.processes.machine_lock import Machine
from onnx_fleet.processes.peak_memory import Meter
from onnx_fleet.runs.steps import STEPS, Job, Step, StepName


@dataclass(slots=True)
class Count:
    """What a step tells of itself while it is counted."""

    waited_s: float = 0.0
    """The seconds in which it waited for tasks that had its machine, which are not its own."""
    disk_bytes: int = 0

    def take(self, step: Step, job: Job, *, machine: Path) -> Publication | None:
        """Run a step once its machine is free for it; returns the publication of the step that makes one.

        Args:
            machine: the folder that all workers of the machine see: its locks lie there.
        Raises:
            OnnxFleetError: whatever the step raises.
        """
        place = Machine(machine)
        try:
            with place.used(step.machine):
                return step.take(replace(job, machine=place))
        finally:
            self.waited_s += place.waited_s


class Spending:
    """What the steps of one model take, one after the other."""

    def __init__(self) -> None:
        self.step: StepName | None = None
        """The last step that began."""
        self.steps: dict[str, StepCost] = {}
        """The cost of each step that ended, by its name."""

    @contextmanager
    def counted(self, step: StepName) -> Iterator[Count]:
        """Count what a step takes in the block, however it ends."""
        self.step, started, count, meter = step, time.monotonic(), Count(), Meter()
        try:
            with meter:
                yield count
        finally:
            self.steps[step] = StepCost(
                memory_bytes=meter.peak_bytes,
                disk_bytes=count.disk_bytes,
                seconds=round(time.monotonic() - started - count.waited_s, 3),
            )


def in_records(costs: Mapping[str, StepCost]) -> dict[str, StepCost]:
    """Return the costs of steps by the names under which a record has them, those of one name together."""
    told: dict[str, StepCost] = {}
    for step in STEPS:
        if (cost := costs.get(step.name)) is not None:
            before = told.get(step.in_records)
            told[step.in_records] = before.followed_by(cost) if before else cost
    return told


def disk_bytes(stage: Stage) -> int:
    """Return the bytes that a stage and the checkpoint behind it take on a worker."""
    return stage.size_bytes + stage.item.model.size_bytes


def to_keep(item: WorkItem, spent: Mapping[str, StepCost], *, made: Manifest) -> EarlierCosts:
    """Return what later plans predict from.

    An export from the cache says nothing of one that finds nothing there, as after a change of the toolchain; nor does
    a measurement that took figures over.

    Args:
        made: what was published.
    """
    untelling = {
        "export": made.export.traced == "cached",
        "measure": any(each.taken_over for each in made.latency if each.provider == CPU),
    }
    telling = {name: cost for name, cost in spent.items() if not untelling.get(name)}
    return EarlierCosts(model_id=item.model_id, version=item.version, facts=sizing.facts_of(item), steps=telling)

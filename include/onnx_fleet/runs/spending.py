"""What the steps of a model take of the machine, counted while they run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from onnx_fleet.bundles.costs import EarlierCosts
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.export_record import Way
from onnx_fleet.entities.sizing import StepCost
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.planning import sizing
from onnx_fleet.processes.peak_memory import Meter
from onnx_fleet.runs.steps import Step


class Spending:
    """The costs of one model's steps, by their names in records."""

    def __init__(self) -> None:
        self.steps: dict[str, StepCost] = {}

    @contextmanager
    def counted(self, step: Step, stage: Stage) -> Iterator[None]:
        """Count what a step takes in the block, however it ends."""
        started, meter = time.monotonic(), Meter()
        try:
            with meter:
                yield
        finally:
            cost = StepCost(
                memory_bytes=meter.peak_bytes,
                disk_bytes=disk_bytes(stage),
                seconds=round(time.monotonic() - started, 3),
            )
            before = self.steps.get(step.in_records)
            self.steps[step.in_records] = before.followed_by(cost) if before else cost


def disk_bytes(stage: Stage) -> int:
    """Return the bytes that a stage and the checkpoint behind it take on a worker."""
    return stage.size_bytes + stage.item.model.size_bytes


def to_keep(item: WorkItem, spent: Mapping[str, StepCost], *, traced: Way) -> EarlierCosts:
    """Return what later plans predict from.

    An export from the cache says nothing of one that finds nothing there, as after a change of the toolchain.
    """
    telling = {name: cost for name, cost in spent.items() if name != "export" or traced != "cached"}
    return EarlierCosts(model_id=item.model_id, version=item.version, facts=sizing.facts_of(item), steps=telling)

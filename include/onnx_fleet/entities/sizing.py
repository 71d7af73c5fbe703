"""What the steps of a model take of the machine that runs them: predicted before a run, and seen in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from onnx_fleet.entities.entry import LatencyGrid

Basis = Literal["formula", "model alike", "earlier run"]
"""What memory and time are predicted from: the sizes of the model's files alone, also that the plan has another model
of the same kind, whose graphs, proof and latency it can take over, or also what its steps took in an earlier run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """What one step takes, or took."""

    memory_bytes: int
    """The most memory of the step's own process and of one that it started, together, without the pages of mapped
    files, which the kernel takes back where memory is short."""
    disk_bytes: int
    """The checkpoint in the Hub's cache and the files of the stage, each counted as a file of its own."""
    seconds: float

    def followed_by(self, other: StepCost) -> StepCost:
        """Return the cost of this and then the other, for steps that a record counts as one."""
        return StepCost(
            memory_bytes=max(self.memory_bytes, other.memory_bytes),
            disk_bytes=max(self.disk_bytes, other.disk_bytes),
            seconds=round(self.seconds + other.seconds, 3),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the steps of one model are predicted to take."""

    memory_bytes: int
    """The memory of the step that takes the most."""
    disk_bytes: int
    """The disk of the step that takes the most."""
    seconds: float
    """The time of all steps, one after the other."""
    steps: Mapping[str, StepCost]
    """The prediction of each step, by its name in records."""
    basis: Basis

    @classmethod
    def of(cls, steps: Mapping[str, StepCost], *, basis: Basis) -> Self:
        """Sum the steps up."""
        return cls(
            memory_bytes=max(cost.memory_bytes for cost in steps.values()),
            disk_bytes=max(cost.disk_bytes for cost in steps.values()),
            seconds=round(sum(cost.seconds for cost in steps.values()), 1),
            steps=steps,
            basis=basis,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SizingFacts:
    """What a prediction is made from: the facts of a model and its entry that cost memory, disk or time."""

    family: str
    float32_bytes: int
    """The bytes of the model's weights in float32."""
    download_bytes: int
    variants: tuple[str, ...]
    latency: LatencyGrid
    is_loaded_whole: bool = False
    """Whether the export loads the weights into memory, as it does for a recipe, code of the repo or pickle."""
    replaces: bool = False
    """Whether there is a version in use, with which the new one is compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the largest worker can give to one step; None is no limit."""

    memory_bytes: int | None = None
    disk_bytes: int | None = None

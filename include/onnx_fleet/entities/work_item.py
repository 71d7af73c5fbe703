"""A work item: a resolved model with the version of its bundle; what gets none; and the plan of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

from onnx_fleet.entities.resolved_model import ResolvedModel
from onnx_fleet.entities.sizing import Estimate
from onnx_fleet.errors import OnnxFleetError, ending

State = Literal["new", "changed", "unchanged"]
Cause = Literal["toolchain", "defaults", "own"]
"""What a changed model is exported again for.

``toolchain``: the packages, and nothing else; ``defaults``: settings that its entry leaves to the catalogue, with or
without the packages; ``own``: anything else, such as its commit, its entry, or a person who asks for it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that is not as it was in the version in use."""

    what: str
    """``commit``, ``opset``, ``toolchain: torch``."""
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.what} {self.before} -> {self.after}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkItem:
    """A resolved model, and the version that its bundle has or will have."""

    model: ResolvedModel
    family: str
    fingerprint: str
    """The fingerprint, 64 hexadecimal digits."""
    version: str
    """The version's name, ``<commit[:8]>-<fingerprint[:8]>``."""
    state: State
    reason: str
    """Why it is new, changed or unchanged, for people."""
    toolchain: Mapping[str, str]
    """The versions of all packages that decide the graphs' bytes, by name."""
    recipe_digest: str | None = None
    """SHA-256 of the file that the entry's recipe is in; None for a built-in recipe, or for none."""
    calibration_digest: str | None = None
    """SHA-256 of the texts or pictures that the entry's variants are tuned with; None for the built-in ones."""
    rebuild: str | None = None
    """The run that asked for a re-export of something unchanged; part of the fingerprint."""
    estimate: Estimate | None = None
    """What its steps are predicted to take, which is no part of the fingerprint; None where nothing is to be made."""
    cause: Cause | None = None
    """What it is exported again for; None where it is new or unchanged."""
    changes: tuple[Change, ...] = ()
    """What differs from the version in use, as far as its manifest tells; empty where it is new or unchanged."""

    @property
    def model_id(self) -> str:
        """``org/name``: where the bundle lives in the store."""
        return self.model.repo_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An entry that gets no work item."""

    repo_id: str
    step: Literal["resolve", "plan"]
    error: str
    """The error class's name, such as ``ModelGated``."""
    message: str
    commit: str | None = None
    state: Literal["failed", "refused"] = "failed"
    """How a run counts it: ``refused`` where a rule of the catalogue or a limit of the deployment keeps it out."""

    @classmethod
    def of(
        cls, repo_id: str, error: OnnxFleetError, *, step: Literal["resolve", "plan"], commit: str | None = None
    ) -> Self:
        """Make a refusal of what an error says of an entry."""
        name = type(error).__name__
        return cls(repo_id=repo_id, step=step, error=name, message=str(error), commit=commit, state=ending(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does with every model."""

    items: tuple[WorkItem, ...]
    """The work, by priority with the highest first; then what is predicted to take longest, then by id."""
    refusals: tuple[Refusal, ...]
    """The entries that get no work item, by id."""

    def changed(self) -> Plan:
        """Return the plan without what is unchanged; what gets no work item stays."""
        return replace(self, items=self.to_export)

    @property
    def to_export(self) -> tuple[WorkItem, ...]:
        """The items that are new or changed."""
        return tuple(item for item in self.items if item.state != "unchanged")

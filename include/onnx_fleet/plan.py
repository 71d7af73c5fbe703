"""Plan: fingerprints; what is new, changed, unchanged, refused, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from onnx_fleet.hub import ResolvedModel

State = Literal["new", "changed", "unchanged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkItem:
    """A resolved model, and the version that its bundle has or will have."""

    model: ResolvedModel
    family: str
    fingerprint: str
    """64 hex digits."""
    version: str
    """``<commit[:8]>-<fingerprint[:8]>``."""
    state: State
    reason: str
    """For people: why it is new, changed or unchanged."""
    toolchain: Mapping[str, str]
    """Package name -> version, of everything that decides the graphs' bytes."""
    rebuild: str | None = None
    """The run that asked for a re-export of something unchanged; part of the fingerprint."""

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

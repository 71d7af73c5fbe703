"""The figures of one variant that the store keeps, for later models whose graphs are the same but for their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import AwareDatetime, ConfigDict

from onnx_fleet.entities.latency_report import Footprint, GenerationRow, LatencyRow, Noise, SkippedPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLatency:
    """One variant's figures on one kind of machine, and the bundle that they were measured on."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    key: str
    """All that the figures depend on, 64 hex digits: where the document lies, and what it says to be of."""
    model_id: str
    version: str
    variant: str
    provider: str
    measured_at: AwareDatetime
    rows: tuple[LatencyRow, ...]
    generation: tuple[GenerationRow, ...]
    skipped: tuple[SkippedPoint, ...]
    left_out: str = ""
    """Why the variant is not timed on this provider, and has no rows; empty where it is."""
    footprint: Footprint | None
    noise: Noise | None
    hardware: Mapping[str, str | int]

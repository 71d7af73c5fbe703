"""The whole proof of a bundle's graphs that the store keeps, for later models whose graphs are the same but for their
weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import AwareDatetime, ConfigDict

from onnx_fleet.entities.validation_report import FullProof, ValidationReport


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptProof:
    """One bundle's whole proof, as its report has it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    key: str
    """All that the proof depends on but the weights, 64 hex digits: where the document lies, and what it says to be
    of."""
    proven_at: AwareDatetime
    report: ValidationReport

    @property
    def model_id(self) -> str:
        """The model that was proven."""
        return self.report.model_id

    @property
    def named(self) -> FullProof:
        """What a proof that repeats this one says of it."""
        return FullProof(
            model_id=self.report.model_id,
            version=self.report.version,
            proven_at=self.proven_at,
            comparisons=len(self.report.rows),
        )

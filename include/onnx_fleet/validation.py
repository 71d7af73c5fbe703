"""Validation: graphs against PyTorch -> ValidationReport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Finding = Literal["equal", "different", "nan", "shape", "missing", "unexpected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRow:
    """One comparison of one output."""

    check: str
    """``parity``, ``padding_left``, ``padding_right``, …"""
    graph: str
    """The graph's path in the bundle."""
    case: str
    """For people: ``batch_size 2, sequence_length 17``."""
    output: str
    passed: bool
    finding: Finding
    max_abs_diff: float | None
    max_rel_diff: float | None
    atol: float
    rtol: float
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationReport:
    """Every comparison on one provider; nothing is dropped."""

    schema_version: int = 1
    model_id: str
    version: str
    provider: str
    """``cpu``, ``cuda``."""
    status: Literal["passed", "failed", "not_run"]
    reason: str
    """For people: what failed, or why nothing was run."""
    rows: tuple[CheckRow, ...]
    nodes_by_provider: Mapping[str, int]
    """From the session's profile: where the nodes really ran."""
    duration_s: float

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    @property
    def worst_abs_diff(self) -> float | None:
        """Over all rows; None when nothing was compared."""
        return max((row.max_abs_diff for row in self.rows if row.max_abs_diff is not None), default=None)

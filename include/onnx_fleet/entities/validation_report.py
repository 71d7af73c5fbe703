"""The report of a validation: every comparison, and whether they all passed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import AwareDatetime, ConfigDict

from onnx_fleet.entities.naming import ref_of
from onnx_fleet.entities.provider import report_name
from onnx_fleet.errors import GpuUnavailable, ValidationFailed

CheckFinding = Literal[
    "equal", "different", "nan", "shape", "dtype", "missing", "unexpected", "error", "placement",
    "rounding", "sensitive", "insensitive", "skipped", "near_tie",
]  # fmt: skip
"""What a comparison found.

The last five pass: they say where the graph differs from PyTorch in float32 because both round (checks.float64), what
the comparisons would have caught, what was not proven and why, and where two tokens were equally likely to PyTorch
itself, within the tolerance.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRow:
    """One comparison of one output."""

    check: str
    """The check's name, one of onnx_fleet.validation.checks.CHECKS: ``parity``, ``padding_left``, …"""
    graph: str
    """The graph's path in the bundle."""
    case: str
    """The input, for people, in words that suffice to make it again: ``batch_size 2, sequence_length 17, seed 0``."""
    output: str
    """The name of an output; empty when the row is about the whole graph."""
    passed: bool
    finding: CheckFinding
    max_abs_diff: float | None
    max_rel_diff: float | None
    """The largest relative difference of values that are at least a tenth of the output's largest: near zero it says
    nothing."""
    atol: float
    """The tolerance that was applied: the entry's where the output's largest value is 1 or more, else a smaller one."""
    rtol: float
    tolerance_used: float | None = None
    """The largest |a - b| / (atol + rtol * |b|) of all values: 1 is the limit."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FullProof:
    """A whole proof that others rest on: of a bundle whose graphs are the same but for the values of their weights."""

    model_id: str
    version: str
    proven_at: AwareDatetime
    comparisons: int

    @property
    def origin(self) -> str:
        """Name the proof for people: ``acme/tiny@0123abcd-4567ef01, proven on 2026-11-29 by 120 comparisons``."""
        return f"{ref_of(self)}, proven on {self.proven_at:%Y-%m-%d} by {self.comparisons} comparisons"


_ROWS_IN_MESSAGE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationReport:
    """Every comparison on one provider; nothing is dropped."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    model_id: str
    version: str
    provider: str
    """Where the graphs ran: ``cpu``, ``cuda``."""
    status: Literal["passed", "failed", "not_run"]
    reason: str
    """What failed, or why nothing was run, for people."""
    rows: tuple[CheckRow, ...]
    nodes_by_provider: Mapping[str, int]
    """Where the nodes really ran, by the session's profile."""
    duration_s: float
    rests_on: FullProof | None = None
    """The whole proof that this one repeats in part, for graphs that are the same but for their weights; None where
    nothing was left out."""
    why_full: str = ""
    """Why nothing was left out although the same graphs had been proven before; empty where they had not been."""

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    @property
    def worst_abs_diff(self) -> float | None:
        """The largest difference in all rows; None when nothing was compared."""
        return max((row.max_abs_diff for row in self.rows if row.max_abs_diff is not None), default=None)


def require_passed(report: ValidationReport) -> None:
    """Stop a model whose proof failed.

    Raises:
        ValidationFailed: a comparison failed; the worst rows and the report's place are in the message.
        GpuUnavailable: the provider did not run, or the graph's nodes ran elsewhere.
    """
    if report.passed:
        return
    where = f"{ref_of(report)} on {report.provider}"
    if report.status == "not_run" or any(row.finding == "placement" for row in report.rows if not row.passed):
        raise GpuUnavailable(f"{where}: not validated: {report.reason}")
    failed = sorted((row for row in report.rows if not row.passed), key=_badness, reverse=True)
    name = report_name("validation", report.provider)
    raise ValidationFailed(
        "\n".join(
            (
                f"{where}: {report.reason}; all rows are in the stage's reports/{name}.json",
                *(f"  {describe(row)}" for row in failed[:_ROWS_IN_MESSAGE]),
                "give the model a recipe, another opset or, if the differences are rounding, larger tolerances",
            )
        )
    )


def describe(row: CheckRow) -> str:
    """Describe one row for people, on one line."""
    about = f"{row.check}, {row.case}" + (f", {row.output}" if row.output else "")
    if row.max_abs_diff is None:
        return f"{about}: {row.finding}: {row.detail}"
    why = f"; {row.detail}" if row.detail else ""
    return f"{about}: {row.finding} by up to {row.max_abs_diff:.3g} (atol {row.atol:.3g}, rtol {row.rtol:.3g}){why}"


def _badness(row: CheckRow) -> float:
    """Return how bad a finding is: one without a figure is about more than a value, and is the worst."""
    return float("inf") if row.max_abs_diff is None else row.max_abs_diff

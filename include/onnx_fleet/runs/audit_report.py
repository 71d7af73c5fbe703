"""The report of a round of audits, one row per bundle, as JSON for programs, pages for people; and its gate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, get_args

from onnx_fleet import jsonio
from onnx_fleet.bundles.manifest import remedy
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.runs import audit, report_page, run_report
from onnx_fleet.runs.audit import Audit, Target
from onnx_fleet.runs.rollback import Demotion
from onnx_fleet.runs.run_report import GateResult
from onnx_fleet.store import ObjectStore, layout

State = Literal["failed", "broke_off", "not_compared", "passed"]
"""The states in reading order, the most urgent first; ``broke_off``: the store or the worker failed."""
_STATES: Final[tuple[State, ...]] = get_args(State)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """The outcome of the audit of one bundle."""

    model_id: str
    version: str
    verdict: State
    reason: str
    files: tuple[str, ...] = ()
    """The files that are not as published."""
    checks: tuple[str, ...] = ()
    """The checks that failed, and the names of the variants that failed (``fp16``)."""
    changed: tuple[str, ...] = ()
    """The packages of other versions than the bundle was made with: ``onnxruntime 1.30.0 -> 1.31.1``."""
    worst_abs_diff: float | None = None
    key: str | None = None
    """The key of the whole result in the store."""
    demotion: Demotion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """One round of audits."""

    schema_version: int = 1
    run_id: str
    created_at: str
    """The time of the report: ISO 8601, UTC."""
    counts: Mapping[str, int]
    """The number of bundles by verdict; every verdict is there."""
    rows: tuple[AuditRow, ...]


def row(made: Audit) -> AuditRow:
    """Return the report's row for one result."""
    return AuditRow(
        model_id=made.model_id,
        version=made.version,
        verdict=made.verdict,
        reason=made.reason,
        files=tuple(fault.path for fault in made.files),
        checks=(
            *dict.fromkeys(each.check for each in made.checks if not each.passed),
            *(each.variant for each in made.variants if not each.passed),
        ),
        changed=made.changed,
        worst_abs_diff=max((each.max_abs_diff for each in made.checks if each.max_abs_diff is not None), default=None),
        key=audit.key_of(made),
    )


def broken_off(target: Target, err: Exception) -> AuditRow:
    """Return the row of a bundle of which nothing is known, because of an error that may pass."""
    reason = f"{type(err).__name__}: {err}"
    return AuditRow(model_id=target.model_id, version=target.version, verdict="broke_off", reason=reason)


def build(rows: Iterable[AuditRow], *, run_id: str, now: datetime) -> AuditReport:
    """Count and order the rows of a round."""
    ordered = tuple(sorted(rows, key=lambda row: (_STATES.index(row.verdict), row.model_id.lower(), row.version)))
    counted = Counter(row.verdict for row in ordered)
    return AuditReport(
        run_id=run_id,
        created_at=now.astimezone(UTC).isoformat(timespec="seconds"),
        counts={state: counted[state] for state in _STATES},
        rows=ordered,
    )


def gate(rows: Sequence[AuditRow], *, max_failed: int = 0, max_not_compared: int | None = None) -> GateResult:
    """Judge whether a round counts as good; a bundle whose audit broke off counts as one that failed.

    Args:
        max_not_compared: the number that is allowed; None allows any number.
    """
    bad = [row for row in rows if row.verdict in ("failed", "broke_off")]
    unasked = [row for row in rows if row.verdict == "not_compared"]
    faults = []
    if len(bad) > max_failed:
        faults.append(f"{len(bad)} failed or broke off (allowed: {max_failed}): {_names(bad)}")
    if max_not_compared is not None and len(unasked) > max_not_compared:
        faults.append(f"{len(unasked)} were not compared (allowed: {max_not_compared}): {_names(unasked)}")
    return GateResult(passed=not faults, reason="; ".join(faults) or _counts(rows))


def advice(row: AuditRow) -> str:
    """Say what to do now; empty where there is nothing to do."""
    if row.verdict == "passed":
        return ""
    if row.verdict == "broke_off":
        return f"the audit has no result; audit it again (--only {row.model_id})"
    if row.verdict == "not_compared":
        return "no fault was found; audit it again when the reason no longer holds"
    again = remedy(row.model_id)
    if row.changed and not row.files:
        again = f"go back to the package versions that it was made with ({', '.join(row.changed)}), or {again}"
    return again if row.demotion else f"{again}; --demote moves its channel to an older version meanwhile"


def write(made: AuditReport, *, store: ObjectStore) -> str:
    """Put the report where run reports lie, in place of an earlier one of the same run; returns the key.

    Raises:
        VersionConflict: another writer put one there meanwhile.
    """
    data = jsonio.canonical(jsonio.to_json(made))
    return run_report.put(made.run_id, data=data, markdown=markdown(made), html=html(made), store=store)


def title(made: AuditReport) -> str:
    """Say how many bundles ended with each verdict."""
    return f"Audit: {_counts(made.rows)}"


def html(made: AuditReport) -> str:
    """Return the report as a page for a browser: each bundle that did not pass, then a table of all."""
    return report_page.page(
        key=report_page.key_of(run_report.key(made.run_id)),
        title=title(made),
        lead=f"{made.run_id}, {made.created_at}",
        cards=[_card(row) for row in made.rows if row.verdict != "passed" or row.demotion],
        tables=[report_page.Table(title="Bundles", columns=_COLUMNS, rows=[_cells(row) for row in made.rows])],
    )


def _card(row: AuditRow) -> report_page.Card:
    return report_page.Card(
        name=ref_of(row),
        state=row.verdict,
        heading=row.verdict,
        paragraphs=(row.reason, advice(row), row.demotion.reason if row.demotion else ""),
        links={
            "Bundle": layout.manifest_key(row.model_id, row.version),
            **({"Result": row.key} if row.key else {}),
        },
    )


def markdown(made: AuditReport) -> str:
    """Return the report as a page: a table, then each bundle that did not pass, in full."""
    lines = [f"# Audit {made.run_id}", "", f"{made.created_at}: {_counts(made.rows)}.", ""]
    if made.rows:
        lines += run_report.table(_COLUMNS, map(_cells, made.rows))
    troubled = [row for row in made.rows if row.verdict != "passed"]
    if troubled:
        lines += ["", "## What did not pass", ""]
        for row in troubled:
            lines.append(f"- **{ref_of(row)}** {row.verdict}: {run_report.cell(row.reason)}")
            lines.append(f"  - {run_report.cell(advice(row))}")
    demoted = [(row, row.demotion) for row in made.rows if row.demotion]
    if demoted:
        lines += ["", "## Channels", ""]
        lines += [f"- **{row.model_id}@{each.channel}**: {each.reason}" for row, each in demoted]
    return "\n".join([*lines, ""])


_COLUMNS: Final = ("model", "version", "verdict", "packages changed", "worst difference", "where")


def _cells(row: AuditRow) -> tuple[str, ...]:
    worst = "–" if row.worst_abs_diff is None else f"{row.worst_abs_diff:.1e}"
    return (row.model_id, row.version, row.verdict, ", ".join(row.changed) or "–", worst, row.key or "–")


def _counts(rows: Sequence[AuditRow]) -> str:
    counted = Counter(row.verdict for row in rows)
    return ", ".join(f"{counted[state]} {state}" for state in _STATES if counted[state]) or "no bundles"


def _names(rows: Sequence[AuditRow], *, shown: int = 10) -> str:
    names = [ref_of(row) for row in rows]
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest

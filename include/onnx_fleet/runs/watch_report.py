"""The report of a poll: what changed at the Hub, as JSON for programs, Markdown and HTML for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, get_args

from onnx_fleet import jsonio
from onnx_fleet.runs import report_page, run_report
from onnx_fleet.store import ObjectStore

FindingState = Literal["gone", "refused", "started", "noted"]
"""The states in reading order, the most urgent first.

``gone``: the Hub has no such repo or revision any more; ``refused``: it is there, and a run would refuse it or have no
access; ``started``: a run is started for it; ``noted``: there is nothing to do.
"""

_STATES: Final[tuple[FindingState, ...]] = get_args(FindingState)
COLUMNS: Final = ("model", "state", "commit", "what changed", "why")
"""The columns of a table of findings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What there is to know of one model since the poll before."""

    model_id: str
    """The id of its entry."""
    state: FindingState
    commit: str | None = None
    """The commit that the Hub has now, 40 hex digits."""
    changes: tuple[str, ...] = ()
    """The differences, one statement each."""
    error: str | None = None
    """The class of the error that a run would end with."""
    message: str = ""
    """A statement of what is wrong, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchReport:
    """One poll of the Hub for a catalogue."""

    schema_version: int = 1
    run_id: str
    created_at: str
    """The time of the poll: ISO 8601, UTC."""
    models: int
    """The number of entries, those that searches found included."""
    unasked: int
    """The number of entries of which the Hub has said nothing yet: their turn comes with the next polls."""
    requests: int
    """The number of requests to the Hub."""
    starts: tuple[str, ...]
    """The ids of the runs that are started."""
    counts: Mapping[str, int]
    """The number of findings by state; every state is there."""
    findings: tuple[Finding, ...]
    """The findings: gone first, then refused, started, noted; by id within each."""


def build(
    findings: Iterable[Finding],
    *,
    run_id: str,
    now: datetime,
    models: int,
    unasked: int,
    requests: int,
    starts: Sequence[str],
) -> WatchReport:
    """Count and order the findings of a poll."""
    ordered = tuple(sorted(findings, key=lambda each: (_STATES.index(each.state), each.model_id.lower())))
    counted = Counter(each.state for each in ordered)
    return WatchReport(
        run_id=run_id,
        created_at=now.astimezone(UTC).isoformat(timespec="seconds"),
        models=models,
        unasked=unasked,
        requests=requests,
        starts=tuple(starts),
        counts={state: counted[state] for state in _STATES},
        findings=ordered,
    )


def title(report: WatchReport) -> str:
    """Say how many models were looked at, what was found, and how many requests that took."""
    found = run_report.counted(report.counts, none="nothing new")
    unasked = f", {report.unasked} not asked for yet" if report.unasked else ""
    return f"{report.models} models: {found}{unasked}; {report.requests} requests"


def write(report: WatchReport, *, store: ObjectStore) -> str:
    """Put the report where run reports lie, in place of an earlier one of the same run; returns the key.

    Raises:
        VersionConflict: another writer put one there meanwhile.
    """
    data = jsonio.canonical(jsonio.to_json(report))
    return run_report.put(report.run_id, data=data, markdown=markdown(report), html=html(report), store=store)


def markdown(report: WatchReport) -> str:
    """Return the report as a page: a table, and the runs that are started."""
    lines = [f"# Watch {report.run_id}", "", f"{report.created_at}: {title(report)}.", ""]
    if report.findings:
        lines += run_report.table(COLUMNS, map(row, report.findings))
    lines += ["", *(f"- started: {run_id}" for run_id in report.starts)] if report.starts else []
    return "\n".join([*lines, ""])


def html(report: WatchReport) -> str:
    """Return the report as a page for a browser: what a person has to look at first, then a table of all findings."""
    return report_page.page(
        key=report_page.key_of(run_report.key(report.run_id)),
        title=title(report),
        lead=f"{report.run_id}, {report.created_at}",
        cards=[
            report_page.Card(
                name=each.model_id,
                state=each.state,
                heading=f"{each.state}: {each.error}" if each.error else each.state,
                paragraphs=(*each.changes, each.message),
            )
            for each in report.findings
            if each.message
        ],
        tables=[report_page.Table(title="Models", columns=COLUMNS, rows=[row(each) for each in report.findings])],
    )


def row(finding: Finding) -> tuple[str, ...]:
    """Return a finding as the cells of a table."""
    why = f"{finding.error}: {finding.message}" if finding.error else finding.message
    return (
        finding.model_id,
        finding.state,
        (finding.commit or "–")[:8],
        "; ".join(finding.changes) or "–",
        why or "–",
    )

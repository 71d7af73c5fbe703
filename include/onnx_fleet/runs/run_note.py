"""What a run's note says: Markdown in a few lines, for a place where a report does not fit.

Its first line is all that is shown at first, so it has what matters: the model or the counts, how it ended, and the
link to the report's page. Text from elsewhere, such as the names of a repo's files, makes no link and no picture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from onnx_fleet.entities.naming import ref_of
from onnx_fleet.runs import (
    audit_report,
    causes,
    garbage_report,
    promotion_report,
    report_page,
    run_report,
    watch_report,
)
from onnx_fleet.runs.audit_report import AuditReport, AuditRow
from onnx_fleet.runs.garbage import Garbage
from onnx_fleet.runs.promotion import Promotion
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.run_report import RunReport
from onnx_fleet.runs.watch_report import WatchReport

LIMIT: Final = 1000
"""The most characters of a note: what Airflow keeps of one."""
_REASON: Final = 200
"""The most characters of one reason among several."""
_NAMES: Final = 100
"""The most characters of the names that share a reason."""


def of_run(report: RunReport, *, page: str) -> str:
    """Return the note of a run of models: a single one in full, of several each cause that needs a person.

    Args:
        page: the address of the report's page.
    """
    if len(report.records) == 1:
        [record] = report.records
        return _alone(record.model_id, _outcome(record, message=record.message), page=page)
    troubled = [
        _Trouble(
            names=tuple(record.model_id for record in cause.records),
            outcome=_outcome(cause.records[0], message=cause.message),
        )
        for cause in causes.of(report.records)
    ]
    return _listed(run_report.title(report), troubled, page=page, more=report.rollout or "")


def of_audit(report: AuditReport, *, page: str) -> str:
    """Return the note of a round of audits, likewise.

    Args:
        page: the address of the report's page.
    """
    if len(report.rows) == 1:
        [row] = report.rows
        return _alone(ref_of(row), _verdict(row), page=page)
    troubled = [_Trouble(names=(ref_of(row),), outcome=_verdict(row)) for row in report.rows if row.verdict != "passed"]
    return _listed(audit_report.title(report), troubled, page=page)


def of_garbage(made: Garbage, *, page: str) -> str:
    """Return the note of a collection of garbage: what went or would go, and each version that is not all gone.

    Args:
        page: the address of the report's page.
    """
    troubled = [
        _Trouble(names=(ref_of(each),), outcome=f"not all removed: {each.refused[0]}")
        for each in made.versions
        if each.refused
    ]
    return _listed(garbage_report.title(made), troubled, page=page, more="; ".join(made.notes))


def of_watch(report: WatchReport, *, page: str) -> str:
    """Return the note of a poll of the Hub: what it has found, and each model that needs a person.

    Args:
        page: the address of the report's page, which there is where something was found.
    """
    if not report.findings:
        return _cut(watch_report.title(report), LIMIT)
    troubled = [
        _Trouble(names=(each.model_id,), outcome=": ".join(filter(None, (each.state, each.error, each.message))))
        for each in report.findings
        if each.message
    ]
    return _listed(watch_report.title(report), troubled, page=page)


def of_promotion(promotion: Promotion, *, page: str) -> str:
    """Return the note of a promotion: a single model in full, of several each that could not be moved.

    Args:
        page: the address of the report's page.
    """
    if len(promotion.candidates) == 1:
        [one] = promotion.candidates
        return _alone(one.model_id, promotion_report.statement(one), page=page)
    troubled = [_Trouble(names=(each.model_id,), outcome=each.proposal.why_not) for each in promotion.of("not moved")]
    nothing = "" if promotion.of("asked") or promotion.reason else "there is nothing to promote"
    return _listed(promotion_report.title(promotion), troubled, page=page, more=nothing)


def of_rollout(text: str, *, page: str) -> str:
    """Return the note of a run that asks whether a rollout goes on.

    Args:
        text: the statement of where it stands.
        page: the address of the page that says what broke.
    """
    return f"[Rollout]({page}): " + _cut(_plain(text), LIMIT // 2)


def of_licences(text: str) -> str:
    """Return the note of a run that asks about licences.

    Args:
        text: what there is to be answered, or what was.
    """
    return _cut("Licences: " + _plain(text), LIMIT)


def of_failure(task: str, *, error: str, message: str) -> str:
    """Return the note of a run that one task ended before there was a report.

    Args:
        error: the error class's name.
    """
    return _cut(f"{task} failed: {error}: {_plain(message)}", LIMIT)


def of_model(model: str, text: str) -> str:
    """Return the note of a run of which no more is known than the model that it was asked for.

    Args:
        text: what is known of the run, in Markdown.
    """
    return _cut(f"{_cut(_plain(model), _REASON)}: {text}", LIMIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trouble:
    """What befell one model or bundle, or several alike."""

    names: tuple[str, ...]
    outcome: str


def _outcome(record: Record, *, message: str) -> str:
    if not message:
        return " ".join(filter(None, (record.ended_as, record.version)))
    return ": ".join(filter(None, (record.ended_as, record.error, message)))


def _verdict(row: AuditRow) -> str:
    return f"{row.verdict}: {row.reason}" if row.reason else row.verdict


def _alone(name: str, outcome: str, *, page: str) -> str:
    head = f"[{_plain(name)}]({page}#{report_page.anchor(name)}): "
    return head + _cut(_plain(outcome), LIMIT - len(head))


def _listed(title: str, troubled: Sequence[_Trouble], *, page: str, more: str = "") -> str:
    """Return the note of several models.

    Args:
        more: what is to be said before the troubles.
    """
    text, left = f"[{title}]({page})\n", sum(len(each.names) for each in troubled)
    text += f"\n{_cut(_plain(more), LIMIT // 2)}\n" if more else ""
    for each in troubled:
        line = f"\n- {_names(each)}: {_cut(_plain(each.outcome), _REASON)}"
        rest = f"\n- and {left} more"
        if len(text) + len(line) + len(rest) > LIMIT:
            return text + rest
        text += line
        left -= len(each.names)
    return text.rstrip("\n")


def _names(trouble: _Trouble) -> str:
    """Return the name of one, or how many there are with the names that have room."""
    said = _plain(", ".join(trouble.names))
    return said if len(trouble.names) == 1 else f"{len(trouble.names)} ({_cut(said, _NAMES)})"


def _plain(text: str) -> str:
    r"""Return text from elsewhere on one line, so that Markdown takes it for nothing but text."""
    return re.sub(r"([\\\[\]<`])", r"\\\1", " ".join(text.split()))


def _cut(text: str, room: int) -> str:
    """Return text in at most ``room`` characters; an escape is not cut in two."""
    return text if len(text) <= room else text[: room - 1].rstrip("\\ ") + "…"

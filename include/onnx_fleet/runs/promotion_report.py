"""A promotion as people read it: the question in Markdown, and the report in the store that says what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from onnx_fleet import jsonio
from onnx_fleet.formatting import human_bytes, human_ms, models
from onnx_fleet.runs import report_page, run_report
from onnx_fleet.runs.promotion import Candidate, Figures, Outcome, Promotion
from onnx_fleet.runs.report_page import Card, Table
from onnx_fleet.store import ObjectStore

ROWS: Final = 100
"""The most models that a question shows; the report has all."""
_COLUMNS: Final = ("model", "now", "new", "gates", "p50 ms on CPU, fp32", "size")
_OUTCOME_COLUMNS: Final = ("model", "what became of it", "from", "to", "why")
_CARD_STATES: Final = {"asked": "waiting", "stays": "unchanged", "moved": "published", "not moved": "failed"}
"""A state of reports with the colour that fits."""


def write(promotion: Promotion, *, store: ObjectStore) -> str:
    """Put the report and its pages into the store, in place of earlier ones of the same run; returns the report's key.

    Raises:
        VersionConflict: another writer put one there meanwhile.
    """
    data = jsonio.canonical(jsonio.to_json(promotion))
    return run_report.put(promotion.run_id, data=data, markdown=markdown(promotion), html=html(promotion), store=store)


def title(promotion: Promotion) -> str:
    """Return what there is of each outcome: ``latest to stable: 2 asked, 1 stays``."""
    outcomes: tuple[Outcome, ...] = ("moved", "not moved", "asked", "stays")
    told = [(outcome, len(promotion.of(outcome))) for outcome in outcomes]
    counts = ", ".join(f"{count} {_words(outcome)}" for outcome, count in told if count)
    return f"{promotion.source} to {promotion.to}: {counts or 'no models'}"


def statement(each: Candidate) -> str:
    """Return what became of one model: ``moved 01234567-aaaaaaaa -> 01234567-bbbbbbbb``."""
    proposal = each.proposal
    if each.outcome in ("stays", "not moved"):
        return f"{each.outcome}: {proposal.why_not}"
    return f"{_words(each.outcome)}: {proposal.channel} {proposal.before or 'nothing'} -> {proposal.version}"


def question(promotion: Promotion) -> str:
    """Return what a person is asked, in Markdown: where each channel points, where it would, and what that means."""
    asked = promotion.of("asked")
    lines = [
        f"{models(len(asked))}: `{promotion.to}` would point to the version that `{promotion.source}` points to.",
        "",
        *run_report.table(_COLUMNS, [_row(each) for each in asked[:ROWS]]),
        "",
    ]
    if len(asked) > ROWS:
        lines += [f"and {len(asked) - ROWS} more; the button *Report* of the task `describe` leads to all of them.", ""]
    if findings := _findings(asked):
        lines += ["**Their gates found worse**, when they were published:", ""]
        lines += [f"- {run_report.cell(each)}" for each in findings[:ROWS]] + [""]
    if held := [each.model_id for each in asked if each.proposal.standing and each.proposal.standing.held]:
        lines += [f"**Held by a person now**, which the promotion ends: {', '.join(held[:ROWS])}.", ""]
    if stays := promotion.of("stays"):
        verb = "stays where it is" if len(stays) == 1 else "stay where they are"
        lines += [f"{models(len(stays))} {verb}; the report says why.", ""]
    return "\n".join(lines)


def markdown(promotion: Promotion) -> str:
    """Return the report in Markdown."""
    lines = [f"# Promotion, {title(promotion)}", "", f"{_lead(promotion)}.", ""]
    lines += [*run_report.table(_OUTCOME_COLUMNS, _outcomes(promotion)), ""]
    compared = [_row(each) for each in promotion.candidates if each.outcome != "stays"]
    if compared:
        lines += ["## Beside the version in the channel", "", *run_report.table(_COLUMNS, compared), ""]
    if findings := _findings(promotion.candidates):
        lines += ["## What the gates found worse", "", *(f"- {run_report.cell(each)}" for each in findings), ""]
    return "\n".join(lines)


def html(promotion: Promotion) -> str:
    """Return the same as a page for a browser: what could not be moved first."""
    cards = [
        Card(
            name=each.model_id,
            state=_CARD_STATES[each.outcome],
            heading=statement(each),
        )
        for each in promotion.candidates
        if each.outcome == "not moved" or len(promotion.candidates) == 1
    ]
    compared = [_row(each) for each in promotion.candidates if each.outcome != "stays"]
    return report_page.page(
        key=report_page.key_of(run_report.key(promotion.run_id)),
        title=f"Promotion, {title(promotion)}",
        lead=_lead(promotion),
        cards=cards,
        tables=(
            Table(title="Models", columns=_OUTCOME_COLUMNS, rows=_outcomes(promotion)),
            Table(title="Beside the version in the channel", columns=_COLUMNS, rows=compared),
            Table(
                title="What the gates found worse",
                columns=("finding",),
                rows=[(each,) for each in _findings(promotion.candidates)],
            ),
        ),
    )


def _lead(promotion: Promotion) -> str:
    decided = promotion.reason
    said = f"{decided.by} approved it: {decided.why}" if decided else "nobody has approved it yet"
    if not promotion.of("asked") and not decided:
        said = "there is nothing to promote"
    return f"{promotion.run_id}, {promotion.created_at}; {said}"


def _words(outcome: Outcome) -> str:
    return "to be decided on" if outcome == "asked" else outcome


def _outcomes(promotion: Promotion) -> list[tuple[str, ...]]:
    return [
        (
            each.model_id,
            _words(each.outcome),
            each.proposal.before or "–",
            each.proposal.version or "–",
            each.proposal.why_not or "–",
        )
        for each in promotion.candidates
    ]


def _row(each: Candidate) -> tuple[str, ...]:
    now, new = each.now, each.new
    size = f"{human_bytes(now.size_bytes if now else None)} → {human_bytes(new.size_bytes if new else None)}"
    return (
        each.model_id,
        each.proposal.before or "–",
        each.proposal.version or "–",
        each.verdict,
        _latency(now, new),
        size,
    )


def _latency(now: Figures | None, new: Figures | None) -> str:
    """Return the latencies of both, and where they were not measured at one size of input, at which."""
    told = f"{human_ms(now.latency_ms_p50 if now else None)} → {human_ms(new.latency_ms_p50 if new else None)}"
    if now and new and now.latency_at and new.latency_at and now.latency_at != new.latency_at:
        return f"{told} (at {now.latency_at} and at {new.latency_at})"
    return told


def _findings(candidates: Sequence[Candidate]) -> list[str]:
    return [
        f"{each.model_id}: {finding}, compared with {each.proposal.compared_with}"
        for each in candidates
        for finding in each.proposal.findings
        if each.outcome != "stays"
    ]

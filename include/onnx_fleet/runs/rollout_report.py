"""What there is to read about a rollout: a statement for the reports of its runs, and a page where a wave stopped it.

The page says what broke, on which architectures, and which packages changed. All of it is in the rollout's document, so
that whoever finds a rollout stopped can write it again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from onnx_fleet import jsonio
from onnx_fleet.formatting import models
from onnx_fleet.planning.changes import TOOLCHAIN
from onnx_fleet.runs import causes, report_page, run_report
from onnx_fleet.runs.causes import Cause
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.report_page import Card, Table
from onnx_fleet.runs.rollout import Rollout
from onnx_fleet.store import ObjectStore


def statement(rollout: Rollout) -> str:
    """Say where a rollout stands, and what comes next."""
    name, wave, total = f"the rollout {rollout.rollout_id}", rollout.current + 1, len(rollout.waves)
    where = f"wave {wave} of {total}"
    match rollout.state:
        case "stopped":
            went_back = (
                f" {models(len(rollout.taken_back))} went back and are held there." if rollout.taken_back else ""
            )
            return (
                f"{name} has stopped at {where}: {rollout.wave.reason}.{went_back} The page"
                f" {report_page.key_of(page_key(rollout))} says what broke. To let it go on nevertheless, approve it in"
                f" the run of rollout_approval, or run `onnx-fleet rollout continue {rollout.rollout_id} --reason WHY`"
            )
        case "done":
            return f"{name} is through all of its {total} waves"
        case "superseded":
            return f"{name} was superseded at {where}: the toolchain or the defaults have changed again"
    before = rollout.waves[rollout.current - 1].reason if rollout.current else ""
    good = f"wave {wave - 1} is good ({before}); " if before else ""
    later = sum(len(each.members) for each in rollout.waves[rollout.current + 1 :])
    rest = f"; then {models(later)}" if later else ""
    undecided = f"{len(rollout.wave.undecided)} of {models(len(rollout.wave.members))}"
    return f"{name}: {good}{where} is under way, with {undecided} undecided{rest}"


def changed(rollout: Rollout) -> tuple[str, ...]:
    """Return what changed, what most models have first: ``torch 2.13.0 -> 2.14.0 (48 models)``."""
    ordered = sorted(rollout.changes.items(), key=lambda each: (-each[1], each[0]))
    return tuple(f"{what.removeprefix(TOOLCHAIN)} ({models(count)})" for what, count in ordered)


def suspects(rollout: Rollout) -> tuple[str, ...]:
    """Return the changed packages that the messages of failures name outside of paths; all where they name none."""
    said = " ".join(record.message for record in _broken(rollout))
    found = [
        each
        for each in changed(rollout)
        if re.search(rf"(?<![\w./-]){re.escape(each.split()[0])}(?![\w/-]|\.\w)", said, flags=re.IGNORECASE)
    ]
    return tuple(found) or changed(rollout)


def page_key(rollout: Rollout) -> str:
    """Return the key of the document beside which the page of the wave lies that stopped the rollout last."""
    went_on = rollout.state != "stopped" and rollout.decisions
    return run_report.key(rollout.label_of(rollout.decisions[-1].wave if went_on else rollout.current + 1))


def write(rollout: Rollout, *, store: ObjectStore) -> str:
    """Put the page of a stopped wave into the store, with the rollout as JSON beside it; returns that one's key.

    Raises:
        VersionConflict: another writer put one there meanwhile.
    """
    data = jsonio.canonical(jsonio.to_json(rollout))
    label = rollout.label_of(rollout.current + 1)
    return run_report.put(label, data=data, markdown=markdown(rollout), html=html(rollout), store=store)


def markdown(rollout: Rollout) -> str:
    """Return the page of the wave that is under way; where it stopped the rollout, it says what broke."""
    lines = [f"# {_title(rollout)}", "", f"{statement(rollout)}.", ""]
    lines += ["## What changed", "", *(f"- {run_report.cell(each)}" for each in changed(rollout)), ""]
    if rollout.state == "stopped":
        lines += ["## What to look at first", "", *(f"- {run_report.cell(each)}" for each in suspects(rollout)), ""]
    lines += ["## By architecture", "", *run_report.table(_ARCHITECTURE_COLUMNS, _by_architecture(rollout)), ""]
    broken = causes.of(_broken(rollout))
    if broken:
        lines += ["## What broke", ""]
        lines += [f"- **{_names(cause)}**: {_ended(cause)}: {run_report.cell(cause.message)}" for cause in broken]
        lines += [""]
    if rows := _findings(rollout):
        lines += ["## Worse than the version before", "", *run_report.table(_FINDING_COLUMNS, rows), ""]
    if rows := _back(rollout):
        lines += ["## Channels that went back", "", *run_report.table(_BACK_COLUMNS, rows), ""]
    if rows := _decisions(rollout):
        lines += ["## Decisions", "", *run_report.table(_DECISION_COLUMNS, rows), ""]
    return "\n".join(lines)


def html(rollout: Rollout) -> str:
    """Return the same as a page for a browser."""
    key = report_page.key_of(page_key(rollout))
    cards = [
        Card(
            name="What changed",
            state="held",
            heading=f"{len(rollout.changes)} changes",
            paragraphs=("\n".join(changed(rollout)), f"Look first at: {', '.join(suspects(rollout))}"),
        )
    ]
    cards += [
        Card(name=_names(cause), state=cause.records[0].state, heading=_ended(cause), paragraphs=(cause.message,))
        for cause in causes.of(_broken(rollout))
    ]
    tables = (
        Table(title="By architecture", columns=_ARCHITECTURE_COLUMNS, rows=_by_architecture(rollout)),
        Table(title="Worse than the version before", columns=_FINDING_COLUMNS, rows=_findings(rollout)),
        Table(title="Channels that went back", columns=_BACK_COLUMNS, rows=_back(rollout)),
        Table(title="Decisions", columns=_DECISION_COLUMNS, rows=_decisions(rollout)),
    )
    return report_page.page(key=key, title=_title(rollout), lead=statement(rollout), cards=cards, tables=tables)


_ARCHITECTURE_COLUMNS = ("architecture", "models", "good", "failed or held", "left out", "undecided")
_FINDING_COLUMNS = ("model", "what is worse")
_BACK_COLUMNS = ("model", "version of the wave", "back at")
_DECISION_COLUMNS = ("when", "wave", "decision", "by", "reason")


def _title(rollout: Rollout) -> str:
    return f"Rollout {rollout.rollout_id}: wave {rollout.current + 1} of {len(rollout.waves)} {rollout.state}"


def _by_architecture(rollout: Rollout) -> list[tuple[str, ...]]:
    """Return a row for each architecture, those first that broke most often."""
    wave = rollout.wave
    counted: dict[str, Counter[str]] = {}
    for member in wave.members:
        outcome = wave.outcomes.get(member.model_id)
        counted.setdefault(member.architecture, Counter())[outcome.verdict if outcome else "undecided"] += 1
    rows = sorted(counted.items(), key=lambda each: (-each[1]["failed"], each[0]))
    kinds = ("passed", "failed", "left", "undecided")
    return [(name, str(counts.total()), *(str(counts[kind]) for kind in kinds)) for name, counts in rows]


def _broken(rollout: Rollout) -> tuple[Record, ...]:
    """Return the records of the models that failed or were held, so that a cause which many share is told once."""
    wave = rollout.wave
    return tuple(
        Record(
            model_id=name,
            state="failed" if outcome.error else "held",
            version=outcome.version,
            step=outcome.step,
            error=outcome.error,
            message=outcome.message,
        )
        for name in wave.ended("failed")
        for outcome in (wave.outcomes[name],)
    )


def _findings(rollout: Rollout) -> list[tuple[str, ...]]:
    found = rollout.wave.outcomes
    return [(name, finding) for name in sorted(found) for finding in found[name].findings]


def _back(rollout: Rollout) -> list[tuple[str, ...]]:
    return [(name, back.version, back.to) for name, back in sorted(rollout.taken_back.items())]


def _decisions(rollout: Rollout) -> list[tuple[str, ...]]:
    return [
        (f"{each.at:%Y-%m-%d %H:%M}", str(each.wave), each.what, each.by, each.reason) for each in rollout.decisions
    ]


def _names(cause: Cause) -> str:
    names = ", ".join(record.model_id for record in cause.records)
    return names if len(cause.records) == 1 else f"{models(len(cause.records))} ({names})"


def _ended(cause: Cause) -> str:
    record = cause.records[0]
    return " ".join(filter(None, (record.ended_as, record.error)))


def rows(found: Iterable[Rollout]) -> list[tuple[str, ...]]:
    """Return a row for each rollout, as a list shows them."""
    return [
        (
            each.rollout_id,
            each.state,
            f"{each.current + 1} of {len(each.waves)}",
            str(each.models),
            f"{each.began_at:%Y-%m-%d %H:%M}",
            ", ".join(changed(each)),
        )
        for each in found
    ]


COLUMNS = ("rollout", "state", "wave", "models", "began", "what changed")
"""The columns of a list of rollouts."""

"""The report of a collection of garbage: as JSON for programs, Markdown and HTML for people."""

from __future__ import annotations

from typing import Final

from onnx_fleet import jsonio
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.entities.retention import WORDS
from onnx_fleet.formatting import human_bytes
from onnx_fleet.runs import report_page, run_report
from onnx_fleet.runs.garbage import Garbage, Gone
from onnx_fleet.runs.garbage_sweep import Swept, SweptKind
from onnx_fleet.store import ObjectStore

COLUMNS: Final = ("model", "version", "put there", "size", "what")
SWEPT: Final[dict[SweptKind, str]] = {
    "publications": "objects of publications that are through",
    "rows": "rows of moves that never took place",
    "uploads": "uploads that killed writers had half written",
    "scratch": "objects that tasks of runs had handed on",
    "reports": "old reports of runs and audits",
}


def write(made: Garbage, *, store: ObjectStore) -> str:
    """Put the report where run reports lie, in place of an earlier one of the same run; returns the key.

    Raises:
        VersionConflict: another writer put one there meanwhile.
    """
    data = jsonio.canonical(jsonio.to_json(made))
    return run_report.put(made.run_id, data=data, markdown=markdown(made), html=_html(made), store=store)


def title(made: Garbage) -> str:
    """Say in a line what went, or would go, and how many bytes that are."""
    swept = sum(each.objects for each in made.swept)
    beside = f" and {swept} other {'object' if swept == 1 else 'objects'}" if swept else ""
    count = len(made.gone)
    versions = f"{count} {'version' if count == 1 else 'versions'}"
    return f"{'removed' if made.deleted else 'would remove'} {versions}{beside}, {human_bytes(made.size_bytes)}"


def cells(each: Gone) -> tuple[str, ...]:
    """Return the cells of a version's row, under COLUMNS."""
    size = human_bytes(each.size_bytes)
    return (each.model_id, each.version, f"{each.put_at:%Y-%m-%d %H:%M}", size, _what(each))


def statements(made: Garbage) -> tuple[str, ...]:
    """Return what is to be said beside the table: what was swept, what stays and why, and what was refused."""
    kept = sum(made.kept.values())
    return (
        *(_swept(each, deleted=made.deleted) for each in made.swept),
        *([f"{kept} {'version stays' if kept == 1 else 'versions stay'}:"] if kept else []),
        *(f"  {count}: {WORDS[keeper]}" for keeper, count in made.kept.items()),
        *made.notes,
        *(f"could not be removed: {text}" for text in made.refused),
    )


def markdown(made: Garbage) -> str:
    """Return the report as a page: a table of what goes, then what else there is to say."""
    lines = [f"# Garbage {made.run_id}", "", f"{made.created_at:%Y-%m-%d %H:%M}: {title(made)}.", ""]
    if made.versions:
        lines += [*run_report.table(COLUMNS, map(cells, made.versions)), ""]
    lines += [f"- {run_report.cell(text.strip())}" for text in statements(made)]
    return "\n".join([*lines, ""])


def _html(made: Garbage) -> str:
    refused = [each for each in made.versions if each.refused]
    return report_page.page(
        key=report_page.key_of(run_report.key(made.run_id)),
        title=f"Garbage: {title(made)}",
        lead=f"{made.run_id}, {made.created_at:%Y-%m-%d %H:%M}",
        cards=[
            report_page.Card(name=ref_of(each), state="failed", heading="not all removed", paragraphs=each.refused)
            for each in refused
        ],
        tables=[
            report_page.Table(title="Versions", columns=COLUMNS, rows=list(map(cells, made.versions))),
            report_page.Table(
                title="Beside them", columns=("what",), rows=[(text.strip(),) for text in statements(made)]
            ),
        ],
    )


def _what(each: Gone) -> str:
    if each.why_not:
        return f"stays: {each.why_not}"
    kinds = {"version": "nothing keeps it", "unfinished": "never finished", "remains": "left of a deleted version"}
    return f"{kinds[each.kind]}, not all removed" if each.refused else kinds[each.kind]


def _swept(each: Swept, *, deleted: bool) -> str:
    size = f", {human_bytes(each.size_bytes)}" if each.size_bytes else ""
    return f"{'removed' if deleted else 'would remove'} {each.objects} {SWEPT[each.kind]}{size}"

"""The run report: every model's record, counted, as JSON for programs, Markdown and HTML for people; and the gate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, get_args

from onnx_fleet import jsonio
from onnx_fleet.bundles import events, fleet_event
from onnx_fleet.bundles.fleet_event import FleetEvent
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.entities.provider import CPU, CUDA, report_name
from onnx_fleet.formatting import human_bytes, human_ms, human_s, models
from onnx_fleet.runs import causes, report_page
from onnx_fleet.runs.causes import Cause
from onnx_fleet.runs.record import GPU_NOT_ASKED, Record, RecordState, VariantRecord
from onnx_fleet.store import ObjectStore, layout, swaps

_STATES: Final[tuple[RecordState, ...]] = get_args(RecordState)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """One run, model by model."""

    schema_version: int = 1
    run_id: str
    created_at: str
    """The time of the report: ISO 8601, UTC."""
    counts: Mapping[str, int]
    """The number of models by state; every state is there."""
    records: tuple[Record, ...]
    """The records: failed first, then refused, held, waiting, published, unchanged; by id within each."""
    rollout: str | None = None
    """A statement of where the run's rollout stands, and what comes next; None where nothing is rolled out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """The gate's judgement of a run."""

    passed: bool
    reason: str
    """A statement for people: why the gate is open or closed."""


def build(records: Iterable[Record], *, run_id: str, now: datetime, rollout: str | None = None) -> RunReport:
    """Count and order the records of a run.

    Args:
        now: the time of the report, with a time zone.
        rollout: the statement of where the run's rollout stands.
    """
    ordered = tuple(sorted(records, key=lambda record: (_STATES.index(record.state), record.model_id.lower())))
    counted = Counter(record.state for record in ordered)
    return RunReport(
        run_id=run_id,
        created_at=now.astimezone(UTC).isoformat(timespec="seconds"),
        counts={state: counted[state] for state in _STATES},
        records=ordered,
        rollout=rollout,
    )


def gate(report: RunReport, *, max_failed: int = 0, max_refused: int | None = None) -> GateResult:
    """Judge whether a run counts as good; a model whose new version is held counts as one that failed.

    Args:
        max_refused: None lets any number of refusals pass: they are the catalogue's own rules at work. A model that
            does not exist or cannot be read failed.
    """
    failed, held, refused = (report.counts[state] for state in ("failed", "held", "refused"))
    faults = []
    if failed + held > max_failed:
        said = [f"{models(failed)} failed"] if failed else []
        said += [f"{models(held)} held back"] if held else []
        faults.append(f"{', '.join(said)} (allowed: {max_failed}): {_names(report, 'failed', 'held')}")
    if max_refused is not None and refused > max_refused:
        faults.append(f"{models(refused)} refused (allowed: {max_refused}): {_names(report, 'refused')}")
    if faults:
        return GateResult(passed=False, reason="; ".join(faults))
    return GateResult(passed=True, reason=title(report))


def title(report: RunReport) -> str:
    """Say how many models a run had, and how many ended in each state."""
    return f"{models(len(report.records))}: {_counts(report)}"


def troubles(report: RunReport) -> tuple[str, ...]:
    """Say what models failed of, were refused or are held for, and what to do; one line a cause, the worst first."""
    return tuple(f"{_names_of(cause)}: {_told(cause)}" for cause in causes.of(report.records))


def key(run_id: str) -> str:
    """Return the key of a run's report in the store."""
    return f"reports/{layout.run_name(run_id)}.json"


def kept_prefix(run_id: str, model_id: str) -> str:
    """Return what the keys begin with of the validation that is kept of a model which a run did not publish."""
    return f"{key(run_id).removesuffix('.json')}/{model_id.replace('/', '--')}/"


def write(report: RunReport, *, store: ObjectStore) -> str:
    """Put the report and its pages into the store, in place of earlier ones of the same run; returns the report's key.

    The events of the models that failed are told first: where the report stands, they are told.

    Raises:
        VersionConflict: another writer put one there meanwhile.
    """
    events.append_all(store, [_failure(report, record) for record in report.records if record.state == "failed"])
    data = jsonio.canonical(jsonio.to_json(report))
    kept = {found.key for found in store.list(f"{key(report.run_id).removesuffix('.json')}/")}
    return put(report.run_id, data=data, markdown=markdown(report), html=html(report, kept=kept), store=store)


def _failure(report: RunReport, record: Record) -> FleetEvent:
    return fleet_event.of_failure(
        record.model_id,
        record.version,
        by=Actor(kind="run", name=report.run_id),
        why=" ".join(filter(None, (f"{record.ended_as}:", record.error, record.message))),
        now=datetime.fromisoformat(report.created_at),
    )


def put(run_id: str, *, data: bytes, markdown: str, html: str, store: ObjectStore) -> str:
    """Put a run's document into the store, and beside it the pages that say the same to people; returns the key.

    Raises:
        VersionConflict: another writer put one there meanwhile.
    """
    place = key(run_id)
    pages = {f"{place.removesuffix('.json')}.md": markdown.encode(), report_page.key_of(place): html.encode()}
    for name, content in {place: data, **pages}.items():
        swaps.put(store, name, content)
    return place


def html(report: RunReport, *, kept: Collection[str] = ()) -> str:
    """Return the report as a page for a browser: what went wrong first, then a table of all models.

    Args:
        kept: the keys of the validations that are kept of models which were not published.
    """
    told = causes.of(report.records)
    if not told and len(report.records) == 1:
        told = (Cause(records=report.records, message=""),)
    return report_page.page(
        key=report_page.key_of(key(report.run_id)),
        title=title(report),
        lead=f"{report.run_id}, {report.created_at}" + (f"; {report.rollout}" if report.rollout else ""),
        cards=[_card(each, run_id=report.run_id, kept=kept) for each in told],
        tables=(
            report_page.Table(
                title="Models",
                columns=_COLUMNS,
                rows=[_row(record) for record in report.records],
                note=taken_over_note(report.records),
            ),
            report_page.Table(
                title="Variants",
                columns=VARIANT_COLUMNS,
                rows=[variant_row(record, each) for record in report.records for each in record.variants],
            ),
            report_page.Table(title=_SIZING, columns=_SIZING_COLUMNS, rows=_sizing_rows(report)),
        ),
    )


def _card(cause: Cause, *, run_id: str, kept: Collection[str]) -> report_page.Card:
    record, several = cause.records[0], len(cause.records) > 1
    return report_page.Card(
        name=models(len(cause.records)) if several else record.model_id,
        state=record.state,
        heading=" ".join(filter(None, (record.ended_as, record.error))),
        paragraphs=(
            *([_names_of(cause)] if several else []),
            cause.message or record.version or "",
            *record.findings,
        ),
        links={
            f"{text} of {each.model_id}" if several else text: place
            for each in cause.records
            for text, place in _links(each, run_id=run_id, kept=kept).items()
        },
    )


def _links(record: Record, *, run_id: str, kept: Collection[str]) -> dict[str, str]:
    if record.location and record.version:
        prefix = layout.bundle_prefix(record.model_id, record.version)
        return {"Bundle": f"{prefix}{layout.MANIFEST}", "Validation": f"{prefix}reports/validation.svg"}
    prefix = kept_prefix(run_id, record.model_id)
    pictures = {"Validation": CPU, "Validation on the GPU": CUDA}
    placed = {text: f"{prefix}{report_name('validation', where)}.svg" for text, where in pictures.items()}
    return {text: place for text, place in placed.items() if place in kept}


def markdown(report: RunReport) -> str:
    """Return the report as a page: counts, a table, and each failure in full."""
    lines = [f"# Run {report.run_id}", "", f"{report.created_at}: {_counts(report)}.", ""]
    if not report.records:
        return "\n".join([*lines, "No model was asked for.", ""])
    if report.rollout:
        lines += [f"**{cell(report.rollout)}**", ""]
    lines += table(_COLUMNS, map(_row, report.records))
    if note := taken_over_note(report.records):
        lines += ["", note]
    varied = [variant_row(record, each) for record in report.records for each in record.variants]
    if varied:
        lines += ["", "## Variants", "", *table(VARIANT_COLUMNS, varied)]
    if sizing := _sizing_rows(report):
        lines += ["", f"## {_SIZING}", "", *table(_SIZING_COLUMNS, sizing)]
    found = causes.of(report.records)
    if found:
        lines += ["", "## Failed, refused or held", ""]
        lines += [f"- **{_names_of(cause)}**: {_told(cause)}" for cause in found]
    renamed = [record for record in report.records if record.renamed_from]
    if renamed:
        lines += ["", "## Renamed on the Hub", ""]
        lines += [
            f"- **{record.renamed_from}** is **{record.model_id}** now: write the new id into the catalogue; bundles"
            " under the old id stay, and get no more versions"
            for record in renamed
        ]
    worse = [record for record in report.records if record.findings]
    if worse:
        lines += ["", "## Worse than the version in use", ""]
        lines += [
            f"- **{record.model_id}**, {record.version} compared with {record.compared_with}: {cell(finding)}"
            for record in worse
            for finding in record.findings
        ]
    return "\n".join([*lines, ""])


VARIANT_COLUMNS: Final = ("model", "variant", "state", "layers' weights", "p50 ms", "figures and their limits")


def variant_row(record: Record, variant: VariantRecord) -> tuple[str, ...]:
    """Return the cells of one variant's row, as people read them."""
    return (
        record.model_id,
        variant.variant,
        "published" if variant.status == "published" else "left out",
        "–" if variant.layers_ratio is None else f"{variant.layers_ratio:.2f}× fp32",
        human_ms(variant.latency_ms_p50, noisy=record.latency_noisy),
        variant.reason,
    )


_COLUMNS: Final = ("model", "state", "version", "worst difference", "p50 ms", "p95 ms", "size", "GPU", "where")


def _row(record: Record) -> tuple[str, ...]:
    return (
        record.model_id,
        record.ended_as,
        record.version or "–",
        "–" if record.worst_abs_diff is None else f"{record.worst_abs_diff:.1e}",
        human_ms(record.latency_ms_p50, noisy=record.latency_noisy),
        human_ms(record.latency_ms_p95, noisy=record.latency_noisy),
        human_bytes(record.size_bytes),
        "–" if record.gpu == GPU_NOT_ASKED else record.gpu,
        record.location or "–",
    )


def taken_over_note(records: Sequence[Record]) -> str:
    """Say of how many models the proof rests on another one's, and the latencies are another one's; empty for none."""
    proven = sum(record.location is not None for record in records)
    measured = sum(record.latency_ms_p50 is not None for record in records)
    resting = sum(record.proof_from is not None for record in records)
    taken = sum(record.latency_from is not None for record in records)
    said = []
    if resting:
        said.append(
            f"The proofs of {resting} of {models(proven)} rest on the whole proof of another model's graphs, which are"
            " the same but for their weights: what weights and files decide was compared again."
        )
    if taken:
        said.append(f"The latencies of {taken} of {models(measured)} were measured on such another model's graphs.")
    return " ".join([*said, "Each model's reports name it."] if said else said)


_SIZING: Final = "Taken, and predicted"
_SIZING_COLUMNS: Final = ("model", "time", "memory", "disk", "predicted from")


def _sizing_rows(report: RunReport) -> list[tuple[str, ...]]:
    """Return the cells of what each model that was made took, beside what was predicted."""
    return [
        (
            record.model_id,
            _beside(human_s(sum(record.seconds.values())), human_s(record.predicted.seconds)),
            _beside(human_bytes(max(record.memory_bytes.values())), human_bytes(record.predicted.memory_bytes)),
            _beside(human_bytes(max(record.disk_bytes.values())), human_bytes(record.predicted.disk_bytes)),
            record.predicted.basis,
        )
        for record in report.records
        if record.predicted and record.memory_bytes and record.state in ("published", "held")
    ]


def _beside(taken: str, predicted: str) -> str:
    return f"{taken} ({predicted} predicted)"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    head = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return [*head, *("| " + " | ".join(map(cell, row)) + " |" for row in rows)]


def cell(text: str) -> str:
    """Return text from outside as a table cell: it must not end a cell or a row, or open HTML."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _names_of(cause: Cause) -> str:
    names = ", ".join(record.model_id for record in cause.records)
    return names if len(cause.records) == 1 else f"{models(len(cause.records))} ({names})"


def _told(cause: Cause) -> str:
    record = cause.records[0]
    where = f"{record.ended_as}: " if record.step else ""
    error = f"`{record.error}` " if record.error else ""
    return f"{where}{error}{cell(cause.message)}"


def _counts(report: RunReport) -> str:
    return counted(report.counts, none="no models")


def counted(counts: Mapping[str, int], *, none: str) -> str:
    """Return counts by state for people, those of zero left out: ``2 failed, 1 published``.

    Args:
        none: what is said where all are zero.
    """
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or none


def _names(report: RunReport, *states: RecordState, shown: int = 10) -> str:
    names = [record.model_id for record in report.records if record.state in states]
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest

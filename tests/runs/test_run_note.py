"""The note of a run: what fits on one line first, and nothing that Airflow would not keep."""

from __future__ import annotations

from datetime import UTC, datetime

from onnx_fleet.runs import audit_report, run_note, run_report, watch_report
from onnx_fleet.runs.audit_report import AuditRow
from onnx_fleet.runs.record import Record, RecordState
from onnx_fleet.runs.watch_report import Finding

PAGE = "onnx-fleet/store/reports/run.html"
NOW = datetime(2026, 11, 28, tzinfo=UTC)
VERSION = "3f2a1c00-9d1e44b7"


def record(model_id: str, state: RecordState, **said: str) -> Record:
    return Record(model_id=model_id, state=state, **said)  # type: ignore[arg-type]


def note(*records: Record) -> str:
    return run_note.of_run(run_report.build(records, run_id="run", now=NOW), page=PAGE)


def test_one_model_is_named_with_its_end_and_leads_to_its_card() -> None:
    published = record("acme/tiny", "published", version=VERSION)
    assert note(published) == f"[acme/tiny]({PAGE}#acme--tiny): published {VERSION}"
    failed = record(
        "acme/tiny", "failed", step="validate", error="ValidationFailed", message="acme/tiny: off by 1\nmore"
    )
    assert note(failed) == (
        f"[acme/tiny]({PAGE}#acme--tiny): failed at validate: ValidationFailed: acme/tiny: off by 1 more"
    )


def test_a_fleet_begins_with_its_counts_and_lists_who_needs_a_person() -> None:
    failed = record("acme/broken", "failed", step="export", error="ModelInvalid", message="no weights")
    held = record("acme/slow", "held", message="slower than before")
    assert note(failed, held, record("acme/tiny", "unchanged", version=VERSION)).splitlines() == [
        f"[3 models: 1 failed, 1 held, 1 unchanged]({PAGE})",
        "",
        "- acme/broken: failed at export: ModelInvalid: no weights",
        "- acme/slow: held: slower than before",
    ]
    assert note() == f"[0 models: no models]({PAGE})"


def test_a_poll_says_what_it_has_found_and_who_needs_a_person() -> None:
    def polled(*findings: Finding) -> str:
        told = watch_report.build(findings, run_id="run", now=NOW, models=9, unasked=0, requests=4, starts=["watch__1"])
        return run_note.of_watch(told, page=PAGE)

    gone = Finding(model_id="acme/gone", state="gone", message="no such model")
    closed = Finding(model_id="acme/closed", state="refused", error="ModelGated", message="accept its terms")
    started = Finding(model_id="acme/new", state="started", changes=("new in the catalogue",))
    assert polled(started, closed, gone).splitlines() == [
        f"[9 models: 1 gone, 1 refused, 1 started; 4 requests]({PAGE})",
        "",
        "- acme/gone: gone: no such model",
        "- acme/closed: refused: ModelGated: accept its terms",
    ]
    assert polled() == "9 models: nothing new; 4 requests", "there is no report to lead to"


def test_a_note_is_never_longer_than_airflow_keeps_and_says_what_it_leaves_out() -> None:
    for message in ("no weights " * 100, "[" * 3000):
        alone = note(record("acme/broken", "failed", step="export", error="ModelInvalid", message=message))
        assert len(alone) <= run_note.LIMIT
        assert alone.endswith("…")
        many = note(*(record(f"acme/broken-{number}", "failed", message=f"{number}{message}") for number in range(500)))
        assert len(many) <= run_note.LIMIT
        shown = many.count("\n- acme/broken-")
        assert shown >= 2
        assert many.endswith(f"\n- and {500 - shown} more")
    assert len(run_note.of_failure("plan", error="CatalogueInvalid", message="line 3\n" * 999)) <= run_note.LIMIT


def test_a_cause_that_models_share_is_told_once() -> None:
    alike = [record(f"acme/m{n}", "failed", step="resolve", error="HubUnavailable", message="503") for n in range(300)]
    other = record("acme/x", "failed", step="export", error="ModelInvalid", message="no weights")
    _, _, shared, alone = note(*alike, other).splitlines()
    assert shared.startswith("- 300 (acme/m0, acme/m1, ")
    assert shared.endswith("…): failed at resolve: HubUnavailable: 503")
    assert alone == "- acme/x: failed at export: ModelInvalid: no weights"


def test_a_run_without_a_report_names_its_model() -> None:
    assert run_note.of_model("acme/tiny", "running") == "acme/tiny: running"
    assert len(run_note.of_model("x" * 5000, "plan failed: " + "y" * 5000)) == run_note.LIMIT
    assert run_note.of_model("[acme](http://x)", "running") == r"\[acme\](http://x): running"


def test_text_from_a_repo_makes_no_link_and_no_picture() -> None:
    said = note(record("acme/x", "failed", message="![x](http://tracker.example/p.png) <b> `code` [a](b)"))
    assert said.endswith(r": failed: !\[x\](http://tracker.example/p.png) \<b> \`code\` \[a\](b)")


def test_an_audit_says_which_bundles_did_not_pass() -> None:
    passed = AuditRow(model_id="acme/tiny", version=VERSION, verdict="passed", reason="")
    failed = AuditRow(model_id="acme/broken", version=VERSION, verdict="failed", reason="other bytes")
    one = audit_report.build([passed], run_id="run", now=NOW)
    assert run_note.of_audit(one, page=PAGE) == f"[acme/tiny@{VERSION}]({PAGE}#acme--tiny@{VERSION}): passed"
    both = audit_report.build([passed, failed], run_id="run", now=NOW)
    assert run_note.of_audit(both, page=PAGE).splitlines() == [
        f"[Audit: 1 failed, 1 passed]({PAGE})",
        "",
        f"- acme/broken@{VERSION}: failed: other bytes",
    ]

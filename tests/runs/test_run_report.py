"""The run report and its gate: every model is counted, and one bad model never hides."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from onnx_fleet import formatting, jsonio
from onnx_fleet.bundles import events
from onnx_fleet.entities.sizing import Estimate, StepCost
from onnx_fleet.runs import run_report
from onnx_fleet.runs.record import Record
from onnx_fleet.store import open_store

NOW = datetime(2026, 11, 21, 23, 30, tzinfo=UTC)

PUBLISHED = Record(
    model_id="acme/tiny",
    state="published",
    version="3f2a1c00-abababab",
    worst_abs_diff=2.4e-6,
    latency_ms_p50=5.014,
    latency_ms_p95=6.5,
    size_bytes=90_900_000,
    location="s3://fleet/models/acme/tiny/3f2a1c00-abababab",
)
UNCHANGED = Record(model_id="acme/same", state="unchanged", version="11111111-22222222")
REFUSED = Record(
    model_id="acme/closed",
    state="refused",
    step="resolve",
    error="LicenceRefused",
    message="acme/closed: licence 'other' is not in allowed_licences",
)
FAILED = Record(
    model_id="acme/wrong",
    state="failed",
    step="validate",
    error="ValidationFailed",
    message="logits | differ\nby <b>0.3</b>",
    worst_abs_diff=0.3,
    gpu="not validated on GPU: no GPU worker",
)
HELD = Record(
    model_id="acme/slow",
    state="held",
    version="33333333-44444444",
    message="acme/slow@33333333-44444444 is published, but latest does not point to it",
    compared_with="11111111-22222222",
    findings=("latency: 2.00 times; 1.25 | may be",),
)
WAITING = Record(model_id="acme/later", state="waiting", version="55555555-66666666", reason="it waits for its turn")
ALL = (PUBLISHED, UNCHANGED, REFUSED, FAILED, HELD, WAITING)


def built(*records: Record) -> run_report.RunReport:
    return run_report.build(records, run_id="manual__2026-11-21T23:30:00+00:00", now=NOW)


def test_records_are_counted_and_what_went_wrong_comes_first() -> None:
    made = built(*ALL)
    assert made.counts == {"failed": 1, "refused": 1, "held": 1, "waiting": 1, "published": 1, "unchanged": 1}
    assert [record.model_id for record in made.records] == [
        "acme/wrong", "acme/closed", "acme/slow", "acme/later", "acme/tiny", "acme/same",
    ]  # fmt: skip
    assert built(*ALL[::-1]) == made


def test_a_model_that_the_hub_renamed_is_told_with_both_ids() -> None:
    page = run_report.markdown(built(PUBLISHED, replace(UNCHANGED, renamed_from="acme/before")))
    assert "- **acme/before** is **acme/same** now: write the new id into the catalogue" in page
    assert "renamed" not in run_report.markdown(built(PUBLISHED, UNCHANGED))


def test_what_a_model_took_stands_beside_what_was_predicted_and_a_failure_took_less() -> None:
    steps = {"export": StepCost(memory_bytes=700_000_000, disk_bytes=900_000_000, seconds=40.0)}
    predicted = Estimate.of(steps, basis="formula")
    taken: dict[str, Any] = {
        "seconds": {"export": 12.0, "validate": 24.0},
        "memory_bytes": {"export": 600_000_000, "validate": 2_000_000_000},
        "disk_bytes": {"export": 880_000_000, "validate": 880_100_000},
        "predicted": predicted,
    }
    made = built(replace(PUBLISHED, **taken), replace(FAILED, **taken), UNCHANGED)
    cells = ("36 s (40 s predicted)", "2.0 GB (700.0 MB predicted)", "880.1 MB (900.0 MB predicted)", "formula")
    assert f"| acme/tiny | {' | '.join(cells)} |" in run_report.markdown(made)
    assert all(run_report.html(made).count(cell) == 1 for cell in cells[:3])
    assert "predicted" not in run_report.markdown(built(PUBLISHED, UNCHANGED))


def test_times_are_kept_in_utc() -> None:
    local = NOW.astimezone(timezone(timedelta(hours=2)))
    assert run_report.build([], run_id="r", now=local).created_at == "2026-11-21T23:30:00+00:00"


def test_a_report_survives_json() -> None:
    made = built(*ALL)
    assert jsonio.parse(run_report.RunReport, jsonio.canonical(jsonio.to_json(made))) == made


@pytest.mark.parametrize(
    ("records", "max_failed", "max_refused", "passed", "reason"),
    [
        ((), 0, None, True, "0 models: no models"),
        ((PUBLISHED, UNCHANGED), 0, None, True, "2 models: 1 published, 1 unchanged"),
        ((FAILED, PUBLISHED), 0, None, False, "1 model failed (allowed: 0): acme/wrong"),
        ((FAILED, PUBLISHED), 1, None, True, "2 models: 1 failed, 1 published"),
        ((HELD, PUBLISHED), 0, None, False, "1 model held back (allowed: 0): acme/slow"),
        ((HELD, FAILED), 1, None, False, "1 model failed, 1 model held back (allowed: 1): acme/wrong, acme/slow"),
        ((HELD, FAILED), 2, None, True, "2 models: 1 failed, 1 held"),
        ((REFUSED,), 0, None, True, "1 model: 1 refused"),
        ((REFUSED,), 0, 0, False, "1 model refused (allowed: 0): acme/closed"),
        (
            (REFUSED, FAILED),
            0,
            0,
            False,
            "1 model failed (allowed: 0): acme/wrong; 1 model refused (allowed: 0): acme/closed",
        ),
    ],
)
def test_the_gate_goes_by_policy(
    records: tuple[Record, ...], max_failed: int, max_refused: int | None, passed: bool, reason: str
) -> None:
    verdict = run_report.gate(built(*records), max_failed=max_failed, max_refused=max_refused)
    assert (verdict.passed, verdict.reason) == (passed, reason)


def test_the_gate_names_ten_models_and_counts_the_rest() -> None:
    many = [Record(model_id=f"acme/m{number:02}", state="failed") for number in range(12)]
    reason = run_report.gate(built(*many)).reason
    assert reason.startswith("12 models failed (allowed: 0): acme/m00, ")
    assert reason.endswith("acme/m09 and 2 more")


def test_the_page_has_one_row_a_model_and_each_failure_in_full() -> None:
    page = run_report.markdown(built(*ALL))
    assert page.startswith("# Run manual__2026-11-21T23:30:00+00:00\n\n2026-11-21T23:30:00+00:00: 1 failed, 1 refused,")
    assert (
        "- **acme/slow**, 33333333-44444444 compared with 11111111-22222222: latency: 2.00 times; 1.25 \\| may be"
        in page
    )
    assert "- **acme/slow**: acme/slow@33333333-44444444 is published, but latest does not point to it" in page
    assert (
        "| acme/tiny | published | 3f2a1c00-abababab | 2.4e-06 | 5.01 | 6.50 | 90.9 MB | – "
        "| s3://fleet/models/acme/tiny/3f2a1c00-abababab |"
    ) in page
    assert "| acme/wrong | failed at validate | – | 3.0e-01 |" in page
    assert "not validated on GPU: no GPU worker" in page
    assert "- **acme/closed**: refused at resolve: `LicenceRefused` acme/closed: licence 'other' is not" in page


def test_text_from_outside_cannot_break_the_table_or_bring_html() -> None:
    page = run_report.markdown(built(FAILED, Record(model_id="a/b", state="published", location="x|y\n| <script>")))
    assert "logits \\| differ by &lt;b>0.3&lt;/b>" in page
    assert "| x\\|y \\| &lt;script> |" in page


def test_the_page_for_a_browser_says_first_what_went_wrong_why_and_where_to_look() -> None:
    kept = {"reports/manual__2026-11-21T23_30_00_00_00/acme--wrong/validation.svg"}
    page = run_report.html(built(*ALL), kept=kept)
    assert page.index('id="acme--wrong"') < page.index('id="acme--closed"') < page.index('id="acme--slow"')
    assert page.index('id="acme--slow"') < page.index("<table>")
    assert "failed at validate ValidationFailed" in page
    assert 'href="manual__2026-11-21T23_30_00_00_00/acme--wrong/validation.svg"' in page
    assert page.count("href=") == 1, "nothing else is there to be looked at"
    assert "acme/tiny" in page
    assert 'href="../models/acme/tiny/3f2a1c00-abababab/manifest.json"' in run_report.html(built(PUBLISHED))


def test_the_page_for_a_browser_runs_and_loads_nothing_whatever_a_record_says() -> None:
    hostile = "<script src=//x.example/a.js></script><img src=x onerror=alert(1)>\"' onmouseover='alert(2)"
    page = run_report.html(
        built(
            Record(model_id=hostile, state="failed", step=hostile, error=hostile, message=hostile, findings=(hostile,)),
            Record(model_id="a/b", state="published", version=hostile, location=hostile),
        )
    )
    found = Elements(page)
    assert found.names <= {
        "html", "meta", "title", "style", "h1", "h2", "h3", "p", "section", "span", "a",
        "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert found.attributes <= {"lang", "charset", "name", "content", "class", "id", "data-column", "href"}
    assert "url(" not in page
    assert "@import" not in page


def test_a_table_for_a_browser_breaks_an_address_and_no_state_and_no_version() -> None:
    page = run_report.html(built(PUBLISHED))
    assert f'<td data-column="version"><span>{PUBLISHED.version}</span>' in page
    assert '<td data-column="state"><span>published</span>' in page
    assert f'<td class="long" data-column="where"><span>{PUBLISHED.location}</span>' in page


def test_a_report_says_how_many_proofs_and_latencies_are_another_models() -> None:
    other = "acme/tiny@3f2a1c00-abababab"
    own, theirs = PUBLISHED, replace(PUBLISHED, model_id="acme/fine-tune", latency_from=other, proof_from=other)
    report = built(own, theirs, FAILED)
    for said in (
        "The latencies of 1 of 2 models were measured on such another model's graphs",
        "The proofs of 1 of 2 models rest on the whole proof of another model's graphs",
    ):
        assert said in run_report.markdown(report)
        assert said in unescape(run_report.html(report))
    assert "another model" not in run_report.html(built(own))


class Elements(HTMLParser):
    """The names of the elements of a page, and of their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes.update(name for name, _ in attrs)


def test_a_run_without_models_says_so() -> None:
    assert "No model was asked for." in run_report.markdown(built())


def test_a_report_lies_in_the_store_as_json_and_pages_and_a_rerun_takes_its_place(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    place = run_report.write(built(FAILED), store=store)
    assert place == "reports/manual__2026-11-21T23_30_00_00_00.json"
    assert run_report.write(built(PUBLISHED), store=store) == place
    kept = jsonio.parse(run_report.RunReport, store.read(place))
    assert kept == built(PUBLISHED)
    assert store.read(place.removesuffix(".json") + ".md").decode() == run_report.markdown(kept)
    assert store.read(place.removesuffix(".json") + ".html").decode() == run_report.html(kept)


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "a/b", "", "..", "наш run"])
def test_no_run_id_leaves_the_reports_folder(run_id: str) -> None:
    place = run_report.key(run_id)
    assert place.startswith("reports/")
    assert place.count("/") == 1
    assert "/." not in place


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(None, "–"), (0, "0 B"), (999, "999 B"), (999_960, "1.0 MB"), (1000, "1.0 kB"), (90_900_000, "90.9 MB"),
     (5 * 10**15, "5.0 PB")],
)  # fmt: skip
def test_sizes_read_well(size_bytes: int | None, text: str) -> None:
    assert formatting.human_bytes(size_bytes) == text


def test_a_model_that_failed_is_told_once_by_the_run_that_could_not_make_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    for _attempt in range(2):
        run_report.write(built(FAILED, REFUSED, PUBLISHED), store=store)
    [(_, told)] = events.since(store)
    assert told.by
    assert (told.kind, told.model_id, told.by.name) == ("failed", FAILED.model_id, built().run_id)
    assert told.why == f"failed at {FAILED.step}: {FAILED.error} {FAILED.message}"

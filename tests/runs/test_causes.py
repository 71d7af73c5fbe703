"""What went wrong in a run: a failure that models share is told once."""

from __future__ import annotations

from datetime import UTC, datetime

from onnx_fleet.runs import causes, run_report
from onnx_fleet.runs.record import Record

NOW = datetime(2026, 11, 28, tzinfo=UTC)


def _failed(model_id: str, message: str, *, version: str = "0a1b2c3d-11111111") -> Record:
    return Record(
        model_id=model_id,
        version=version,
        state="failed",
        step="export",
        error="ExportUnsupported",
        message=message,
    )


def test_forty_models_with_one_cause_are_one_line_with_forty_names() -> None:
    names = [f"acme/model-{number}" for number in range(40)]
    records = [
        _failed(
            name, f"{name}@0a1b2c3d: planned with torch 2.13.0 (here 2.14.1); see {name}", version=f"{n:08x}-{n:08x}"
        )
        for n, name in enumerate(names)
    ]
    other = _failed("acme/other", "acme/other@0a1b2c3d: no such operator")
    report = run_report.build([*records, other], run_id="r", now=NOW)
    lines = run_report.troubles(report)
    assert len(lines) == 2
    (shared,) = [line for line in lines if "acme/model-7" in line]
    assert all(name in shared for name in names)
    assert shared.startswith("40 models (")
    assert "org/name: planned with torch 2.13.0 (here 2.14.1); see org/name" in shared
    assert "acme/other: failed at export: `ExportUnsupported` acme/other@0a1b2c3d: no such operator" in lines
    assert run_report.markdown(report).count("planned with torch") == 1
    assert run_report.html(report).count("planned with torch") == 1
    assert all(name in run_report.html(report) for name in names)


def test_causes_that_differ_in_more_than_the_models_name_are_told_apart() -> None:
    records = (
        _failed("acme/a", "acme/a: 5 bytes too many"),
        _failed("acme/b", "acme/b: 6 bytes too many"),
        _failed("acme/bb", "acme/b: is another model's name here"),
        Record(model_id="acme/c", state="held", step="publish", message="acme/c: 5 bytes too many"),
    )
    assert [len(cause.records) for cause in causes.of(records)] == [1, 1, 1, 1]
    assert causes.of(records)[0].message == "acme/a: 5 bytes too many", "a model alone keeps its own words"


def test_models_without_a_message_are_no_trouble() -> None:
    assert causes.of([Record(model_id="acme/a", state="published")]) == ()

"""Notes are written amid the scheduler's transaction: they commit nothing, break nothing, and spare others."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from fixtures.airflow import AirflowHome
from onnx_fleet.runs import run_note

pytestmark = pytest.mark.airflow

CASES: dict[str, dict[str, Any]] = {
    "begun": {"ended": False},
    "left by report": {"left": {"report": "[acme/tiny](page): published"}},
    "the newest counts": {"left": {"report": "[acme/tiny](page): failed", "plan": "plan failed: HubUnavailable"}},
    "nothing left": {},
    "without a model": {"dag_id": "fleet_reexport", "conf": {"force": True}},
    "of a fleet": {"dag_id": "fleet_reexport", "conf": {"force": True}, "left": {"report": "[3 models](page)"}},
    "written by a person": {"by_a_person": "for the release", "left": {"report": "[acme/tiny](page): published"}},
    "refused by the database": {"left": {"report": "[acme/tiny](page): published"}, "without_table": True},
    "too long": {"left": {"report": "[acme/tiny](page): " + "x" * 5000}},
    "no text for a database": {"left": {"report": "[acme/tiny](page): \0zero \ud800half"}},
    "odd conf": {"dag_id": "fleet_reexport", "conf": {"model": ["acme/tiny"]}},
}


@pytest.fixture(scope="module")
def found(airflow_home: AirflowHome, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = AirflowHome(tmp_path_factory.mktemp("noted"))
    shutil.copy(airflow_home.folder / "airflow.db", home.folder)
    return home.python("fixtures.noted_runs", json.dumps(CASES), options={})


@pytest.mark.parametrize(
    ("case", "note"),
    [
        ("begun", "acme/tiny: running"),
        ("left by report", "[acme/tiny](page): published"),
        ("the newest counts", "acme/tiny: plan failed: HubUnavailable"),
        ("nothing left", "acme/tiny: failed; no task reported why: read the log of the one that failed"),
        ("without a model", None),
        ("of a fleet", "[3 models](page)"),
        ("written by a person", "for the release"),
        ("no text for a database", "[acme/tiny](page): zero ?half"),
        ("odd conf", None),
    ],
)
def test_a_run_has_the_note_that_is_right_for_it(found: dict[str, Any], case: str, note: str | None) -> None:
    assert found[case]["note"] == note


def test_a_note_is_cut_to_what_a_database_takes(found: dict[str, Any]) -> None:
    assert len(found["too long"]["note"]) == run_note.LIMIT


def test_a_run_ends_whatever_becomes_of_its_note(found: dict[str, Any]) -> None:
    assert {case: found[case]["state"] for case in CASES} == {
        case: "failed" if case != "begun" else "running" for case in CASES
    }
    assert found["refused by the database"]["note"] == "acme/tiny: running"
    assert "run refused_by_the_database of model_reexport has no note" in found["log"]
    assert "UNEXPECTED COMMIT" not in found["log"]

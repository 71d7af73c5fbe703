"""Alerts: what a notifier is told when Airflow says that a run failed or is late, and how a wrong one is reported."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from fixtures.airflow import DAGS, ROOT, AirflowHome

pytestmark = pytest.mark.airflow

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
NOTIFIER = "AIRFLOW__ONNX_FLEET__ALERT_NOTIFIER"
OPTIONS = "AIRFLOW__ONNX_FLEET__ALERT_OPTIONS"


def test_a_notifier_is_told_the_causes_and_where_to_look(airflow_home: AirflowHome, tmp_path: Path) -> None:
    home = AirflowHome(tmp_path)
    shutil.copy(airflow_home.folder / "airflow.db", home.folder)
    options = {
        NOTIFIER: "fixtures.file_notifier.FileNotifier",
        OPTIONS: json.dumps({"text": "{{ alert }}", "path": str(tmp_path / "told.txt")}),
        "AIRFLOW__ONNX_FLEET__DEADLINE_MINUTES": "90",
        "AIRFLOW__ONNX_FLEET__SHARDS": "1",
        "AIRFLOW__API__BASE_URL": "https://airflow.example.com/here/",
    }
    found: dict[str, Any] = home.python("fixtures.alerted_runs", str(tmp_path / "told.txt"), options=options)
    assert found["failed"].splitlines() == [
        "fleet_reexport: run manual__failing+run failed. [2 models: 1 failed]"
        "(https://airflow.example.com/here/onnx-fleet/store/reports/run.html)",
        "",
        "- acme/a: failed at export: StepCrashed: it died",
        "",
        "https://airflow.example.com/here/dags/fleet_reexport/runs/manual__failing%2Brun",
    ]
    assert found["late"].startswith("fleet_reexport: run manual__late_running is late: it should have ended by 20")
    assert found["late"].endswith("/here/dags/fleet_reexport/runs/manual__late_running")
    assert found["late after it failed"] == "", "one alert of a run is enough"
    assert found["late, in an event loop"].startswith("(in the loop) fleet_reexport: run manual__late_queued is late")


@pytest.mark.parametrize(
    ("notifier", "options", "message"),
    [
        ("airflow.providers.smtp.notifications.smtp.Smtp", "{}", "alert_notifier"),
        ("pathlib.Path", "{}", "alert_notifier: 'pathlib.Path' is no notifier"),
        ("airflow.providers.smtp.notifications.smtp.SmtpNotifier", '{"too": "a@b"}', "alert_options do not fit"),
        ("airflow.providers.smtp.notifications.smtp.SmtpNotifier", "to: a@b", "alert_options is not JSON"),
    ],
)
def test_a_notifier_that_cannot_be_made_is_an_import_error_that_says_so(
    airflow_home: AirflowHome, notifier: str, options: str, message: str
) -> None:
    file = str(DAGS / "registry_feed.py")
    found = airflow_home.ask("fixtures.dag_facts", {"folder": file}, options={NOTIFIER: notifier, OPTIONS: options})
    assert found["dags"] == {}
    assert message in found["errors"]["registry_feed.py"]


def test_the_examples_of_the_page_for_operators_are_notifiers(airflow_home: AirflowHome) -> None:
    examples = re.findall(r"alert_notifier = (\S+)\nalert_options = (\{.+\})\n", OPERATIONS)
    assert examples
    for notifier, options in examples:
        assert "{{ alert" in options
        set_to = {NOTIFIER: notifier, OPTIONS: options}
        found = airflow_home.ask("fixtures.dag_facts", {"folder": str(DAGS / "registry_feed.py")}, options=set_to)
        assert found["errors"] == {}

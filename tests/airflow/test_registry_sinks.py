"""The DAG registry_sinks: a task for each sink, which fails by itself, and goes on in the next run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fixtures.airflow import DAGS, AirflowHome, RunEnd
from fixtures.fleet_options import in_folder
from fixtures.told_events import published
from fixtures.webhook_receiver import KEY, Receiver
from onnx_fleet.store import open_store

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]


def states(end: RunEnd) -> dict[str | None, str | None]:
    return {task.label: task.state for task in end.tasks if task.task_id == "deliver"}


def test_a_sink_that_fails_is_red_alone_and_gets_its_events_in_the_next_run(
    tmp_path: Path, airflow_home: AirflowHome
) -> None:
    published(tmp_path, open_store(str(tmp_path / "store")))
    keys = {"right": KEY, "wrong": "whsec_YW5vdGhlciBrZXkgb2YgYSB3ZWJob29r"}

    def options(of_second: str) -> dict[str, str]:
        return {
            **in_folder(tmp_path, hub="http://127.0.0.1:9"),
            "AIRFLOW__ONNX_FLEET__SINKS": str(tmp_path / "sinks.yaml"),
            "AIRFLOW_CONN_FIRST_KEY": json.dumps({"conn_type": "generic", "password": KEY}),
            "AIRFLOW_CONN_SECOND_KEY": json.dumps({"conn_type": "generic", "password": keys[of_second]}),
        }

    with Receiver() as first, Receiver() as second:
        sinks = [
            {"name": name, "kind": "webhook", "url": receiver.url, "secret": f"{name}_key"}
            for name, receiver in (("first", first), ("second", second))
        ]
        (tmp_path / "sinks.yaml").write_text(json.dumps({"sinks": sinks}))
        red = airflow_home.run("registry_sinks", {}, options=options("wrong"))
        assert (red.state, states(red)) == ("failed", {"first": "success", "second": "failed"})
        assert "HTTP 401" in red.log
        assert (len(first.taken), len(second.taken)) == (1, 0)
        green = airflow_home.run("registry_sinks", {}, options=options("right"))
        assert (green.state, states(green)) == ("success", {"first": "success", "second": "success"})
        assert (len(first.taken), len(second.taken)) == (1, 1)
        again = {"names": ["second"], "replay_since": "2026-01-01T00:00:00+00:00"}
        replayed = airflow_home.run("registry_sinks", again, options=options("right"))
        assert states(replayed) == {"second": "success"}
        assert (len(first.taken), len(second.taken)) == (1, 2)
    assert not any(key in end.log for key in keys.values() for end in (red, green, replayed))


@pytest.mark.parametrize(
    ("options", "schedule"),
    [
        ({}, "NullTimetable"),
        ({"AIRFLOW__ONNX_FLEET__SINKS": "sinks.yaml"}, "AssetOrTimeSchedule"),
        (
            {"AIRFLOW__ONNX_FLEET__SINKS": "sinks.yaml", "AIRFLOW__ONNX_FLEET__SINKS_SCHEDULE": ""},
            "AssetTriggeredTimetable",
        ),
    ],
    ids=["no sinks", "usual", "after publications alone"],
)
def test_it_runs_after_publications_and_by_the_clock_where_there_are_sinks(
    airflow_home: AirflowHome, options: dict[str, str], schedule: str
) -> None:
    found = airflow_home.ask("fixtures.dag_facts", {"folder": str(DAGS / "registry_sinks.py")}, options=options)
    assert found["errors"] == {}
    assert found["dags"]["registry_sinks"]["schedule"].removesuffix("Schedule") == schedule.removesuffix("Schedule")

"""The DAGs' forms: what Airflow's page is told of each field, and what it sends for one that a person empties.

The page makes ``null`` of every emptied field, whatever its kind, and lets none be emptied whose type has no null. A
field with a line for each item sends the blank lines too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from fixtures.airflow import AirflowHome, RunEnd
from fixtures.fleet_options import in_folder
from fixtures.models import RepoMaker
from onnx_fleet_demo.hub_server import HubServer

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

DAGS = (
    "bundle_audit",
    "bundle_retention",
    "fleet_reexport",
    "hub_watch",
    "licence_approval",
    "model_promote",
    "model_reexport",
    "registry_feed",
    "registry_sinks",
    "rollout_approval",
)
PICKLE = "acme/pickle-only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """An Airflow whose catalogue has one model, which is refused: its runs take seconds."""

    home: AirflowHome
    options: Mapping[str, str]

    def run(self, dag_id: str, **conf: object) -> RunEnd:
        return self.home.run(dag_id, {**required(dag_id), **conf}, options=self.options)

    def web(self, *requests: Mapping[str, object]) -> list[dict[str, Any]]:
        found = self.home.ask("fixtures.airflow_web", {"requests": list(requests)}, options=self.options)
        answers: list[dict[str, Any]] = found["answers"]
        return answers

    def fields(self, dag_id: str) -> dict[str, dict[str, Any]]:
        """What Airflow's page makes a DAG's form of."""
        [answer] = self.web({"method": "GET", "path": f"/api/v2/dags/{dag_id}/details"})
        params: dict[str, dict[str, Any]] = json.loads(answer["text"])["params"]
        return params


def required(dag_id: str) -> dict[str, str]:
    return {"model_reexport": {"model": PICKLE}, "rollout_approval": {"rollout": "nobody"}}.get(dag_id, {})


def optional(field: Mapping[str, Any]) -> bool:
    """The page lets a field be emptied where null is among its types."""
    return "null" in field["schema"]["type"]


@pytest.fixture(scope="module")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, airflow_home: AirflowHome, small_repo: Path
) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("forms")
    (folder / "hub").mkdir()
    RepoMaker(folder / "hub", small_repo).pickle_only(PICKLE)
    (folder / "catalogue.yaml").write_text(f"models: [{PICKLE}]\n")
    with HubServer(folder / "hub") as hub:
        options = {
            **in_folder(folder, hub=hub.url),
            "AIRFLOW__ONNX_FLEET__CATALOGUE": str(folder / "catalogue.yaml"),
            "AIRFLOW__ONNX_FLEET__RETRIES": "0",
        }
        yield Deployment(home=airflow_home, options=options)


@pytest.mark.parametrize("dag_id", DAGS)
def test_every_field_has_a_title_and_help_and_none_says_null(deployment: Deployment, dag_id: str) -> None:
    for name, field in deployment.fields(dag_id).items():
        schema = field["schema"]
        assert schema.get("title"), name
        assert field["description"].endswith("."), name
        assert "null" not in field["description"], name
        assert ("Empty" in field["description"]) == optional(field), f"{name}: what does an emptied field mean?"
        if None in schema.get("enum", ()):
            assert schema["values_display"]["null"] not in ("", "null"), name
        assert "pattern" not in schema, f"{name}: a wrong value would be answered with a regular expression"


@pytest.mark.parametrize("dag_id", DAGS)
def test_airflow_takes_what_its_page_sends_for_each_emptied_field(deployment: Deployment, dag_id: str) -> None:
    path = f"/api/v2/dags/{dag_id}/dagRuns"
    fields = deployment.fields(dag_id)
    for name, field in fields.items():
        conf = {**required(dag_id), name: None}
        [answer] = deployment.web({"method": "POST", "path": path, "json": {"logical_date": None, "conf": conf}})
        assert answer["status"] == (200 if optional(field) else 400), (name, answer["text"])
    assert {name for name, field in fields.items() if optional(field)} == {
        "bundle_audit": {"only", "sample", "seed", "catalogue", "max_not_compared"},
        "bundle_retention": {"only", "keep_last", "history_days", "grace_days"},
        "fleet_reexport": {"only", "since", "retry_failed", "max_refused"},
        "hub_watch": set(),
        "licence_approval": set(),
        "model_promote": {"model", "only", "catalogue"},
        "model_reexport": {"task", "recipe", "latency"},
        "registry_feed": set(),
        "registry_sinks": {"names", "replay_since"},
        "rollout_approval": set(),
    }[dag_id]


@pytest.mark.parametrize("dag_id", [name for name in DAGS if name != "rollout_approval"])
def test_a_run_begins_however_many_fields_were_emptied(deployment: Deployment, dag_id: str) -> None:
    emptied = {name: None for name, field in deployment.fields(dag_id).items() if optional(field)}
    end = deployment.run(dag_id, **emptied)
    firsts = {
        "bundle_audit": "choose",
        "bundle_retention": "collect",
        "hub_watch": "poll",
        "licence_approval": "describe",
        "model_promote": "describe",
        "registry_feed": "rebuild",
        "registry_sinks": "choose",
    }
    asks_nobody = dag_id in ("licence_approval", "model_promote")
    assert end.states(firsts.get(dag_id, "plan")) == ["skipped" if asks_nobody else "success"], end.log
    assert end.state == ("failed" if dag_id == "model_reexport" else "success"), "one model that is refused is red"


def test_from_a_red_run_it_is_one_click_to_the_reason(deployment: Deployment) -> None:
    end = deployment.run("model_reexport")
    page = f"onnx-fleet/store/reports/model_reexport__{end.run_id.replace(':', '_').replace('+', '_')}.html"
    assert end.note
    assert end.note.startswith(f"[{PICKLE}]({page}#acme--pickle-only): refused at resolve: UnsafeModel: {PICKLE}")
    links = {task.task_id: task.links for task in end.tasks if task.task_id in ("report", "gate")}
    assert links == {"report": {"Report": page}, "gate": {"Report": page}}
    shown, through_the_api = deployment.web(
        {"method": "GET", "path": f"/{page}"},
        {
            "method": "GET",
            "path": f"/api/v2/dags/model_reexport/dagRuns/{quote(end.run_id)}/taskInstances/gate/links",
        },
    )
    assert json.loads(through_the_api["text"])["extra_links"] == {"Report": page}
    assert shown["status"] == 200
    assert 'id="acme--pickle-only"' in shown["text"]
    assert "allow_pickle" in shown["text"], "what to do next"


def test_blank_lines_and_spaces_among_patterns_are_no_patterns(deployment: Deployment) -> None:
    assert deployment.run("fleet_reexport", only=["", f"  {PICKLE} ", ""]).state == "success"
    audit = deployment.run("bundle_audit", only=["", " "])
    assert audit.state == "success"
    assert audit.note
    assert audit.note.startswith("[Audit: no bundles](onnx-fleet/store/reports/bundle_audit__")


@pytest.mark.parametrize("dag_id", DAGS)
def test_the_first_task_of_every_dag_refuses_a_name_that_it_does_not_know(deployment: Deployment, dag_id: str) -> None:
    end = deployment.run(dag_id, varients=["fp16"])
    known = {
        "bundle_audit": "; write one of all_versions, ",
        "bundle_retention": "; write one of catalogue, dry_run, ",
        "fleet_reexport": "; write one of allow_unmatched, ",
        "hub_watch": "; write one of catalogue, dry_run",
        "licence_approval": "; write one of catalogue",
        "model_promote": "; write one of catalogue, from, model, only, to",
        "model_reexport": "; did you mean 'variants'?",
        "registry_feed": "; it takes no parameters",
        "registry_sinks": "; write one of names, replay_since",
        "rollout_approval": "; write one of catalogue, rollout",
    }[dag_id]
    assert end.state == "failed"
    assert f"the run's conf says 'varients', which {dag_id} does not know{known}" in end.log
    assert end.note is not None
    assert f"the run's conf says 'varients', which {dag_id} does not know{known}" in end.note
    assert {task.state for task in end.tasks} <= {"failed", "upstream_failed", "skipped"}


def test_a_wrong_id_is_answered_with_words(deployment: Deployment) -> None:
    end = deployment.run("model_reexport", model="https://example.org/BAAI")
    assert end.states("plan") == ["failed"]
    assert end.note
    assert end.note.startswith("https://example.org/BAAI: plan failed: CatalogueInvalid: the run's parameters: ")
    assert not {"^", "$", "]+", "regex"} & set(end.note.split())

"""The DAG licence_approval: who starts it, what a person is asked, and what the answer keeps and starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fixtures.airflow import AirflowHome, RunEnd
from fixtures.fleet_options import in_folder
from fixtures.models import RepoMaker
from onnx_fleet.bundles import licence_answers
from onnx_fleet.store import ObjectStore, open_store
from onnx_fleet_demo.hub_server import HubServer

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """One Airflow, and a catalogue of two models whose licences a person has to approve."""

    home: AirflowHome
    store: ObjectStore
    options: Mapping[str, str]
    catalogue: str

    def runs(self, dag_id: str) -> dict[str, dict[str, Any]]:
        """The runs of a DAG that were started for this catalogue."""
        runs = self.home.ask("fixtures.known_dags", {"dag_id": dag_id}, options=self.options)
        return {name: run for name, run in runs.items() if run["conf"].get("catalogue") == self.catalogue}

    def run(self, dag_id: str) -> RunEnd:
        return self.home.run(dag_id, {"catalogue": self.catalogue}, options=self.options)

    def ask(self, run_id: str) -> None:
        """Trigger a run as a person does by REST."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": {"catalogue": self.catalogue}}
        asked = {"method": "POST", "path": "/api/v2/dags/licence_approval/dagRuns", "json": body}
        answers = self.home.ask("fixtures.airflow_web", {"requests": [asked]}, options=self.options)["answers"]
        assert answers[0]["status"] == 200, answers

    def answer(self, run_id: str, option: str, *, only: list[str] | None = None, reason: str = "") -> RunEnd:
        reply = {"chosen_options": [option], "params_input": {"reason": reason, "only": only}}
        return self.home.begin("licence_approval", run_id, options=self.options, reply=reply)

    def answers(self) -> list[tuple[str, ...]]:
        found = licence_answers.listed(self.store)
        return [(each.model_id, row.licence, row.decision, str(row.by), row.why) for each in found for row in each.rows]


@pytest.fixture
def deployed(tmp_path: Path, airflow_home: AirflowHome, repo_maker: RepoMaker, hub_server: HubServer) -> Deployed:
    repo_maker.with_licence("gemma", repo_id="acme/a")
    repo_maker.with_licence("llama3.1", repo_id="acme/b")
    catalogue = tmp_path / "fleet.yaml"
    catalogue.write_text('defaults: {licences_to_approve: ["*"]}\nmodels: [acme/a, acme/b]\n')
    made = Deployed(
        home=airflow_home,
        store=open_store(str(tmp_path / "store")),
        options=in_folder(tmp_path, hub=hub_server.url),
        catalogue=str(catalogue),
    )
    made.runs("fleet_reexport")
    return made


def test_a_run_that_refuses_licences_starts_the_question_and_what_is_approved_is_run(deployed: Deployed) -> None:
    end = deployed.run("fleet_reexport")
    assert end.state == "success", "what is refused fails no run of the fleet"
    (run_id,) = deployed.runs("licence_approval")
    end = deployed.answer(run_id, "Approve", only=["acme/A"], reason="read\n it")
    assert end.state == "success", end.log
    question = str(end.results["describe"])
    assert "2 models wait for an answer about the licence." in question
    assert "| acme/a | gemma | – |" in question
    assert "| acme/b | llama3.1 | – |" in question
    assert deployed.answers() == [("acme/a", "gemma", "approved", "admin", "read it")]
    assert end.note == "Licences: approved by admin: acme/a; read it"
    started = deployed.runs("fleet_reexport")[f"licence_approval__{run_id}"]
    assert started["conf"] == {"catalogue": deployed.catalogue, "only": ["acme/a"], "allow_unmatched": True}


def test_a_question_may_be_left_open_or_declined_and_is_then_not_asked_again(
    deployed: Deployed, tmp_path: Path
) -> None:
    before = set(deployed.runs("fleet_reexport"))
    run_ids = [f"{tmp_path.name}-{number}" for number in range(3)]
    deployed.ask(run_ids[0])
    end = deployed.answer(run_ids[0], "Leave open")
    assert (end.state, end.states("keep"), end.note) == ("success", ["skipped"], "Licences: left open")
    assert deployed.answers() == []

    deployed.ask(run_ids[1])
    end = deployed.answer(run_ids[1], "Approve", only=["acme/c"])
    assert end.state == "failed"
    assert "'acme/c', which no model of the question matches" in str(end.note)
    assert deployed.answers() == []

    deployed.ask(run_ids[2])
    end = deployed.answer(run_ids[2], "Decline")
    assert (end.state, end.states("keep")) == ("success", ["skipped"])
    assert deployed.answers() == [
        ("acme/a", "gemma", "declined", "admin", "declined in Airflow"),
        ("acme/b", "llama3.1", "declined", "admin", "declined in Airflow"),
    ]
    end = deployed.run("licence_approval")
    assert (end.state, end.states("describe")) == ("success", ["skipped"])
    assert end.note == "Licences: no model waits for an answer"
    assert set(deployed.runs("fleet_reexport")) == before, "nothing was approved"

"""A rollout in Airflow: a wave that is not good asks a person, and the answer starts the run of the next one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fixtures.airflow import AirflowHome, RunEnd
from fixtures.fleet_options import LATENCY, in_folder
from fixtures.models import RepoMaker
from fixtures.planned_models import publish
from onnx_fleet import jsonio
from onnx_fleet.bundles import channels
from onnx_fleet.planning import plan, toolchain
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.runs import rollout, rollout_report
from onnx_fleet.runs.run_report import RunReport
from onnx_fleet.source import resolve
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet.store import ObjectStore, open_store
from onnx_fleet_demo.hub_server import HubServer

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]

SOUND = "acme/sound"
BROKEN = ("acme/broken-1", "acme/broken-2", "acme/broken-3")
CATALOGUE = f"""
defaults:
  latency: {json.dumps(LATENCY)}
  gates: {{policy: "off", breaking: warn}}
canary: {{shares: [25], min_models: 3}}
models: {json.dumps([SOUND, *BROKEN])}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """One Airflow, one Hub, and a store with four models that an older torch made."""

    home: AirflowHome
    store: ObjectStore
    catalogue: Path
    options: Mapping[str, str]
    before: Mapping[str, str]
    """The version of each model in use."""

    def run(self, **conf: object) -> RunEnd:
        return self.home.run("fleet_reexport", {"catalogue": str(self.catalogue), **conf}, options=self.options)

    def begin(self, dag_id: str, run_id: str, **reply: object) -> RunEnd:
        return self.home.begin(dag_id, run_id, options=self.options, reply=reply or None)

    def trigger(self, dag_id: str, run_id: str, conf: Mapping[str, object]) -> None:
        """Trigger a run as a person does by REST."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf)}
        asked = {"method": "POST", "path": f"/api/v2/dags/{dag_id}/dagRuns", "json": body}
        answers = self.home.ask("fixtures.airflow_web", {"requests": [asked]}, options=self.options)["answers"]
        assert answers[0]["status"] == 200, answers

    def runs(self, dag_id: str) -> dict[str, dict[str, Any]]:
        """The runs of a DAG that were started for this catalogue."""
        runs = self.home.ask("fixtures.known_dags", {"dag_id": dag_id}, options=self.options)
        return {name: run for name, run in runs.items() if run["conf"].get("catalogue") == str(self.catalogue)}

    def report(self, end: RunEnd) -> RunReport:
        return jsonio.parse(RunReport, self.store.read(str(end.results["report"])))


@pytest.fixture(scope="module")
def deployed(
    tmp_path_factory: pytest.TempPathFactory, airflow_home: AirflowHome, small_repo: Path
) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("rollout")
    (folder / "hub").mkdir()
    maker = RepoMaker(folder / "hub", small_repo)
    maker.sound(SOUND)
    for name in BROKEN:
        config = folder / "hub" / maker.corrupt_weights(name) / "config.json"
        told = {**json.loads(config.read_bytes()), "architectures": ["BertForTokenClassification"]}
        config.write_text(json.dumps(told))
    (folder / "catalogue.yaml").write_text(CATALOGUE)
    store = open_store(str(folder / "store"))
    older = {**toolchain.versions(), "torch": "2.0.0"}
    with HubServer(folder / "hub") as hub:
        entries = reader.load(folder / "catalogue.yaml").entries
        models, refused = resolve.resolve_all(entries, hub=Hub(HubSettings(endpoint=hub.url)))
        assert not refused
        items = plan.plan(models, store=store, versions=older).items
        for item in items:
            publish(store, item)
        made = Deployed(
            home=airflow_home,
            store=store,
            catalogue=folder / "catalogue.yaml",
            options=in_folder(folder, hub=hub.url),
            before={item.model_id: item.version for item in items},
        )
        made.runs("fleet_reexport")
        yield made


@pytest.fixture(scope="module")
def stopped(deployed: Deployed) -> RunEnd:
    """A run whose wave has a model that is good, and one that is not."""
    return deployed.run()


def test_a_wave_that_is_not_good_goes_back_and_the_others_wait(deployed: Deployed, stopped: RunEnd) -> None:
    assert stopped.state == "failed", stopped.log
    report = deployed.report(stopped)
    assert report.counts == {"failed": 1, "refused": 0, "held": 0, "waiting": 2, "published": 1, "unchanged": 0}
    (found,) = rollout.listed(deployed.store)
    assert (found.state, [len(wave.members) for wave in found.waves]) == ("stopped", [2, 2])
    torch = toolchain.versions()["torch"]
    assert found.changes == {f"toolchain: torch 2.0.0 -> {torch}": 4}
    pointer = channels.read(deployed.store, SOUND, "latest")
    assert (pointer.version, pointer.held) == (deployed.before[SOUND], True)
    assert report.rollout == rollout_report.statement(found)
    assert stopped.note
    assert f"the rollout {found.rollout_id} has stopped at wave 1 of 2" in stopped.note
    page = rollout_report.page_key(found).replace(".json", ".html")
    assert "BertForTokenClassification" in deployed.store.read(page).decode()


def test_a_person_is_asked_once_and_nothing_moves_meanwhile(deployed: Deployed, stopped: RunEnd) -> None:
    (found,) = rollout.listed(deployed.store)
    asked = {found.label_of(1): {"state": "queued", "conf": {**_catalogue(deployed), "rollout": found.rollout_id}}}
    assert deployed.runs("rollout_approval") == asked
    again = deployed.run()
    assert (again.state, deployed.report(again).counts["waiting"]) == ("success", 4)
    assert again.states("start_next") == ["skipped"], "the question is there already"
    assert deployed.runs("rollout_approval") == asked


def test_a_rejection_leaves_everything_as_it_is(deployed: Deployed, stopped: RunEnd) -> None:
    (found,) = rollout.listed(deployed.store)
    end = deployed.begin("rollout_approval", found.label_of(1), chosen_options=["Reject"], params_input={"reason": ""})
    states = {task.task_id: task.state for task in end.tasks}
    assert (end.state, states["ask"], states["go_on"]) == ("success", "success", "skipped"), end.log
    assert rollout.listed(deployed.store) == (found,)


def test_an_approval_lets_it_go_on_with_the_run_of_the_next_wave(deployed: Deployed, stopped: RunEnd) -> None:
    (found,) = rollout.listed(deployed.store)
    before = set(deployed.runs("fleet_reexport"))
    deployed.trigger("rollout_approval", "once-more", _conf(deployed, found.rollout_id))
    reason = {"reason": "the broken ones are known"}
    end = deployed.begin("rollout_approval", "once-more", chosen_options=["Approve"], params_input=reason)
    assert end.state == "success", end.log
    (went_on,) = rollout.listed(deployed.store)
    assert (went_on.state, went_on.current) == ("running", 1)
    (decision,) = went_on.decisions
    assert (decision.what, decision.by, decision.reason) == ("continued", "admin", "the broken ones are known")
    pointer = channels.read(deployed.store, SOUND, "latest")
    assert (pointer.version, pointer.held) == (found.taken_back[SOUND].version, False)
    (started,) = set(deployed.runs("fleet_reexport")) - before
    assert started == found.label_of(2)
    assert deployed.runs("fleet_reexport")[started]["conf"] == {**_catalogue(deployed), "changed": True}

    second = deployed.begin("fleet_reexport", started)
    assert {each.model_id: each.state for each in deployed.report(second).records} == dict.fromkeys(BROKEN, "failed")
    assert set(deployed.runs("rollout_approval")) == {found.label_of(1), "once-more", found.label_of(2)}

    late = deployed.home.run("rollout_approval", _conf(deployed, "nobody"), options=deployed.options)
    assert (late.state, late.states("describe")) == ("failed", ["failed"])
    assert late.note
    assert "has no rollout 'nobody'" in late.note


def _catalogue(deployed: Deployed) -> dict[str, object]:
    return {"catalogue": str(deployed.catalogue)}


def _conf(deployed: Deployed, rollout_id: str) -> dict[str, object]:
    return {**_catalogue(deployed), "rollout": rollout_id}

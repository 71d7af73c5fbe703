"""The DAG model_promote: what a person is asked, and what moves by the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fixtures.airflow import AirflowHome, RunEnd
from fixtures.fleet_options import in_folder
from fixtures.moved import REASON
from fixtures.planned_models import NEXT_COMMIT, NOW, VERSIONS, publish, resolved
from onnx_fleet import jsonio
from onnx_fleet.bundles import channels
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.planning import plan
from onnx_fleet.runs import promotion_report
from onnx_fleet.runs.promotion import Promotion
from onnx_fleet.store import ObjectStore, open_store

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

APPROVED = {"chosen_options": ["Approve"], "params_input": {"reason": "a week without\n complaints"}}
REJECTED = {"chosen_options": ["Reject"], "params_input": {"reason": ""}}
NAMES = ("acme/a", "acme/b", "other/c")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """One Airflow, and a store in which ``latest`` of three models is ahead of ``stable`` of the first."""

    home: AirflowHome
    store: ObjectStore
    options: Mapping[str, str]
    old: str
    new: Mapping[str, str]

    def run(self, **conf: object) -> RunEnd:
        return self.home.run("model_promote", conf, options=self.options)

    def ask(self, run_id: str, **conf: object) -> None:
        """Trigger a run as a person does by REST."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        asked = {"method": "POST", "path": "/api/v2/dags/model_promote/dagRuns", "json": body}
        answers = self.home.ask("fixtures.airflow_web", {"requests": [asked]}, options=self.options)["answers"]
        assert answers[0]["status"] == 200, answers

    def answer(self, run_id: str, reply: Mapping[str, object]) -> RunEnd:
        return self.home.begin("model_promote", run_id, options=self.options, reply=reply)

    def stable(self) -> dict[str, str | None]:
        found = {name: channels.find(self.store, name, "stable") for name in NAMES}
        return {name: each.version if each else None for name, each in found.items()}

    def report(self, run_id: str) -> Promotion:
        return jsonio.parse(Promotion, self.store.read(f"reports/model_promote__{run_id}.json"))


@pytest.fixture
def deployed(tmp_path: Path, airflow_home: AirflowHome) -> Deployed:
    store = open_store(str(tmp_path / "store"))
    options = in_folder(tmp_path, hub="http://127.0.0.1:9")
    (before,) = plan.plan([resolved("acme/a")], store=store, versions=VERSIONS).items
    publish(store, before)
    channels.move(store, "acme/a", "stable", before.version, reason=REASON, now=NOW)
    models = [resolved(name, commit=NEXT_COMMIT) for name in NAMES]
    items = plan.plan(models, store=store, versions=VERSIONS).items
    for item in items:
        publish(store, item)
    airflow_home.ask("fixtures.known_dags", {"dag_id": "model_promote"}, options=options)
    return Deployed(
        home=airflow_home,
        store=store,
        options=options,
        old=before.version,
        new={item.model_id: item.version for item in items},
    )


def test_an_approval_moves_the_channels_that_were_shown_and_a_rejection_none(
    deployed: Deployed, tmp_path: Path
) -> None:
    (tmp_path / "fleet.yaml").write_text("models: [acme/a, acme/b, acme/unpublished]\n")
    conf = {"catalogue": str(tmp_path / "fleet.yaml")}
    run_ids = [f"{tmp_path.name}-{word}" for word in ("no", "yes")]
    deployed.ask(run_ids[0], **conf)
    rejected = deployed.answer(run_ids[0], REJECTED)
    states = {task.task_id: task.state for task in rejected.tasks}
    assert (rejected.state, states) == ("success", {"describe": "success", "ask": "success", "promote": "skipped"})
    assert deployed.stable() == {"acme/a": deployed.old, "acme/b": None, "other/c": None}
    assert rejected.note
    assert "latest to stable: 2 to be decided on" in rejected.note

    question = str(rejected.results["describe"])
    row = f"| acme/a | {deployed.old} | {deployed.new['acme/a']} | passed | – → – | 1 B → 1 B |"
    assert "2 models: `stable` would point to the version that `latest` points to." in question
    assert row in question
    assert f"| acme/b | – | {deployed.new['acme/b']} | passed | – → – | – → 1 B |" in question

    deployed.ask(run_ids[1], **conf)
    end = deployed.answer(run_ids[1], APPROVED)
    assert end.state == "success", end.log
    assert deployed.stable() == {**deployed.new, "other/c": None}
    for name in ("acme/a", "acme/b"):
        row_of_history = channels.history(deployed.store, name, "stable").rows[-1]
        assert (row_of_history.kind, row_of_history.by) == ("promoted", Actor(kind="person", name="admin"))
        assert row_of_history.why == "a week without complaints"
    report = deployed.report(run_ids[1])
    assert [each.outcome for each in report.candidates] == ["moved", "moved"]
    page = str(end.results["promote"]).replace(".json", ".html")
    assert "admin approved it: a week without complaints" in deployed.store.read(page).decode()
    assert end.note
    assert end.note.startswith("[latest to stable: 2 moved](onnx-fleet/store/reports/model_promote__")
    assert [task.links for task in end.tasks if task.task_id == "promote"] == [{"Report": f"onnx-fleet/store/{page}"}]


def test_what_moved_after_the_question_stays_and_what_a_killed_attempt_moved_counts(
    deployed: Deployed, tmp_path: Path
) -> None:
    run_id = f"{tmp_path.name}-killed"
    deployed.ask(run_id, only=["acme/*"])
    assert deployed.answer(run_id, APPROVED).state == "success"
    promotion_report.write(_unanswered(deployed.report(run_id)), store=deployed.store)
    channels.move(deployed.store, "acme/a", "stable", deployed.old, reason=REASON, now=NOW)

    end = deployed.home.clear("model_promote", run_id, [("promote", -1)], options=deployed.options)
    assert (end.state, end.states("promote")) == ("failed", ["failed"])
    assert deployed.stable() == {"acme/a": deployed.old, "acme/b": deployed.new["acme/b"], "other/c": None}
    assert [each.outcome for each in deployed.report(run_id).candidates] == ["not moved", "moved"]
    assert end.note
    assert end.note.startswith("[latest to stable: 1 moved, 1 not moved](")
    assert f"- acme/a: it was moved to {deployed.old} after the question was asked" in end.note


def test_where_there_is_nothing_to_promote_nobody_is_asked_and_the_run_says_so(deployed: Deployed) -> None:
    channels.move(deployed.store, "acme/a", "stable", deployed.new["acme/a"], reason=REASON, now=NOW)
    end = deployed.run(model="acme/a")
    assert end.state == "success", end.log
    assert {task.task_id: task.state for task in end.tasks} == dict.fromkeys(("describe", "ask", "promote"), "skipped")
    assert end.note
    assert end.note.startswith("[acme/a](onnx-fleet/store/reports/model_promote__")
    assert end.note.endswith(f"stays: it points to {deployed.new['acme/a']} already")


@pytest.mark.parametrize(
    ("conf", "told"),
    [
        ({"model": "acme/nowhere"}, "acme/nowhere: no version of it is published"),
        ({"model": "acme/a", "only": ["acme/*"]}, "model is one model; leave out only and catalogue, or model"),
        ({"from": "stable"}, "from and to are both 'stable'"),
        ({"to": "No Channel"}, "'No Channel': is not a valid channel name"),
    ],
    ids=["no model", "too much", "one channel", "no channel"],
)
def test_what_cannot_be_meant_is_told_before_anybody_is_asked(
    deployed: Deployed, conf: dict[str, object], told: str
) -> None:
    end = deployed.run(**conf)
    assert (end.state, end.states("describe")) == ("failed", ["failed"])
    assert end.note
    assert told in end.note


def _unanswered(told: Promotion) -> Promotion:
    """The report as it is before the answer: what a killed attempt leaves."""
    candidates = (replace(each, proposal=replace(each.proposal, after=None)) for each in told.candidates)
    return replace(told, candidates=tuple(candidates), reason=None)

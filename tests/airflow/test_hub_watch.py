"""The DAG hub_watch, run by Airflow against a local Hub and a store: what it starts, and what it only says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fixtures import statsd
from fixtures.airflow import AirflowHome, RunEnd
from fixtures.fleet_options import LATENCY, in_folder
from fixtures.models import RepoMaker
from fixtures.statsd import StatsdServer
from onnx_fleet import jsonio
from onnx_fleet.runs.run_report import RunReport
from onnx_fleet.runs.watch_report import WatchReport
from onnx_fleet.store import ObjectStore, layout, open_store
from onnx_fleet_demo.hub_failures import Failure
from onnx_fleet_demo.hub_repos import Settings
from onnx_fleet_demo.hub_server import HubServer

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]

CATALOGUE = f"""
defaults:
  latency: {json.dumps(LATENCY)}
models:
  - repo_id: acme/sound
    opset: 21
  - acme/gated
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A deployment: one Airflow, one Hub, one store, two models, of which one is gated."""

    home: AirflowHome
    hub: HubServer
    store: ObjectStore
    catalogue: Path
    metrics: StatsdServer
    options: Mapping[str, str]

    def counted(self, name: str) -> list[dict[str, str]]:
        """The tags of each value that was sent of a metric."""
        return [dict(sent.tags) for sent in self.metrics.of(name)]

    def poll(self, **conf: object) -> RunEnd:
        return self.home.run("hub_watch", {"catalogue": str(self.catalogue), **conf}, options=self.options)

    def fleet(self) -> dict[str, dict[str, Any]]:
        """The runs of fleet_reexport that were started for this catalogue."""
        runs = self.home.ask("fixtures.known_dags", {"dag_id": "fleet_reexport"}, options=self.options)
        return {name: run for name, run in runs.items() if run["conf"].get("catalogue") == str(self.catalogue)}


@pytest.fixture
def watched(tmp_path: Path, airflow_home: AirflowHome, small_repo: Path) -> Iterator[Watched]:
    (tmp_path / "hub").mkdir()
    maker = RepoMaker(tmp_path / "hub", small_repo)
    maker.sound("acme/sound")
    maker.sound("acme/gated")
    (tmp_path / "catalogue.yaml").write_text(CATALOGUE)
    with HubServer(tmp_path / "hub") as hub, statsd.served() as metrics:
        hub.repos.configure("acme/gated", Settings(gated="manual"))
        made = Watched(
            home=airflow_home,
            hub=hub,
            store=open_store(str(tmp_path / "store")),
            catalogue=tmp_path / "catalogue.yaml",
            metrics=metrics,
            options={
                **metrics.options,
                **in_folder(tmp_path, hub=hub.url),
                "AIRFLOW__ONNX_FLEET__RETRY_DELAY_S": "1",
            },
        )
        made.fleet()
        yield made


def test_a_new_commit_starts_one_run_that_takes_it_by_the_catalogues_entry(watched: Watched) -> None:
    end = watched.poll()
    assert end.state == "success", end.log
    (run_id,) = watched.fleet()
    run = watched.fleet()[run_id]
    assert run["conf"] == {"catalogue": str(watched.catalogue), "only": ["acme/sound"], "allow_unmatched": True}
    assert run["state"] == "queued"
    result = end.results["note"]
    assert result == {
        "found": "2 models: 1 refused, 1 started; 1 requests",
        "counts": {"gone": 0, "refused": 1, "started": 1, "noted": 0},
        "report": result["report"],  # type: ignore[index]
        "started": [run_id],
    }
    report = jsonio.parse(WatchReport, watched.store.read(str(result["report"])))  # type: ignore[index]
    assert {each.model_id: (each.state, each.error) for each in report.findings} == {
        "acme/gated": ("refused", "ModelGated"),
        "acme/sound": ("started", None),
    }
    page = f"onnx-fleet/store/{str(result['report']).removesuffix('.json')}.html"  # type: ignore[index]
    assert end.note
    head, _, gated = end.note.splitlines()
    assert (head, gated.partition(": ")[0]) == (f"[2 models: 1 refused, 1 started; 1 requests]({page})", "- acme/gated")
    [polled] = [task for task in end.tasks if task.task_id == "poll"]
    assert polled.links == {"Report": page}

    made = watched.home.run("fleet_reexport", run["conf"], options=watched.options)
    records = jsonio.parse(RunReport, watched.store.read(str(made.results["report"]))).records
    assert [(record.model_id, record.state) for record in records] == [("acme/sound", "published")]
    manifest = json.loads(watched.store.read(layout.manifest_key("acme/sound", str(records[0].version))))
    assert {graph["opset"] for graph in manifest["graphs"]} == {21}, "as the catalogue's entry says"
    [recorded] = [task for task in made.tasks if task.task_id == "model.record"]
    assert recorded.label == "acme/sound: published"

    steps = watched.metrics.of("onnx_fleet.step.duration")
    assert {sent.tags["step"]: sent.tags["family"] for sent in steps} == dict.fromkeys(
        ("export", "validate", "measure", "compare", "publish"), "encoder"
    )
    for sent in steps:
        assert (sent.kind, sent.value) == ("ms", pytest.approx(1000 * records[0].seconds[sent.tags["step"]], abs=1))
    assert watched.counted("onnx_fleet.exports") == [{"family": "encoder", "traced": "full"}]
    assert watched.counted("onnx_fleet.models") == [{"dag": "fleet_reexport", "state": "published"}]
    assert watched.counted("onnx_fleet.watch.findings") == [{"state": "refused"}, {"state": "started"}]
    sent_bytes = sum(sent.value for sent in watched.metrics.of("onnx_fleet.store.bytes") if sent.tags["way"] == "sent")
    assert sent_bytes >= int(records[0].size_bytes or 0) > 0
    assert watched.counted("onnx_fleet.failures") == []

    again = watched.poll()
    assert (again.state, again.states("start"), again.states("note")) == ("success", ["skipped"], ["success"])
    assert again.note == again.results["note"]["found"] == "2 models: nothing new; 1 requests"  # type: ignore[index]
    assert list(watched.fleet()) == [run_id, made.run_id]


def test_a_start_that_was_lost_is_made_by_the_next_poll_and_one_that_was_made_is_not_made_again(
    watched: Watched,
) -> None:
    first = watched.poll()
    (run_id,) = watched.fleet()
    state = json.loads(watched.store.read(layout.WATCH_KEY))
    assert state["to_start"] == []
    # A poll that was killed before the start, or behind it, leaves such a state.
    models = {"acme/sound": state["begun"]["acme/sound"]}
    lost = {"run_id": "watch__lost", "models": models}
    made = {**lost, "run_id": run_id}
    standing = watched.store.stat(layout.WATCH_KEY)
    assert standing is not None
    left = {**state, "begun": {}, "to_start": [lost, made]}
    watched.store.replace(layout.WATCH_KEY, jsonio.canonical(left), etag=standing.etag)
    second = watched.poll()
    assert (first.state, second.state) == ("success", "success"), second.log
    assert {task.label: task.state for task in second.tasks if task.task_id == "start"} == {
        "watch__lost": "success",
        run_id: "skipped",
    }
    assert list(watched.fleet()) == [run_id, "watch__lost"]
    assert json.loads(watched.store.read(layout.WATCH_KEY))["to_start"] == []


def test_a_dry_run_says_what_there_is_and_leaves_everything_to_the_next_poll(watched: Watched) -> None:
    end = watched.poll(dry_run=True)
    assert (end.state, end.states("start")) == ("success", ["skipped"])
    assert end.results["note"]["counts"]["started"] == 1  # type: ignore[index]
    assert watched.fleet() == {}
    assert watched.store.stat(layout.WATCH_KEY) is None


def test_a_hub_that_cannot_be_asked_is_tried_again_and_a_conf_with_a_typo_is_not(watched: Watched) -> None:
    watched.hub.fail(Failure(kind="rate_limited", retry_after_s=0, retry_header="retry-after", times=6))
    end = watched.poll()
    assert end.state == "success"
    assert [task.tries for task in end.tasks if task.task_id == "poll"] == [2], "the second time the Hub answered"
    assert watched.counted("onnx_fleet.failures") == [{"step": "poll", "error": "HubRateLimited"}]
    wrong = watched.poll(dryrun=True)
    assert (wrong.state, wrong.states("poll"), wrong.states("start")) == ("failed", ["failed"], ["upstream_failed"])
    assert "did you mean 'dry_run'" in wrong.log

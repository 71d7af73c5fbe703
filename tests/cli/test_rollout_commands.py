"""The waves of a rollout on the command line, as a user sees them, and what there is to decide."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fixtures.models import RepoMaker
from fixtures.planned_models import publish
from fixtures.rolled_out import Fleet
from onnx_fleet.cli import app, waves
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import RolloutConflict
from onnx_fleet.planning import plan, toolchain
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.runs import record
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.selection import Selection, scope
from onnx_fleet.source import resolve
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet.store import ObjectStore, open_store
from onnx_fleet_demo.hub_server import HubServer

CATALOGUE = """
defaults:
  latency: {{batch_sizes: [1], sequence_lengths: [8], warmup_runs: 1, timed_runs: 3, threads: 1}}
  gates: {{policy: "off", breaking: warn}}
canary: {{shares: [50], min_models: 2}}
models: {models}
"""


def made_by_an_older_torch(folder: Path, hub: HubServer, models: list[str]) -> str:
    """A catalogue of these models, all of which stand in the store as an older torch made them."""
    path = folder / "fleet.yaml"
    path.write_text(CATALOGUE.format(models=json.dumps(models)))
    found, _ = resolve.resolve_all(reader.load(path).entries, hub=Hub(HubSettings(endpoint=hub.url)))
    store = open_store(str(folder / "store"))
    for item in plan.plan(found, store=store, versions={**toolchain.versions(), "torch": "2.0.0"}).items:
        publish(store, item)
    return str(path)


def command(*words: str) -> Result:
    """Call onnx-fleet in this process: what needs no torch is through in no time."""
    return CliRunner().invoke(app, [*words])


def test_a_run_takes_one_wave_and_with_all_waves_it_goes_on_while_they_are_good(local_store: ObjectStore) -> None:
    fleet = Fleet(store=local_store)
    fleet.publish_all()

    def take(item: WorkItem) -> Record:
        if item.model_id == failing:
            return record.of_failure(item, step="export", error="StepCrashed", message="torch is gone")
        publish(fleet.store, item)
        return Record(model_id=item.model_id, state="published", version=item.version)

    def take_all(items: Sequence[WorkItem]) -> list[Record]:
        return [take(item) for item in items]

    def walked(*, all_waves: bool) -> waves.Walked:
        wanted = scope(fleet.catalogue(), Selection())
        again = partial(waves.divided, fleet.plan(), wanted, store=fleet.store, channel="latest")
        return waves.walk(again(), take_all, others=(), again=again, store=fleet.store, all_waves=all_waves)

    failing = ""
    one = walked(all_waves=False)
    states = Counter(each.state for each in one.records)
    assert (states, one.goes_on) == ({"published": 2, "waiting": 6}, True)
    assert one.rollout
    failing = one.rollout.waves[2].members[0].model_id
    rest = walked(all_waves=True)
    states = Counter(each.state for each in rest.records)
    assert (states, rest.goes_on) == ({"published": 5, "failed": 1}, False)
    assert rest.rollout
    assert (rest.rollout.state, rest.rollout.current) == ("stopped", 2)


def test_a_wave_that_is_not_good_is_shown_and_a_person_decides(
    tmp_path: Path, hub_server: HubServer, repo_maker: RepoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = {"HF_HOME": str(tmp_path / "hf"), "ONNX_FLEET_STORE": str(tmp_path / "store"), "HF_ENDPOINT": hub_server.url}
    for name, value in {**home, "COLUMNS": "300"}.items():
        monkeypatch.setenv(name, value)
    models = [repo_maker.corrupt_weights("acme/a"), repo_maker.corrupt_weights("acme/b")]
    fleet = made_by_an_older_torch(tmp_path, hub_server, models)
    planned = json.loads(command("plan", "--catalogue", fleet, "--json").stdout)
    (first,), (second,) = planned["items"], planned["waiting"]
    assert ({first["model"]["repo_id"], second["model_id"]}, second["state"]) == ({*models}, "waiting")
    done = subprocess.run(
        [Path(sys.executable).with_name("onnx-fleet"), "run", "--catalogue", fleet, "--all-waves"],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    (found,) = json.loads(command("rollout", "list", "--json").stdout)
    rollout_id = found["rollout_id"]
    assert f"the rollout {rollout_id} has stopped at wave 1 of 2: 1 of 1 models" in done.stderr
    assert f"`onnx-fleet rollout continue {rollout_id} --reason WHY`" in done.stderr

    listed = command("rollout", "list").stdout
    assert "stopped" in listed
    assert "torch 2.0.0 -> " in listed
    page = command("rollout", "show", rollout_id).stdout
    assert "failed at export ModelInvalid" in page
    assert "| BertForSequenceClassification | 1 | 0 | 1 | 0 | 0 |" in page
    waits = json.loads(command("plan", "--catalogue", fleet, "--json").stdout)["waiting"]
    assert [(each["model_id"], each["state"]) for each in waits] == [(name, "waiting") for name in models]
    assert command("plan", "--catalogue", fleet).stdout.count(" waiting ") == len(models)

    assert command("rollout", "continue", rollout_id).exit_code == 2, "it takes a reason"
    went_on = command("rollout", "continue", rollout_id, "--reason", "it is known", "--by", "ada", "--json")
    assert json.loads(went_on.stdout)["decisions"][0]["by"] == "ada"
    again = command("rollout", "continue", rollout_id, "--reason", "it is known")
    assert isinstance(again.exception, RolloutConflict)
    assert command("rollout", "stop", rollout_id, "--reason", "not today").exit_code == 0
    assert "stopped it: not today" in command("rollout", "show", rollout_id).stdout

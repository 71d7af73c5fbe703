"""The options that choose among a catalogue's models, and what the Hub has changed, as a user asks for it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fixtures.models import RepoMaker
from onnx_fleet.cli import app
from onnx_fleet.runs import run_report
from onnx_fleet.runs.record import Record
from onnx_fleet.store import layout, open_store
from onnx_fleet_demo.hub_repos import Settings
from onnx_fleet_demo.hub_server import HubServer

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path, hub_server: HubServer, repo_maker: RepoMaker) -> Command:
    """Run onnx-fleet on a catalogue of two models, with a store in a folder."""
    (tmp_path / "store").mkdir()
    (tmp_path / "fleet.yaml").write_text(
        f"models:\n  - {repo_maker.sound('acme/a')}\n  - {repo_maker.sound('acme/b')}\n"
    )
    known = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HF_", "ONNX_FLEET_"))}
    home = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "ONNX_FLEET_STORE": str(tmp_path / "store")}

    def run(name: str, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).with_name("onnx-fleet"), name, "--catalogue", tmp_path / "fleet.yaml", *options],
            env={**known, **home, "HF_ENDPOINT": hub_server.url, "COLUMNS": "200", **settings},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def states(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The state of each model of a plan."""
    assert done.returncode == 0, done.stderr
    return {item["model"]["repo_id"]: item["state"] for item in json.loads(done.stdout)["items"]}


def test_a_plan_leaves_out_what_is_not_asked_for(command: Command, tmp_path: Path, hub_server: HubServer) -> None:
    def plan(*options: str) -> dict[str, str]:
        return states(command("plan", *options, "--json"))

    store = open_store(str(tmp_path / "store"))
    (first, _) = json.loads(command("plan", "--json").stdout)["items"]
    store.create(layout.manifest_key("acme/a", first["version"]), b"{}")
    assert plan() == {"acme/a": "unchanged", "acme/b": "new"}
    assert plan("--changed") == {"acme/b": "new"}
    hub_server.repos.configure("acme/a", Settings(last_modified="2026-11-20T10:00:00.000Z"))
    assert plan("--since", "2026-11-20") == {"acme/a": "unchanged"}
    assert plan("--since", "2026-11-20", "--changed") == {}
    records = [Record(model_id="acme/a", state="published"), Record(model_id="acme/b", state="failed")]
    run_report.write(run_report.build(records, run_id="cli__x", now=datetime.now(UTC)), store=store)
    assert plan("--retry-failed", "cli__x") == {"acme/b": "new"}
    assert plan("--only", "*/a", "--retry-failed", "cli__x") == {}


def test_a_plan_says_what_its_models_take(command: Command) -> None:
    told = json.loads(command("plan", "--json").stdout)
    estimates = [item["estimate"] for item in told["items"]]
    assert {name for each in estimates for name in each["steps"]} == {
        "export",
        "validate",
        "measure",
        "compare",
        "publish",
    }
    assert told["total"]["seconds"] == pytest.approx(sum(each["seconds"] for each in estimates), abs=0.1)
    shown = command("plan").stdout
    assert shown.splitlines()[0].split()[:6] == ["model", "state", "version", "memory", "disk", "time"]
    assert re.search(r"predicted for 2 models, one after the other: about \d+ (s|min), \d+\.\d MB of memory", shown)


def test_a_model_that_this_machine_cannot_hold_is_refused_before_its_weights_are_downloaded(
    command: Command, hub_server: HubServer
) -> None:
    hub_server.log.clear()
    done = command("run", "--json", ONNX_FLEET_WORKER_MEMORY_BYTES="1000000")
    assert done.returncode == 0, done.stderr
    records = json.loads(done.stdout)["records"]
    assert [(each["state"], each["step"], each["error"]) for each in records] == [
        ("refused", "plan", "WorkerTooSmall")
    ] * 2
    assert "the largest worker has 1.0 MB" in records[0]["message"]
    assert not [asked.path for asked in hub_server.log.asked if asked.path and "safetensors" in asked.path]


def test_a_run_says_how_to_take_what_failed_in_it_and_takes_that_alone(
    command: Command, tmp_path: Path, repo_maker: RepoMaker
) -> None:
    for name in ("acme/a", "acme/b"):
        (repo_maker.root / name / "config.json").unlink()
    done = command("run")
    assert done.returncode == 1
    run_id = done.stderr.rpartition("--retry-failed ")[2].strip()
    repo_maker.sound("acme/c")
    (tmp_path / "fleet.yaml").write_text("models: [acme/b, acme/c]")
    again = json.loads(command("run", "--retry-failed", run_id, "--json").stdout)
    assert [(record["model_id"], record["state"]) for record in again["records"]] == [("acme/b", "failed")]


def test_options_that_choose_among_a_catalogues_models_are_misuse_with_one_model(command: Command) -> None:
    for options in (["--since", "2026-11-20"], ["--retry-failed", "x"], ["--only", "acme/*"]):
        done = CliRunner().invoke(app, ["plan", "acme/a", *options, "--store", "unused"])
        assert (done.exit_code, "among the models of a catalogue" in done.output) == (2, True), done.output
    assert command("plan", "--since", "yesterday").returncode == 2


def test_what_has_changed_at_the_hub_is_said_and_nothing_is_written(
    command: Command, tmp_path: Path, hub_server: HubServer
) -> None:
    hub_server.repos.configure("acme/b", Settings(gated="auto"))
    done = command("watch")
    assert done.returncode == 0, done.stderr
    assert "2 models: 1 refused, 1 started; 1 requests" in done.stderr
    assert "ModelGated" in done.stdout
    report = json.loads(command("watch", "--json").stdout)
    assert {each["model_id"]: each["state"] for each in report["findings"]} == {
        "acme/a": "started",
        "acme/b": "refused",
    }
    assert list((tmp_path / "store").iterdir()) == []

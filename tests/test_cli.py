"""The command line, run as a user runs it: a process, an exit status, what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from onnx_fleet import __version__
from onnx_fleet_demo.hub_server import HubServer
from onnx_fleet_demo.models import CLASSIFIER

Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]


@pytest.fixture(scope="session")
def command(demo_hub_server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Run onnx-fleet with a local Hub and a store in a folder."""
    home = tmp_path_factory.mktemp("cli")
    (home / "store").mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HF_", "ONNX_FLEET_"))},
        "HF_ENDPOINT": demo_hub_server.url,
        "HF_HOME": str(home / "hf"),
        "ONNX_FLEET_STORE": str(home / "store"),
        "ONNX_FLEET_WORK_DIR": str(home / "work"),
        "COLUMNS": "200",
    }

    def _run(*arguments: str | Path, **changes: str) -> Done:
        return subprocess.run(
            [Path(sys.executable).with_name("onnx-fleet"), *arguments],
            env=environment | changes,
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )

    return _run


@pytest.fixture(scope="session")
def stage_folder(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that went through export, validate and measure."""
    folder = tmp_path_factory.mktemp("made") / "classifier"
    for arguments in (("export", CLASSIFIER, "--out", folder), ("validate", folder), ("measure", folder)):
        done = command(*arguments)
        assert done.returncode == 0, done.stderr
    return folder


def test_the_version_and_every_command_have_help(command: Command) -> None:
    assert command("--version").stdout == f"onnx-fleet {__version__}\n"
    for name in ("plan", "run", "export", "validate", "measure", "publish", "list", "verify", "pull", "inspect",
                 "catalogue"):  # fmt: skip
        assert command(name, "--help").returncode == 0


def test_a_catalogue_without_fault_is_said_to_be_so(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(f"models:\n  - {CLASSIFIER}\n")
    done = command("catalogue", "check", file)

    assert (done.returncode, done.stdout) == (0, f"{file}: 1 models and 0 Hub searches, no fault\n")


def test_every_fault_of_a_catalogue_is_printed_with_its_line(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text("models:\n  - repo_id: acme/one\n    opsett: 20\n  - repo_id: acme/two\n    task: fill-mas\n")
    done = command("catalogue", "check", file)

    assert done.returncode == 1
    assert f"{file}:3:" in done.stderr
    assert f"{file}:5:" in done.stderr
    assert "opset" in done.stderr
    assert "fill-mask" in done.stderr


def test_misuse_is_exit_status_2(command: Command, tmp_path: Path) -> None:
    assert command("run").returncode == 2
    assert command("run", CLASSIFIER, "--catalogue", tmp_path / "x.yaml").returncode == 2
    assert command("plan", "--nonsense").returncode == 2
    (tmp_path / "mine.txt").write_text("not a stage")
    assert command("export", CLASSIFIER, "--out", tmp_path).returncode == 2


def test_a_model_that_the_hub_does_not_have_fails_with_what_to_do(command: Command) -> None:
    done = command("run", "acme/nowhere")
    assert done.returncode == 1
    assert "ModelNotFound" in done.stderr

    as_json = json.loads(command("export", "acme/nowhere", "--out", "x", "--json").stdout)
    assert as_json["error"] == "ModelNotFound"
    assert "acme/nowhere" in as_json["message"]


def test_a_plan_says_why_and_makes_nothing(command: Command, tmp_path: Path) -> None:
    store = tmp_path / "empty"
    store.mkdir()
    plan = json.loads(command("plan", CLASSIFIER, "--store", store, "--json").stdout)

    assert [(item["model"]["repo_id"], item["state"]) for item in plan["items"]] == [(CLASSIFIER, "new")]
    assert list(store.iterdir()) == []


def test_a_profile_says_where_the_time_of_an_export_went(command: Command, tmp_path: Path) -> None:
    folder, empty = tmp_path / "made", tmp_path / "store"
    empty.mkdir()
    done = command("export", CLASSIFIER, "--out", folder, "--store", empty, "--profile", "--json")
    assert done.returncode == 0, done.stderr

    told = json.loads(done.stdout)["profile"]
    assert told == json.loads((folder / ".onnx-fleet" / "profile.json").read_bytes())
    stages = {cost["stage"]: cost for cost in told["stages"]}
    assert {"imports", "plan", "download", "tokenizer", "load", "trace", "decompose", "translate", "optimise",
            "write"} <= set(stages)  # fmt: skip
    assert all(cost["seconds"] >= 0 and cost["peak_memory_bytes"] > 0 for cost in stages.values())
    assert stages["trace"]["peak_memory_bytes"] > 2 * stages["plan"]["peak_memory_bytes"], "torch is in the child alone"

    shown = command("export", CLASSIFIER, "--out", folder, "--store", empty, "--profile").stdout
    assert "where the time went" in shown
    assert "decompose" not in shown, "the second time the graphs come from the cache"


def test_a_runs_profile_is_kept_model_by_model(command: Command, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    settings = {"ONNX_FLEET_STORE": str(tmp_path / "store"), "ONNX_FLEET_WORK_DIR": str(tmp_path / "work")}
    done = command("run", CLASSIFIER, "--profile", "--json", **settings)
    assert done.returncode == 0, done.stderr

    summary = json.loads(done.stdout)
    kept = json.loads((tmp_path / "work" / "profiles" / f"{summary['run_id']}.json").read_bytes())
    assert kept == summary["profile"]
    stages = {cost["stage"]: cost["seconds"] for cost in kept["models"][CLASSIFIER]["stages"]}
    assert {"trace", "validate", "measure", "publish"} <= set(stages)
    whole = {cost["stage"]: cost["seconds"] for cost in kept["whole"]["stages"]}
    assert whole["validate"] == pytest.approx(stages["validate"])


def test_a_graph_that_was_changed_is_caught_and_cannot_be_published(
    command: Command, stage_folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", stage_folder, broken], check=True)
    path = broken / "onnx/model.onnx"
    model = onnx.load(path)
    (bias,) = (each for each in model.graph.initializer if each.name == "classifier.bias")
    values = onnx.numpy_helper.to_array(bias) + 0.01
    bias.CopyFrom(onnx.numpy_helper.from_array(values, "classifier.bias"))
    onnx.save(model, path)

    validated = command("validate", broken)
    assert validated.returncode == 1
    assert "failed" in validated.stdout
    assert "logits" in validated.stderr

    published = command("publish", broken)
    assert published.returncode == 1
    assert "ValidationFailed" in published.stderr


def test_a_made_folder_is_published_listed_verified_and_pulled(
    command: Command, stage_folder: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    published = json.loads(command("publish", stage_folder, "--store", store, "--json").stdout)
    assert published["state"] == "published"
    assert json.loads(command("publish", stage_folder, "--store", store, "--json").stdout)["state"] == "unchanged"

    listed = json.loads(command("list", "--store", store, "--json").stdout)
    assert listed == [
        {
            "model_id": CLASSIFIER,
            "versions": [published["version"]],
            "channels": {"latest": published["version"]},
        }
    ]
    assert command("verify", CLASSIFIER, "--store", store).stdout.startswith("intact")
    assert command("pull", CLASSIFIER, "--to", tmp_path / "pulled", "--store", store).returncode == 0
    assert (tmp_path / "pulled/onnx/model.onnx").read_bytes() == (stage_folder / "onnx/model.onnx").read_bytes()

    again = json.loads(command("run", CLASSIFIER, "--store", store, "--json").stdout)
    assert [record["state"] for record in again["records"]] == ["unchanged"]

    victim = next(store.rglob("model.onnx"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(data)
    verified = command("verify", CLASSIFIER, "--store", store)
    assert verified.returncode == 1
    assert "onnx/model.onnx" in verified.stdout
    pulled = command("pull", CLASSIFIER, "--to", tmp_path / "bad", "--store", store)
    assert pulled.returncode == 1
    assert "BundleCorrupt" in pulled.stderr
    assert not (tmp_path / "bad").exists()


def test_without_any_store_named_the_demos_bucket_is_used(command: Command, tmp_path: Path) -> None:
    done = command("list", ONNX_FLEET_STORE="", ONNX_FLEET_VAR=str(tmp_path / "var"))

    assert done.returncode == 0
    assert done.stderr == "nothing is published in s3://onnx-fleet\n"
    assert not (tmp_path / "var/s3/endpoint.json").exists()

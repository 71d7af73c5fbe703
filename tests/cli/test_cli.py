"""The command line, run as a user runs it: a process, an exit status, what it prints."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner

from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from fixtures.worse_stages import next_version, slower
from onnx_fleet import __version__
from onnx_fleet.bundles import renames
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.cli import app
from onnx_fleet.entities.entry import Gates, LatencyGrid
from onnx_fleet.formatting import human_bytes
from onnx_fleet.runs.steps import STEPS
from onnx_fleet.store import open_store
from onnx_fleet_demo.hub_server import HubServer
from onnx_fleet_demo.models import CLASSIFIER

Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]

GRID = LatencyGrid(batch_sizes=(1,), sequence_lengths=(8,), warmup_runs=3, timed_runs=50, threads=1)
"""The default one takes half a minute of two cores."""
CATALOGUE = f"""
models:
  - repo_id: {CLASSIFIER}
    opset: %d
    latency: {{batch_sizes: [1], sequence_lengths: [8], warmup_runs: 3, timed_runs: 50, threads: 1}}
"""


@pytest.fixture(scope="session")
def environment(demo_hub_server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What onnx-fleet is run with: a local Hub, a store in a folder, and room for wide tables."""
    home = tmp_path_factory.mktemp("cli")
    (home / "store").mkdir()
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HF_", "ONNX_FLEET_"))},
        "HF_ENDPOINT": demo_hub_server.url,
        "HF_HOME": str(home / "hf"),
        "ONNX_FLEET_STORE": str(home / "store"),
        "ONNX_FLEET_WORK_DIR": str(home / "work"),
        "HOME": str(home),
        "COLUMNS": "200",
    }


@pytest.fixture(scope="session")
def command(environment: dict[str, str]) -> Command:
    """Run onnx-fleet."""

    def _run(*arguments: str | Path, **changes: str) -> Done:
        return subprocess.run(
            [Path(sys.executable).with_name("onnx-fleet"), *arguments],
            env=environment | changes,
            cwd=environment["HOME"],
            capture_output=True,
            text=True,
            check=False,
        )

    return _run


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled:
    """A first export into an empty store, and what was told of where its time went."""

    folder: Path
    store: Path
    told: dict[str, Any]


@pytest.fixture(scope="session")
def first_export(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Profiled:
    """Read only."""
    made = tmp_path_factory.mktemp("made")
    folder, store = made / "classifier", made / "store"
    store.mkdir()
    done = command("export", CLASSIFIER, "--out", folder, "--store", store, "--profile", "--json")
    assert done.returncode == 0, done.stderr
    return Profiled(folder=folder, store=store, told=json.loads(done.stdout)["profile"])


@pytest.fixture(scope="session")
def stage_folder(command: Command, first_export: Profiled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that went through export, validate and measure; what those two print at 80 columns is beside it."""
    folder = Path(shutil.copytree(first_export.folder, tmp_path_factory.mktemp("measured") / "classifier"))
    item = Stage.open(folder).item
    Stage.make(folder, replace(item, model=replace(item.model, entry=replace(item.model.entry, latency=GRID))))
    for step in ("validate", "measure"):
        done = command(step, folder, COLUMNS="80")
        assert done.returncode == 0, done.stderr
        folder.with_name(f"{step}.txt").write_text(done.stdout)
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A first run of a catalogue on an empty store, with its profile."""

    store: Path
    work: Path
    summary: dict[str, Any]


@pytest.fixture(scope="session")
def first_run(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Read only."""
    made = tmp_path_factory.mktemp("ran")
    (made / "store").mkdir()
    (made / "catalogue.yaml").write_text(CATALOGUE % 20)
    settings = {"ONNX_FLEET_STORE": str(made / "store"), "ONNX_FLEET_WORK_DIR": str(made / "work")}
    done = command("run", "--catalogue", made / "catalogue.yaml", "--profile", "--json", **settings)
    assert done.returncode == 0, done.stderr
    return Ran(store=made / "store", work=made / "work", summary=json.loads(done.stdout))


def longest_line(text: str) -> int:
    """Return the length of the longest line that could be shorter: a path, which nobody may break, may be longer."""
    return max(len(line.rstrip()) for line in text.splitlines() if " " in line.strip())


def test_what_commands_print_fits_80_columns_and_breaks_no_name(
    command: Command, stage_folder: Path, first_export: Profiled, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    version = json.loads(command("publish", stage_folder, "--store", store, "--json").stdout)["version"]
    outputs = {name: stage_folder.with_name(f"{name}.txt").read_text() for name in ("validate", "measure")}
    again = command("export", CLASSIFIER, "--out", tmp_path / "again", "--store", first_export.store, COLUMNS="80")
    outputs["export"] = again.stdout
    for arguments in (
        ("plan", CLASSIFIER),
        ("run", CLASSIFIER),
        ("list",),
        ("inspect", stage_folder),
        ("audit",),
    ):
        given = () if arguments[0] == "inspect" else ("--store", store)
        done = command(*arguments, *given, COLUMNS="80")
        assert done.returncode == 0, done.stderr
        outputs[arguments[0]] = done.stdout

    assert {name: width for name, text in outputs.items() if (width := longest_line(text)) > 80} == {}
    for name in ("plan", "run", "list", "audit"):
        assert CLASSIFIER in outputs[name]
        assert version in outputs[name], name
    assert f"{store}/models/{CLASSIFIER}/{version}" in outputs["run"]


def test_a_table_gives_up_columns_until_it_fits_and_nothing_is_lost(tmp_path: Path) -> None:
    script = """
from onnx_fleet.cli import terminal
reason = "the weights of this one are of another size than its config.json says, which no loader takes"
terminal.table(
    ("model", "state", "size", "why", "where", "load"),
    [("acme/a-model-with-a-long-name", terminal.state_cell("failed"), "1.2 MB", reason, "s3://models/acme", "12 s")],
    numbers=("size", "load"), prose=("why",), below=("where", "why"), spare=("load",),
)
"""

    def printed(**settings: str) -> tuple[list[str], str]:
        environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | settings
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return [line.rstrip() for line in done.stdout.splitlines()], done.stderr

    in_a_file, _ = printed()
    assert in_a_file[0].split() == ["model", "state", "size", "why", "where", "load"], "a log has no edge"
    wide, said = printed(COLUMNS="95")
    assert wide[0].split() == ["model", "state", "size", "why", "load"]
    assert wide[-2:] == ["acme/a-model-with-a-long-name", "  s3://models/acme"]
    assert said == ""
    narrow, said = printed(COLUMNS="50")
    assert narrow == [
        "model                          state     size",
        "acme/a-model-with-a-long-name  failed  1.2 MB",
        "",
        "acme/a-model-with-a-long-name",
        "  why: the weights of this one are of another size",
        "  than its config.json says, which no loader takes",
        "  s3://models/acme",
    ]
    assert "load; --json has everything" in said
    slim, _ = printed(COLUMNS="40")
    assert slim[:3] == ["model  acme/a-model-with-a-long-name", "state  failed", "size   1.2 MB"]


@pytest.mark.parametrize(("noisy", "lines"), [((True, True, False), 1), ((True, False, False), 0), ((), 0)])
def test_how_to_lower_the_noise_is_said_once_where_most_figures_are_noisy(noisy: tuple[bool, ...], lines: int) -> None:
    script = f"""
from onnx_fleet.cli import terminal
from onnx_fleet.runs.record import Record
terminal.records(
    Record(model_id=f"acme/m{{number}}", state="published", latency_ms_p50=1.0, latency_noisy=noisy)
    for number, noisy in enumerate({noisy})
)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.count("1.00 (noisy)") == sum(noisy)
    assert done.stderr.count("measure on an idle machine, or with fewer threads than it has cores") == lines


def at_a_terminal(*arguments: str | Path, columns: int, environment: dict[str, str]) -> str:
    """Everything that onnx-fleet shows at a terminal of that width, without its colours and movements."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    settings = {name: value for name, value in environment.items() if name != "COLUMNS"} | {"TERM": "xterm"}
    command = [Path(sys.executable).with_name("onnx-fleet"), *arguments]
    with subprocess.Popen(command, env=settings, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # Linux says that the other side is closed by an error
            while chunk := os.read(ours, 1 << 16):
                shown += chunk
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())


def test_a_long_step_says_at_a_terminal_how_far_it_is(environment: dict[str, str], stage_folder: Path) -> None:
    shown = at_a_terminal("validate", stage_folder, columns=80, environment=environment)

    assert re.search(r"validate \d:\d\d:\d\d \d+ of \d+ checks.* onnx-fleet-demo/", shown)
    assert "?" not in shown


def test_each_step_leaves_in_the_folder_what_the_list_of_steps_says(stage_folder: Path) -> None:
    for step in STEPS:
        if step.name in ("export", "validate", "measure"):
            assert step.leaves
            assert all((stage_folder / path).is_file() for path in step.leaves), step.name


def test_the_version_and_every_command_have_help(command: Command) -> None:
    assert command("--version").stdout == f"onnx-fleet {__version__}\n"
    assert command("--help").returncode == 0
    for name in ("plan", "run", "export", "validate", "measure", "compare", "publish", "list", "verify", "pull",
                 "inspect", "audit", "catalogue", "channel", "cache", "watch",
                 "promote", "rollback", "history", "sign"):  # fmt: skip
        helped = CliRunner().invoke(app, [name, "--help"])
        assert (helped.exit_code, f"Usage: onnx-fleet {name} " in helped.output) == (0, True), helped.output


def test_a_catalogue_without_fault_is_said_to_be_so(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(f"models:\n  - {CLASSIFIER}\n")
    done = command("catalogue", "check", file)

    assert (done.returncode, done.stdout) == (0, f"{file}: 1 models and 0 Hub searches, no faults\n")


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


def test_a_fleet_with_a_model_that_is_not_there_fails_unless_it_may(command: Command, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "fleet.yaml").write_text("models: [acme/nowhere]\n")
    given = ("--catalogue", tmp_path / "fleet.yaml", "--store", tmp_path / "store")
    done = command("run", *given)
    assert (done.returncode, "acme/nowhere failed at resolve: ModelNotFound" in done.stderr) == (1, True)
    assert command("run", *given, "--max-failed", "1").returncode == 0

    planned = command("plan", *given, "--json")
    assert planned.returncode == 1
    assert [(each["error"], each["state"]) for each in json.loads(planned.stdout)["refusals"]] == [
        ("ModelNotFound", "failed")
    ]
    assert command("plan", *given, "--max-failed", "1").returncode == 0


def test_what_a_catalogues_rule_refuses_fails_a_run_only_where_it_is_the_model_asked_for(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "fleet.yaml").write_text(f"models: [{{repo_id: {CLASSIFIER}, max_bytes: 10}}]\n")
    given = ("--catalogue", tmp_path / "fleet.yaml", "--store", tmp_path / "store")
    done = command("run", *given)
    assert (done.returncode, "refused at resolve: ModelTooLarge" in done.stderr) == (0, True)
    assert command("plan", *given).returncode == 0
    assert command("run", *given, "--max-refused", "0").returncode == 1
    assert command("plan", *given, "--max-refused", "0").returncode == 1


def test_a_plan_of_one_model_that_is_not_there_fails(command: Command, tmp_path: Path) -> None:
    assert command("plan", "acme/nowhere", "--store", tmp_path).returncode == 1


def test_a_plan_says_why_and_makes_nothing(command: Command, tmp_path: Path) -> None:
    store = tmp_path / "empty"
    store.mkdir()
    plan = json.loads(command("plan", CLASSIFIER, "--store", store, "--json").stdout)

    assert [(item["model"]["repo_id"], item["state"]) for item in plan["items"]] == [(CLASSIFIER, "new")]
    assert list(store.iterdir()) == []


def test_a_profile_says_where_the_time_of_an_export_went(
    command: Command, first_export: Profiled, tmp_path: Path
) -> None:
    folder, told = first_export.folder, first_export.told
    assert told == json.loads((folder / ".onnx-fleet" / "profile.json").read_bytes())
    stages = {cost["stage"]: cost for cost in told["stages"]}
    assert {"imports", "plan", "download", "tokenizer", "load", "trace", "decompose", "translate", "optimise",
            "write"} <= set(stages)  # fmt: skip
    assert all(cost["seconds"] >= 0 and cost["peak_memory_bytes"] > 0 for cost in stages.values())
    assert stages["trace"]["peak_memory_bytes"] > 2 * stages["plan"]["peak_memory_bytes"], "torch is in the child alone"

    again = ("export", CLASSIFIER, "--out", tmp_path / "again", "--store", first_export.store)
    shown = command(*again, "--profile").stdout
    assert "where the time went" in shown
    assert "decompose" not in shown, "the second time the graphs come from the cache"


def test_of_runs_of_one_model_at_once_one_makes_it(command: Command, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    work = tmp_path / "work"
    catalogue = tmp_path / "catalogue.yaml"
    catalogue.write_text(CATALOGUE % 20)

    def run(_: int) -> Done:
        settings = {"ONNX_FLEET_STORE": str(tmp_path / "store"), "ONNX_FLEET_WORK_DIR": str(work)}
        return command("run", "--catalogue", catalogue, "--json", **settings)

    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(run, range(3)))

    assert [each.returncode for each in done] == [0, 0, 0], "\n".join(each.stderr for each in done)
    states = [record["state"] for each in done for record in json.loads(each.stdout)["records"]]
    assert sorted(states) == ["published", "unchanged", "unchanged"], "one makes it, and the others wait"
    assert command("verify", CLASSIFIER, "--store", tmp_path / "store").returncode == 0
    assert list((work / "runs").iterdir()) == [], "what is published leaves nothing behind"


def test_a_runs_profile_is_kept_model_by_model(first_run: Ran) -> None:
    summary = first_run.summary
    kept = json.loads((first_run.work / "profiles" / f"{summary['run_id']}.json").read_bytes())
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


def _feed_models(store: Path) -> list[dict[str, Any]]:
    """Return what the feed of a store says of each model, read as a mirror of another company would."""
    index = json.loads((store / "feed" / "index.json").read_bytes())
    return [model for shard in index["shards"] for model in json.loads((store / shard["key"]).read_bytes())["models"]]


def test_a_made_folder_is_published_listed_verified_and_pulled(
    command: Command, stage_folder: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    published = json.loads(command("publish", stage_folder, "--store", store, "--json").stdout)
    assert published["state"] == "published"
    assert json.loads(command("publish", stage_folder, "--store", store, "--json").stdout)["state"] == "unchanged"

    (listed,) = json.loads(command("list", "--store", store, "--json").stdout)
    assert [listed] == _feed_models(store)
    assert (listed["model_id"], listed["problems"]) == (CLASSIFIER, [])
    assert [(each["channel"], each["version"]) for each in listed["channels"]] == [("latest", published["version"])]
    (version,) = listed["versions"]
    assert (version["task"], version["variants"], version["held"]) == ("text-classification", ["fp32"], False)
    shown = command("list", "--store", store).stdout.splitlines()
    assert shown[0].split() == ["model", "version", "published", "channels", "size", "task", "precisions"]
    assert shown[1].split() == [CLASSIFIER, published["version"], version["created_at"][:10], "latest",
                                *human_bytes(version["size_bytes"]).split(), "text-classification", "fp32"]  # fmt: skip
    assert command("verify", CLASSIFIER, "--store", store).stdout.startswith("intact")
    assert command("pull", CLASSIFIER, "--to", tmp_path / "pulled", "--store", store).returncode == 0
    assert (tmp_path / "pulled/onnx/model.onnx").read_bytes() == (stage_folder / "onnx/model.onnx").read_bytes()

    assert command("pull", CLASSIFIER, "--to", tmp_path / "pulled", "--store", store, "--update").returncode == 0
    occupied = command("pull", CLASSIFIER, "--to", tmp_path, "--store", store)
    assert (occupied.returncode, occupied.stderr.splitlines()[-2]) == (1, "FolderOccupied")

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


def test_a_slower_folder_is_published_and_the_channel_stays_until_a_person_moves_it(
    command: Command, stage_folder: Path, tmp_path: Path
) -> None:
    store, slow = tmp_path / "store", tmp_path / "slow"
    store.mkdir()
    before = json.loads(command("publish", stage_folder, "--store", store, "--json").stdout)
    assert "latest points to no other version" in command("compare", stage_folder, "--store", store).stderr

    next_version(stage_folder, slow, digit="b", gates=Gates(policy="block"), changes=[slower])
    for step in ("validate", "measure"):
        assert command(step, slow, "--store", store).returncode == 0, "it is as right as the one before"
    compared = command("compare", slow, "--store", store)
    assert compared.returncode == 1
    assert "to which latest points: held" in compared.stdout
    assert "allowed are 1.25 times" in compared.stderr
    published = command("publish", slow, "--store", store)
    assert published.returncode == 1
    assert "published: " in published.stdout
    version = Stage.open(slow).item.version
    move = ("channel", "set", CLASSIFIER, "latest", version)
    assert f"onnx-fleet {' '.join(move)}" in published.stderr

    def pointer() -> str:
        (latest,) = json.loads(command("channel", "show", CLASSIFIER, "--store", store, "--json").stdout)
        return str(latest["version"])

    (listed,) = json.loads(command("list", CLASSIFIER, "--store", store, "--json").stdout)
    assert [(each["version"], each["held"]) for each in listed["versions"]] == [
        (version, True),
        (before["version"], False),
    ]
    rows = [line.split()[1:5] for line in command("list", "--store", store).stdout.splitlines()[1:]]
    assert [(row[0], row[2:]) for row in rows] == [
        (version, ["held", "back"]),
        (before["version"], ["latest", rows[1][3]]),
    ]

    assert pointer() == before["version"]
    dry = command(*move, "--dry-run", "--store", store)
    assert dry.stdout == f"would move {CLASSIFIER}@latest: {before['version']} -> {version}\n"
    assert "allowed are 1.25 times" in dry.stderr
    assert command(*move, "--store", store).returncode == 1, "nobody there to say yes"
    assert pointer() == before["version"]
    assert command(*move, "--yes", "--store", store).returncode == 0
    assert pointer() == version
    shown = command("channel", "show", CLASSIFIER, "--store", store, COLUMNS="80").stdout.splitlines()
    assert shown[0].split() == ["channel", "version", "since", "before", "held"]
    assert (shown[1].split()[:2], shown[1].split()[-2:]) == (["latest", version], [before["version"], "–"])
    assert "no version of it is published" in command("channel", "show", "acme/nothing", "--store", store).stderr
    (fed,) = _feed_models(store)
    assert [each["version"] for each in fed["channels"]] == [version]
    assert not any(each["held"] for each in fed["versions"]), "a person has decided"
    assert command("channel", "set", CLASSIFIER, "latest", "00000000-00000000", "--yes").returncode == 1


def test_a_run_that_needs_a_newer_onnxruntime_is_held_at_every_run_until_a_person_moves_the_channel(
    command: Command, first_run: Ran, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(first_run.store, tmp_path / "store"))

    def ran(*arguments: str | Path) -> dict[str, Any]:
        done = command("run", *arguments, "--store", store, "--json")
        (record,) = json.loads(done.stdout)["records"]
        return {**record, "status": done.returncode}

    def run_quickly(opset: int) -> dict[str, Any]:
        catalogue = tmp_path / "catalogue.yaml"
        catalogue.write_text(CATALOGUE % opset)
        return ran("--catalogue", catalogue)

    def run(opset: int) -> dict[str, Any]:
        return ran(CLASSIFIER, "--opset", str(opset))

    (old,) = first_run.summary["records"]
    assert old["state"] == "published"
    new = run_quickly(23)
    assert (new["state"], new["status"], new["compared_with"]) == ("held", 1, old["version"])
    assert "onnx/model.onnx: onnxruntime 1.22 is needed, 1.18 was" in new["findings"][0]
    assert set(new["seconds"]) == {"export", "validate", "measure", "compare", "publish"}
    again = run(23)
    assert (again["state"], again["status"]) == ("held", 1)
    assert command("channel", "set", CLASSIFIER, "latest", new["version"], "--yes", "--store", store).returncode == 0
    settled = run(23)
    assert (settled["state"], settled["status"]) == ("unchanged", 0)
    back = run(20)
    assert (back["state"], back["version"]) == ("unchanged", old["version"]), "an older onnxruntime will do"


def test_without_any_store_named_the_demos_bucket_is_used(command: Command, tmp_path: Path) -> None:
    done = command("list", ONNX_FLEET_STORE="", ONNX_FLEET_VAR=str(tmp_path / "var"))

    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "no store is named; using s3://onnx-fleet, the default of onnx-fleet-demo",
        "nothing is published in s3://onnx-fleet",
    ]
    assert not (tmp_path / "var/s3/endpoint.json").exists()


def test_a_setting_of_the_environment_that_is_no_number_is_named(command: Command) -> None:
    done = command("run", CLASSIFIER, ONNX_FLEET_GPU_ID="first")

    assert done.returncode == 2
    assert "ONNX_FLEET_GPU_ID is 'first'; write a whole number" in done.stderr


def test_what_killed_writers_left_is_shown_before_it_is_swept(command: Command, tmp_path: Path) -> None:
    store = tmp_path / "store"
    left = [store / ".onnx-fleet-store" / name for name in ("of-long-ago.unfinished", "under-way.unfinished")]
    left[0].parent.mkdir(parents=True)
    for path in left:
        path.write_bytes(b"half of a graph")
    os.utime(left[0], (0, 0))

    shown = command("sweep", "--dry-run", "--store", store)
    assert "of-long-ago.unfinished" in shown.stdout
    assert "under-way" not in shown.stdout
    assert all(path.exists() for path in left)

    swept = json.loads(command("sweep", "--store", store, "--json").stdout)
    assert [found["name"] for found in swept] == ["of-long-ago.unfinished"]
    assert [path.exists() for path in left] == [False, True]


def test_whoever_reads_an_id_that_the_hub_renamed_is_told(command: Command, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    stage = tiny_stage(tmp_path / "stage", item=work_item(model_id="acme/old"))
    publish(Stage.open(stage), store=store, provenance=PROVENANCE, created_at=NOW)
    renames.leave(store, "acme/old", renamed_to="acme/new", now=NOW)
    said = "the Hub has renamed acme/old to acme/new"
    to = tmp_path / "pulled"
    for arguments in (
        ("list",),
        ("list", "acme/old"),
        ("pull", "acme/old", "--to", to),
        ("pull", "acme/old@stable", "--to", to),
    ):
        done = command(*arguments, "--store", store.address)
        assert said in done.stdout + done.stderr, arguments
        assert done.returncode == (1 if "acme/old@stable" in arguments else 0)
    (listed,) = json.loads(command("list", "--json", "--store", store.address).stdout)
    assert (listed["model_id"], listed["renamed_to"]) == ("acme/old", "acme/new")

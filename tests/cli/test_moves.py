"""promote, rollback, history and channel set, as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fixtures.planned_models import COMMIT, VERSIONS, publish, resolved
from onnx_fleet.bundles import channels, feed
from onnx_fleet.cli import app
from onnx_fleet.entities.channel_move import Actor, MoveReason
from onnx_fleet.errors import BundleNotFound
from onnx_fleet.planning import plan
from onnx_fleet.store import ObjectStore

RUN = "fleet_reexport__manual__1"
NAMES = ("acme/a", "acme/b", "other/c")


@pytest.fixture
def command(local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call onnx-fleet in this process: what needs no torch is through in no time."""
    monkeypatch.setenv("ONNX_FLEET_STORE", local_store.address)

    def call(*words: str, **options: Any) -> Result:
        return CliRunner().invoke(app, [*words], **options)

    return call


@pytest.fixture
def versions(local_store: ObjectStore) -> dict[str, list[str]]:
    """Three models with two versions each, the second of which a run published."""
    found: dict[str, list[str]] = {}
    for name in NAMES:
        for number, run in enumerate(("earlier", RUN), 1):
            model = resolved(name, commit=f"{number}" + COMMIT[1:])
            (item,) = plan.plan([model], store=local_store, versions=VERSIONS).items
            by = Actor(kind="run", name=run)
            publish(local_store, item, reason=MoveReason(kind="published", by=by, why="published"))
            found.setdefault(name, []).append(item.version)
    return found


def pointer(store: ObjectStore, name: str, channel: str = "latest") -> str | None:
    found = channels.find(store, name, channel)
    return found.version if found else None


def test_one_model_is_promoted_and_its_history_says_by_whom_and_why(
    command: Any, local_store: ObjectStore, versions: dict[str, list[str]]
) -> None:
    old, new = versions["acme/a"]
    move = ("promote", "acme/a", "latest", "--to", "stable")
    dry = command(*move, "--dry-run")
    assert dry.stdout == f"would move acme/a@stable: nothing -> {new}\n"
    assert command(*move).exit_code == 1, "nobody there to say yes"
    assert pointer(local_store, "acme/a", "stable") is None
    asked = command(*move, "--reason", "a week in latest", "--by", "ada@desk", input="y\n")
    assert asked.exit_code == 0
    assert asked.stdout.endswith(f"moved acme/a@stable: nothing -> {new}\n")
    assert f"acme/a@stable: nothing -> {new}? [y/N]" in asked.stderr

    done = json.loads(command("promote", "acme/a", old, "--to", "stable", "--yes", "--json").stdout)
    assert (done["before"], done["to"], done["moved"], done["channel"]["version"]) == (new, old, True, old)
    (told,) = json.loads(command("history", "acme/a", "--channel", "stable", "--json").stdout)
    (first, second) = told["rows"]
    assert (first["kind"], first["by"]["name"], first["why"]) == ("promoted", "ada@desk", "a week in latest")
    assert (second["from_version"], second["to_version"], second["why"]) == (new, old, "no reason was given")
    assert "@" in second["by"]["name"], "the user and the machine"


def test_the_history_is_a_table_with_the_newest_move_first(command: Any, versions: dict[str, list[str]]) -> None:
    old, new = versions["acme/a"]
    command("channel", "set", "acme/a", "latest", old, "--hold", "--reason", "bad answers", "--yes")
    history = [Path(sys.executable).with_name("onnx-fleet"), "history", "acme/a"]  # a process knows its width once
    wide = {**os.environ, "COLUMNS": "200"}
    shown = subprocess.run(history, env=wide, capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown[0].split() == ["channel", "when", "what", "from", "to", "by", "why"]
    assert "set, held" in shown[1]
    assert f"{new}  {old}" in shown[1]
    assert "bad answers" in shown[1]
    assert "published" in shown[2]
    assert f"run {RUN}" in shown[2]


def test_a_rollback_goes_back_and_says_how_and_a_second_one_has_nowhere_to_go(
    command: Any, local_store: ObjectStore, versions: dict[str, list[str]]
) -> None:
    old, new = versions["acme/a"]
    back = command("rollback", "acme/a", "--yes")
    assert back.stdout == f"moved acme/a@latest: {new} -> {old}, held there\n"
    assert channels.read(local_store, "acme/a", "latest").held
    again = command("rollback", "acme/a", "--yes")
    assert isinstance(again.exception, BundleNotFound)
    assert f"names no version before {old}" in str(again.exception)
    there = command("rollback", "acme/a", "--to", new, "--yes")
    assert there.stdout == f"moved acme/a@latest: {old} -> {new}, held there\n"
    (model, *_) = feed.read(local_store)
    assert [(each.version, each.held) for each in model.channels] == [(new, True)]


def test_many_models_are_promoted_after_one_question(
    command: Any, local_store: ObjectStore, versions: dict[str, list[str]]
) -> None:
    asked = command("promote", "--only", "ACME/*", "--to", "stable", input="y\n")
    assert asked.exit_code == 0
    assert asked.stderr.count("[y/N]") == 1
    assert "move these 2 channels?" in asked.stderr
    moved = {name: pointer(local_store, name, "stable") for name in NAMES}
    assert moved == {"acme/a": versions["acme/a"][1], "acme/b": versions["acme/b"][1], "other/c": None}
    back = json.loads(command("rollback", "--only", "*", "--yes", "--json").stdout)
    assert [(each["model_id"], each["to"]) for each in back] == [(name, versions[name][0]) for name in NAMES]
    none = json.loads(command("promote", "--only", "*", "--from", "canary", "--to", "stable", "--yes", "--json").stdout)
    assert {each["moved"] for each in none} == {False}
    assert all("has no such channel" in each["why_not"] for each in none)


def test_a_run_is_rolled_back_where_nobody_has_moved_the_channel_since(
    command: Any, local_store: ObjectStore, versions: dict[str, list[str]]
) -> None:
    command(
        "channel",
        "set",
        "acme/b",
        "latest",
        versions["acme/b"][0],
        "--by",
        "bob@desk",
        "--reason",
        "[/] odd\nwords",
        "--yes",
    )
    done = command("rollback", "--run", RUN, "--reason", "wrong answers", "--yes")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        f"moved acme/a@latest: {versions['acme/a'][1]} -> {versions['acme/a'][0]}, held there",
        f"acme/b@latest stays: bob@desk moved it to {versions['acme/b'][0]} since: [/] odd words",
        f"moved other/c@latest: {versions['other/c'][1]} -> {versions['other/c'][0]}, held there",
    ]
    told = json.loads(command("history", "--run", RUN, "--json").stdout)
    assert [(each["model_id"], [row["to_version"] for row in each["rows"]]) for each in told] == [
        (name, [versions[name][1]]) for name in NAMES
    ]
    command("promote", "--run", RUN, "--only", "acme/*", "--to", "stable", "--yes")
    assert pointer(local_store, "acme/a", "stable") == versions["acme/a"][1]
    assert pointer(local_store, "other/c", "stable") is None


def test_the_models_of_a_catalogue_are_promoted(
    command: Any, local_store: ObjectStore, versions: dict[str, list[str]], tmp_path: Path
) -> None:
    (tmp_path / "fleet.yaml").write_text("models:\n  - ACME/a\n  - other/c\n  - other/unpublished\n")
    named = ("--catalogue", str(tmp_path / "fleet.yaml"), "--only", "*/a", "--to", "stable", "--yes")
    done = command("promote", *named)
    assert done.stdout == f"moved acme/a@stable: nothing -> {versions['acme/a'][1]}\n"
    assert {name: pointer(local_store, name, "stable") for name in NAMES[1:]} == {"acme/b": None, "other/c": None}


@pytest.mark.parametrize(
    "words",
    [
        ("promote", "--to", "stable"),
        ("promote", "acme/a", "--only", "acme/*", "--to", "stable"),
        ("rollback", "--only", "acme/*", "--to", "01234567-aaaaaaaa"),
        ("rollback",),
        ("history",),
    ],
)
def test_what_cannot_be_meant_is_misuse(command: Any, words: tuple[str, ...]) -> None:
    assert command(*words).exit_code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("promote", "acme/a", "canary", "--to", "stable"), "acme/a@canary: .* has no such channel"),
        (("promote", "acme/a", "--to", "Stable"), "'Stable': is not a valid channel name"),
        (("rollback", "acme/a", "--channel", "stable"), "acme/a@stable: .* has no such channel"),
        (("rollback", "acme/nothing"), "acme/nothing: no version of it is published"),
        (("rollback", "--run", "nobody"), "no channel that the run 'nobody' moved"),
        (("history", "acme/a", "--channel", "stable"), "has no such channel"),
    ],
)
def test_what_is_not_there_is_said(
    command: Any, versions: dict[str, list[str]], words: tuple[str, ...], message: str
) -> None:
    assert versions
    done = command(*words, *(["--yes"] if words[0] != "history" else []))
    assert done.exit_code == 1
    with pytest.raises(BundleNotFound, match=message):
        raise done.exception

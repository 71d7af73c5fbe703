"""The commands for sinks: what they say of a file, where they find its secrets, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fixtures.told_events import published
from fixtures.webhook_receiver import KEY, Receiver
from onnx_fleet.cli import app
from onnx_fleet.errors import SinksInvalid
from onnx_fleet.store import open_store


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with one event, and a place for a file of sinks."""
    published(tmp_path, open_store(str(tmp_path / "store")))
    monkeypatch.setenv("ONNX_FLEET_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("ONNX_FLEET_SINKS", str(tmp_path / "sinks.yaml"))
    return tmp_path


def listed(folder: Path, receiver: Receiver) -> None:
    sinks = [{"name": "chat", "kind": "webhook", "url": receiver.url, "secret": "chat-key", "only": ["acme/*"]}]
    (folder / "sinks.yaml").write_text(json.dumps({"sinks": sinks}))


def answer(*arguments: str, ends: int = 0) -> object:
    done = CliRunner().invoke(app, ["sinks", *arguments, "--json"])
    assert done.exit_code == ends, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("place", ["variable", "file"])
def test_a_secret_comes_from_a_variable_or_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    if place == "variable":
        monkeypatch.setenv("ONNX_FLEET_SECRET_CHAT_KEY", KEY)
    else:
        (folder / "secrets").mkdir()
        (folder / "secrets/chat-key").write_text(f"{KEY}\n")
        monkeypatch.setenv("ONNX_FLEET_SECRETS", str(folder / "secrets"))
    with Receiver() as receiver:
        listed(folder, receiver)
        (found,) = answer("list")
        (ran,) = answer("run")
        status = answer("status")
        (again,) = answer("replay", "chat", "--since", "2020-01-01")
    assert (found["name"], found["kind"], found["secret"]) == ("chat", "webhook", "chat-key")
    assert (ran["delivered"], again["delivered"], len(receiver.taken)) == (1, 1, 2)
    assert (status["chat"]["waiting"], status["chat"]["last"]["event"]["model_id"]) == (0, "acme/tiny")


def test_a_secret_that_is_nowhere_is_named_and_nothing_is_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as receiver:
        listed(folder, receiver)
        (refused,) = answer("run", ends=1)
        status = answer("status", ends=1)
        monkeypatch.setenv("ONNX_FLEET_SECRET_CHAT_KEY", KEY)
        (ran,) = answer("run")
    assert refused["error"] == "SinkDenied"
    assert "set ONNX_FLEET_SECRET_CHAT_KEY" in refused["message"]
    assert status["chat"]["trouble"]["error"] == "SinkDenied"
    assert (status["chat"]["waiting"], ran["delivered"]) == (1, 1)


def test_a_sink_of_another_name_and_no_file_at_all_are_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as receiver:
        listed(folder, receiver)
    wrong = CliRunner().invoke(app, ["sinks", "run", "chta"])
    assert isinstance(wrong.exception, SinksInvalid)
    assert str(wrong.exception) == "no sink is called 'chta'; did you mean 'chat'?"
    monkeypatch.delenv("ONNX_FLEET_SINKS")
    none = CliRunner().invoke(app, ["sinks", "list"])
    assert isinstance(none.exception, SinksInvalid)
    assert "ONNX_FLEET_SINKS" in str(none.exception)

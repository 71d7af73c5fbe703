"""feed tail and feed rebuild, as a user calls them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from typer.testing import CliRunner

from fixtures.moved import REASON
from fixtures.planned_models import COMMIT, NEXT_COMMIT, NOW, VERSIONS, publish, resolved
from onnx_fleet.bundles import channels, events, fleet_event
from onnx_fleet.cli import app
from onnx_fleet.entities.channel_move import Actor, MoveReason
from onnx_fleet.planning import plan
from onnx_fleet.store import ObjectStore

MODEL = "acme/tiny"


@pytest.fixture
def command(local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call onnx-fleet in this process."""
    monkeypatch.setenv("ONNX_FLEET_STORE", local_store.address)

    def call(*words: str) -> Result:
        return CliRunner().invoke(app, ["feed", *words])

    return call


@pytest.fixture
def versions(local_store: ObjectStore) -> list[str]:
    """Two versions of one model, which a run published, and a person went back from the second one."""
    found = []
    for commit in (COMMIT, NEXT_COMMIT):
        (item,) = plan.plan([resolved(MODEL, commit=commit)], store=local_store, versions=VERSIONS).items
        by = Actor(kind="run", name="fleet_reexport__manual__1")
        publish(local_store, item, reason=MoveReason(kind="published", by=by, why="published"))
        found.append(item.version)
    back = MoveReason(kind="rolled_back", by=REASON.by, why="it answers in capitals")
    channels.move(local_store, MODEL, "latest", found[0], reason=back, now=NOW, held=True)
    return found


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_rebuild_tells_what_a_person_moved_and_tail_prints_it_as_a_cloudevent(
    command: Any, versions: list[str]
) -> None:
    assert lines(command("tail")) == []
    assert json.loads(command("rebuild", "--json").stdout)["versions"] == 2
    result = command("tail")
    [told] = lines(result)
    assert told["data"]["kind"] == "rolled_back"
    assert (told["data"]["version"], told["data"]["from_version"]) == (versions[0], versions[1])
    assert told["data"]["why"] == "it answers in capitals"

    read = JSONFormat().read(CloudEvent, result.stdout)
    assert (read.get_type(), read.get_subject()) == ("onnx-fleet.rolled_back", f"{MODEL}@{versions[0]}")
    assert read.get_extension("sequence") == told["sequence"]

    assert lines(command("tail", "--since", told["sequence"])) == [told]
    assert "1 models" in command("rebuild").stdout


def test_tail_begins_at_a_time(command: Any, local_store: ObjectStore) -> None:
    for day in range(3):
        at = NOW + timedelta(days=day)
        event = fleet_event.of_failure(f"acme/m{day}", None, by=REASON.by, why="no room", now=at)
        local_store.create(events.key_at(at, event), events.to_bytes(local_store, event))
    for since in ("2026-11-22", "2026-11-22T00:30Z", "2026-11-22T03:30:00+03:00"):
        assert [line["subject"] for line in lines(command("tail", "--since", since))] == ["acme/m1", "acme/m2"]

    refused = command("tail", "--since", "yesterday")
    assert refused.exit_code == 2
    assert "neither" in refused.output


def test_tail_follows_until_it_is_stopped(local_store: ObjectStore) -> None:
    event = fleet_event.of_failure(MODEL, None, by=REASON.by, why="no room", now=NOW)
    events.append(local_store, event)
    words = [Path(sys.executable).with_name("onnx-fleet"), "feed", "tail", "-f", "--store", local_store.address]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert json.loads(process.stdout.readline())["id"] == event.id
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130

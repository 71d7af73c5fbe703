"""`onnx-fleet store check` at a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from fixtures.quirky_s3 import Quirks, QuirkyS3, serve
from onnx_fleet.cli import app
from onnx_fleet.store import ObjectStore


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[QuirkyS3]:
    with serve(Quirks(if_match="ignored")) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield running


def test_a_folder_that_can_do_all_ends_with_0_and_says_what_was_seen(local_store: ObjectStore) -> None:
    done = CliRunner().invoke(app, ["store", "check", "--store", local_store.address])
    assert done.exit_code == 0, done.output
    assert "conditional create" in done.output
    assert "Of 8 writers at once" in " ".join(done.output.split())


def test_a_server_that_ignores_conditions_ends_with_1_unless_one_process_writes(
    server: QuirkyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ["store", "check", "--store", server.address]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 1
    assert f"{server.address} cannot be used as it is configured: conditional replace" in done.output

    told = CliRunner().invoke(app, [*call, "--json"])
    assert told.exit_code == 1
    found = json.loads(told.stdout)
    assert (found["usable"], found["capabilities"]["conditional_replace"]["supported"]) == (False, "no")

    monkeypatch.setenv("ONNX_FLEET_SINGLE_WRITER", "true")
    assert CliRunner().invoke(app, call).exit_code == 0

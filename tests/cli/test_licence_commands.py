"""licence list, show, approve and decline, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fixtures.models import RepoMaker
from onnx_fleet.cli import app
from onnx_fleet.store import ObjectStore
from onnx_fleet_demo.hub_server import HubServer


def test_a_refused_model_is_listed_approved_and_planned_and_a_decline_withdraws_that(
    local_store: ObjectStore,
    hub_server: HubServer,
    repo_maker: RepoMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ONNX_FLEET_STORE", local_store.address)
    monkeypatch.setenv("HF_ENDPOINT", hub_server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-cache"))
    model = repo_maker.with_licence("gemma", repo_id="acme/a")
    catalogue = tmp_path / "fleet.yaml"
    catalogue.write_text(f"defaults: {{allowed_licences: [mit], licences_to_approve: [gemma]}}\nmodels: [{model}]\n")

    def call(*words: str, status: int = 0) -> str:
        ended = CliRunner().invoke(app, [*words])
        assert ended.exit_code == status, ended.output
        return ended.stdout

    def waiting() -> list[str]:
        return [each["licence"] for each in json.loads(call("licence", "list", "-c", str(catalogue), "--json"))]

    assert waiting() == ["gemma"]
    assert "acme/a" in call("licence", "list", "-c", str(catalogue))
    answer = (model, "--licence", "gemma", "--by", "ada@legal", "--why")
    told = call("licence", "approve", *answer, "for research only")
    assert told.splitlines()[1].split()[:3] == ["acme/a", "gemma", "approved"]
    assert waiting() == []
    planned = json.loads(call("plan", "-c", str(catalogue), "--json"))
    assert [item["state"] for item in planned["items"]] == ["new"]

    call("licence", "decline", *answer, "our product is not research")
    shown = json.loads(call("licence", "show", model, "--json"))
    assert [(row["decision"], row["why"]) for row in shown["rows"]] == [
        ("approved", "for research only"),
        ("declined", "our product is not research"),
    ]
    listed = call("licence", "list")
    assert "our product is not research" in listed
    assert "for research only" not in listed, "it is withdrawn"
    refused = json.loads(call("plan", "-c", str(catalogue), "--json"))
    assert [each["error"] for each in refused["refusals"]] == ["LicenceRefused"]

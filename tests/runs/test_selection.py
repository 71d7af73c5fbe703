"""The part of a catalogue that a run takes: by pattern, by the Hub's last commit, by what failed in another run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fixtures.small_hub import SmallHub
from onnx_fleet.entities.entry import Entry
from onnx_fleet.errors import BundleNotFound, CatalogueInvalid, HubUnavailable
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.runs import run_report, selection
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.selection import Selection
from onnx_fleet.runs.services import Services
from onnx_fleet.store import ObjectStore
from onnx_fleet_demo.hub_failures import Failure
from onnx_fleet_demo.hub_repos import Settings

NOW = datetime(2026, 11, 21, 23, 30, tzinfo=UTC)
CATALOGUE = reader.parse(
    """
models:
  - acme/a
  - repo_id: acme/b
    opset: 21
  - gpt
discover:
  - author: found
""",
    source="fleet.yaml",
)


@pytest.fixture
def services(small_hub: SmallHub, local_store: ObjectStore, tmp_path: Path) -> Services:
    small_hub.add("acme/a", "acme/b", "openai/gpt", "found/c")
    small_hub.server.repos.configure("openai/gpt", Settings(aliases=("gpt",)))
    return Services(store=local_store, hub=small_hub.hub, work_dir=tmp_path, limits=Limits())


def ids(services: Services, **asked: object) -> list[str]:
    entries: tuple[Entry, ...] = selection.entries(CATALOGUE, Selection(**asked), services=services)  # type: ignore[arg-type]
    return [entry.repo_id for entry in entries]


def test_everything_is_taken_where_nothing_is_asked_for(services: Services) -> None:
    assert ids(services) == ["acme/a", "acme/b", "gpt", "found/c"]


def test_models_that_are_listed_by_name_need_no_search(services: Services, small_hub: SmallHub) -> None:
    assert ids(services, only=("acme/B",)) == ["acme/b"]
    assert small_hub.asked() == []
    assert ids(services, only=("*/c", "acme/a")) == ["acme/a", "found/c"]
    assert small_hub.asked() == [("list", 200)]


def test_a_pattern_that_matches_nothing_is_a_fault_unless_it_may(services: Services) -> None:
    with pytest.raises(CatalogueInvalid, match="'found/x' matches no entry"):
        ids(services, only=("found/x", "acme/a"))
    assert ids(services, only=("found/x", "acme/a"), allow_unmatched=True) == ["acme/a"]


def test_models_are_taken_whose_repo_has_had_a_commit_since_a_day(services: Services, small_hub: SmallHub) -> None:
    small_hub.server.repos.configure("acme/b", Settings(last_modified="2026-11-20T00:00:00.000Z"))
    small_hub.server.repos.configure("acme/a", Settings(last_modified="2026-11-19T23:59:59.000Z"))
    small_hub.delete("openai/gpt")
    assert ids(services, since=datetime(2026, 11, 20, tzinfo=UTC)) == ["acme/b"]
    assert ids(services, since=datetime(2026, 11, 19, tzinfo=UTC), only=("*/a",)) == ["acme/a"]


def test_a_hub_that_stops_answering_leaves_no_model_out_in_silence(services: Services, small_hub: SmallHub) -> None:
    small_hub.server.fail(Failure(kind="server_error", repo_id="found/c"))
    with pytest.raises(HubUnavailable, match="since 2026-11-20"):
        ids(services, since=datetime(2026, 11, 20, tzinfo=UTC))


def test_models_are_taken_that_a_run_counts_as_failed(services: Services, local_store: ObjectStore) -> None:
    records = [
        Record(model_id="acme/a", state="published"),
        Record(model_id="renamed/b", renamed_from="acme/B", state="held"),
        Record(model_id="openai/gpt", state="failed"),
        Record(model_id="found/c", state="refused"),
        Record(model_id="acme/gone", state="failed"),
    ]
    run = "fleet_reexport__manual__2026-11-21T23:30:00+00:00"
    run_report.write(run_report.build(records, run_id=run, now=NOW), store=local_store)
    assert ids(services, retry_failed=run) == ["acme/b", "gpt"]
    assert ids(services, retry_failed=run_report.key(run).removeprefix("reports/").removesuffix(".json")) == [
        "acme/b",
        "gpt",
    ], "the name of its report will do"
    assert ids(services, retry_failed=run, only=("acme/*",)) == ["acme/b"]
    with pytest.raises(BundleNotFound, match="no report of a run 'other'"):
        ids(services, retry_failed="other")

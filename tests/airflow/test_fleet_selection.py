"""The part of the catalogue that a run of fleet_reexport takes, as its form and REST ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fixtures.airflow import AirflowHome, RunEnd
from fixtures.fleet_options import in_folder
from fixtures.models import RepoMaker
from onnx_fleet import jsonio
from onnx_fleet.runs.run_report import RunReport
from onnx_fleet.store import open_store
from onnx_fleet_demo.hub_repos import Settings
from onnx_fleet_demo.hub_server import HubServer

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]

Fleet = Callable[..., tuple[RunEnd, dict[str, str]]]


@pytest.fixture
def fleet(tmp_path: Path, airflow_home: AirflowHome, small_repo: Path) -> Iterator[Fleet]:
    """Run a fleet of three models that end at once, none of them well; returns its end and how each model ended."""
    (tmp_path / "hub").mkdir()
    maker = RepoMaker(tmp_path / "hub", small_repo)
    for name in ("acme/pickle", "other/pickle"):
        maker.pickle_only(name)
    (tmp_path / "catalogue.yaml").write_text("models: [acme/pickle, other/pickle, acme/nowhere]")
    store = open_store(str(tmp_path / "store"))
    with HubServer(tmp_path / "hub") as hub:
        hub.repos.configure("other/pickle", Settings(last_modified="2026-11-20T10:00:00.000Z"))

        def run(**conf: object) -> tuple[RunEnd, dict[str, str]]:
            end = airflow_home.run(
                "fleet_reexport",
                {"catalogue": str(tmp_path / "catalogue.yaml"), **conf},
                options=in_folder(tmp_path, hub=hub.url),
            )
            if "report" not in end.results:
                return end, {}
            records = jsonio.parse(RunReport, store.read(str(end.results["report"]))).records
            return end, {record.model_id: record.state for record in records}

        yield run


def test_a_run_takes_what_it_is_asked_for(fleet: Fleet) -> None:
    first, records = fleet(only=["acme/* "], changed=True)
    assert records == {"acme/pickle": "refused", "acme/nowhere": "failed"}, "what gets no work is no unchanged model"
    assert fleet(retry_failed=first.run_id, since=None)[1] == {"acme/nowhere": "failed"}
    assert fleet(retry_failed=f"fleet_reexport__{first.run_id}", only=["other/*"])[1] == {}
    assert fleet(since="2026-11-20")[1] == {"other/pickle": "refused"}
    assert fleet(only=["acme/tiny"], allow_unmatched=True)[1] == {}


def test_a_run_that_cannot_be_told_what_to_take_stops_before_anything_is_begun(fleet: Fleet) -> None:
    unknown, _ = fleet(retry_failed="manual__nobody")
    assert (unknown.state, unknown.states("plan"), unknown.states("report")) == ("failed", ["failed"], ["skipped"])
    assert "there is no report of a run" in unknown.log
    unmatched, _ = fleet(only=["acme/tiny"])
    assert (unmatched.state, unmatched.states("plan")) == ("failed", ["failed"])

"""Two runs that are asked for one model at the same time, whatever started them: its work is done once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fixtures.airflow import AirflowHome, RunEnd
from fixtures.fleet_options import LATENCY, in_folder
from fixtures.models import RepoMaker
from onnx_fleet import jsonio
from onnx_fleet.bundles import listing
from onnx_fleet.runs.claims import Claim
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.run_report import RunReport
from onnx_fleet.store import ObjectStore, layout, open_store
from onnx_fleet_demo.hub_server import HubServer

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]

SOUND = "acme/sound"
CORRUPT = "acme/corrupt-weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """An Airflow, a Hub and a store, which a command line works on, too."""

    home: AirflowHome
    store: ObjectStore
    hub: HubServer
    options: Mapping[str, str]
    environment: Mapping[str, str]

    def reexport(self, model: str) -> tuple[RunEnd, Record]:
        end = self.home.run("model_reexport", {"model": model}, options=self.options)
        [record] = jsonio.parse(RunReport, self.store.read(str(end.results["report"]))).records
        return end, record

    def claim(self, model: str) -> Claim | None:
        key = layout.claim_key(model)
        return jsonio.parse(Claim, self.store.read(key)) if self.store.stat(key) else None


@pytest.fixture
def deployment(tmp_path: Path, airflow_home: AirflowHome, small_repo: Path) -> Iterator[Deployment]:
    (tmp_path / "hub").mkdir()
    (tmp_path / "store").mkdir()
    maker = RepoMaker(tmp_path / "hub", small_repo)
    maker.sound(SOUND)
    maker.corrupt_weights(CORRUPT)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HF_", "ONNX_FLEET_"))}
    with HubServer(tmp_path / "hub") as hub:
        yield Deployment(
            home=airflow_home,
            store=open_store(str(tmp_path / "store")),
            hub=hub,
            options=in_folder(tmp_path, hub=hub.url),
            environment={
                **kept,
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(tmp_path / "other-cache"),
                "ONNX_FLEET_STORE": str(tmp_path / "store"),
                "ONNX_FLEET_WORK_DIR": str(tmp_path / "work"),
            },
        )


def test_a_model_that_another_run_makes_is_waited_for_and_not_made_again(
    deployment: Deployment, tmp_path: Path
) -> None:
    catalogue = tmp_path / "catalogue.yaml"
    catalogue.write_text(f"defaults: {{latency: {json.dumps(LATENCY)}}}\nmodels: [{SOUND}]\n")
    command = [Path(sys.executable).with_name("onnx-fleet"), "run", "--catalogue", str(catalogue), "--json"]
    with subprocess.Popen(command, env=deployment.environment, stdout=subprocess.PIPE, text=True) as other:
        while deployment.claim(SOUND) is None:
            assert other.poll() is None
            time.sleep(0.05)
        end, record = deployment.reexport(SOUND)
        told, _ = other.communicate()
    [published] = json.loads(told)["records"]
    assert (published["state"], record.state, record.version) == ("published", "unchanged", published["version"])
    assert record.reason.startswith("another run has published it meanwhile; ")
    assert (end.state, len(listing.list_models(deployment.store)[0].versions)) == ("success", 1)
    assert (end.states("model.export_to_publish"), end.states("model.record")) == (["skipped"], ["success"])
    assert "is making" in end.log
    assert end.events == (), "that was the other run's to tell"


def test_a_run_that_was_killed_is_waited_for_no_longer_than_its_claim_lasts(deployment: Deployment) -> None:
    began = datetime.now(UTC)
    killed = Claim(
        model_id=CORRUPT,
        version="3f2a1c00-abababab",
        run="killed",
        since=began,
        good_until=began + timedelta(seconds=15),
    )
    deployment.store.create(layout.claim_key(CORRUPT), jsonio.canonical(jsonio.to_json(killed)))
    end, record = deployment.reexport(CORRUPT)
    assert (record.state, record.step, record.error) == ("failed", "export", "ModelInvalid"), "as without the other run"
    [export] = [task for task in end.tasks if task.task_id == "model.export_to_publish"]
    assert (export.tries, "the run killed is making" in end.log) == (1, True), "waiting takes none of its tries"
    assert datetime.now(UTC) > killed.good_until
    left = deployment.claim(CORRUPT)
    assert left is not None
    assert (left.run, left.good_until <= datetime.now(UTC)) == (f"model_reexport__{end.run_id}", True), (
        "it is given back"
    )

"""docker-compose.yaml's services without Docker: a fleet is published by workers that share no disk."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from fixtures.deployed import deployed
from onnx_fleet import jsonio
from onnx_fleet.runs.run_report import RunReport
from onnx_fleet.store import open_store
from onnx_fleet_demo import models, s3_server
from onnx_fleet_demo.airflow_client import AirflowClient, NotReady
from onnx_fleet_demo.native_stack.stack import NativeStack

pytestmark = [pytest.mark.stack, pytest.mark.clusters, pytest.mark.timeout(900)]

DAG_ID = "fleet_reexport"
MODELS = (models.CLASSIFIER, models.FILL_MASK)
CATALOGUE = f"""
defaults:
  allowed_licences: [apache-2.0]
  latency: {{batch_sizes: [1], sequence_lengths: [16], warmup_runs: 1, timed_runs: 5}}
models: [{", ".join(MODELS)}]
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """One stack for the file."""
    with deployed(tmp_path_factory.mktemp("stack")) as running:
        yield running


def command_lines() -> dict[int, str]:
    """Return the command line of every process of this machine, by its number."""
    return {process.pid: " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])}


def run_of_the_fleet(stack: NativeStack, client: AirflowClient, catalogue: Path) -> str:
    """The id of a run of the catalogue that has ended."""
    stack.wait(lambda: client.has_dag(DAG_ID), f"{DAG_ID} is not there", timeout_s=120)
    client.unpause(DAG_ID)
    run_id = client.trigger(DAG_ID, {"catalogue": str(catalogue)})
    stack.wait(lambda: client.run_state(DAG_ID, run_id) in ("success", "failed"), "the run goes on", timeout_s=400)
    return run_id


def test_the_fleet_is_published_by_workers_that_share_no_disk(stack: NativeStack, tmp_path: Path) -> None:
    began = time.monotonic()
    client = stack.client()
    catalogue = tmp_path / "catalogue.yaml"
    catalogue.write_text(CATALOGUE)
    run_id = run_of_the_fleet(stack, client, catalogue)
    print(f"run of {time.monotonic() - began:.0f} s")
    tasks = client.tasks(DAG_ID, run_id)
    assert client.run_state(DAG_ID, run_id) == "success", [task for task in tasks if task.state != "success"]

    store = open_store("s3://onnx-fleet/fleet", s3=s3_server.settings_for(stack.host.url("seaweedfs")))
    report = jsonio.parse(RunReport, store.read(str(client.result(DAG_ID, run_id, "report"))))
    assert {record.model_id: record.state for record in report.records} == dict.fromkeys(MODELS, "published")

    addresses = {container.address: name for name, container in stack.containers.items()}
    took_part = {addresses[task.hostname] for task in tasks if task.hostname}
    assert took_part == {"airflow-worker-cpu-1", "airflow-worker-cpu-2"}, "no model asks for the GPU"

    for worker in took_part:
        task = next(task for task in tasks if addresses.get(task.hostname) == worker and task.state == "success")
        text = client.log(DAG_ID, run_id, task)
        assert f"http://{task.hostname}:" in text, "the api-server has it from the worker that ran it"


def test_users_have_names_passwords_and_roles(stack: NativeStack) -> None:
    url = stack.host.url("airflow-apiserver")
    assert requests.get(f"{url}/api/v2/dags", timeout=30).status_code == 401
    with pytest.raises(NotReady, match="401"):
        AirflowClient(url, user="admin", password="not it").call("GET", "/api/v2/dags")

    reader = {"username": "reader", "email": "reader@localhost", "first_name": "A", "last_name": "Reader"}
    stack.client().call("POST", "/auth/fab/v1/users", {**reader, "password": "open", "roles": [{"name": "Viewer"}]})
    viewer = AirflowClient(url, user="reader", password="open")
    assert viewer.has_dag(DAG_ID)
    with pytest.raises(NotReady, match="403"):
        viewer.trigger(DAG_ID, {})


def test_nobody_sees_a_password_on_a_command_line(stack: NativeStack) -> None:
    assert not [line for line in command_lines().values() if stack.password in line]
    init_log = (stack.folder / "logs" / "airflow-init.log").read_text()
    assert "admin" in init_log
    assert stack.password not in init_log


def test_a_service_that_ends_by_itself_is_started_again(stack: NativeStack) -> None:
    """The file's restart policy says so; a service that is killed on purpose stays down."""
    hub = stack.containers["hub"]
    (server,) = [pid for pid, line in command_lines().items() if line == " ".join(hub.command)]
    os.kill(server, signal.SIGKILL)
    stack.wait(lambda: not stack.alive("hub"), "the Hub goes on", timeout_s=20)
    stack.wait_ready("hub", timeout_s=60)
    stack.kill("hub")
    stack.tend()
    assert not stack.alive("hub")
    stack.start("hub")
    stack.wait_ready("hub", timeout_s=60)

"""docker-compose.yaml's services without Docker: workers that share no disk publish a fleet, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
import requests

from fixtures.deployed import deployed
from onnx_fleet import jsonio
from onnx_fleet.bundles import verify
from onnx_fleet.runs.run_report import RunReport
from onnx_fleet.store import ObjectStore, layout, open_store
from onnx_fleet_demo import models, s3_server
from onnx_fleet_demo.airflow_client import AirflowClient, NotReady, TaskState
from onnx_fleet_demo.native_stack.stack import NativeStack

pytestmark = [pytest.mark.stack, pytest.mark.clusters, pytest.mark.timeout(1500)]

T = TypeVar("T")

FLEET = "fleet_reexport"
MODELS = (models.CLASSIFIER, models.FILL_MASK)
LATENCY = {"batch_sizes": [1], "sequence_lengths": [16], "warmup_runs": 1, "timed_runs": 5, "threads": 1}
CATALOGUE = f"""
defaults:
  allowed_licences: [apache-2.0]
  latency: {json.dumps(LATENCY)}
models: [{", ".join(MODELS)}]
"""
ONE = "model_reexport"
MODEL = models.CLASSIFIER
CONF = {
    "model": MODEL,
    "force": True,
    "latency": LATENCY,
}
LOST_AFTER_S = 20
"""The seconds after which a task whose worker is gone is tried again here: a fifteenth of the compose file's."""
SETTINGS = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(LOST_AFTER_S),
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__ONNX_FLEET__AUDIT_SCHEDULE": "",
    "AIRFLOW__ONNX_FLEET__RETRIES": "6",
    "AIRFLOW__ONNX_FLEET__RETRY_DELAY_MAX_S": "5",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """One stack for the file; each test leaves it whole."""
    with deployed(tmp_path_factory.mktemp("stack"), SETTINGS) as running:
        client = running.client()
        for dag_id in (FLEET, ONE):
            running.wait(lambda dag_id=dag_id: client.has_dag(dag_id), f"{dag_id} is not there", timeout_s=120)
            client.unpause(dag_id)
        yield running


@pytest.fixture(scope="module")
def store(stack: NativeStack) -> ObjectStore:
    return open_store("s3://onnx-fleet/fleet", s3=s3_server.settings_for(stack.host.url("seaweedfs")))


class Run:
    """A run of one model, while things are killed."""

    def __init__(self, stack: NativeStack) -> None:
        self.stack = stack
        self.client = stack.client()
        self.run_id = self.client.trigger(ONE, CONF)

    def tasks(self) -> dict[str, TaskState]:
        """The tasks of the model, by step; a server that is down at the moment is waited for."""
        found = self._patiently(lambda: self.client.tasks(ONE, self.run_id))
        return {task.task_id.rpartition(".")[2]: task for task in found if task.map_index >= 0}

    def state(self) -> str:
        return self._patiently(lambda: self.client.run_state(ONE, self.run_id))

    def wait_for(self, step: str, *, tries: int = 1) -> TaskState:
        """A step's task, while it is under way on a worker."""

        def under_way() -> bool:
            task = self.tasks().get(step)
            assert task is None or task.state != "success" or task.tries < tries, f"{step} ended before it was seen"
            return task is not None and task.state == "running" and task.tries >= tries and bool(task.hostname)

        self.stack.wait(under_way, f"{step} does not begin", timeout_s=300)
        return self.tasks()[step]

    def wait_for_end(self) -> None:
        self.stack.wait(lambda: self.state() in ("success", "failed"), "the run goes on", timeout_s=600)

    def worker_of(self, task: TaskState) -> str:
        return next(name for name, each in self.stack.containers.items() if each.address == task.hostname)

    def _patiently(self, call: Callable[[], T]) -> T:
        deadline = time.monotonic() + 120
        while True:
            try:
                return call()
            except (NotReady, OSError):
                if time.monotonic() > deadline:
                    raise
                self.stack.tend()
                time.sleep(0.2)


def require_whole(run: Run, store: ObjectStore) -> None:
    """The model is published and intact, its record says so, and nothing of the run is left half done."""
    assert run.state() == "success", run.tasks()
    report = jsonio.parse(RunReport, store.read(str(run.client.result(ONE, run.run_id, "report"))))
    [record] = report.records
    assert (record.model_id, record.state) == (MODEL, "published")
    assert verify.verify(f"{MODEL}@{record.version}", store=store).passed
    assert not list(store.list(layout.UNFINISHED))
    left = [info.key for info in store.list(layout.SCRATCH)]
    assert not [key for key in left if f"/{record.version}/" in key], "its stage is cleared away"


def command_lines() -> dict[int, str]:
    """Return the command line of every process of this machine, by its number."""
    return {process.pid: " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])}


def run_of_the_fleet(stack: NativeStack, client: AirflowClient, catalogue: Path) -> str:
    """The id of a run of the catalogue that has ended."""
    run_id = client.trigger(FLEET, {"catalogue": str(catalogue)})
    stack.wait(lambda: client.run_state(FLEET, run_id) in ("success", "failed"), "the run goes on", timeout_s=400)
    return run_id


def test_the_fleet_is_published_by_workers_that_share_no_disk(
    stack: NativeStack, store: ObjectStore, tmp_path: Path
) -> None:
    began = time.monotonic()
    client = stack.client()
    catalogue = tmp_path / "catalogue.yaml"
    catalogue.write_text(CATALOGUE)
    run_id = run_of_the_fleet(stack, client, catalogue)
    print(f"run of {time.monotonic() - began:.0f} s")
    tasks = client.tasks(FLEET, run_id)
    assert client.run_state(FLEET, run_id) == "success", [task for task in tasks if task.state != "success"]

    report = jsonio.parse(RunReport, store.read(str(client.result(FLEET, run_id, "report"))))
    assert {record.model_id: record.state for record in report.records} == dict.fromkeys(MODELS, "published")

    addresses = {container.address: name for name, container in stack.containers.items()}
    took_part = {addresses[task.hostname] for task in tasks if task.hostname}
    assert took_part == {"airflow-worker-cpu-1", "airflow-worker-cpu-2"}, "no model asks for the GPU"

    for worker in took_part:
        task = next(task for task in tasks if addresses.get(task.hostname) == worker and task.state == "success")
        text = client.log(FLEET, run_id, task)
        assert f"http://{task.hostname}:" in text, "the api-server has it from the worker that ran it"


def test_users_have_names_passwords_and_roles(stack: NativeStack) -> None:
    url = stack.host.url("airflow-apiserver")
    assert requests.get(f"{url}/api/v2/dags", timeout=30).status_code == 401
    with pytest.raises(NotReady, match="401"):
        AirflowClient(url, user="admin", password="not it").call("GET", "/api/v2/dags")

    reader = {"username": "reader", "email": "reader@localhost", "first_name": "A", "last_name": "Reader"}
    stack.client().call("POST", "/auth/fab/v1/users", {**reader, "password": "open", "roles": [{"name": "Viewer"}]})
    viewer = AirflowClient(url, user="reader", password="open")
    assert viewer.has_dag(FLEET)
    with pytest.raises(NotReady, match="403"):
        viewer.trigger(FLEET, {})


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


def test_a_worker_that_is_killed_in_any_step_costs_one_more_try_of_that_step(
    stack: NativeStack, store: ObjectStore
) -> None:
    run = Run(stack)
    killed = ("export", "validate", "measure", "publish")
    for step in killed:
        worker = run.worker_of(run.wait_for(step))
        stack.kill(worker)
        began = time.monotonic()
        stack.start(worker)
        stack.wait(lambda step=step: run.tasks()[step].tries > 1, f"{step} is not tried again", timeout_s=180)
        print(f"{step}: tried again {time.monotonic() - began:.0f} s after its worker was killed")
    run.wait_for_end()
    require_whole(run, store)
    tries = {step: task.tries for step, task in run.tasks().items() if step in killed}
    assert tries == dict.fromkeys(killed, 2), "what was done before is not done again"


def test_servers_and_the_scheduler_may_be_killed_while_a_model_is_made(stack: NativeStack, store: ObjectStore) -> None:
    run = Run(stack)
    moments = {
        "export": ("airflow-scheduler", "redis"),
        "validate": ("postgres", "airflow-dag-processor"),
        "measure": ("seaweedfs", "airflow-apiserver"),
    }
    for step, names in moments.items():
        run.wait_for(step)
        for name in names:
            stack.kill(name)
            stack.start(name)
            stack.wait_ready(name, timeout_s=180)
    run.wait_for_end()
    require_whole(run, store)


def test_a_worker_that_is_asked_to_end_finishes_what_it_does(stack: NativeStack, store: ObjectStore) -> None:
    run = Run(stack)
    worker = run.worker_of(run.wait_for("export"))
    stack.kill(worker, signal.SIGTERM)
    stack.wait(lambda: not stack.alive(worker), f"{worker} goes on", timeout_s=300)
    export = run.tasks()["export"]
    assert (export.state, export.tries) == ("success", 1)
    run.wait_for_end()
    require_whole(run, store)
    assert {run.worker_of(task) for task in run.tasks().values() if task.hostname} != {worker}, "others went on"
    stack.start(worker)
    stack.wait_ready(worker)

"""Whatever is killed, the run completes: workers in every step, then each server and the scheduler in turn."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from fixtures.deployed import deployed
from onnx_fleet import jsonio
from onnx_fleet.bundles import verify
from onnx_fleet.runs.run_report import RunReport
from onnx_fleet.store import ObjectStore, layout, open_store
from onnx_fleet_demo import models, s3_server
from onnx_fleet_demo.airflow_client import NotReady, TaskState
from onnx_fleet_demo.native_stack.stack import NativeStack

pytestmark = [pytest.mark.stack, pytest.mark.clusters, pytest.mark.timeout(1500)]

T = TypeVar("T")

DAG_ID = "model_reexport"
MODEL = models.CLASSIFIER
CONF = {
    "model": MODEL,
    "force": True,
    "latency": {"batch_sizes": [1], "sequence_lengths": [16], "warmup_runs": 1, "timed_runs": 5},
}
LOST_AFTER_S = 30
"""The seconds after which a task whose worker is gone is tried again here; the compose file has ten times as many."""
SETTINGS = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(LOST_AFTER_S),
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__ONNX_FLEET__AUDIT_SCHEDULE": "",
    "AIRFLOW__ONNX_FLEET__RETRIES": "6",
    "AIRFLOW__ONNX_FLEET__RETRY_DELAY_MAX_S": "5",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    with deployed(tmp_path_factory.mktemp("stack"), SETTINGS) as running:
        client = running.client()
        running.wait(lambda: client.has_dag(DAG_ID), f"{DAG_ID} is not there", timeout_s=120)
        client.unpause(DAG_ID)
        yield running


@pytest.fixture(scope="module")
def store(stack: NativeStack) -> ObjectStore:
    return open_store("s3://onnx-fleet/fleet", s3=s3_server.settings_for(stack.host.url("seaweedfs")))


class Run:
    """A run of one model, while things are killed."""

    def __init__(self, stack: NativeStack) -> None:
        self.stack = stack
        self.client = stack.client()
        self.run_id = self.client.trigger(DAG_ID, CONF)

    def tasks(self) -> dict[str, TaskState]:
        """The tasks of the model, by step; a server that is down at the moment is waited for."""
        found = self._patiently(lambda: self.client.tasks(DAG_ID, self.run_id))
        return {task.task_id.rpartition(".")[2]: task for task in found if task.map_index >= 0}

    def state(self) -> str:
        return self._patiently(lambda: self.client.run_state(DAG_ID, self.run_id))

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
    report = jsonio.parse(RunReport, store.read(str(run.client.result(DAG_ID, run.run_id, "report"))))
    [record] = report.records
    assert (record.model_id, record.state) == (MODEL, "published")
    assert verify.verify(f"{MODEL}@{record.version}", store=store).passed
    assert not list(store.list(layout.UNFINISHED))
    left = [info.key for info in store.list(layout.SCRATCH)]
    assert not [key for key in left if f"/{record.version}/" in key], "its stage is cleared away"


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

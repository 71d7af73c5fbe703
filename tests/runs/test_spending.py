"""What steps take: the wait for others is not theirs, and steps of one name in records are told together."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from fixtures.stages import PROVENANCE, tiny_stage
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.sizing import StepCost
from onnx_fleet.processes import machine_lock
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.runs import spending
from onnx_fleet.runs.services import Services
from onnx_fleet.runs.spending import Spending
from onnx_fleet.runs.steps import Job, Step
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet.store.local import LocalStore


def job_on_no_machine(folder: Path) -> Job:
    services = Services(store=LocalStore(folder), hub=Hub(HubSettings()), work_dir=folder, limits=Limits())
    return Job(stage=Stage.open(tiny_stage(folder / "stage")), services=services, provenance=PROVENANCE)


@pytest.mark.parametrize("asks", [False, True], ids=["for it", "by the step"])
def test_the_wait_for_the_machine_is_not_the_steps(tmp_path: Path, asks: bool) -> None:
    def measures(job: Job) -> None:
        if asks:
            with job.machine.alone():
                pass

    step = Step(name="measure", run=measures, leaves=(), machine="as_it_says" if asks else "alone")
    job, spent, taken, free = job_on_no_machine(tmp_path), Spending(), threading.Event(), threading.Event()

    def other() -> None:
        with machine_lock.exclusive(tmp_path):
            taken.set()
            free.wait(0.4)

    thread = threading.Thread(target=other)
    thread.start()
    taken.wait()
    started = time.monotonic()
    with spent.counted("measure") as count:
        count.take(step, job, machine=tmp_path)
        count.disk_bytes = 7
    took = time.monotonic() - started
    thread.join()
    cost = spent.steps["measure"]
    assert took >= 0.35
    assert cost.seconds <= took - 0.3
    assert (cost.disk_bytes, cost.memory_bytes > 0, spent.step) == (7, True, "measure")


def test_a_step_that_fails_is_counted_too() -> None:
    spent = Spending()
    with pytest.raises(ValueError, match="no"), spent.counted("export"):
        raise ValueError("no")
    assert spent.steps["export"].memory_bytes > 0


def test_steps_that_a_record_has_under_one_name_are_told_together() -> None:
    on_cpu = StepCost(memory_bytes=5, disk_bytes=9, seconds=10.0)
    on_gpu = StepCost(memory_bytes=7, disk_bytes=8, seconds=2.5)
    assert spending.in_records({"validate": on_cpu, "prove_on_gpu": on_gpu}) == {
        "validate": StepCost(memory_bytes=7, disk_bytes=9, seconds=12.5)
    }

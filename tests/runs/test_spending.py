"""What steps take: the wait for others is not theirs, and steps of one name in records are told together."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from onnx_fleet.entities.sizing import StepCost
from onnx_fleet.processes import machine_lock
from onnx_fleet.runs import spending
from onnx_fleet.runs.spending import Spending


def test_the_wait_for_a_lock_is_not_the_steps(tmp_path: Path) -> None:
    spent, taken, free = Spending(), threading.Event(), threading.Event()

    def other() -> None:
        with machine_lock.exclusive(tmp_path):
            taken.set()
            free.wait(0.4)

    thread = threading.Thread(target=other)
    thread.start()
    taken.wait()
    started = time.monotonic()
    with spent.counted("measure") as count, count.behind(machine_lock.exclusive(tmp_path)):
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

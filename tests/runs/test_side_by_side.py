"""Models that go through their steps at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

import psutil

from fixtures.stages import work_item
from onnx_fleet.entities.sizing import Estimate, StepCost
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.processes import hardware, isolation
from onnx_fleet.runs import side_by_side

PATIENCE_S = 30.0
TESTS = Path(__file__).parents[1]


def _items(count: int, *, memory_bytes: int = 1) -> list[WorkItem]:
    cost = StepCost(memory_bytes=memory_bytes, disk_bytes=1, seconds=1.0)
    estimate = Estimate.of({"validate": cost}, basis="formula")
    return [replace(work_item(fingerprint=f"{number}" * 64), estimate=estimate) for number in range(count)]


def test_as_many_models_as_are_asked_for_are_under_way_and_the_records_keep_their_order() -> None:
    together = threading.Barrier(2, timeout=PATIENCE_S)
    under_way, most = 0, 0
    lock = threading.Lock()

    def take(item: WorkItem) -> str:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        together.wait()
        with lock:
            under_way -= 1
        return item.fingerprint

    items = _items(6)
    assert side_by_side.each(take, items, jobs=2) == [item.fingerprint for item in items]
    assert most == 2


def test_a_model_finds_the_context_of_whoever_started_them_all() -> None:
    said: ContextVar[str] = ContextVar("said")
    said.set("of the caller")
    assert side_by_side.each(lambda _: said.get(), _items(2), jobs=2) == ["of the caller"] * 2


def test_one_for_each_core_unless_memory_is_short() -> None:
    room = int(hardware.usable_memory_bytes() * isolation.STEP_MEMORY_SHARE)
    assert side_by_side.fitting(_items(3)) == hardware.usable_cores()
    assert side_by_side.fitting(_items(3, memory_bytes=room)) == 1
    assert side_by_side.fitting(_items(3, memory_bytes=room * 2)) == 1, "it says itself that it does not fit"
    assert side_by_side.fitting([]) == hardware.usable_cores()


_HANGING = """
import sys
from pathlib import Path
from fixtures import steps
from fixtures.stages import work_item
from onnx_fleet.processes import isolation
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.runs import side_by_side

folder = Path(sys.argv[1])

def take(item):
    (folder / f"begun-{item.fingerprint[:1]}").touch()
    order = steps.Order(what=str(folder / f"step-{item.fingerprint[:1]}"))
    isolation.run(steps.wait, order, limits=Limits(), log=folder / "log")

side_by_side.each(take, [work_item(fingerprint=digit * 64) for digit in "abcd"], jobs=2)
"""


def test_an_interruption_ends_the_steps_that_are_under_way_and_begins_no_others(tmp_path: Path) -> None:
    """Ctrl+C reaches the main thread alone."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS.parent / "include")))}
    with subprocess.Popen([sys.executable, "-c", _HANGING, tmp_path], env=environment, stderr=subprocess.PIPE) as run:
        try:
            _until(lambda: len(list(tmp_path.glob("step-?"))) == 2)
            pids = [int(path.read_text().split()[0]) for path in tmp_path.glob("step-?")]
            run.send_signal(signal.SIGINT)
            _, said = run.communicate(timeout=PATIENCE_S)
        finally:
            run.kill()

    assert said.decode().splitlines()[-1] == "KeyboardInterrupt"
    assert len(list(tmp_path.glob("begun-?"))) == 2
    assert not any(map(psutil.pid_exists, pids))


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)

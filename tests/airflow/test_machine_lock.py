"""Measuring alone on a machine."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from onnx_fleet.airflow import machine_lock

PATIENCE_S = 30.0


def test_heavy_work_runs_side_by_side(tmp_path: Path) -> None:
    with machine_lock.shared(tmp_path), machine_lock.shared(tmp_path):
        pass


def test_a_measurement_waits_for_work_that_is_under_way_and_newcomers_wait_for_it(tmp_path: Path) -> None:
    order: list[str] = []
    measuring, measured, newcomer_done = threading.Event(), threading.Event(), threading.Event()

    def measure() -> None:
        measuring.set()
        with machine_lock.exclusive(tmp_path):
            order.append("measured")
        measured.set()

    def arrive() -> None:
        with machine_lock.shared(tmp_path):
            order.append("newcomer")
        newcomer_done.set()

    with machine_lock.shared(tmp_path):
        threading.Thread(target=measure).start()
        assert measuring.wait(PATIENCE_S)
        while not _door_is_taken(tmp_path):
            pass
        threading.Thread(target=arrive).start()
        order.append("under way")
    assert measured.wait(PATIENCE_S)
    assert newcomer_done.wait(PATIENCE_S)
    assert order == ["under way", "measured", "newcomer"]


def _door_is_taken(folder: Path) -> bool:
    """Whether the one who wants to measure has closed the door."""
    [path] = folder.glob("*-door.lock")
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False

"""Measuring alone on a machine."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from onnx_fleet.processes import machine_lock
from onnx_fleet.processes.machine_lock import Machine

PATIENCE_S = 30.0


def test_heavy_work_runs_side_by_side_and_keeps_measurements_out(tmp_path: Path) -> None:
    side_by_side = threading.Barrier(2, timeout=PATIENCE_S)

    def work(_: int) -> bool:
        with machine_lock.shared(tmp_path):
            side_by_side.wait()
            kept_out = _is_taken(tmp_path, "room", fcntl.LOCK_EX)
            side_by_side.wait()
        return kept_out

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, range(2))) == [True, True]
    assert not _is_taken(tmp_path, "room", fcntl.LOCK_EX)


def test_a_measurement_keeps_heavy_work_out(tmp_path: Path) -> None:
    with machine_lock.exclusive(tmp_path):
        assert _is_taken(tmp_path, "room", fcntl.LOCK_SH)
    assert not _is_taken(tmp_path, "room", fcntl.LOCK_SH)


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
        while not _is_taken(tmp_path, "door", fcntl.LOCK_EX):
            assert not measured.is_set()
        threading.Thread(target=arrive).start()
        order.append("under way")
    assert measured.wait(PATIENCE_S)
    assert newcomer_done.wait(PATIENCE_S)
    assert order == ["under way", "measured", "newcomer"]


def test_what_a_killed_process_held_is_free(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from onnx_fleet.processes import machine_lock
with machine_lock.exclusive(Path({str(tmp_path)!r})):
    print("measuring", flush=True)
    input()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"measuring\n"
        assert _is_taken(tmp_path, "room", fcntl.LOCK_SH)
        process.kill()
    assert not _is_taken(tmp_path, "room", fcntl.LOCK_SH)


def test_a_step_that_measures_gives_its_share_back_and_takes_it_again(tmp_path: Path) -> None:
    """Two that prepare beside each other measure one after the other: neither waits for the other's share."""
    both_prepare, measuring = threading.Barrier(2, timeout=PATIENCE_S), threading.Lock()

    def step(_: int) -> tuple[bool, bool]:
        machine = Machine(tmp_path)
        with machine.shared():
            both_prepare.wait()
            with machine.alone():
                is_the_only_one = measuring.acquire(blocking=False)
                measuring.release()
            shares_again = _is_taken(tmp_path, "room", fcntl.LOCK_EX)
        return is_the_only_one, shares_again

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(step, range(2))) == [(True, True), (True, True)]
    assert not _is_taken(tmp_path, "room", fcntl.LOCK_EX)


def test_a_share_is_held_again_after_a_measurement_that_failed(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with machine.shared():
        with pytest.raises(ValueError, match="no"), machine.alone():
            raise ValueError("no")
        assert _is_taken(tmp_path, "room", fcntl.LOCK_EX)
    assert not _is_taken(tmp_path, "room", fcntl.LOCK_EX)


def _is_taken(folder: Path, name: str, kind: int) -> bool:
    """Whether who asked for such a lock now would have to wait."""
    [path] = folder.glob(f"*-{name}.lock")
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False

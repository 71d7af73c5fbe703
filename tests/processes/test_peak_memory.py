"""The memory of a step: its own process, and the one that it waits for."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures import steps
from fixtures.steps import Order
from onnx_fleet.errors import WorkerOutOfResources
from onnx_fleet.processes import isolation, peak_memory, profiling
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.processes.peak_memory import Meter

MB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The memory that a process takes."""

    size_bytes: int


def hold(request: Held) -> Held:
    """Have memory for a moment, in a process of its own."""
    held = b"x" * request.size_bytes
    return Held(size_bytes=len(held))


@pytest.fixture(autouse=True)
def _found_by_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]))


def test_a_meter_counts_what_is_taken_while_it_is_on() -> None:
    bytearray(b"x" * (300 * MB))
    with Meter() as quiet:
        pass
    with Meter() as busy:
        hold(Held(size_bytes=200 * MB))
    assert 150 * MB < busy.peak_bytes - quiet.peak_bytes < 250 * MB, "what was there before is not counted"


def test_a_process_that_is_waited_for_comes_on_top(tmp_path: Path) -> None:
    with Meter() as alone:
        pass
    with Meter() as both:
        isolation.run(hold, Held(size_bytes=200 * MB), limits=Limits(), log=tmp_path / "log")
    assert both.peak_bytes - alone.peak_bytes > 200 * MB


def test_what_is_mapped_of_a_file_is_not_counted(tmp_path: Path) -> None:
    """The kernel takes such pages back where memory is short: a worker needs no room for them."""
    (tmp_path / "weights").write_bytes(bytes(400 * MB))
    with Meter() as alone:
        isolation.run(hold, Held(size_bytes=1), limits=Limits(), log=tmp_path / "log")
    with Meter() as mapped:
        order = Order(what=str(tmp_path / "weights"))
        outcome = isolation.run(steps.map_a_file, order, limits=Limits(), log=tmp_path / "log")

    assert outcome.peak_memory_bytes > 400 * MB
    assert mapped.peak_bytes - alone.peak_bytes < 50 * MB


def test_what_ran_out_of_memory_is_counted_too(tmp_path: Path) -> None:
    with Meter() as meter, pytest.raises(WorkerOutOfResources):
        isolation.run(hold, Held(size_bytes=4000 * MB), limits=Limits(memory_bytes=100 * MB), log=tmp_path / "log")
    assert meter.peak_bytes > 100 * MB


def test_a_profile_keeps_its_peaks_where_a_meter_counts_as_well() -> None:
    with profiling.recording() as recorder, profiling.timed("load"):
        hold(Held(size_bytes=300 * MB))
        with Meter() as meter:
            hold(Held(size_bytes=100 * MB))
    (load,) = (cost for cost in recorder.profile().stages if cost.stage == "load")
    assert load.peak_memory_bytes > 300 * MB
    assert load.peak_memory_bytes - meter.peak_bytes > 100 * MB
    assert peak_memory.peak_bytes() >= load.peak_memory_bytes

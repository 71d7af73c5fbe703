"""Profiles: whose second it is."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from onnx_fleet.processes import isolation, peak_memory, profiling
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.processes.profiling import Profile

MB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a child process does."""

    seconds: float
    size_bytes: int = 0


def work(request: Work) -> Work:
    """Take time and memory as one stage."""
    with profiling.timed("trace"):
        held = b"x" * request.size_bytes
        _wait(request.seconds)
        del held
    return request


def _wait(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@pytest.fixture
def found_by_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child process finds this file's functions."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]))


def seconds(profile: Profile) -> dict[str, float]:
    return {cost.stage: cost.seconds for cost in profile.stages}


def test_a_stage_inside_another_stops_the_outer_ones_clock() -> None:
    started = time.perf_counter()
    with profiling.recording() as recorder:
        with profiling.timed("trace"):
            _wait(0.02)
            with profiling.timed("decompose"):
                _wait(0.1)
        profile = recorder.profile()
    took = time.perf_counter() - started

    assert seconds(profile)["decompose"] >= 0.1
    assert 0.02 <= seconds(profile)["trace"] <= took - 0.1
    assert profile.seconds == pytest.approx(took, rel=0.2)


def test_a_stage_that_fails_is_counted_and_over() -> None:
    with profiling.recording() as recorder:
        with pytest.raises(ValueError, match="no"), profiling.timed("trace"):
            raise ValueError("no")
        _wait(0.02)
        assert seconds(recorder.profile())["other"] >= 0.02


def test_a_stages_peak_is_its_own_and_the_process_keeps_the_highest() -> None:
    with profiling.recording() as recorder:
        with profiling.timed("load"):
            held = bytearray(b"x" * (200 * MB))
            del held
        with profiling.timed("write"):
            pass
        peaks = {cost.stage: cost.peak_memory_bytes for cost in recorder.profile().stages}

    assert peaks["write"] < peaks["load"] - 100 * MB
    assert peak_memory.peak_bytes() >= peaks["load"]


def test_nothing_is_counted_or_wrapped_where_nobody_asks() -> None:
    before = time.sleep
    with profiling.timed("trace"), profiling.part() as part, profiling.timed_calls({(time, "sleep"): "load"}):
        assert time.sleep is before
    assert part is None
    assert profiling.active() is None


def test_calls_of_others_functions_are_counted_until_the_block_ends() -> None:
    before = time.sleep
    with profiling.recording() as recorder:
        with profiling.timed_calls({(time, "sleep"): "load"}):
            time.sleep(0.02)
        assert time.sleep is before
        assert seconds(recorder.profile())["load"] >= 0.02


@pytest.mark.usefixtures("found_by_children")
def test_a_child_process_counts_its_own_stages(tmp_path: Path) -> None:
    started = time.perf_counter()
    with profiling.recording() as recorder:
        isolation.run(work, Work(seconds=0.1, size_bytes=200 * MB), limits=Limits(), log=tmp_path / "log")
        found = recorder.profile()
    took = time.perf_counter() - started

    assert seconds(found)["trace"] >= 0.1
    assert seconds(found)["imports"] > 0, "Python's start in the child"
    assert found.seconds == pytest.approx(took, rel=0.2)
    assert {cost.stage: cost.peak_memory_bytes for cost in found.stages}["trace"] > 200 * MB


@pytest.mark.usefixtures("found_by_children")
def test_a_child_process_inside_a_stage_is_that_stages(tmp_path: Path) -> None:
    with profiling.recording() as recorder:
        with profiling.timed("validate"):
            isolation.run(work, Work(seconds=0.1), limits=Limits(), log=tmp_path / "log")
        found = recorder.profile()

    assert set(seconds(found)) == {"validate", "other"}
    assert seconds(found)["validate"] >= 0.1


def test_a_part_is_counted_by_itself_and_for_the_whole() -> None:
    with profiling.recording() as recorder:
        with profiling.part() as part:
            with profiling.timed("publish"):
                _wait(0.02)
            assert part is not None
            own = part.profile()
        whole = recorder.profile()

    assert seconds(whole)["publish"] == pytest.approx(seconds(own)["publish"])

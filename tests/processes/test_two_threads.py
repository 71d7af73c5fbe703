"""Both sides of a comparison compute at the same time, and neither's failure hides that the other still runs."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Never

import pytest

from onnx_fleet.errors import ValidationFailed
from onnx_fleet.processes import isolation, peak_memory
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.processes.two_threads import beside, have_one_heap
from onnx_fleet.validation.checks.single_graph import or_fault

MB = 1 << 20


def test_each_side_waits_for_the_other_to_have_begun() -> None:
    """A barrier lets nobody through before both are there."""
    both = threading.Barrier(2, timeout=30)
    places = beside(both.wait, both.wait)

    assert sorted(places) == [0, 1]


def test_what_pytorch_raises_is_raised() -> None:
    with pytest.raises(ValidationFailed, match="PyTorch itself"):
        beside(_fail, lambda: 1)


def test_a_graph_that_fails_is_told_when_pytorch_has_ended_too() -> None:
    """A model that still computes must not meet the next check, which may change its weights for a moment."""
    ended: list[float] = []

    def slow() -> None:
        time.sleep(0.2)
        ended.append(time.monotonic())

    with pytest.raises(ValidationFailed):
        beside(slow, _fail)
    assert ended


def test_a_fault_is_a_value_where_it_is_a_finding() -> None:
    expected, actual = beside(lambda: 1, lambda: or_fault(_fail))

    assert expected == 1
    assert isinstance(actual, ValidationFailed)


def _fail() -> Never:
    raise ValidationFailed("PyTorch itself does not run on this")


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The memory that a process has had, or whether its threads are to have one heap."""

    size_bytes: int


def crowd(request: Held) -> Held:
    """Free in several threads what others take after them, in small pieces, which stay in the heaps; say what is left.

    Args:
        request: 1 to have one heap.
    """
    if request.size_bytes:
        have_one_heap()
    taken = threading.Barrier(4)

    def take() -> None:
        pieces = [bytearray(64 << 10) for _ in range(500)]
        taken.wait()
        keep.append(bytearray(64 << 10))  # at the heap's end, so that none of it can be given back
        del pieces

    keep: list[bytearray] = []
    crowds = [threading.Thread(target=take) for _ in range(4)]
    for each in crowds:
        each.start()
    for each in crowds:
        each.join()
    keep += [bytearray(64 << 10) for _ in range(2000)]
    return Held(size_bytes=peak_memory.peak_bytes())


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has heaps for threads that can be told of")
def test_in_one_heap_what_a_thread_has_freed_serves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]))
    many, one = (
        isolation.run(crowd, Held(size_bytes=each), limits=Limits(), log=tmp_path / "log").value.size_bytes
        for each in (0, 1)
    )
    assert many - one > 50 * MB

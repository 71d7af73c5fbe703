"""Both sides of a comparison compute at the same time, and neither's failure hides that the other still runs."""

from __future__ import annotations

import threading
import time
from typing import Never

import pytest

from onnx_fleet.errors import ValidationFailed
from onnx_fleet.processes.two_threads import beside
from onnx_fleet.validation.checks.single_graph import or_fault


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

"""Syntax trees, built in several threads."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from onnx_fleet.conventions import auto_mappings, python_source


@pytest.fixture
def restless() -> Iterator[None]:
    """A garbage collector that hands over to another thread often, as finalizers written in Python let it."""

    def hand_over(phase: str, info: dict[str, int]) -> None:
        time.sleep(0)

    threshold = gc.get_threshold()
    gc.callbacks.append(hand_over)
    gc.set_threshold(20)
    yield
    gc.set_threshold(*threshold)
    gc.callbacks.remove(hand_over)


@pytest.mark.usefixtures("restless")
def test_threads_that_read_python_at_the_same_time_do_not_disturb_each_other() -> None:
    folder = auto_mappings.source_folder()
    assert folder
    source = (folder / "models" / "auto" / "configuration_auto.py").read_text(encoding="utf-8")
    with ThreadPoolExecutor(8) as pool:
        trees = list(pool.map(python_source.module, [source] * 300))
    assert {len(tree.body) for tree in trees} == {len(trees[0].body)}

"""Several models that go through their steps at the same time, each in a thread that waits for its steps' processes.

A step that measures has the machine alone all the same: see machine_lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.processes import hardware, isolation

R = TypeVar("R")


def fitting(items: Iterable[WorkItem]) -> int:
    """Return how many of these models this machine takes at the same time.

    That is one for each core, and no more than have room in its memory if all are as large as the largest is predicted
    to be.
    """
    needed = max((item.estimate.memory_bytes for item in items if item.estimate), default=0)
    room = int(hardware.usable_memory_bytes() * isolation.STEP_MEMORY_SHARE)
    return max(1, min(hardware.usable_cores(), room // max(1, needed)))


def each(take: Callable[[WorkItem], R], items: Sequence[WorkItem], *, jobs: int) -> list[R]:
    """Return what a function returns for each item, several at a time, in their order.

    Where this is interrupted, no further item is begun, and the steps that are under way are ended.

    Args:
        take: is called in threads, with a copy of the caller's context.
    """
    with isolation.stoppable() as stop, ThreadPoolExecutor(jobs, thread_name_prefix="model") as pool:
        taken = [pool.submit(copy_context().run, take, item) for item in items]
        try:
            return [future.result() for future in taken]
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise

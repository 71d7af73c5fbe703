"""Measuring alone on a machine: heavy tasks hold a shared lock, a measuring one the exclusive one.

Airflow's pools cannot say this: a task that needs all slots of a pool waits until every smaller one that could start
is done, so with a thousand models no model would be measured, published and cleared away before all were exported.
Here a task that wants to measure closes the door behind which the others stand; those that are inside end, it
measures, and all go on. The locks are the kernel's, so that they go with a process that is killed.

Two libraries have such a lock, and neither keeps the door closed. fasteners 0.20 lets newcomers in as long as one
task is inside: with three tasks that overlapped, a measurement waited for the end of the last. filelock 4.2's
ReadWriteLock holds newcomers back where the process that waits has a single thread; with a second thread it asks anew
every 50 ms, and in between four newcomers of four slipped in.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from onnx_fleet.processes import progress

log = logging.getLogger(__name__)

Use = Literal["shared", "alone", "as_it_says"]
"""How a step uses its machine.

``shared``: it may run beside others, and not beside one that measures; ``alone``: it measures all the time;
``as_it_says``: it asks for the machine by itself, as it needs it.
"""
Alone = Callable[[], AbstractContextManager[None]]
"""The context manager that keeps our other work off the machine."""


class Machine:
    """The machine as one step uses it: what the step holds of it, and how long it waited for others."""

    def __init__(self, folder: Path | None = None) -> None:
        """Args:
        folder: the folder that all workers of this machine see, and no other machine's; None where nobody shares it.
        """
        self.folder = folder
        self.waited_s = 0.0
        """The seconds in which the step waited, which are not its own."""
        self._share: ExitStack | None = None

    @contextmanager
    def used(self, use: Use) -> Iterator[None]:
        """Hold the machine as a step uses it."""
        with ExitStack() as held:
            if use != "as_it_says":
                held.enter_context(self.shared() if use == "shared" else self.alone())
            yield

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the machine for work that may run beside others', and not beside a measurement."""
        with ExitStack() as self._share:
            self._take(shared, held=self._share)
            try:
                yield
            finally:
                self._share = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the machine alone; a share of it that the step holds is given back until the block ends."""
        share = self._share
        if share:
            share.close()
        try:
            with ExitStack() as held:
                self._take(exclusive, held=held)
                yield
        finally:
            if share:
                self._take(shared, held=share)

    @contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Hold the right to one piece of work, as the function of this name does."""
        with ExitStack() as held:
            self._take(lambda folder: turn(folder, name), held=held)
            yield

    def _take(self, lock: Callable[[Path], AbstractContextManager[None]], *, held: ExitStack) -> None:
        if self.folder is not None:
            asked = time.monotonic()
            held.enter_context(lock(self.folder))
            self.waited_s += time.monotonic() - asked


@contextmanager
def shared(folder: Path) -> Iterator[None]:
    """Hold the machine for work that may run beside other work of its kind, and not beside a measurement.

    Args:
        folder: the folder that all workers of this machine see, and no other machine's.
    """
    with ExitStack() as held:
        with _locked(folder, "door", fcntl.LOCK_EX):
            held.enter_context(_locked(folder, "room", fcntl.LOCK_SH))
        yield


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the machine alone: no other heavy task of ours runs on it meanwhile.

    Args:
        folder: the same folder as for shared.
    """
    with _locked(folder, "door", fcntl.LOCK_EX), _locked(folder, "room", fcntl.LOCK_EX):
        yield


@contextmanager
def turn(folder: Path, name: str) -> Iterator[None]:
    """Hold the right to one piece of work, which others on this machine wait for instead of doing it, too.

    Args:
        folder: the same folder as for shared.
        name: what the work is called in the name of a file.
    """
    with _locked(folder, name, fcntl.LOCK_EX, why="what is being made on this machine already"):
        yield


@contextmanager
def _locked(
    folder: Path,
    name: str,
    kind: int,
    *,
    why: str = "other work on this machine to end",
) -> Iterator[None]:
    """Hold a lock on an open file, which programs that are started meanwhile do not inherit.

    Args:
        why: what a wait is for, as the log says it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"onnx-fleet-{os.getuid()}-{name}.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for %s", why)
            with progress.waiting(why):
                fcntl.flock(handle, kind)
        yield
    finally:
        os.close(handle)

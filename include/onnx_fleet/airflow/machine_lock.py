"""Measuring alone on a machine: heavy tasks hold a shared lock, a measuring one the exclusive one.

Airflow's pools cannot say this: a task that needs all slots of a pool waits until every smaller one that could start
is done, so with a thousand models no model would be measured, published and cleared away before all were exported.
Here a task that wants to measure closes the door behind which the others stand; those that are inside end, it
measures, and all go on. The locks are the kernel's, so that they go with a process that is killed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


@contextmanager
def shared(folder: Path | None = None) -> Iterator[None]:
    """Work that may run beside other work of its kind, and not beside a measurement."""
    with _held(folder, "door", fcntl.LOCK_EX):
        room = _take(folder, "room", fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(room)


@contextmanager
def exclusive(folder: Path | None = None) -> Iterator[None]:
    """Work that nothing heavy of ours runs beside, on this machine."""
    with _held(folder, "door", fcntl.LOCK_EX), _held(folder, "room", fcntl.LOCK_EX):
        yield


@contextmanager
def _held(folder: Path | None, name: str, kind: int) -> Iterator[None]:
    handle = _take(folder, name, kind)
    try:
        yield
    finally:
        os.close(handle)


def _take(folder: Path | None, name: str, kind: int) -> int:
    """An open file that holds the lock until it is closed; children do not inherit it."""
    folder = folder or Path(tempfile.gettempdir())
    handle = os.open(folder / f"onnx-fleet-{os.getuid()}-{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for other work on this machine to end, so that measurements are of one model alone")
            fcntl.flock(handle, kind)
    except BaseException:
        os.close(handle)
        raise
    return handle

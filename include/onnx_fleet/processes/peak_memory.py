"""How much memory this process has had at most, in all or since a moment, and the processes that it waited for.

Peaks are resident memory, which the system counts. A meter counts what a worker needs: without the pages of mapped
files, such as a checkpoint, which the kernel takes back where memory is short.
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import ContextVar, Token
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_earlier_bytes = 0
"""The highest peak that was counted before the count was started anew."""
_untold_bytes = 0
"""The peak that a meter has ended the count of, and that restart_peak has not returned yet."""


def peak_bytes() -> int:
    """Return the most resident memory that this process has had.

    It is not ``ru_maxrss``, which Linux starts at the size of the process that forked this one.
    """
    return max(_earlier_bytes, _counted_bytes())


def restart_peak() -> int:
    """Return the peak since the last call, or since the process began, and count anew where the system lets it."""
    global _untold_bytes
    found = max(_untold_bytes, _count_anew())
    _untold_bytes = 0
    return found


def resident(process: psutil.Process) -> tuple[int, int]:
    """Return the resident bytes of a process, and those of them that are pages of files.

    The second number is 0 where the system does not tell them apart.
    """
    memory = process.memory_info()
    return int(memory.rss), int(getattr(memory, "shared", 0))


class Meter:
    """The most memory that this process and one that it waited for took together, while the meter was on.

    The pages of mapped files are not counted. This process is taken to have as many at its peak as when it is counted.
    """

    def __init__(self) -> None:
        self._own_bytes = 0
        self._others_bytes = 0
        self._token: Token[Meter | None] | None = None

    @property
    def peak_bytes(self) -> int:
        """The bytes, once the meter is off: this process's peak, and that of the largest process it waited for."""
        return self._own_bytes + self._others_bytes

    def saw(self, *, own_bytes: int = 0, others_bytes: int = 0) -> None:
        """Take what was seen of this process, or of one that it waits for."""
        self._own_bytes = max(self._own_bytes, own_bytes)
        self._others_bytes = max(self._others_bytes, others_bytes)

    def __enter__(self) -> Self:
        _end_count()
        self._token = _meter.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end_count()
        if self._token is not None:
            _meter.reset(self._token)


_meter: ContextVar[Meter | None] = ContextVar("meter", default=None)


def saw_process(size_bytes: int) -> None:
    """Tell the meter that is on what a process has beside files that this one waits for, with all that it started."""
    if meter := _meter.get():
        meter.saw(others_bytes=size_bytes)


def _end_count() -> None:
    """Count anew, and keep the peak until now for whoever asks restart_peak."""
    global _untold_bytes
    _untold_bytes = max(_untold_bytes, _count_anew())


def _count_anew() -> int:
    """Return the peak that the system has counted, tell it to the meter that is on, and have it counted anew."""
    global _earlier_bytes
    found = _counted_bytes()
    _earlier_bytes = max(_earlier_bytes, found)
    if meter := _meter.get():
        _, of_files = resident(psutil.Process())
        meter.saw(own_bytes=found - of_files)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: resets VmHWM to what is resident now
    return found


def _counted_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resident(psutil.Process())[0]

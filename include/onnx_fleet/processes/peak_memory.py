"""How much memory this process has had at most, in all or since a moment."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_earlier_bytes = 0
"""The highest peak that was counted before the count was started anew."""


def peak_bytes() -> int:
    """Return the most resident memory that this process has had.

    It is not ``ru_maxrss``, which Linux starts at the size of the process that forked this one.
    """
    return max(_earlier_bytes, _counted_bytes())


def restart_peak() -> int:
    """Return the peak since the last call, or since the process began, and count anew where the system lets it."""
    global _earlier_bytes
    found = _counted_bytes()
    _earlier_bytes = max(_earlier_bytes, found)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: resets VmHWM to what is resident now
    return found


def _counted_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import psutil

    return int(psutil.Process().memory_info().rss)

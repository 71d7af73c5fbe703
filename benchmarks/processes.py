"""What a whole process costs, with everything that it starts: wall time, CPU time, peak memory. Linux only."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One run of a command."""

    wall_s: float
    cpu_s: float
    """User and system, of the process and all its descendants."""
    peak_bytes: int
    """The most memory that all of them had at one time: their resident set sizes, added up. What several share counts
    for each, and so do pages of mapped files as long as they are in memory."""
    peak_anonymous_bytes: int
    """What of that peak belongs to no file: the system cannot drop it when memory runs short."""


@dataclass(slots=True, kw_only=True)
class _Peak:
    """The most memory seen in a tree of processes."""

    resident_bytes: int = 0
    anonymous_bytes: int = 0

    def look(self, root: psutil.Process) -> None:
        """Look once.

        Not at proportional set sizes, which count a shared page once: the kernel takes 50 ms to add up 2 GB of them,
        and the process waits with it meanwhile. Asked every 50 ms, that would slow down whoever uses much memory.
        """
        with contextlib.suppress(psutil.Error):
            sizes = [memory(process) for process in (root, *root.children(recursive=True))]
            resident = sum(size for size, _ in sizes)
            if resident > self.resident_bytes:
                self.resident_bytes = resident
                self.anonymous_bytes = sum(size for _, size in sizes)


class CommandFailed(Exception):
    """A measured command ended with another exit status than 0; its figures would mean nothing."""


def measured(command: Sequence[str | Path], *, environment: Mapping[str, str], log: Path) -> Cost:
    """Run a command to its end and say what it cost. Nothing else may run as a child of this process meanwhile.

    Args:
        log: takes what the command prints, replacing what was there.
    Raises:
        CommandFailed: names the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    peak = _Peak()
    before_s = _children_cpu_s()
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        root = psutil.Process(process.pid)
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
                    break
                peak.look(root)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        wall_s = time.perf_counter() - started
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise CommandFailed(f"exit status {process.returncode} of {' '.join(map(str, command))}; {log} ends:\n{tail}")
    return Cost(
        wall_s=wall_s,
        cpu_s=_children_cpu_s() - before_s,
        peak_bytes=peak.resident_bytes,
        peak_anonymous_bytes=peak.anonymous_bytes,
    )


def bare_environment() -> dict[str, str]:
    """This process's own, without what would point a command at another Hub or store."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HF_", "ONNX_FLEET_"))}


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory(process: psutil.Process) -> tuple[int, int]:
    """Resident bytes, and those of them that belong to no file; 0 of a process that has ended."""
    try:
        found = process.memory_info()
    except psutil.Error:
        return 0, 0
    return int(found.rss), int(found.rss - found.shared)

"""Noise: how evenly the machine did one fixed piece of work while latencies were taken -> a figure and a verdict.

The work is SHA-256 over the same bytes on as many threads as the graphs have. It needs no library whose own threads
could wait for each other, and what it costs is known: a thread that was on a core all the time has used as much
processor time as time went by.
"""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from onnx_fleet.entities.latency_report import Noise

MOST_SPREAD = 0.25
"""The largest spread of a quiet machine.

On two cores with one busy neighbour, one thread had a spread of 0.05 to 0.20, and two threads, which then lack a core,
one of 0.43 to 1.1: docs/decisions/latency-method.md.
"""
MOST_WAITING = 0.05
"""The largest share of its time that a thread waits on a quiet machine.

In the same runs one thread waited for 0.2 % to 3.3 % of its time, and two threads for 5.6 % to 44 %.
"""

_KERNEL_BYTES = 8 << 20
"""The bytes to hash: 4.5 ms per thread at 1.8 GB/s, longer than a time slice, so that a neighbour has a turn in it."""
_TIMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRun:
    """The fixed work, done once on every thread."""

    slowest_ms: float
    """The wall time of the slowest thread."""
    wall_ms: float
    """The sum of all threads' wall times."""
    cpu_ms: float
    """The sum of the times that all threads were on a core."""


class NoiseMeter:
    """Measures the machine's noise between measurements."""

    def __init__(self, *, threads: int) -> None:
        self._threads = threads
        self._data = bytes(_KERNEL_BYTES)
        self._runs: list[KernelRun] = []

    def probe(self) -> None:
        """Do the fixed work a few times while the process does nothing else; the first time does not count."""
        with ThreadPoolExecutor(self._threads) as pool:
            runs = [self._run(pool) for _ in range(1 + _TIMED)]
        self._runs += runs[1:]

    def noise(self) -> Noise | None:
        """Judge all probes so far; None before the first."""
        return judge(tuple(self._runs), threads=self._threads) if self._runs else None

    def _run(self, pool: ThreadPoolExecutor) -> KernelRun:
        threads = list(pool.map(self._work, range(self._threads)))
        return KernelRun(
            slowest_ms=max(wall for wall, _ in threads),
            wall_ms=sum(wall for wall, _ in threads),
            cpu_ms=sum(cpu for _, cpu in threads),
        )

    def _work(self, _: int) -> tuple[float, float]:
        """Do the fixed work; returns its wall time and its time on a core, in milliseconds."""
        cpu_ns, wall_ns = time.thread_time_ns(), time.perf_counter_ns()
        hashlib.sha256(self._data, usedforsecurity=False)
        return (time.perf_counter_ns() - wall_ns) / 1e6, (time.thread_time_ns() - cpu_ns) / 1e6


def judge(runs: tuple[KernelRun, ...], *, threads: int) -> Noise:
    """Judge whether the machine was quiet, or noisy and why.

    The spread shows what comes and goes: neighbours, stolen time, a clock that changes. Waiting shows a neighbour that
    is always there too, which makes all runs slow alike.
    """
    times = sorted(run.slowest_ms for run in runs)
    spread = times[int(0.9 * (len(times) - 1))] / times[0] - 1
    waiting = max(0.0, 1 - sum(run.cpu_ms for run in runs) / sum(run.wall_ms for run in runs))
    on = "1 thread" if threads == 1 else f"{threads} threads"
    noisy = spread > MOST_SPREAD or waiting > MOST_WAITING
    return Noise(
        verdict="noisy" if noisy else "quiet",
        reason=(
            f"a fixed piece of work on {on} took up to {spread:.0%} longer than at its fastest (more than"
            f" {MOST_SPREAD:.0%} is noisy) and waited for a core {waiting:.0%} of its time (more than"
            f" {MOST_WAITING:.0%} is noisy)"
        ),
        spread=spread,
        waiting_share=waiting,
        kernel_ms_fastest=times[0],
        kernel_runs=len(runs),
        threads=threads,
    )

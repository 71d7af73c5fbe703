"""Latency: warm-up, timed runs, percentiles -> LatencyReport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """One graph at one point of the grid."""

    graph: str
    variant: str
    batch_size: int
    sequence_length: int
    timed_runs: int
    latency_ms_p50: float
    latency_ms_p90: float
    latency_ms_p95: float
    latency_ms_p99: float
    throughput_per_s: float
    """Batch rows a second, at p50."""
    torch_latency_ms_p50: float
    """PyTorch eager on the same inputs and threads, interleaved in the same run."""
    ratio_to_torch: float
    """latency_ms_p50 / torch_latency_ms_p50: below 1 is faster than PyTorch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyReport:
    """Every point of the grid on one provider."""

    schema_version: int = 1
    model_id: str
    version: str
    provider: str
    status: Literal["measured", "not_run"]
    reason: str
    rows: tuple[LatencyRow, ...]
    load_time_s: float | None
    """Seconds to make a session, once, from the files on disk."""
    peak_memory_bytes: int | None
    """Of a process that loads the graph and runs the largest point, and has no torch in it."""
    threads: int
    hardware: Mapping[str, str | int]
    runtime: Mapping[str, str]
    duration_s: float

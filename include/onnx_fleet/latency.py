"""Latency: warm-up, timed runs, percentiles -> LatencyReport. Imports torch and onnxruntime when called.

The method, in short. Both sides get the same inputs (full rows of random tokens) and the same fixed number of threads.
After a warm-up they take turns in blocks, so that a change of the machine's load meets both; the first run of each
block is thrown away, because the other side's threads are still spinning then. Garbage collection is off while the
clock runs. Load time and peak memory come from a process of their own that has no torch in it.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from onnx_fleet import isolated, runtime, stage
from onnx_fleet.entry import LatencyGrid
from onnx_fleet.errors import GpuUnavailable
from onnx_fleet.footprint import Footprint, FootprintRequest, take
from onnx_fleet.graph import GraphInfo
from onnx_fleet.isolated import Limits

if TYPE_CHECKING:
    import numpy as np

    from onnx_fleet.plan import WorkItem
    from onnx_fleet.reference import Reference
    from onnx_fleet.runtime import Session
    from onnx_fleet.workloads import Workload

log = logging.getLogger(__name__)

POINT_BUDGET_S = 10.0
"""A point of the grid that needs more than this takes fewer runs than were asked for, and its row says how many."""

_BLOCKS = 5
_NO_BOUND = 1_000_000
_FOOTPRINT_LIMITS = Limits(timeout_s=600)
_METHOD = {
    "clock": "time.perf_counter_ns around one call, numpy arrays in and out",
    "order": f"the graph and PyTorch eager in turns, {_BLOCKS} blocks each; the first run of a block is not counted",
    "percentiles": "numpy.percentile, linear interpolation (Hyndman and Fan 7)",
    "load_time": "one session from files in the page cache, in a process without torch",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """One graph at one point of the grid."""

    graph: str
    variant: str
    phase: str = "forward"
    """``forward``; ``prompt`` and ``step`` of a graph with a cache; ``encode`` of an encoder before a decoder."""
    batch_size: int
    sequence_length: int | None
    """Tokens in a row: of the prompt, the encoder's input, or up to the end of the step; None where there are none."""
    timed_runs: int
    """On each side; fewer than the entry asks for where the point's time ran out."""
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

    @property
    def at(self) -> str:
        """The point, for people: ``batch 1 × 16 tokens``, ``step, batch 1 × 16 tokens``."""
        size = f"batch {self.batch_size}" + (f" × {self.sequence_length} tokens" if self.sequence_length else "")
        return size if self.phase == "forward" else f"{self.phase}, {size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedPoint:
    """A point of the grid that the model cannot take."""

    batch_size: int
    sequence_length: int
    reason: str


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
    skipped: tuple[SkippedPoint, ...] = ()
    load_time_s: float | None
    """Seconds to make a session, once, from the files on disk."""
    peak_memory_bytes: int | None
    """Of a process that loads the graph and runs the largest point, and has no torch in it."""
    threads: int
    hardware: Mapping[str, str | int]
    runtime: Mapping[str, str]
    """Versions, and the method in words."""
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    batch_size: int
    sequence_length: int | None

    @property
    def length(self) -> int:
        """For graphs that ask for one."""
        return self.sequence_length or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figures:
    """What was measured, or why nothing was."""

    rows: tuple[LatencyRow, ...] = ()
    skipped: tuple[SkippedPoint, ...] = ()
    footprint: Footprint | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """What stays the same over all graphs and points."""

    stage_dir: Path
    reference: Reference
    provider: str
    threads: int
    grid: LatencyGrid

    def points(self, graphs: tuple[GraphInfo, ...]) -> tuple[tuple[_Point, ...], tuple[SkippedPoint, ...]]:
        """The points to time, smallest first, and those that are too long for the model.

        Graphs that take one length only are timed at that one, whatever lengths the grid has.
        """
        from onnx_fleet import workloads

        only = workloads.fixed_length(graphs)
        if only is not None:
            sizes = sorted(self.grid.batch_sizes)
            return tuple(_Point(batch_size=size, sequence_length=only) for size in sizes), ()
        longest = workloads.longest(self.stage_dir, self.reference, bound=_NO_BOUND)
        if longest is None:
            sizes = sorted(self.grid.batch_sizes)
            return tuple(_Point(batch_size=size, sequence_length=None) for size in sizes), ()
        wanted = sorted(
            ((rows, length) for rows in self.grid.batch_sizes for length in self.grid.sequence_lengths),
            key=lambda point: (point[0] * point[1], point[1]),
        )
        fitting = tuple(_Point(batch_size=rows, sequence_length=size) for rows, size in wanted if size <= longest)
        skipped = tuple(
            SkippedPoint(batch_size=rows, sequence_length=size, reason=f"the model takes {longest} tokens at most")
            for rows, size in wanted
            if size > longest
        )
        return fitting, skipped

    def works(self, info: GraphInfo, point: _Point) -> tuple[Workload, ...]:
        """What a graph does at one point: full rows of random tokens, the same ones for both sides."""
        from onnx_fleet import workloads

        return workloads.of(info, batch_size=point.batch_size, length=point.length, tokens=self._tokens)

    def open(self, info: GraphInfo) -> Session:
        """A session; on an accelerator one whose nodes were seen to run there."""
        from onnx_fleet import workloads

        path = self.stage_dir / info.path
        if self.provider == "cpu":
            return runtime.open_session(path, threads=self.threads, libraries=info.libraries)
        with TemporaryDirectory(prefix="onnx-fleet-") as folder:
            session = runtime.open_session(
                path,
                provider=self.provider,
                threads=self.threads,
                libraries=info.libraries,
                profile_dir=Path(folder),
            )
            placement = session.prove_placement(workloads.shortest(info).feeds(info, seed=0))
        runtime.require_placed(placement, graph=info.path)
        return session

    @property
    def _tokens(self) -> np.ndarray | None:
        from onnx_fleet import inputs

        if "input_ids" not in self.reference.parameters:
            return None
        return inputs.token_space(self.stage_dir, self.reference.limits, bound=_NO_BOUND).tokens


def measure(
    stage_dir: Path, *, source_dir: Path, provider: str = "cpu", point_budget_s: float = POINT_BUDGET_S
) -> LatencyReport:
    """Time every graph of a stage over the entry's grid, PyTorch eager beside it, and write the report into the stage.

    Args:
        stage_dir: an exported stage; takes ``reports/latency.json``, or ``latency_<provider>.json``.
        source_dir: the source's files at the stage's commit.
        provider: ``cpu`` or ``cuda``. Where that cannot run the report says ``not_run``: the CPU never stands in.
        point_budget_s: about how long one point may be timed.
    Raises:
        BundleNotFound: the folder is not an exported stage.
        ValidationFailed: a graph does not load or run; validate says more.
    """
    started = time.perf_counter()
    item, record = stage.read_work(stage_dir), stage.read_export(stage_dir)
    grid = item.model.entry.latency
    threads = grid.threads or runtime.usable_cores()
    try:
        runtime.require_provider(provider)  # before torch is imported and weights are read for nothing
        reference = _load_reference(item, source_dir, provider=provider)
        bench = _Bench(stage_dir=stage_dir, reference=reference, provider=provider, threads=threads, grid=grid)
        figures = _take_figures(bench, record.graphs, budget_s=point_budget_s)
    except GpuUnavailable as err:
        figures = _Figures(reason=str(err))
    report = LatencyReport(
        model_id=item.model_id,
        version=item.version,
        provider=provider,
        status="measured" if figures.rows else "not_run",
        reason=figures.reason,
        rows=figures.rows,
        skipped=figures.skipped,
        load_time_s=figures.footprint.load_time_s if figures.footprint else None,
        peak_memory_bytes=figures.footprint.peak_memory_bytes if figures.footprint else None,
        threads=threads,
        hardware=runtime.hardware(provider=provider),
        runtime={**runtime.versions(), **_METHOD, "load_average_1m": f"{os.getloadavg()[0]:.2f}"},
        duration_s=time.perf_counter() - started,
    )
    stage.write_report(stage_dir, runtime.report_name("latency", provider), report)
    log.info("measured %s@%s on %s: %s", item.model_id, item.model.commit[:8], provider, report.status)
    return report


def _load_reference(item: WorkItem, source_dir: Path, *, provider: str) -> Reference:
    from onnx_fleet import reference

    return reference.load(item, source_dir=source_dir, device="cuda" if provider == "cuda" else "cpu")


def _take_figures(bench: _Bench, graphs: tuple[GraphInfo, ...], *, budget_s: float) -> _Figures:
    from onnx_fleet.reference import threads

    points, skipped = bench.points(graphs)
    if not points:
        return _Figures(reason="every point of the grid is too long for the model", skipped=skipped)
    request = FootprintRequest(
        stage_dir=bench.stage_dir,
        graphs=graphs,
        provider=bench.provider,
        threads=bench.threads,
        batch_size=points[-1].batch_size,
        sequence_length=points[-1].length,
    )
    log_file = bench.stage_dir / stage.PRIVATE / "footprint.log"
    footprint = isolated.run(take, request, limits=_FOOTPRINT_LIMITS, log=log_file).value
    with threads(bench.threads):
        rows = tuple(row for info in graphs for row in _time_graph(bench, info, points, budget_s=budget_s))
    return _Figures(rows=rows, skipped=skipped, footprint=footprint)


def _time_graph(bench: _Bench, info: GraphInfo, points: tuple[_Point, ...], *, budget_s: float) -> Iterator[LatencyRow]:
    session = bench.open(info)
    for point in points:
        for work in bench.works(info, point):
            feeds = work.feeds(info, seed=0)
            ours_ms, torch_ms = time_interleaved(
                partial(session.run, feeds),
                partial(bench.reference.graph, info.role, feeds),
                warmup_runs=bench.grid.warmup_runs,
                timed_runs=bench.grid.timed_runs,
                budget_s=budget_s,
            )
            yield _row(info, point, work.phase, ours_ms, torch_ms)


def time_interleaved(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    warmup_runs: int,
    timed_runs: int,
    budget_s: float = POINT_BUDGET_S,
) -> tuple[np.ndarray, np.ndarray]:
    """Time two calls in turns, in blocks.

    Args:
        timed_runs: of each, at most; fewer where budget_s would not do, one a block at least.
    Returns:
        float64 [runs] of each, in milliseconds, in the order in which they ran.
    """
    import numpy as np

    pace_s = _warm_up(first, runs=warmup_runs, budget_s=budget_s / 8)
    pace_s += _warm_up(second, runs=warmup_runs, budget_s=budget_s / 8)
    affordable = int(budget_s / (_BLOCKS * pace_s)) - 1 if pace_s else timed_runs
    a_block = max(1, min(-(-timed_runs // _BLOCKS), affordable))
    times: tuple[list[float], list[float]] = ([], [])
    with _no_garbage_collection():
        for _ in range(_BLOCKS):
            for call, taken in zip((first, second), times, strict=True):
                call()
                taken += [_time_ms(call) for _ in range(a_block)]
    return np.array(times[0][:timed_runs]), np.array(times[1][:timed_runs])


def _warm_up(call: Callable[[], object], *, runs: int, budget_s: float) -> float:
    """Run until warm or out of time; the fastest run, in seconds."""
    deadline = time.perf_counter() + budget_s
    fastest_ms = _time_ms(call)
    for _ in range(runs - 1):
        fastest_ms = min(fastest_ms, _time_ms(call))
        if time.perf_counter() > deadline:
            break
    return fastest_ms / 1e3


def _time_ms(call: Callable[[], object]) -> float:
    started = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - started) / 1e6


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _row(info: GraphInfo, point: _Point, phase: str, ours_ms: np.ndarray, torch_ms: np.ndarray) -> LatencyRow:
    import numpy as np

    p50, p90, p95, p99 = (float(value) for value in np.percentile(ours_ms, [50, 90, 95, 99], method="linear"))
    torch_p50 = float(np.percentile(torch_ms, 50, method="linear"))
    return LatencyRow(
        graph=info.path,
        variant=info.variant,
        phase=phase,
        batch_size=point.batch_size,
        sequence_length=point.sequence_length,
        timed_runs=len(ours_ms),
        latency_ms_p50=p50,
        latency_ms_p90=p90,
        latency_ms_p95=p95,
        latency_ms_p99=p99,
        throughput_per_s=point.batch_size / (p50 / 1e3),
        torch_latency_ms_p50=torch_p50,
        ratio_to_torch=p50 / torch_p50,
    )

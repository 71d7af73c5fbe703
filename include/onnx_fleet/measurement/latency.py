"""Latency: warm-up, timed runs, percentiles -> LatencyReport. Imports torch and onnxruntime when called.

The method, in short. All variants of a graph and PyTorch eager get the same inputs (full rows of random tokens) and the
same fixed number of threads. Each runs until it stops becoming faster; then they take turns in blocks, so that a change
of the machine's load meets all of them. Between the blocks the machine's own noise is taken. Load time and peak memory
come from processes of their own, one a variant, that have no torch in them. docs/decisions/latency-method.md has the
reasons.

What was measured on the same graphs with other weights is taken over instead, once a few calls have confirmed it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_fleet.bundles import charts
from onnx_fleet.bundles.stage import PRIVATE, Stage
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.kept_latency import KeptLatency
from onnx_fleet.entities.latency_report import (
    Footprint,
    GenerationRow,
    LatencyReport,
    LatencyRow,
    LeftOut,
    Noise,
    SkippedPoint,
)
from onnx_fleet.entities.provider import report_name
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import GpuUnavailable
from onnx_fleet.graphs import session
from onnx_fleet.measurement import reuse, timing
from onnx_fleet.measurement.benchmark import Bench, Point, Run
from onnx_fleet.measurement.confirmation import Confirming
from onnx_fleet.measurement.footprint import FootprintRequest, take
from onnx_fleet.measurement.noise import NoiseMeter
from onnx_fleet.measurement.reuse import Taken
from onnx_fleet.measurement.timing import POINT_BUDGET_S, Timed
from onnx_fleet.processes import hardware, isolation
from onnx_fleet.processes.gpu import GpuOptions
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.processes.machine_lock import Machine

if TYPE_CHECKING:
    import numpy as np

    from onnx_fleet.source.reference import Reference

__all__ = [
    "measure",
]

log = logging.getLogger(__name__)

_FOOTPRINT_LIMITS = Limits(timeout_s=600)
_METHOD = {
    "warm_up": f"until the median of {timing.WINDOW} runs is no longer below that of the {timing.WINDOW} before them by"
    f" more than {timing.STILL_FALLING:.0%}",
    "order": f"every variant of a graph and PyTorch eager in turns, {timing.BLOCKS} blocks each, which begin"
    " when no thread of the one before spins any more; the first run, and those of the first 10 ms, are not counted"
    " unless a run takes 100 ms;"
    f" {timing.BLOCKS} blocks more where they are not as precise as the entry wants",
    "percentiles": "numpy.quantile, linear interpolation (Hyndman and Fan 7)",
    "intervals": f"{timing.CONFIDENCE:.0%}, between order statistics (binomial); of the ratio, over the blocks'"
    " medians",
    "generation": "first token: one run of each graph that has to run before it, summed run by run; tokens a second:"
    " batch rows / one step with a cache of that length",
    "load_time": "one session from files in the page cache, in a process without torch",
}
_CLOCK = "time.perf_counter_ns around one call, "
_CALLS = {
    False: "numpy arrays in and out",
    True: "inputs bound before it and outputs left where the graph computes, complete when it ends; PyTorch's likewise",
}
"""The method of a timed call in words, by whether inputs and outputs are bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figures:
    """The figures of a report, or the reason why there are none."""

    rows: tuple[LatencyRow, ...] = ()
    generation: tuple[GenerationRow, ...] = ()
    skipped: tuple[SkippedPoint, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    footprints: tuple[Footprint, ...] = ()
    noise: Noise | None = None
    reason: str = ""

    @property
    def caveat(self) -> str:
        """The report's reason: what keeps the figures from being reliable, or why there are none."""
        if self.noise and self.noise.verdict == "noisy":
            return f"the machine was noisy, other runs may differ by more than the intervals say: {self.noise.reason}"
        return self.reason


def measure(
    stage: Stage,
    *,
    source_dir: Path,
    now: datetime,
    provider: str = "cpu",
    point_budget_s: float = POINT_BUDGET_S,
    gpu: GpuOptions | None = None,
    kept: Sequence[KeptLatency] | None = None,
    machine: Machine | None = None,
) -> LatencyReport:
    """Time every graph of a stage over the entry's grid, PyTorch eager beside it, and write the report into the stage.

    Args:
        stage: takes ``reports/latency.json`` and its picture, or ``latency_<provider>.*``.
        source_dir: the source's files at the stage's commit.
        provider: ``cpu`` or ``cuda``. Where that cannot run the report says ``not_run``: the CPU never stands in.
        point_budget_s: about how long one variant may be timed at one point.
        gpu: the GPU that cuda uses, and how much of it; None is the first.
        kept: what the store keeps of the same graphs with other weights: variants for which it is confirmed are not
            timed. None where this bundle's figures are its own.
        machine: the machine, which is held alone while calls are timed; None where nobody shares it.
    Raises:
        BundleNotFound: nothing was exported into the stage.
        ValidationFailed: a graph does not load or run; validate says more.
    """
    started, machine = time.perf_counter(), machine or Machine()
    item, record = stage.item, stage.read_export()
    grid = item.model.entry.latency
    threads = grid.threads or hardware.usable_cores()
    gpu = (gpu or GpuOptions()) if provider == "cuda" else None
    taken, figures = Taken(), _Figures()
    try:
        session.require_provider(provider)  # before torch is imported and weights are read for nothing
        if kept is not None:
            confirming = Confirming(
                stage_dir=stage.folder,
                provider=provider,
                threads=threads,
                io_binding=grid.io_binding,
                gpu=gpu or GpuOptions(),
                alone=machine.alone,
            )
            taken = reuse.take_over(
                kept, graphs=record.graphs, confirming=confirming, now=now, max_age_days=grid.max_age_days
            )
        if {info.variant for info in record.graphs} - taken.variants:
            reference = _load_reference(item, source_dir, device=gpu.torch_device if gpu else "cpu")
            bench = Bench(
                stage_dir=stage.folder,
                reference=reference,
                provider=provider,
                threads=threads,
                grid=grid,
                meter=NoiseMeter(threads=threads),
                gpu=gpu or GpuOptions(),
            )
            with machine.alone():
                figures = _take_figures(bench, record.graphs, but=taken.variants, budget_s=point_budget_s)
        figures = _together(figures, taken, graphs=record.graphs)
    except GpuUnavailable as err:
        taken, figures = Taken(), _Figures(reason=str(err))
    first = figures.footprints[0] if figures.footprints else None
    report = LatencyReport(
        model_id=item.model_id,
        version=item.version,
        measured_at=now,
        provider=provider,
        status="measured" if figures.rows else "not_run",
        reason=figures.caveat,
        rows=figures.rows,
        taken_over=taken.origins,
        measured_anew=taken.refused,
        values_matter=taken.values_matter,
        generation=figures.generation,
        skipped=figures.skipped,
        left_out=figures.left_out,
        io_binding=grid.io_binding,
        footprints=figures.footprints,
        load_time_s=first.load_time_s if first else None,
        peak_memory_bytes=first.peak_memory_bytes if first else None,
        noise=figures.noise,
        threads=threads,
        hardware=hardware.hardware(gpu_id=gpu.device_id if gpu else None),
        runtime={
            **hardware.versions(),
            "clock": _CLOCK + _CALLS[grid.io_binding],
            **_METHOD,
            "load_average_1m": f"{os.getloadavg()[0]:.2f}",
        },
        duration_s=time.perf_counter() - started - machine.waited_s,
    )
    name = report_name("latency", provider)
    stage.write_report(name, report)
    stage.write_picture(name, charts.latency(report) if report.rows else None)
    log.info("measured %s on %s: %s", item.model.at_commit, provider, report.status)
    return report


def _load_reference(item: WorkItem, source_dir: Path, *, device: str) -> Reference:
    from onnx_fleet.source import reference

    return reference.load(item, source_dir=source_dir, device=device)


def _take_figures(bench: Bench, graphs: tuple[GraphInfo, ...], *, but: frozenset[str], budget_s: float) -> _Figures:
    """Measure all variants but some of which the figures are known."""
    from onnx_fleet.source.reference import threads

    points, skipped = bench.points(graphs)
    if not points:
        return _Figures(reason="every point of the grid is too long for the model", skipped=skipped)
    placed, left_out = bench.placed(tuple(info for info in graphs if info.variant not in but))
    footprints = tuple(_footprints(bench, placed, largest=points[-1]))
    with threads(bench.threads):
        runs = tuple(run for together in bench.runs(placed, points, budget_s=budget_s) for run in together)
    return _Figures(
        rows=tuple(_row(run) for run in runs),
        generation=tuple(_generation(runs, roles={info.role for info in graphs})),
        skipped=skipped,
        left_out=left_out,
        footprints=footprints,
        noise=bench.meter.noise(),
    )


def _together(figures: _Figures, taken: Taken, *, graphs: tuple[GraphInfo, ...]) -> _Figures:
    """Put what was measured and what was taken over into one report's order: by role, point, phase and variant.

    The noise is that of the measurement; where all is taken over, that of the first one's.
    """
    if not taken.figures:
        return figures
    variants = list(dict.fromkeys(info.variant for info in graphs))
    roles = list(dict.fromkeys(info.role for info in graphs))
    rows = (*figures.rows, *(row for each in taken.figures for row in each.rows))
    phases = list(dict.fromkeys(row.phase for row in rows))
    generation = (*figures.generation, *(row for each in taken.figures for row in each.generation))
    footprints = (*figures.footprints, *(each.footprint for each in taken.figures if each.footprint))
    return _Figures(
        rows=tuple(
            sorted(
                rows,
                key=lambda row: (
                    roles.index(row.role),
                    *_size(row),
                    phases.index(row.phase),
                    variants.index(row.variant),
                ),
            )
        ),
        generation=tuple(sorted(generation, key=lambda row: (*_size(row), variants.index(row.variant)))),
        skipped=figures.skipped or taken.figures[0].skipped,
        left_out=(
            *figures.left_out,
            *(LeftOut(variant=each.variant, reason=each.left_out) for each in taken.figures if each.left_out),
        ),
        footprints=tuple(sorted(footprints, key=lambda each: variants.index(each.variant))),
        noise=figures.noise or taken.figures[0].noise,
    )


def _size(row: LatencyRow | GenerationRow) -> tuple[int, int]:
    """Return what points are sorted by: the tokens of a batch, and those of a row."""
    return row.batch_size * (row.sequence_length or 1), row.sequence_length or 1


def _footprints(bench: Bench, graphs: tuple[GraphInfo, ...], *, largest: Point) -> Iterator[Footprint]:
    """Take one footprint per variant: its graphs are loaded together, as a consumer loads them."""
    for variant in dict.fromkeys(info.variant for info in graphs):
        request = FootprintRequest(
            stage_dir=bench.stage_dir,
            graphs=tuple(info for info in graphs if info.variant == variant),
            provider=bench.provider,
            threads=bench.threads,
            batch_size=largest.batch_size,
            sequence_length=largest.length,
            frame=bench.frame,
            gpu=bench.gpu,
        )
        log_file = bench.stage_dir / PRIVATE / "footprint.log"
        yield isolation.run(take, request, limits=_FOOTPRINT_LIMITS, log=log_file).value


def _row(run: Run) -> LatencyRow:
    ours, torch = run.ours, run.torch
    p50, p90, p95, p99 = (timing.percentile(ours.times_ms, share) for share in (0.5, 0.9, 0.95, 0.99))
    torch_p50 = timing.percentile(torch.times_ms, 0.5)
    return LatencyRow(
        graph=run.info.path,
        role=run.info.role,
        variant=run.info.variant,
        phase=run.phase,
        batch_size=run.point.batch_size,
        sequence_length=run.point.sequence_length,
        warmup_runs=ours.warm_up.runs,
        settled=ours.warm_up.settled and torch.warm_up.settled,
        timed_runs=len(ours.times_ms),
        latency_ms_p50=p50,
        latency_ms_p50_interval=timing.interval(ours.times_ms, 0.5),
        latency_ms_p90=p90,
        latency_ms_p95=p95,
        latency_ms_p95_interval=timing.interval(ours.times_ms, 0.95),
        latency_ms_p99=p99,
        throughput_per_s=run.point.batch_size / (p50 / 1e3),
        torch_latency_ms_p50=torch_p50,
        torch_latency_ms_p50_interval=timing.interval(torch.times_ms, 0.5),
        ratio_to_torch=p50 / torch_p50,
        ratio_to_torch_interval=timing.ratio_interval(ours, torch),
    )


def _generation(runs: tuple[Run, ...], *, roles: set[str]) -> Iterator[GenerationRow]:
    """Return a row for each variant that has all of its model's graphs, at each point at which a step was timed.

    Args:
        roles: of all the model's graphs.
    """
    together: dict[tuple[str, Point], list[Run]] = {}
    for run in runs:
        together.setdefault((run.info.variant, run.point), []).append(run)
    for (variant, point), own in together.items():
        step = next((run for run in own if run.phase == "step"), None)
        if step is None or {run.info.role for run in own} != roles:
            continue
        before = [run for run in own if run is not step]
        first_ms, torch_first_ms = _sum(run.ours for run in before), _sum(run.torch for run in before)
        step_ms, torch_step_ms = step.ours.times_ms, step.torch.times_ms
        step_interval = timing.interval(step_ms, 0.5)
        rate = point.batch_size * 1e3
        yield GenerationRow(
            variant=variant,
            batch_size=point.batch_size,
            sequence_length=point.sequence_length,
            first_token_ms_p50=timing.percentile(first_ms, 0.5),
            first_token_ms_p50_interval=timing.interval(first_ms, 0.5),
            torch_first_token_ms_p50=timing.percentile(torch_first_ms, 0.5),
            tokens_per_s=rate / timing.percentile(step_ms, 0.5),
            tokens_per_s_interval=(rate / step_interval[1], rate / step_interval[0]) if step_interval else None,
            torch_tokens_per_s=rate / timing.percentile(torch_step_ms, 0.5),
        )


def _sum(parts: Iterable[Timed]) -> np.ndarray:
    """Add up times run by run, over the runs that every part has: float64 [runs], in milliseconds."""
    import numpy as np

    times = [part.times_ms for part in parts]
    runs = min(len(part) for part in times)
    total: np.ndarray = np.sum([part[:runs] for part in times], axis=0)
    return total

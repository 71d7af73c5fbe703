"""The bench: graphs of a stage and PyTorch eager, timed in turns over a grid -> Runs. Imports torch and onnxruntime."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_fleet.entities.entry import LatencyGrid
from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.latency_report import LeftOut, SkippedPoint
from onnx_fleet.entities.variant import FP32
from onnx_fleet.errors import GpuUnavailable
from onnx_fleet.graphs.session import Session, open_placed, open_session
from onnx_fleet.graphs.text_frame import Frame
from onnx_fleet.measurement.noise import NoiseMeter
from onnx_fleet.measurement.timing import BLOCKS, FEWEST_BLOCKS, Timed, take_turns
from onnx_fleet.processes.gpu import GpuOptions
from onnx_fleet.processes.progress import Count

if TYPE_CHECKING:
    import numpy as np

    from onnx_fleet.graphs.text_inputs import TokenSpace
    from onnx_fleet.graphs.workloads import Workload
    from onnx_fleet.source.reference import Reference

_NO_BOUND = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of a grid."""

    batch_size: int
    sequence_length: int | None
    """The number of tokens; None for a model that takes no tokens."""

    @property
    def length(self) -> int:
        """The length for graphs that ask for one."""
        return self.sequence_length or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One kind of work of one graph at one point, and PyTorch eager in the same turns."""

    info: GraphInfo
    point: Point
    phase: str
    ours: Timed
    torch: Timed


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The settings of a benchmark that stay the same over all graphs and points."""

    stage_dir: Path
    reference: Reference
    provider: str
    threads: int
    grid: LatencyGrid
    meter: NoiseMeter
    gpu: GpuOptions = field(default_factory=GpuOptions)

    def placed(self, graphs: tuple[GraphInfo, ...]) -> tuple[tuple[GraphInfo, ...], tuple[LeftOut, ...]]:
        """Return the graphs of those variants whose nodes were seen to run on the provider, and the other variants.

        Raises:
            GpuUnavailable: some nodes of the fp32 graphs themselves that compute did not run there.
        """
        left_out = []
        for variant in dict.fromkeys(info.variant for info in graphs) if self.provider != "cpu" else ():
            try:
                for info in (info for info in graphs if info.variant == variant):
                    self._require_placed(info)
            except GpuUnavailable as err:
                if variant == FP32:
                    raise
                left_out.append(LeftOut(variant=variant, reason=str(err)))
        gone = {each.variant for each in left_out}
        return tuple(info for info in graphs if info.variant not in gone), tuple(left_out)

    def points(self, graphs: tuple[GraphInfo, ...]) -> tuple[tuple[Point, ...], tuple[SkippedPoint, ...]]:
        """Return the points to time, smallest first, and those that are too long for the model.

        Graphs that take one length only are timed at that one, whatever lengths the grid has.
        """
        from onnx_fleet.graphs import workloads
        from onnx_fleet.source import reference as references

        only = workloads.fixed_length(graphs)
        longest = references.longest(self.stage_dir, self.reference, bound=_NO_BOUND)
        if only is not None or longest is None:
            sizes = sorted(self.grid.batch_sizes)
            return tuple(Point(batch_size=size, sequence_length=only) for size in sizes), ()
        wanted = sorted(
            ((rows, length) for rows in self.grid.batch_sizes for length in self.grid.sequence_lengths),
            key=lambda point: (point[0] * point[1], point[1]),
        )
        fitting = tuple(Point(batch_size=rows, sequence_length=size) for rows, size in wanted if size <= longest)
        skipped = tuple(
            SkippedPoint(batch_size=rows, sequence_length=size, reason=f"the model takes {longest} tokens at most")
            for rows, size in wanted
            if size > longest
        )
        return fitting, skipped

    def runs(
        self, graphs: tuple[GraphInfo, ...], points: tuple[Point, ...], *, budget_s: float
    ) -> Iterator[tuple[Run, ...]]:
        """Time all variants of a role together, role by role, point by point and phase by phase.

        Args:
            budget_s: about how long PyTorch and one variant may take at one point and phase.
        """
        roles: dict[str, tuple[GraphInfo, ...]] = {}
        for info in graphs:
            roles[info.role] = (*roles.get(info.role, ()), info)
        total = sum(len(self._works(first, point)) for first, *_ in roles.values() for point in points)
        count = Count(total, "points")
        fewest_runs = BLOCKS if self.grid.budget_s is None else FEWEST_BLOCKS
        used_s, done = 0.0, 0
        for role, variants in roles.items():
            sessions = tuple(self._open(info) for info in variants)
            for point in points:
                for works in count.each(zip(*(self._works(info, point) for info in variants), strict=True)):
                    pair_s = budget_s
                    if self.grid.budget_s is not None:  # each point has an equal part of what those before it have left
                        left_s = max(0.0, self.grid.budget_s - used_s) / (total - done)
                        pair_s = min(budget_s, 2 * left_s / (1 + len(variants)))
                    began = time.perf_counter()
                    feeds = [work.feeds(info, seed=0) for work, info in zip(works, variants, strict=True)]
                    *ours, torch = take_turns(
                        *(
                            session.call_on(own, io_binding=self.grid.io_binding)
                            for session, own in zip(sessions, feeds, strict=True)
                        ),
                        self._torch_call(role, _in_full_precision(feeds[0])),
                        warmup_runs=self.grid.warmup_runs,
                        timed_runs=self.grid.timed_runs,
                        budget_s=pair_s,
                        fewest_runs=fewest_runs,
                        precision=self.grid.precision,
                        between=self.meter.probe,
                    )
                    used_s, done = used_s + time.perf_counter() - began, done + 1
                    yield tuple(
                        Run(info=info, point=point, phase=works[0].phase, ours=timed, torch=torch)
                        for info, timed in zip(variants, ours, strict=True)
                    )
            del sessions  # or those of the next role are loaded beside them

    def _works(self, info: GraphInfo, point: Point) -> tuple[Workload, ...]:
        """Return what a graph does at one point: full rows of random tokens, the same ones for all variants."""
        from onnx_fleet.graphs import workloads

        return workloads.of(info, batch_size=point.batch_size, length=point.length, space=self._space)

    def _torch_call(self, role: str, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
        if self.grid.io_binding:
            return self.reference.bind(role, feeds)
        return partial(self.reference.graph, role, feeds)

    def _open(self, info: GraphInfo) -> Session:
        return open_session(
            self.stage_dir / info.path,
            provider=self.provider,
            threads=self.threads,
            libraries=info.libraries,
            gpu=self.gpu,
        )

    def _require_placed(self, info: GraphInfo) -> None:
        """Require a graph's nodes to run on the provider, by a session that is not timed: a profiled one is slower."""
        from onnx_fleet.graphs import workloads

        open_placed(
            self.stage_dir / info.path,
            feeds=workloads.shortest(info, space=self._space).feeds(info, seed=0),
            provider=self.provider,
            threads=self.threads,
            libraries=info.libraries,
            gpu=self.gpu,
        )

    @property
    def frame(self) -> Frame:
        """The special tokens around a text that is fed."""
        return self._space.frame if self._space else Frame()

    @cached_property
    def _space(self) -> TokenSpace | None:
        from onnx_fleet.graphs import text_inputs

        if "input_ids" not in self.reference.parameters:
            return None
        return text_inputs.token_space(self.stage_dir, self.reference.limits, bound=_NO_BOUND)


def _in_full_precision(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return PyTorch's inputs with floats in float32, whatever type a variant takes."""
    return {name: array.astype("float32") if array.dtype == "float16" else array for name, array in feeds.items()}

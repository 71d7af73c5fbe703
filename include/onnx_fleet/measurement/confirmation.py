"""Confirmation: a few calls of a bundle's own graphs, beside figures that were measured on another bundle's.

The graphs are the same but for their weights, so the calls should take as long. Where they do not, either the figures
are not what they say, or these weights have an effect that nobody knew: the bundle is then measured itself. onnxruntime
alone; torch is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from onnx_fleet.entities.graph_info import GraphInfo
from onnx_fleet.entities.kept_latency import KeptLatency
from onnx_fleet.entities.latency_report import Confirmation, LatencyRow, Noise
from onnx_fleet.graphs.session import Session, open_session
from onnx_fleet.measurement import timing
from onnx_fleet.measurement.noise import MOST_SPREAD, NoiseMeter
from onnx_fleet.processes.gpu import GpuOptions
from onnx_fleet.processes.machine_lock import Alone

if TYPE_CHECKING:
    import numpy as np

    from onnx_fleet.graphs.text_inputs import TokenSpace

RUNS: Final = 9
"""The calls at one point: the fewest whose median has an interval of 95 % without the fastest and the slowest call."""
ATTEMPTS: Final = 3
"""How often a point is tried before it counts as different: what disturbs some calls is over in the next ones."""
_ALLOWED_SPREAD: Final = 1.0
_ALLOWED_WAITING: Final = 0.5
"""More noise than this allows no more: nothing can be confirmed then, and what is measured says that it is noisy."""
_POINT_S: Final = 0.2
"""The seconds within which the calls of a point beyond the smallest one have to be over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirming:
    """The settings of a confirmation that stay the same over all variants."""

    stage_dir: Path
    provider: str
    threads: int
    io_binding: bool
    gpu: GpuOptions = field(default_factory=GpuOptions)
    alone: Alone = nullcontext
    """The context manager that keeps our other work off the machine while calls are timed."""

    def confirm(self, kept: KeptLatency, *, graphs: Iterable[GraphInfo]) -> tuple[Confirmation, ...]:
        """Time a few calls of each graph that the figures are of, at its smallest point and at a larger one.

        Args:
            graphs: the stage's; the variant's own are run.
        Raises:
            GpuUnavailable, ValidationFailed: a graph does not load or run.
        """
        own = tuple(info for info in graphs if info.variant == kept.variant)
        meter = NoiseMeter(threads=self.threads)
        space = self._space(own, kept.rows)
        return tuple(
            confirmation for info in own for confirmation in self._of_graph(info, kept=kept, meter=meter, space=space)
        )

    def _of_graph(
        self, info: GraphInfo, *, kept: KeptLatency, meter: NoiseMeter, space: TokenSpace | None
    ) -> list[Confirmation]:
        session = self._open(info)
        rows = _sample([row for row in kept.rows if row.graph == info.path])
        calls = [self._call(session, info, row, space=space) for row in rows]
        with self.alone():
            return [_confirmation(row, call, kept=kept, meter=meter) for row, call in zip(rows, calls, strict=True)]

    def _call(
        self, session: Session, info: GraphInfo, row: LatencyRow, *, space: TokenSpace | None
    ) -> Callable[[], object]:
        from onnx_fleet.graphs import workloads

        length = row.sequence_length or 1
        works = workloads.of(info, batch_size=row.batch_size, length=length, space=space)
        work = next(work for work in works if work.phase == row.phase)
        return session.call_on(work.feeds(info, seed=0), io_binding=self.io_binding)

    def _open(self, info: GraphInfo) -> Session:
        return open_session(
            self.stage_dir / info.path,
            provider=self.provider,
            threads=self.threads,
            libraries=info.libraries,
            gpu=self.gpu,
        )

    def _space(self, graphs: Sequence[GraphInfo], rows: Iterable[LatencyRow]) -> TokenSpace | None:
        from onnx_fleet.graphs import text_inputs

        longest = max((row.sequence_length or 1 for row in rows), default=1)
        return text_inputs.token_space_of_files(self.stage_dir, graphs=graphs, longest=longest)


def allowed_ratio(noises: Iterable[Noise | None]) -> float:
    """Return how many times slower or faster calls may be that were timed under such noise, at most 4.

    A quiet machine's spread is allowed in any case. A thread that waited a part of its time has the rest for its work.
    """
    known = [noise for noise in noises if noise is not None]
    spread = max((MOST_SPREAD, *(noise.spread for noise in known)))
    waiting = max((0.0, *(noise.waiting_share for noise in known)))
    return (1 + min(spread, _ALLOWED_SPREAD)) / (1 - min(waiting, _ALLOWED_WAITING))


def _sample(rows: Sequence[LatencyRow]) -> tuple[LatencyRow, ...]:
    """Return the rows to confirm, by phase: the smallest point, and the largest one whose calls are over soon.

    In a small model overheads show at one, work at the other; in a large one all of it is work.
    """
    chosen: list[LatencyRow] = []
    for phase in dict.fromkeys(row.phase for row in rows):
        ordered = sorted((row for row in rows if row.phase == phase), key=_size)
        short = [row for row in ordered if row.latency_ms_p50 * (RUNS + 1) <= _POINT_S * 1e3]
        ends = (ordered[0], *short[-1:])
        chosen += [row for number, row in enumerate(ends) if row not in ends[:number]]
    return tuple(chosen)


def _size(row: LatencyRow) -> tuple[int, int]:
    return row.batch_size * (row.sequence_length or 1), row.sequence_length or 1


def _confirmation(row: LatencyRow, call: Callable[[], object], *, kept: KeptLatency, meter: NoiseMeter) -> Confirmation:
    """Time a few calls beside a row's figures, and again where they do not agree with them."""
    for _ in range(ATTEMPTS):
        meter.probe()
        found = _beside(row, timing.few(call, runs=RUNS), noises=(kept.noise, meter.noise()))
        if found.agrees:
            break
    return found


def _beside(row: LatencyRow, times_ms: np.ndarray, *, noises: Iterable[Noise | None]) -> Confirmation:
    """Compare the intervals of two medians: calls agree where a factor that noise explains brings them together.

    Args:
        times_ms: float64 [runs], of the new calls.
    """
    allowed = allowed_ratio(noises)
    low, high = row.latency_ms_p50_interval or (row.latency_ms_p50, row.latency_ms_p50)
    p50 = timing.percentile(times_ms, 0.5)
    fast, slow = timing.interval(times_ms, 0.5) or (p50, p50)
    return Confirmation(
        graph=row.graph,
        variant=row.variant,
        phase=row.phase,
        batch_size=row.batch_size,
        sequence_length=row.sequence_length,
        timed_runs=len(times_ms),
        latency_ms_p50=p50,
        latency_ms_p50_interval=(fast, slow),
        measured_ms_p50=row.latency_ms_p50,
        allowed_ratio=allowed,
        agrees=fast <= high * allowed and slow >= low / allowed,
    )

"""The step measure: what a stage's graphs take, timed beside PyTorch or taken over from a model with the same ones."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from onnx_fleet.bundles.kept_documents import LATENCIES
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.kept_latency import KeptLatency
from onnx_fleet.entities.latency_report import LatencyReport
from onnx_fleet.entities.provider import Provider
from onnx_fleet.entities.variant import FP32
from onnx_fleet.measurement import latency, latency_key, reuse
from onnx_fleet.processes import profiling
from onnx_fleet.processes.machine_lock import Machine
from onnx_fleet.runs import step_process
from onnx_fleet.runs.services import Services
from onnx_fleet.runs.step_process import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What the process that measures is given."""

    about: Subject
    now: datetime
    kept: tuple[KeptLatency, ...] | None
    """What the store keeps of the same graphs with other weights; None where nothing may be taken over."""
    locks: Path | None
    """The folder by which the process shares its machine; None where nobody else is on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """What that process returns."""

    report: LatencyReport
    waited_s: float
    """The seconds in which it waited for the machine."""


def measure(
    stage: Stage,
    *,
    services: Services,
    provider: Provider = "cpu",
    anew: bool = False,
    machine: Machine | None = None,
) -> LatencyReport:
    """Time a stage's graphs beside PyTorch; variants that models with the same graphs have figures of take these over.

    What was timed is kept in the store for such models, unless the entry says ``reuse: never``.

    Args:
        anew: time every variant, as for a bundle that is made again because somebody asked for it.
        machine: the machine, which it has alone only while it times; None where nobody shares it, or all is kept off.
    """
    machine = machine or Machine()
    with profiling.timed("measure"), ExitStack() as turn:
        anew = anew or stage.item.rebuild is not None
        keys = latency_key.of_variants(stage, provider=provider, gpu=services.gpu)
        kept = () if anew else LATENCIES.find(keys.values(), store=services.store)
        if not anew and len(kept) < len(keys):  # another model on this machine may be measuring the same graphs now
            turn.enter_context(machine.turn(f"latencies-{keys[FP32]}"))
            kept = LATENCIES.find(keys.values(), store=services.store)
            if len(kept) == len(keys):
                turn.close()
        about = step_process.subject(stage, services=services, provider=provider)
        request = _Request(about=about, now=datetime.now(UTC), kept=kept if keys else None, locks=machine.folder)
        made = step_process.run(_measure, request, stage=stage, provider=provider, services=services, step="measure")
        machine.waited_s += made.waited_s
        for figures in reuse.to_keep(made.report, keys=keys, standing=kept):
            LATENCIES.keep(figures, store=services.store)
        return made.report


def _measure(request: _Request) -> _Measured:
    about, machine = request.about, Machine(request.locks)
    with machine.shared():
        report = latency.measure(
            about.stage,
            source_dir=about.source_dir,
            now=request.now,
            provider=about.provider,
            gpu=about.gpu,
            kept=request.kept,
            machine=machine,
        )
    return _Measured(report=report, waited_s=machine.waited_s)

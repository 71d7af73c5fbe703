"""The steps that make a bundle of one model, and the one list of them.

`onnx-fleet run` and Airflow's tasks walk STEPS; the commands for single steps, and audits, call the functions that its
rows call. Each step finds all that it needs in the stage, the store and the Hub's cache, so any step can run on any
worker that sees the stage, and again after a kill.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from onnx_fleet.bundles import bundle, kept_latencies, renames
from onnx_fleet.bundles import publish as publishing
from onnx_fleet.bundles.manifest import Provenance
from onnx_fleet.bundles.publish import Publication
from onnx_fleet.bundles.stage import PRIVATE, Stage
from onnx_fleet.entities import validation_report
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.entities.export_record import ExportRecord
from onnx_fleet.entities.kept_latency import KeptLatency
from onnx_fleet.entities.latency_report import LatencyReport
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.entities.provider import Provider, report_name
from onnx_fleet.entities.regression_report import RegressionReport
from onnx_fleet.entities.validation_report import ValidationReport
from onnx_fleet.entities.variant import FP32
from onnx_fleet.entities.variant_report import REPORT_NAME, VariantReport, require
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import BundleNotFound, GpuUnavailable
from onnx_fleet.export import exporter
from onnx_fleet.export.cache import Cache
from onnx_fleet.measurement import latency, latency_key, regression, reuse
from onnx_fleet.processes import isolation, profiling
from onnx_fleet.processes.gpu import GpuOptions
from onnx_fleet.runs.services import Services
from onnx_fleet.store import Progress
from onnx_fleet.validation import validator

if TYPE_CHECKING:
    from onnx_fleet.variants.conversion import Made

log = logging.getLogger(__name__)

Q = TypeVar("Q")
R = TypeVar("R")

StepName = Literal["export", "validate", "prove_on_gpu", "measure", "compare", "publish"]
RecordedStep = Literal["export", "validate", "measure", "compare", "publish"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One model's way through a run: what each of its steps works on and with."""

    stage: Stage
    services: Services
    provenance: Provenance
    """The part of the manifest that says which run made the bundle."""
    by: Actor | None = None
    """Who moves the channel; None for the run of the provenance."""
    channel: str = bundle.LATEST
    alone: regression.Quiet = nullcontext
    """The context manager that keeps our other work off the machine, for a step that needs that only in part."""
    progress: Progress | None = None
    """The callback that is told of the download and the upload, in bytes."""
    stored: Mapping[str, str] = field(default_factory=dict)
    """The files of the stage that the store has already: SHA-256 -> key."""


def _every_item(item: WorkItem) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One row of STEPS.

    What its errors mean is their class's to say, in every step alike: a Retryable one may pass, a Permanent one ends
    the model's run, and ``errors.ending`` tells a refusal by a rule of the catalogue from a failure.
    """

    name: StepName
    run: Callable[[Job], Publication | None]
    leaves: tuple[str, ...]
    """The files of the stage by which to tell that the step is done; empty where it leaves its result in the store."""
    machine: Literal["shared", "alone", "as_it_says"]
    """How the step shares its machine.

    ``shared``: it may run beside others, and not beside one that measures; ``alone``: it measures all the time;
    ``as_it_says``: it asks for the machine by Job.alone while it measures.
    """
    needs: tuple[str, ...] = ()
    """The files of the stage that the step cannot begin without."""
    on_gpu: bool = False
    """Whether a worker with a GPU takes the step, where there is one."""
    is_for: Callable[[WorkItem], bool] = _every_item
    """The test for items that have the step."""
    recorded_as: RecordedStep | None = None
    """The step that a record names where this one fails; None for this one's own name."""

    @property
    def in_records(self) -> str:
        """The step in whose name a record counts this one's seconds and its failure."""
        return self.recorded_as or self.name

    def take(self, job: Job) -> Publication | None:
        """Run the step.

        Raises:
            BundleNotFound: the stage lacks what an earlier step leaves.
            OnnxFleetError: whatever its function raises.
        """
        for path in self.needs:
            if not (job.stage.folder / path).exists():
                earlier = next(step.name for step in STEPS if path in step.leaves)
                raise BundleNotFound(
                    f"{job.stage.item.model_id}: {job.stage.folder} has no {path}, which the step {earlier} writes; run"
                    f" {earlier} and the steps after it again"
                )
        return self.run(job)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The findings of a validation on one provider."""

    graphs: ValidationReport
    """The comparison of the fp32 graphs with PyTorch."""
    variants: VariantReport | None = None
    """The comparison of the variants with fp32; None where the entry wants none, or the fp32 graphs are wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofRequest:
    """The request that the process which validates gets."""

    stage: Stage
    source_dir: Path
    provider: Provider
    gpu: GpuOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRequest:
    """The request that the process which measures gets."""

    proof: ProofRequest
    now: datetime
    kept: tuple[KeptLatency, ...] | None
    """What the store keeps of the same graphs with other weights; None where nothing may be taken over."""


def export(stage: Stage, *, services: Services, whole: bool = False, progress: Progress | None = None) -> ExportRecord:
    """Download what is needed and fill a stage; what an earlier export left in it is replaced.

    Args:
        whole: trace this very model with all of its layers, whatever the cache has.
    """
    from onnx_fleet.source import download

    with profiling.timed("download"):
        source_dir = download.download(stage.item.model, hub=services.hub, progress=progress)
    return exporter.export(
        stage,
        source_dir=source_dir,
        limits=services.step_limits,
        cached=Cache(store=services.store, limit_bytes=services.cache_bytes),
        whole=whole,
        link=stage.folder.is_relative_to(services.work_dir),  # a person's folder is theirs to change
    )


def validate(stage: Stage, *, services: Services) -> Proof:
    """Prove a stage: its fp32 graphs beside PyTorch, then the variants that its entry wants beside these.

    Graphs that were not traced from this very model, whole, and are not right get a second chance that way, unless
    someone has changed them since. A variant that misses its gates is taken out of the stage, and its report says so.
    Wrong fp32 graphs raise nothing here: the report tells, and validation_report.require_passed raises.

    Raises:
        ValidationFailed: an entry's required variant missed its gates.
    """
    report = validate_graphs(stage, services=services)
    if not report.passed and stage.read_export().traced != "full" and not stage.is_changed():
        item, traced = stage.item, stage.read_export().traced
        log.warning("%s: its %s graphs do not match PyTorch; tracing it whole", ref_of(item), traced)
        export(stage, services=services, whole=True)
        report = validate_graphs(stage, services=services)
    return Proof(graphs=report, variants=make_variants(stage, services=services) if report.passed else None)


def validate_on_gpu(stage: Stage, *, services: Services) -> Proof:
    """Prove a stage that is right on the CPU on the GPU too.

    A variant that misses its gates there is taken out of the stage; one that CUDA has not all the operators of stays.

    Raises:
        ValidationFailed: an entry's required variant missed its gates.
    """
    report = validate_graphs(stage, services=services, provider="cuda")
    return Proof(graphs=report, variants=_judge_on_gpu(stage, services=services) if report.passed else None)


def validate_graphs(stage: Stage, *, services: Services, provider: Provider = "cpu") -> ValidationReport:
    """Compare a stage's fp32 graphs with PyTorch, in a process that never saw the export."""
    with profiling.timed("validate"):
        request = _request(stage, services=services, provider=provider)
        return _in_isolation(_validate_graphs, request, request, services=services, log_name="validate")


def make_variants(stage: Stage, *, services: Services) -> VariantReport | None:
    """Make the variants that a proven stage's entry wants, and judge each in a process that never saw it made.

    Returns:
        None where the entry wants no variants.
    Raises:
        ValidationFailed: an entry's required variant missed its gates.
    """
    from onnx_fleet.variants import conversion

    if set(stage.item.model.entry.variants) == {FP32}:
        return None
    stage.report(report_name(REPORT_NAME, "cuda")).unlink(missing_ok=True)  # it is about those before
    with profiling.timed("variants"):
        log_file, request = _log(stage, "variants", "cpu"), conversion.MakingRequest(stage=stage)
        made = isolation.run(conversion.make, request, limits=services.step_limits, log=log_file).value.made
    report = judge_variants(stage, services=services, made=made)
    require(report)
    return report


def judge_variants(
    stage: Stage, *, services: Services, made: tuple[Made, ...] = (), provider: Provider = "cpu"
) -> VariantReport:
    """Hold the variants of a stage to its fp32 graphs, in a process that never saw them made.

    One that misses its gates is taken out of the stage, and the report says so.

    Args:
        made: what is known of how they were made.
    """
    from onnx_fleet.variants import evaluation

    with profiling.timed("variants"):
        request = evaluation.JudgingRequest(stage=stage, made=made, provider=provider, gpu=services.gpu)
        log_file = _log(stage, "variants", provider)
        return isolation.run(evaluation.judge, request, limits=services.step_limits, log=log_file).value


def without_gpu(stage: Stage, *, reason: str) -> None:
    """Record in a stage that nothing ran on a GPU, and why."""
    report = ValidationReport(
        model_id=stage.item.model_id,
        version=stage.item.version,
        provider="cuda",
        status="not_run",
        reason=reason,
        rows=(),
        nodes_by_provider={},
        duration_s=0.0,
    )
    stage.write_report(report_name("validation", "cuda"), report)


def measure(stage: Stage, *, services: Services, provider: Provider = "cpu", anew: bool = False) -> LatencyReport:
    """Time a stage's graphs beside PyTorch; variants that models with the same graphs have figures of take these over.

    What was timed is kept in the store for such models, unless the entry says ``reuse: never``.

    Args:
        anew: time every variant, as for a bundle that is made again because somebody asked for it.
    """
    with profiling.timed("measure"):
        anew = anew or stage.item.rebuild is not None
        keys = latency_key.of_variants(stage, provider=provider, gpu=services.gpu)
        kept = () if anew else kept_latencies.find(keys.values(), store=services.store)
        request = LatencyRequest(
            proof=_request(stage, services=services, provider=provider),
            now=datetime.now(UTC),
            kept=kept if keys else None,
        )
        report = _in_isolation(_measure, request, request.proof, services=services, log_name="measure")
        for figures in reuse.to_keep(report, keys=keys, standing=kept):
            kept_latencies.keep(figures, store=services.store)
        return report


def compare(
    stage: Stage, *, services: Services, channel: str = bundle.LATEST, alone: regression.Quiet = nullcontext
) -> RegressionReport | None:
    """Compare a measured stage with the version that the channel points at; returns None where there is no other."""
    store, work_dir, limits = services.store, services.work_dir, services.step_limits
    with profiling.timed("compare"):
        return regression.compare(stage, store=store, work_dir=work_dir, limits=limits, channel=channel, alone=alone)


def publish(
    stage: Stage,
    *,
    services: Services,
    provenance: Provenance,
    channel: str = bundle.LATEST,
    move: bool = False,
    by: Actor | None = None,
    stored: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Publication:
    """Put a stage's bundle into the store, point the channel at it if its gates let it, and keep the feed's event.

    What the channel points at by now may not be what the stage was compared with: then it is compared again.

    Args:
        move: have the channel point at it also where the bundle stands already.
        by: who moves the channel; None for the run of the provenance.
        stored: where the store has files of the stage already: SHA-256 -> key.
    """
    if regression.is_due(stage, store=services.store, channel=channel):
        compare(stage, services=services, channel=channel)
    with profiling.timed("publish"):
        published = publishing.publish(
            stage,
            store=services.store,
            provenance=provenance,
            created_at=datetime.now(UTC),
            channel=channel,
            move=move,
            by=by,
            stored=stored,
            progress=progress,
        )
        renames.leave_for(stage.item.model, store=services.store, now=datetime.now(UTC))
    return published


def _take_export(job: Job) -> None:
    export(job.stage, services=job.services, progress=job.progress)


def _take_validate(job: Job) -> None:
    validation_report.require_passed(validate(job.stage, services=job.services).graphs)


def _take_prove_on_gpu(job: Job) -> None:
    try:
        report = validate_on_gpu(job.stage, services=job.services).graphs
        if report.passed:
            measure(job.stage, services=job.services, provider="cuda")
    except GpuUnavailable as err:
        without_gpu(job.stage, reason=str(err))
    else:
        if report.status != "not_run":
            validation_report.require_passed(report)


def _take_measure(job: Job) -> None:
    measure(job.stage, services=job.services)


def _take_compare(job: Job) -> None:
    compare(job.stage, services=job.services, channel=job.channel, alone=job.alone)


def _take_publish(job: Job) -> Publication:
    return publish(
        job.stage,
        services=job.services,
        provenance=job.provenance,
        channel=job.channel,
        by=job.by,
        stored=job.stored,
        progress=job.progress,
    )


def _asks_for_gpu(item: WorkItem) -> bool:
    return "cuda" in item.model.entry.providers


_EXPORTED: Final = f"{PRIVATE}/export.json"
_VALIDATED: Final = "reports/validation.json"
_MEASURED: Final = "reports/latency.json"

STEPS: Final = (
    Step(name="export", run=_take_export, leaves=(_EXPORTED,), machine="shared"),
    Step(name="validate", run=_take_validate, needs=(_EXPORTED,), leaves=(_VALIDATED,), machine="shared"),
    Step(
        name="prove_on_gpu",
        run=_take_prove_on_gpu,
        needs=(_EXPORTED, _VALIDATED),
        leaves=("reports/validation_cuda.json",),
        machine="alone",
        on_gpu=True,
        is_for=_asks_for_gpu,
        recorded_as="validate",
    ),
    Step(name="measure", run=_take_measure, needs=(_EXPORTED,), leaves=(_MEASURED,), machine="alone"),
    Step(name="compare", run=_take_compare, needs=(_EXPORTED, _MEASURED), leaves=(), machine="as_it_says"),
    Step(name="publish", run=_take_publish, needs=(_EXPORTED, _VALIDATED, _MEASURED), leaves=(), machine="shared"),
)
"""Every step, in the order in which they run: each needs only what those before it leave."""


def steps_of(item: WorkItem) -> tuple[Step, ...]:
    """Return the steps that an item goes through; empty for a model that is published already."""
    return tuple(step for step in STEPS if step.is_for(item)) if item.state != "unchanged" else ()


def _judge_on_gpu(stage: Stage, *, services: Services) -> VariantReport | None:
    if {info.variant for info in stage.read_export().graphs} == {FP32}:
        return None
    report = judge_variants(stage, services=services, provider="cuda")
    require(report)
    return report


def _request(stage: Stage, *, services: Services, provider: Provider) -> ProofRequest:
    from onnx_fleet.source import download

    source_dir = download.download(stage.item.model, hub=services.hub)
    return ProofRequest(stage=stage, source_dir=source_dir, provider=provider, gpu=services.gpu)


def _in_isolation(
    function: Callable[[Q], R], request: Q, proof: ProofRequest, *, services: Services, log_name: str
) -> R:
    """Run a function on a stage in a process of its own.

    Nothing is forked for a GPU: CUDA does not survive the fork of a process that has used it.
    """
    log_file = _log(proof.stage, log_name, proof.provider)
    on_cpu = proof.provider == "cpu"
    return isolation.run(function, request, limits=services.step_limits, log=log_file, with_torch=on_cpu).value


def _validate_graphs(request: ProofRequest) -> ValidationReport:
    source_dir, provider, gpu = request.source_dir, request.provider, request.gpu
    return validator.validate(request.stage, source_dir=source_dir, provider=provider, gpu=gpu)


def _measure(request: LatencyRequest) -> LatencyReport:
    proof = request.proof
    return latency.measure(
        proof.stage,
        source_dir=proof.source_dir,
        now=request.now,
        provider=proof.provider,
        gpu=proof.gpu,
        kept=request.kept,
    )


def _log(stage: Stage, step: str, provider: Provider) -> Path:
    return stage.private / f"{step}_{provider}.log"

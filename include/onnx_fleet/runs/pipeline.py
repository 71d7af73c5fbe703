"""The way through for one model, step by step: what Airflow's tasks and the command line both call.

Each step finds everything it needs in the work item, the store and the Hub's cache, so any step can run on any worker
that sees the stage, and again after a kill.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from onnx_fleet.bundles import bundle, feed, publish, stage
from onnx_fleet.bundles.bundle import Bundle, Ref
from onnx_fleet.bundles.manifest import Provenance
from onnx_fleet.bundles.publish import Publication
from onnx_fleet.entities import validation_report
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.export_record import ExportRecord
from onnx_fleet.entities.latency_report import LatencyReport
from onnx_fleet.entities.provider import report_name
from onnx_fleet.entities.regression_report import RegressionReport
from onnx_fleet.entities.validation_report import ValidationReport
from onnx_fleet.entities.variant import FP32
from onnx_fleet.entities.variant_report import REPORT_NAME, VariantReport, require
from onnx_fleet.entities.work_item import Plan, WorkItem
from onnx_fleet.errors import GpuUnavailable, OnnxFleetError
from onnx_fleet.export import cache
from onnx_fleet.export import exporter as exporting
from onnx_fleet.export.cache import Cache
from onnx_fleet.measurement import latency as measuring
from onnx_fleet.measurement import regression
from onnx_fleet.planning import plan as planning
from onnx_fleet.processes import isolation, profiling
from onnx_fleet.processes.gpu import GpuOptions
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.runs import record
from onnx_fleet.runs.record import Record
from onnx_fleet.store import ObjectStore, Progress
from onnx_fleet.validation import validator as proving

if TYPE_CHECKING:
    from onnx_fleet.source.hub_client import Hub

log = logging.getLogger(__name__)

R = TypeVar("R")

Step = Literal["export", "validate", "measure", "compare", "publish"]
Provider = Literal["cpu", "cuda"]

STEP_IMPORTS = (
    "onnx_fleet.export.exporter",
    "onnx_fleet.export.model_tracing",
    "onnx_fleet.source.families.loading",
    "onnx_fleet.validation.validator",
    "onnx_fleet.validation.checks",
    "onnx_fleet.source.reference",
    "onnx_fleet.measurement.latency",
)
"""The modules of export, validate and measure, which a process to fork steps from imports beside torch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the steps work with."""

    store: ObjectStore
    hub: Hub
    work_dir: Path
    """Holds the stages; on one machine, or on a volume that all workers of a run see."""
    limits: Limits
    """Of each process that loads a model."""
    cache_bytes: int = cache.LIMIT_BYTES
    """The most that what earlier exports found out takes in the store; 0 keeps nothing."""
    gpu: GpuOptions = field(default_factory=GpuOptions)
    """Which GPU of the machine is used where one is asked for, and how much of it."""

    @property
    def step_limits(self) -> Limits:
        """The limits of a step's process, and what it has imported where it is forked."""
        return replace(self.limits, imports=STEP_IMPORTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofRequest:
    """What the process that validates or measures is told."""

    stage: Path
    source_dir: Path
    provider: Provider
    gpu: GpuOptions


def plan(
    entries: Iterable[Entry], *, services: Services, force: str | None = None, channel: str = bundle.LATEST
) -> Plan:
    """Resolve every entry and say what is to be done with it; the Hub's refusals are among the plan's."""
    with profiling.timed("imports"):
        from onnx_fleet.source import resolve  # huggingface_hub takes 0.2 s

    with profiling.timed("plan"):
        models, refused = resolve.resolve_all(entries, hub=services.hub)
        made = planning.plan(models, store=services.store, force=force, channel=channel)
    return Plan(items=made.items, refusals=(*refused, *made.refusals))


def stage_dir_of(item: WorkItem, *, services: Services) -> Path:
    """Where the bundle of an item grows."""
    return services.work_dir / "stages" / item.model_id / item.version


def export(
    item: WorkItem, *, stage_dir: Path, services: Services, whole: bool = False, progress: Progress | None = None
) -> ExportRecord:
    """Download what is needed and fill a stage.

    Args:
        stage_dir: the stage's folder, as stage_dir names it or a person does.
        whole: trace this very model, whole, whatever the cache has.
    """
    from onnx_fleet.source import download

    with profiling.timed("download"):
        source_dir = download.download(item.model, hub=services.hub, progress=progress)
    return exporting.export(
        item,
        source_dir=source_dir,
        stage_dir=stage_dir,
        limits=services.step_limits,
        cached=Cache(store=services.store, limit_bytes=services.cache_bytes),
        whole=whole,
        link=stage_dir.is_relative_to(services.work_dir),  # a person's folder is theirs to change
    )


def prove(stage_dir: Path, *, services: Services) -> ValidationReport:
    """Validate a stage; graphs that were not traced from this very model, whole, get a second chance that way."""
    report = validate(stage_dir, services=services)
    traced = stage.read_export(stage_dir).traced
    if report.passed or traced == "full":
        return report
    item = stage.read_work(stage_dir)
    log.warning("%s@%s: its %s graphs are not right; tracing it whole", item.model_id, item.version, traced)
    export(item, stage_dir=stage_dir, services=services, whole=True)
    return validate(stage_dir, services=services)


def validate(stage_dir: Path, *, services: Services, provider: Provider = "cpu") -> ValidationReport:
    """Compare a stage's graphs with PyTorch, in a process that never saw the export.

    A graph that is wrong gives a report that says so: validation_report.require_passed raises.
    """
    request = _proof(stage_dir, services=services, provider=provider)
    with profiling.timed("validate"):
        return _in_isolation(_validate, request, services=services, log=_log(stage_dir, "validate", provider))


def make_variants(stage_dir: Path, *, services: Services) -> VariantReport | None:
    """Make the variants that a proven stage's entry wants, and judge each in a process that never saw it made.

    One that misses its gates is taken out of the stage, and the report says so.

    Returns:
        None where the entry wants none.
    Raises:
        ValidationFailed: an entry's required variant missed its gates.
    """
    from onnx_fleet.variants import conversion, evaluation

    if set(stage.read_work(stage_dir).model.entry.variants) == {FP32}:
        return None
    (stage_dir / "reports" / f"{report_name(REPORT_NAME, 'cuda')}.json").unlink(missing_ok=True)  # of those before
    with profiling.timed("variants"):
        log_file = _log(stage_dir, "variants", "cpu")
        request = conversion.MakingRequest(stage=stage_dir)
        made = isolation.run(conversion.make, request, limits=services.step_limits, log=log_file).value.made
        judged = evaluation.JudgingRequest(stage=stage_dir, made=made)
        report = isolation.run(evaluation.judge, judged, limits=services.step_limits, log=log_file).value
    require(report)
    return report


def measure(stage_dir: Path, *, services: Services, provider: Provider = "cpu") -> LatencyReport:
    """Time a stage's graphs beside PyTorch."""
    request = _proof(stage_dir, services=services, provider=provider)
    with profiling.timed("measure"):
        return _in_isolation(_measure, request, services=services, log=_log(stage_dir, "measure", provider))


def compare(
    stage_dir: Path, *, services: Services, channel: str = bundle.LATEST, alone: regression.Quiet = nullcontext
) -> RegressionReport | None:
    """Compare a measured stage with the version that the channel points at; None where there is no other."""
    store, work_dir, limits = services.store, services.work_dir, services.step_limits
    with profiling.timed("compare"):
        return regression.compare(
            stage_dir, store=store, work_dir=work_dir, limits=limits, channel=channel, alone=alone
        )


def prove_on_gpu(stage_dir: Path, *, services: Services) -> ValidationReport:
    """Validate with CUDA, hold the variants to the graphs there, and measure; without a GPU the report says so instead.

    Raises:
        ValidationFailed: a variant that the entry requires missed its gates there.
    """
    try:
        report = validate(stage_dir, services=services, provider="cuda")
        if report.passed:
            judge_on_gpu(stage_dir, services=services)
            measure(stage_dir, services=services, provider="cuda")
    except GpuUnavailable as err:
        return without_gpu(stage_dir, reason=str(err))
    return report


def judge_on_gpu(stage_dir: Path, *, services: Services) -> VariantReport | None:
    """Hold a stage's variants to its fp32 graphs with CUDA; None where it has none.

    One that misses its gates is taken out of the stage; one that CUDA has not all the operators of stays.

    Raises:
        ValidationFailed: as make_variants does.
    """
    from onnx_fleet.variants import evaluation

    if {info.variant for info in stage.read_export(stage_dir).graphs} == {FP32}:
        return None
    with profiling.timed("variants"):
        request = evaluation.JudgingRequest(stage=stage_dir, provider="cuda", gpu=services.gpu)
        log_file = _log(stage_dir, "variants", "cuda")
        report = isolation.run(evaluation.judge, request, limits=services.step_limits, log=log_file).value
    require(report)
    return report


def without_gpu(stage_dir: Path, *, reason: str) -> ValidationReport:
    """Put into a stage that nothing ran on a GPU, and why."""
    item = stage.read_work(stage_dir)
    report = ValidationReport(
        model_id=item.model_id,
        version=item.version,
        provider="cuda",
        status="not_run",
        reason=reason,
        rows=(),
        nodes_by_provider={},
        duration_s=0.0,
    )
    stage.write_report(stage_dir, "validation_cuda", report)
    return report


def publish_stage(
    stage_dir: Path,
    *,
    services: Services,
    provenance: Provenance,
    channel: str = bundle.LATEST,
    progress: Progress | None = None,
) -> Publication:
    """Put a stage's bundle into the store, point the channel at it if its gates let it, and keep the feed's event.

    What the channel points at by now may not be what the stage was compared with: then it is compared again.
    """
    if regression.is_due(stage_dir, store=services.store, channel=channel):
        compare(stage_dir, services=services, channel=channel)
    now = datetime.now(UTC)
    with profiling.timed("publish"):
        publication = publish.publish(
            stage_dir, store=services.store, provenance=provenance, created_at=now, channel=channel, progress=progress
        )
        feed.append_event(services.store, publication, channel=channel, now=now)
    return publication


def settle_unchanged(item: WorkItem, *, services: Services, channel: str = bundle.LATEST) -> Record:
    """The record of a model that is published already; a channel that a crash left behind is moved on.

    Nothing is raised: a bundle that cannot be read gives the record of a failure.
    """
    try:
        found = _bundle(item, services=services)
        held = publish.settle(found.manifest, store=services.store, channel=channel, now=datetime.now(UTC))
        return _record(item, found, services=services, state="held" if held else "unchanged")
    except OnnxFleetError as err:
        return record.of_failure(item, step="publish", error=type(err).__name__, message=str(err))


def record_of_bundle(
    item: WorkItem,
    *,
    services: Services,
    channel: str = bundle.LATEST,
    seconds: Mapping[str, float] | None = None,
) -> Record:
    """The record of an item that a run published, told from its manifest."""
    found = _bundle(item, services=services)
    held = publish.is_held(found.manifest, store=services.store, channel=channel)
    return _record(item, found, services=services, state="held" if held else "published", seconds=seconds)


def discard_stage(item: WorkItem, *, services: Services) -> None:
    """Free the disk of a model that has its record."""
    shutil.rmtree(stage_dir_of(item, services=services), ignore_errors=True)


def process(
    item: WorkItem,
    *,
    services: Services,
    provenance: Provenance,
    channel: str = bundle.LATEST,
    on_step: Callable[[Step], None] = lambda step: None,
    progress: Progress | None = None,
) -> Record:
    """Everything that one model needs; however it ends, one record comes back and nothing is raised.

    Args:
        on_step: told when a step begins.
        progress: of the download and the upload, in bytes.
    """
    if item.state == "unchanged":
        return settle_unchanged(item, services=services, channel=channel)
    stage_dir = stage_dir_of(item, services=services)
    seconds: dict[str, float] = {}
    step: Step = "export"
    validation = gpu = None
    started = time.monotonic()

    def begin(name: Step) -> None:
        nonlocal step, started
        seconds[step] = time.monotonic() - started
        step, started = name, time.monotonic()
        on_step(name)

    try:
        on_step("export")
        export(item, stage_dir=stage_dir, services=services, progress=progress)
        begin("validate")
        validation = prove(stage_dir, services=services)
        validation_report.require_passed(validation)
        make_variants(stage_dir, services=services)
        if "cuda" in item.model.entry.providers:
            gpu = prove_on_gpu(stage_dir, services=services)
            if gpu.status != "not_run":
                validation_report.require_passed(gpu)
        begin("measure")
        measure(stage_dir, services=services)
        begin("compare")
        compare(stage_dir, services=services, channel=channel)
        begin("publish")
        publish_stage(stage_dir, services=services, provenance=provenance, channel=channel, progress=progress)
        seconds[step] = time.monotonic() - started
        ended = record_of_bundle(item, services=services, channel=channel, seconds=seconds)
    except Exception as err:
        if not isinstance(err, OnnxFleetError):
            log.exception("%s@%s: %s failed in a way that is not foreseen", item.model_id, item.version, step)
        seconds[step] = time.monotonic() - started
        return record.of_failure(
            item, step=step, error=type(err).__name__, message=str(err), validation=validation, gpu=gpu, seconds=seconds
        )
    discard_stage(item, services=services)
    return ended


def _bundle(item: WorkItem, *, services: Services) -> Bundle:
    return bundle.find(Ref(model_id=item.model_id, channel=None, version=item.version), store=services.store)


def _record(
    item: WorkItem,
    found: Bundle,
    *,
    services: Services,
    state: Literal["held", "published", "unchanged"],
    seconds: Mapping[str, float] | None = None,
) -> Record:
    location = f"{services.store.address}/{found.prefix}".rstrip("/")
    return record.of_bundle(item, state=state, location=location, manifest=found.manifest, seconds=seconds)


def _proof(stage_dir: Path, *, services: Services, provider: Provider) -> ProofRequest:
    from onnx_fleet.source import download

    source_dir = download.download(stage.read_work(stage_dir).model, hub=services.hub)
    return ProofRequest(stage=stage_dir, source_dir=source_dir, provider=provider, gpu=services.gpu)


def _in_isolation(step: Callable[[ProofRequest], R], request: ProofRequest, *, services: Services, log: Path) -> R:
    """CUDA does not survive a fork of a process that asked it for anything: there nothing is forked."""
    return isolation.run(
        step, request, limits=services.step_limits, log=log, with_torch=request.provider == "cpu"
    ).value


def _validate(request: ProofRequest) -> ValidationReport:
    stage_dir, source_dir = request.stage, request.source_dir
    return proving.validate(stage_dir, source_dir=source_dir, provider=request.provider, gpu=request.gpu)


def _measure(request: ProofRequest) -> LatencyReport:
    stage_dir, source_dir = request.stage, request.source_dir
    return measuring.measure(stage_dir, source_dir=source_dir, provider=request.provider, gpu=request.gpu)


def _log(stage_dir: Path, step: str, provider: Provider) -> Path:
    return stage_dir / stage.PRIVATE / f"{step}_{provider}.log"

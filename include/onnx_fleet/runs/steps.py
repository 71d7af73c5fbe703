"""The steps that make a bundle of one model, and the one list of them.

`onnx-fleet run` and Airflow's tasks walk STEPS; the commands for single steps, and audits, call the functions that its
rows call: those of exporting.py, proving.py and measuring.py, and compare and publish. Each step finds all that it
needs in the stage, the store and the Hub's cache, so any step can run on any worker that sees the stage, and again
after a kill.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from onnx_fleet.bundles import bundle, renames
from onnx_fleet.bundles import publish as publishing
from onnx_fleet.bundles.manifest import Provenance
from onnx_fleet.bundles.publish import Publication
from onnx_fleet.bundles.signing_key import SigningKey
from onnx_fleet.bundles.stage import PRIVATE, Stage
from onnx_fleet.entities import validation_report
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.entities.regression_report import RegressionReport
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import BundleNotFound, GpuUnavailable
from onnx_fleet.measurement import regression
from onnx_fleet.processes import machine_lock, profiling
from onnx_fleet.processes.machine_lock import Alone, Machine
from onnx_fleet.runs import exporting, measuring, proving
from onnx_fleet.runs.services import Services
from onnx_fleet.store import Progress

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
    machine: Machine = field(default_factory=Machine)
    """The machine that the step runs on, for one that says itself how it uses it."""
    progress: Progress | None = None
    """The callback that is told of the download and the upload, in bytes."""
    stored: Mapping[str, str] = field(default_factory=dict)
    """The files of the stage that the store has already: SHA-256 -> key."""
    signing_key: SigningKey | None = None
    """What the bundle is signed with; None signs nothing."""


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
    machine: machine_lock.Use
    """How the step uses its machine; ``as_it_says``: it asks Job.machine."""
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


def compare(
    stage: Stage, *, services: Services, channel: str = bundle.LATEST, alone: Alone = nullcontext
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
    signing_key: SigningKey | None = None,
    progress: Progress | None = None,
) -> Publication:
    """Put a stage's bundle into the store, point the channel at it if its gates let it, and keep the feed's event.

    What the channel points at by now may not be what the stage was compared with: then it is compared again.

    Args:
        move: have the channel point at it also where the bundle stands already.
        by: who moves the channel; None for the run of the provenance.
        stored: where the store has files of the stage already: SHA-256 -> key.
        signing_key: what the bundle is signed with; None signs nothing.
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
            signing_key=signing_key,
            progress=progress,
        )
        renames.leave_for(stage.item.model, store=services.store, now=datetime.now(UTC))
    return published


def _take_export(job: Job) -> None:
    exporting.export(job.stage, services=job.services, turn=job.machine.turn, progress=job.progress)


def _take_validate(job: Job) -> None:
    validation_report.require_passed(proving.validate(job.stage, services=job.services).graphs)


def _take_prove_on_gpu(job: Job) -> None:
    try:
        report = proving.validate_on_gpu(job.stage, services=job.services).graphs
        if report.passed:
            measuring.measure(job.stage, services=job.services, provider="cuda")
    except GpuUnavailable as err:
        proving.without_gpu(job.stage, reason=str(err))
    else:
        if report.status != "not_run":
            validation_report.require_passed(report)


def _take_measure(job: Job) -> None:
    measuring.measure(job.stage, services=job.services, machine=job.machine)


def _take_compare(job: Job) -> None:
    with job.machine.shared():  # the version in use is pulled beside others' work, and not beside a measurement
        compare(job.stage, services=job.services, channel=job.channel, alone=job.machine.alone)


def _take_publish(job: Job) -> Publication:
    return publish(
        job.stage,
        services=job.services,
        provenance=job.provenance,
        channel=job.channel,
        by=job.by,
        stored=job.stored,
        signing_key=job.signing_key,
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
    Step(name="measure", run=_take_measure, needs=(_EXPORTED,), leaves=(_MEASURED,), machine="as_it_says"),
    Step(name="compare", run=_take_compare, needs=(_EXPORTED, _MEASURED), leaves=(), machine="as_it_says"),
    Step(name="publish", run=_take_publish, needs=(_EXPORTED, _VALIDATED, _MEASURED), leaves=(), machine="shared"),
)
"""Every step, in the order in which they run: each needs only what those before it leave."""


def steps_of(item: WorkItem) -> tuple[Step, ...]:
    """Return the steps that an item goes through; empty for a model that is published already."""
    return tuple(step for step in STEPS if step.is_for(item)) if item.state != "unchanged" else ()

"""The run that a task belongs to, and what its steps work with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from airflow.sdk import get_current_context

from onnx_fleet import jsonio
from onnx_fleet.airflow import connections, metrics
from onnx_fleet.airflow.settings import FleetSettings
from onnx_fleet.bundles.manifest import Provenance
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.entities.sizing import StepCost
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.runs import work_folder
from onnx_fleet.runs.handover import Handover, SharedFolder
from onnx_fleet.runs.services import Services
from onnx_fleet.runs.spending import Spending
from onnx_fleet.runs.stage_transfer import ThroughStore
from onnx_fleet.runs.steps import Job, Step, StepName
from onnx_fleet.source.hub_client import Hub
from onnx_fleet.store.blob_cache import BlobCache

FAILURE = "failure"
"""The XCom key under which a step tells why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The error of a failed step, as it is left for the record."""

    error: str
    """The error class's name."""
    message: str
    step: StepName | None = None
    """The step that failed; None where none had begun."""
    costs: Mapping[str, StepCost] = field(default_factory=dict)
    """What the steps that the task took, took each, by their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of one DAG, seen from a task of it."""

    dag_id: str
    run_id: str
    trigger: str
    asked_by: str | None
    """The user of Airflow who started the run; None where nobody did."""
    params: Mapping[str, object]
    handover: Handover
    services: Services

    @property
    def label(self) -> str:
        """The run's label: in the store, and in the fingerprint of what it forces."""
        return label(self.dag_id, self.run_id)

    @property
    def by(self) -> Actor:
        """Who moves the channels that this run moves."""
        return Actor(kind="run", name=self.label, asked_by=self.asked_by)

    def provenance(self, *, catalogue_digest: str | None) -> Provenance:
        """Return what a manifest says of the run."""
        return Provenance(
            dag_id=self.dag_id, run_id=self.run_id, trigger=self.trigger, catalogue_digest=catalogue_digest
        )

    @contextmanager
    def job(
        self, work: WorkItem, step: Step, *, catalogue_digest: str | None, settings: FleetSettings
    ) -> Iterator[Job]:
        """Open what a step of a model works on and with; afterwards it is there for the steps behind."""
        with self.handover.opened(work, step.name) as stage:
            yield Job(
                stage=stage,
                services=self.services,
                provenance=self.provenance(catalogue_digest=catalogue_digest),
                by=self.by,
                channel=settings.channel,
                stored=self.handover.stored(work) if step.name == "publish" else {},
                signing_key=connections.signing_key(settings) if step.name == "publish" else None,
            )


def label(dag_id: str, run_id: str) -> str:
    """Return the name of a run among the runs of all DAGs."""
    return f"{dag_id}__{run_id}"


def current(settings: FleetSettings) -> Run:
    """Return the run of the task that calls.

    Raises:
        StoreNotFound, StoreDenied: the store is not configured, or its connection is not usable.
    """
    context = get_current_context()
    dag_run = context["dag_run"]
    run = label(dag_run.dag_id, dag_run.run_id)
    services = Services(
        store=metrics.metered(connections.store(settings)),
        hub=Hub(connections.hub_settings(settings)),
        work_dir=work_folder.of_run(settings.scratch, run),
        limits=settings.limits,
        cache_bytes=settings.cache_bytes,
        gpu=settings.gpu,
        largest_worker=settings.largest_worker,
    )
    return Run(
        dag_id=dag_run.dag_id,
        run_id=dag_run.run_id,
        trigger=str(getattr(dag_run.run_type, "value", dag_run.run_type)),
        asked_by=dag_run.triggering_user_name,
        params=dict(context["params"]),
        handover=_handover(run, services, settings),
        services=services,
    )


def _handover(run: str, services: Services, settings: FleetSettings) -> Handover:
    if settings.stages == "shared":
        return SharedFolder(folder=services.work_dir, services=services)
    work_folder.prune(settings.scratch, days=settings.scratch_days)  # of this worker, which may never plan a run
    kept = BlobCache(folder=settings.scratch / "blobs", limit_bytes=settings.scratch_bytes)
    return ThroughStore(run=run, services=services, blobs=kept)


@contextmanager
def explained(spent: Spending | None = None) -> Iterator[None]:
    """Report an error that leaves a task to the record task, then let it go on to Airflow.

    Args:
        spent: the steps of the task; None where none has begun.
    """
    spent = spent or Spending()
    try:
        yield
    except Exception as err:
        failure = Failure(error=type(err).__name__, message=str(err), step=spent.step, costs=spent.steps)
        ti = get_current_context()["ti"]
        ti.xcom_push(FAILURE, jsonio.to_json(failure))
        metrics.failed(spent.step or ti.task_id, err)
        raise

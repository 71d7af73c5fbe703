"""The run that a task belongs to, and what its steps work with."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from airflow.sdk import get_current_context

from onnx_fleet import jsonio
from onnx_fleet.airflow import connections, machine_lock, scratch
from onnx_fleet.airflow.scratch import Scratch
from onnx_fleet.airflow.settings import FleetSettings
from onnx_fleet.bundles.manifest import Provenance
from onnx_fleet.jsonio import Json
from onnx_fleet.runs.services import Services
from onnx_fleet.runs.steps import Job
from onnx_fleet.source.hub_client import Hub

FAILURE = "failure"
"""The XCom key under which a step tells why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The error of a failed step, as it is left for the record."""

    error: str
    """The error class's name."""
    message: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of one DAG, seen from a task of it."""

    dag_id: str
    run_id: str
    trigger: str
    params: Mapping[str, object]
    scratch: Scratch
    services: Services

    @property
    def label(self) -> str:
        """The name of the run among the runs of all DAGs: in the store, and in the fingerprint of what it forces."""
        return f"{self.dag_id}__{self.run_id}"

    def provenance(self, *, catalogue_digest: str | None) -> Provenance:
        """Return what a manifest says of the run."""
        return Provenance(
            dag_id=self.dag_id, run_id=self.run_id, trigger=self.trigger, catalogue_digest=catalogue_digest
        )

    def job(self, item: Json, *, settings: FleetSettings) -> Job:
        """Return what the steps of a model work on and with.

        Args:
            item: what shards.py makes of a work item.
        """
        return Job(
            stage=self.services.stage(self.scratch.read_item(item["model_id"])),
            services=self.services,
            provenance=self.provenance(catalogue_digest=item["catalogue_digest"]),
            channel=settings.channel,
            alone=partial(machine_lock.exclusive, settings.lock_folder),
        )


def current(settings: FleetSettings) -> Run:
    """Return the run of the task that calls.

    Raises:
        StoreNotFound, StoreDenied: the store is not configured, or its connection is not usable.
    """
    context = get_current_context()
    dag_run = context["dag_run"]
    corner = scratch.of_run(settings.scratch, dag_id=dag_run.dag_id, run_id=dag_run.run_id)
    return Run(
        dag_id=dag_run.dag_id,
        run_id=dag_run.run_id,
        trigger=str(getattr(dag_run.run_type, "value", dag_run.run_type)),
        params=dict(context["params"]),
        scratch=corner,
        services=Services(
            store=connections.store(settings),
            hub=Hub(connections.hub_settings(settings)),
            work_dir=corner.folder,
            limits=settings.limits,
            cache_bytes=settings.cache_bytes,
            gpu=settings.gpu,
        ),
    )


@contextmanager
def explained() -> Iterator[None]:
    """Report an error that leaves a step to the record task, then let it go on to Airflow."""
    started = time.monotonic()
    try:
        yield
    except Exception as err:
        failure = Failure(error=type(err).__name__, message=str(err), seconds=time.monotonic() - started)
        get_current_context()["ti"].xcom_push(FAILURE, jsonio.to_json(failure))
        raise

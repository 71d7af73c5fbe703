"""The claim of a run on a model, held by the tasks that make it: two runs of whatever DAG do its work once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException

from onnx_fleet.airflow import run_context
from onnx_fleet.airflow.run_context import Run
from onnx_fleet.airflow.settings import FleetSettings
from onnx_fleet.errors import ModelBusy
from onnx_fleet.jsonio import Json
from onnx_fleet.runs import claims

log = logging.getLogger(__name__)


@contextmanager
def held(item: Json, settings: FleetSettings) -> Iterator[Run]:
    """Hold the model of a task for its run while a step works on it, and on for the task behind.

    A model that another run is making is waited for without a worker: the task is rescheduled, which takes none of its
    tries. Once that run has published it, the task is skipped, and those behind it; model_record.py says so.

    Args:
        item: what shards.py makes of a work item.

    Yields:
        The run of the task.
    """
    busy, model_id = None, item["model_id"]
    with run_context.explained():
        now = run_context.current(settings)
        try:
            is_to_make = claims.take(
                model_id, item["version"], run=now.label, store=now.services.store, now=datetime.now(UTC)
            )
        except ModelBusy as err:
            busy = err
    if busy is not None:
        log.info("%s", busy)
        again_at = datetime.now(UTC) + timedelta(seconds=busy.retry_after_s)
        raise AirflowRescheduleException(again_at)  # type: ignore[no-untyped-call]  # Airflow's own
    if not is_to_make:
        raise AirflowSkipException(f"{model_id}: another run has published {item['version']} meanwhile")
    with claims.renewed(model_id, run=now.label, store=now.services.store, left_for=claims.BETWEEN_TASKS):
        yield now

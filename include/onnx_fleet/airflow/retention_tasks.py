"""A collection of garbage: found, removed where that is asked for, and reported, in one task."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowFailException

from onnx_fleet.airflow import retries, run_context, run_notes, run_params, store_links
from onnx_fleet.airflow.settings import FleetSettings
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.runs import garbage, garbage_report, run_note
from onnx_fleet.runs.garbage import Garbage, Policy

log = logging.getLogger(__name__)

LIMITS: Final = ("keep_last", "history_days", "grace_days")
"""The parameters that hold in the place of what the catalogue says."""


def collection(*, settings: FleetSettings) -> None:
    """Wire the task into the DAG that is being defined; the run's parameters say what to remove."""

    def collect() -> str:
        with run_notes.of_failure():
            made = _collect(run_context.current(settings))
        if made.refused:
            raise AirflowFailException(f"{garbage_report.title(made)}; could not be removed: {made.refused[0]}")
        return garbage_report.title(made)

    store_links.attach(task(**retries.options(settings))(collect)(), (store_links.REPORT,))


def _collect(now: run_context.Run) -> Garbage:
    run_params.require_known()
    params: Any = now.params
    made = garbage.collect(
        now.services.store,
        policy=_policy(params),
        run_id=now.label,
        by=now.by,
        now=datetime.now(UTC),
        only=run_params.patterns(params["only"]),
        delete=not params["dry_run"],
    )
    key = garbage_report.write(made, store=now.services.store)
    log.info("%s/%s\n%s", now.services.store.address, key, garbage_report.markdown(made))
    run_notes.leave(run_note.of_garbage(made, page=store_links.report_address(now.dag_id, now.run_id)))
    return made


def _policy(params: Mapping[str, Any]) -> Policy:
    """Return what holds for each model: what the catalogue says, but for what the run says."""
    catalogue = reader.load(Path(params["catalogue"]))
    limits = {name: params[name] for name in LIMITS}
    return lambda model_id: catalogue.retention_of(model_id).limited(**limits)

"""The tasks of a poll of the Hub: poll, start a run of the fleet for what is new, note that it was started."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import task
from airflow.sdk.configuration import conf

from onnx_fleet.airflow import metrics, retries, run_context, run_notes, run_params, store_links
from onnx_fleet.airflow.settings import FleetSettings
from onnx_fleet.jsonio import Json
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.runs import report_page, run_note, watch, watch_report

log = logging.getLogger(__name__)

_REPORT: Final = store_links.ResultLink(
    "Report", lambda result, label: report_page.key_of(result["report"]) if result["report"] else None
)
"""The button to the report of a poll, which there is where it has found something."""
_STARTED: Final = "{{ task.trigger_run_id }}"


def watches(*, settings: FleetSettings) -> None:
    """Wire the tasks into the DAG that is being defined.

    A run is written into the store before it is started, and taken off it afterwards. So a start that was lost is
    made by the next poll, under the same id; where it was made already, Airflow says so, and the task is skipped.
    """

    def retried(body: Callable[..., Any], **options: Any) -> Any:
        return task(**retries.options(settings), **options)(body)

    def poll() -> Json:
        with run_notes.of_failure():
            return _poll(run_context.current(settings), settings=settings)

    def starts(polled: Json) -> list[Json]:
        return list(polled["starts"])

    def note(polled: Json) -> Json:
        return _note(run_context.current(settings), polled)

    polled = store_links.attach(retried(poll)(), (_REPORT,))
    start = TriggerDagRunOperator.partial(
        task_id="start",
        trigger_dag_id=run_params.FLEET,
        logical_date=None,
        skip_when_already_exists=True,
        map_index_template=_STARTED,
        **retries.options(settings),
    ).expand_kwargs(retried(starts)(polled))
    start >> retried(note, trigger_rule="none_failed")(polled)


def _poll(now: run_context.Run, *, settings: FleetSettings) -> Json:
    """Look for what is new, report it, and write down the runs to start; nothing is written in a dry run."""
    run_params.require_known()
    catalogue, dry_run = str(now.params["catalogue"]), bool(now.params["dry_run"])
    found = watch.look(
        reader.load(Path(catalogue)),
        services=now.services,
        run_id=now.label,
        now=datetime.now(UTC),
        room=settings.shards * conf.getint("core", "max_map_length"),
        max_requests=settings.watch_requests,
    )
    log.info("%s", watch_report.markdown(found.report))
    key = None
    if found.report.findings:
        key = watch_report.write(found.report, store=now.services.store)
        log.info("the report is %s/%s", now.services.store.address, key)
    metrics.ended(metrics.FINDINGS, "state", (each.state for each in found.report.findings))
    run_notes.leave(run_note.of_watch(found.report, page=store_links.report_address(now.dag_id, now.run_id)))
    if not dry_run:
        watch.keep(found, store=now.services.store)
    starts = () if dry_run else found.state.to_start
    return {
        "found": watch_report.title(found.report),
        "counts": dict(found.report.counts),
        "report": key,
        "starts": [
            {"trigger_run_id": each.run_id, "conf": run_params.of_models(each.models, catalogue=catalogue)}
            for each in starts
        ],
    }


def _note(now: run_context.Run, polled: Json) -> Json:
    """Note that the runs were started; returns what the poll has found, and their ids."""
    run_ids = [each["trigger_run_id"] for each in polled["starts"]]
    if run_ids:
        watch.started(run_ids, store=now.services.store)
    return {**{name: polled[name] for name in ("found", "counts", "report")}, "started": run_ids}

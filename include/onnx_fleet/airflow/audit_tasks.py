"""A round of audits: choose, one mapped task per bundle, report, gate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from airflow.sdk import get_current_context, task
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from onnx_fleet import jsonio
from onnx_fleet.airflow import (
    metrics,
    pod_overrides,
    retries,
    run_context,
    run_notes,
    run_params,
    shards,
    store_links,
)
from onnx_fleet.airflow.settings import FleetSettings
from onnx_fleet.bundles import feed
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.jsonio import Json
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.processes import machine_lock
from onnx_fleet.runs import audit, audit_report, rollback, run_note, work_folder
from onnx_fleet.runs.audit import Target
from onnx_fleet.runs.audit_report import AuditReport, AuditRow

log = logging.getLogger(__name__)

LABEL: Final = "{{ item['model_id'] }}@{{ item['version'] }}"


def audits(*, settings: FleetSettings) -> None:
    """Wire the tasks into the DAG that is being defined; the run's parameters say what to audit."""

    def retried(body: Callable[..., Any], **options: Any) -> Any:
        return task(**retries.options(settings), **options)(body)

    def choose() -> list[Json]:
        with run_notes.of_failure():
            return _choose(run_context.current(settings), settings=settings)

    def shard(chosen: list[Json], number: int) -> list[Json]:
        return shards.deal(chosen, shards=settings.shards, shard=number)

    def audit_one(item: Json) -> Json:
        return _audit(run_context.current(settings), item, settings=settings)

    def write_report(tasks: list[str]) -> str:
        with run_notes.of_failure():
            return _report(run_context.current(settings), tasks)

    def gate(key: str) -> str:
        return _gate(run_context.current(settings), key)

    chosen = retried(choose)()
    names = ["audit"] if settings.shards == 1 else [f"audit_{number + 1}" for number in range(settings.shards)]
    reported = retried(write_report, task_id="report", trigger_rule="all_done")(names)
    heavy: dict[str, Any] = {
        "pool": settings.cpu_pool,
        "map_index_template": LABEL,
        **pod_overrides.options(settings, alone=False),
    }
    if settings.cpu_queue:
        heavy["queue"] = settings.cpu_queue
    for number, name in enumerate(names):
        items = retried(shard, task_id=f"{name}_items")(chosen, number)
        retried(audit_one, task_id=name, **heavy).expand(item=items) >> reported
    gated = retried(gate)(reported)
    chosen >> gated
    for made in (reported, gated):
        store_links.attach(made, (store_links.REPORT,))


def _choose(now: run_context.Run, *, settings: FleetSettings) -> list[Json]:
    """Choose the bundles to audit; without a seed each day draws others."""
    run_params.require_known()
    work_folder.prune(settings.scratch, days=settings.scratch_days)
    params: Any = now.params
    entries = reader.load(Path(params["catalogue"])).entries if params["catalogue"] else ()
    seed = datetime.now(UTC).date().toordinal() if params["seed"] is None else params["seed"]
    targets = audit.choose(
        now.services.store,
        channel=params["channel"],
        all_versions=params["all_versions"],
        only=run_params.patterns(params["only"]),
        sample=params["sample"],
        seed=seed,
        entries=entries,
    )
    per_shard = conf.getint("core", "max_map_length")
    shards.require_room(len(targets), shards=settings.shards, per_shard=per_shard, instead="take a sample")
    log.info("%d bundles to audit, seed %d", len(targets), seed)
    return [jsonio.to_json(target) for target in targets]


def _audit(now: run_context.Run, item: Json, *, settings: FleetSettings) -> Json:
    """Audit one bundle, and move its channel where that is asked for; a bundle that fails is a result, not an error."""
    target = jsonio.from_json(Target, item)
    params: Any = now.params
    with machine_lock.shared(settings.lock_folder):
        made = audit.audit(target, services=now.services, now=datetime.now(UTC))
        row = audit_report.row(made)
        if params["demote"]:
            moved = rollback.demote(
                made,
                channel=params["channel"],
                services=now.services,
                by=Actor(kind="audit", name=now.label, asked_by=now.asked_by),
                now=datetime.now(UTC),
                trust=target.trust,
                dry_run=params["dry_run"],
            )
            row = replace(row, demotion=moved)
    return jsonio.to_json(row)


def _report(now: run_context.Run, tasks: Sequence[str]) -> str:
    """Gather one row per bundle, write the report and log it; returns its key in the store."""
    ti = get_current_context()["ti"]
    chosen = ti.xcom_pull(task_ids="choose")
    if chosen is None:
        raise AirflowSkipException("nothing was chosen: read the log of the choose task")
    rows = {
        (row.model_id, row.version): row
        for row in (
            jsonio.from_json(AuditRow, told) for told in ti.xcom_pull(task_ids=list(tasks)) or () if told is not None
        )
    }
    for target in (jsonio.from_json(Target, item) for item in chosen):
        rows.setdefault((target.model_id, target.version), _unaudited(target))
    if any(row.demotion and row.demotion.moved for row in rows.values()):
        feed.rebuild(now.services.store, now=datetime.now(UTC))
    made = audit_report.build(rows.values(), run_id=now.label, now=datetime.now(UTC))
    key = audit_report.write(made, store=now.services.store)
    log.info("%s/%s\n%s", now.services.store.address, key, audit_report.markdown(made))
    metrics.ended(metrics.AUDITS, "verdict", (each.verdict for each in made.rows))
    run_notes.leave(run_note.of_audit(made, page=store_links.report_address(now.dag_id, now.run_id)))
    return key


def _unaudited(target: Target) -> AuditRow:
    return AuditRow(
        model_id=target.model_id,
        version=target.version,
        verdict="broke_off",
        reason="its audit task failed: read that task's log, then clear it",
    )


def _gate(now: run_context.Run, key: str) -> str:
    """Fail the run when too many bundles failed."""
    params: Any = now.params
    made = jsonio.parse(AuditReport, now.services.store.read(key))
    verdict = audit_report.gate(made.rows, max_failed=params["max_failed"], max_not_compared=params["max_not_compared"])
    if not verdict.passed:
        raise AirflowFailException(f"{verdict.reason}; the report is {now.services.store.address}/{key}")
    return verdict.reason

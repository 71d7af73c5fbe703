"""The tasks of a run around its models: plan, mapped groups, report, gate; the same for both DAGs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from airflow.sdk import get_current_context, task
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from onnx_fleet import jsonio
from onnx_fleet.airflow import assets, metrics, retries, run_context, run_notes, run_params, shards, store_links
from onnx_fleet.airflow.model_group import model_group
from onnx_fleet.airflow.settings import FleetSettings
from onnx_fleet.bundles.publish import Publication
from onnx_fleet.entities.work_item import Plan
from onnx_fleet.errors import BundleNotFound, OnnxFleetError
from onnx_fleet.jsonio import Json
from onnx_fleet.runs import (
    pipeline,
    record,
    rollout_plan,
    rollout_report,
    rollout_steps,
    run_note,
    run_report,
    work_folder,
)
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.run_report import RunReport
from onnx_fleet.runs.selection import Wanted
from onnx_fleet.store import ObjectStore, leftovers

log = logging.getLogger(__name__)

_ANNOUNCED: Final = "{{ publication['model_id'] }}"
LARGE: Final = "model_large"
"""The mapped group of the models that are predicted to need much memory."""


def reexport(
    wanted: Callable[[run_context.Run], Wanted], *, settings: FleetSettings, max_refused: int | None = None
) -> Any:
    """Wire the tasks into the DAG that is being defined.

    Args:
        wanted: reads the run's parameters; called in the plan task.
        max_refused: the value where the run has no parameter of that name.
    Returns:
        The task ``report``.
    """

    def retried(body: Callable[..., Any], **options: Any) -> Any:
        return task(**retries.options(settings), **options)(body)

    def plan() -> Json:
        with run_notes.of_failure():
            return _plan(run_context.current(settings), wanted, settings=settings)

    def finished(planned: Json) -> list[Json]:
        return list(planned["finished"])

    def announce(publication: Json) -> None:
        assets.emit(jsonio.from_json(Publication, publication), get_current_context()["outlet_events"])

    def shard(planned: Json, number: int) -> list[Json]:
        return shards.deal(_sized(planned, large=False), shards=settings.shards, shard=number)

    def large_items(planned: Json) -> list[Json]:
        return _sized(planned, large=True)

    def write_report(groups: list[str]) -> str:
        with run_notes.of_failure():
            return _report(run_context.current(settings), groups)

    def gate(key: str) -> str:
        return _gate(run_context.current(settings), key, max_refused=max_refused)

    planned = retried(plan)()
    retried(announce, outlets=[assets.BUNDLE, assets.FLEET], map_index_template=_ANNOUNCED).expand(
        publication=retried(finished)(planned)
    )
    groups = ["model"] if settings.shards == 1 else [f"model_{number + 1}" for number in range(settings.shards)]
    of_large = [LARGE] if settings.large else []
    reported = retried(write_report, task_id="report", trigger_rule="all_done")([*groups, *of_large])
    for number, group in enumerate(groups):
        items = retried(shard, task_id=f"{group}_items")(planned, number)
        model_group(settings, group_id=group).expand(item=items) >> reported
    for group in of_large:
        items = retried(large_items, task_id=f"{group}_items")(planned)
        model_group(settings, group_id=group, large=settings.large).expand(item=items) >> reported
    gated = retried(gate)(reported)
    planned >> gated
    for made in (reported, gated):
        store_links.attach(made, (store_links.REPORT,))
    return reported


def _plan(now: run_context.Run, wanted: Callable[[run_context.Run], Wanted], *, settings: FleetSettings) -> Json:
    """Decide for every model; give every one that needs no tasks its record already."""
    run_params.require_known()
    work_folder.prune(settings.scratch, days=settings.scratch_days)
    _sweep(now.services.store, days=settings.scratch_days)
    asked = wanted(now)
    force = now.label if now.params.get("force") else None
    planned = pipeline.plan(asked.entries, services=now.services, force=force, channel=settings.channel)
    divided = rollout_plan.divide(
        planned, scope=asked.scope, store=now.services.store, channel=settings.channel, now=datetime.now(UTC)
    )
    planned = divided.plan.changed() if now.params.get("changed") else divided.plan
    work = planned.to_export
    large_bytes = settings.large.memory_bytes if settings.large else None
    items = [shards.item(item, catalogue_digest=asked.catalogue_digest, large_bytes=large_bytes) for item in work]
    per_shard, of_large = conf.getint("core", "max_map_length"), sum(item["large"] for item in items)
    shards.require_room(len(items) - of_large, shards=settings.shards, per_shard=per_shard)
    shards.require_room_for_large(of_large, per_shard=per_shard)
    for item in work:
        now.handover.write_item(item)
        log.info("%s: %s: %s", item.model.at_commit, item.state, item.reason)
    finished: list[Publication] = []
    ended = _ended(planned, now, channel=settings.channel, on_finished=finished.append)
    return {
        "items": items,
        "records": [jsonio.to_json(each) for each in (*divided.waiting, *ended)],
        "finished": [jsonio.to_json(each) for each in finished],
        "rollout": divided.rollout.rollout_id if divided.rollout else None,
    }


def _sized(planned: Json, *, large: bool) -> list[Json]:
    """Return the items of the group of large models, or those of all other groups, in the plan's order."""
    return [item for item in planned["items"] if item["large"] == large]


def _sweep(store: ObjectStore, *, days: int) -> None:
    """Clear the store of what killed writers left there; a store that does not let us is as good as it was."""
    try:
        for left in leftovers.sweep(store, days=days, now=datetime.now(UTC)):
            log.info("swept %s (%s), begun at %s", left.name, left.key or "a file", left.began_at)
    except OnnxFleetError as err:
        log.warning("the remains of killed writers could not be removed from the store: %s", err)


def _ended(
    planned: Plan, now: run_context.Run, *, channel: str, on_finished: Callable[[Publication], None]
) -> list[Record]:
    """Return the records of the models that need no tasks."""
    unchanged = [item for item in planned.items if item.state == "unchanged"]
    settled = pipeline.settle_unchanged(
        unchanged, services=now.services, by=now.by, channel=channel, on_finished=on_finished
    )
    return [*(record.of_refusal(refusal) for refusal in planned.refusals), *settled]


def _report(now: run_context.Run, groups: list[str]) -> str:
    """Gather one record per model, write the report and log it; returns its key in the store."""
    ti = get_current_context()["ti"]
    planned = ti.xcom_pull(task_ids="plan")
    if planned is None:
        raise AirflowSkipException("there is no plan to report on: read the log of the plan task")
    told = ti.xcom_pull(task_ids=[f"{name}.record" for name in groups]) or []
    records = {
        ended.model_id: ended
        for ended in (jsonio.from_json(Record, data) for data in (*planned["records"], *told) if data is not None)
    }
    for item in planned["items"]:
        records.setdefault(item["model_id"], _unrecorded(item))
    rollout_id = planned.get("rollout")
    stands = _concluded(rollout_id, list(records.values()), now) if rollout_id else None
    made = run_report.build(records.values(), run_id=now.label, now=datetime.now(UTC), rollout=stands)
    key = run_report.write(made, store=now.services.store)
    log.info("%s/%s\n%s", now.services.store.address, key, run_report.markdown(made))
    metrics.ended(metrics.MODELS, "state", (each.state for each in made.records), dag=now.dag_id)
    run_notes.leave(run_note.of_run(made, page=store_links.report_address(now.dag_id, now.run_id)))
    return key


def _concluded(rollout_id: str, records: list[Record], now: run_context.Run) -> str:
    """Judge the wave of the rollout that the run was part of; returns where the rollout stands then."""
    try:
        ended = rollout_steps.conclude(rollout_id, records, store=now.services.store, now=datetime.now(UTC))
    except BundleNotFound:
        return f"the rollout {rollout_id} is no longer in the store; the next run begins it again"
    return rollout_report.statement(ended)


def _unrecorded(item: Json) -> Record:
    return Record(
        model_id=item["model_id"],
        version=item["version"],
        state="failed",
        step="record",
        error="WorkerLost",
        message=f"{item['model_id']}: its record task failed; read that task's log, then clear it",
    )


def _gate(now: run_context.Run, key: str, *, max_refused: int | None) -> str:
    """Fail the run when too many of its models failed."""
    made = jsonio.parse(RunReport, now.services.store.read(key))
    verdict = run_report.gate(
        made,
        max_failed=int(str(now.params.get("max_failed", 0))),
        max_refused=now.params.get("max_refused", max_refused),  # type: ignore[arg-type]  # held by the param's schema
    )
    if not verdict.passed:
        where = f"the report is {now.services.store.address}/{key}"
        raise AirflowFailException("\n".join([f"{verdict.reason}; {where}", *run_report.troubles(made)]))
    return verdict.reason

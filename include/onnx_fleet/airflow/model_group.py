"""The tasks of one model, from export to record: the group that both DAGs map over their models."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from airflow.sdk import get_current_context, task, task_group
from airflow.sdk.bases.decorator import Task

from onnx_fleet import jsonio
from onnx_fleet.airflow import assets, machine_lock, model_record, retries, run_context
from onnx_fleet.airflow.settings import FleetSettings
from onnx_fleet.entities import validation_report
from onnx_fleet.entities.validation_report import ValidationReport
from onnx_fleet.jsonio import Json
from onnx_fleet.runs import pipeline

LABEL: Final = "{{ item['model_id'] }}"
NO_GPU_WORKER: Final = "no GPU worker is configured ([onnx_fleet] gpu_queue)"

Body = Callable[..., Any]


def model_group(settings: FleetSettings, *, group_id: str) -> Any:
    """A task group for ``.expand(item=…)``; an item is what shards.py makes of a work item.

    The tasks of a model that is under way go before those of one that is not, so that few stages stand at a time.
    """

    @task_group(group_id=group_id)
    def model(item: Json) -> None:
        exported = _heavy(export, settings)(item=item)
        validated = _heavy(validate, settings)(item=item)
        measured = _heavy(measure, settings, trigger_rule="none_failed")(item=item)
        compared = _heavy(compare, settings)(item=item)
        published = _heavy(publish, settings, outlets=[assets.BUNDLE, assets.FLEET])(item=item)
        recorded = _light(record, settings, trigger_rule="all_done")(item=item)

        exported >> validated >> measured >> compared >> published >> recorded
        if settings.gpu_queue:
            asked = task.short_circuit(
                map_index_template=LABEL, ignore_downstream_trigger_rules=False, weight_rule="upstream"
            )(asks_for_gpu)(item=item)
            proven = _heavy(prove_on_gpu, settings, queue=settings.gpu_queue)(item=item)
            validated >> asked >> proven >> measured

    def export(item: Json) -> Json:
        return _step(settings, item, _export)

    def validate(item: Json) -> Json:
        return _step(settings, item, _validate if settings.gpu_queue else _validate_without_gpu)

    def asks_for_gpu(item: Json) -> bool:
        return bool(item["gpu"])

    def prove_on_gpu(item: Json) -> Json:
        return _step(settings, item, _prove_on_gpu)

    def measure(item: Json) -> Json:
        return _step(settings, item, _measure)

    def compare(item: Json) -> Json:
        return _step(settings, item, lambda now, item: _compare(now, item, channel=settings.channel))

    def publish(item: Json) -> Json:
        return _step(settings, item, lambda now, item: _publish(now, item, channel=settings.channel))

    def record(item: Json) -> Json:
        return jsonio.to_json(
            model_record.of_model(run_context.current(settings), item["model_id"], channel=settings.channel)
        )

    return model


def _heavy(body: Body, settings: FleetSettings, **options: Any) -> Task[..., Any]:
    """A task in the pool, on a worker's queue."""
    if settings.cpu_queue:
        options = {"queue": settings.cpu_queue, **options}
    return _light(body, settings, pool=settings.cpu_pool, **options)


def _light(body: Body, settings: FleetSettings, **options: Any) -> Task[..., Any]:
    return task(map_index_template=LABEL, weight_rule="upstream", **retries.options(settings), **options)(body)


def _step(settings: FleetSettings, item: Json, body: Callable[[run_context.Run, Json], Json | None]) -> Json:
    """Run one step; its result is JSON with the seconds that it took."""
    started = time.monotonic()
    with run_context.explained():
        result = body(run_context.current(settings), item)
    return {**(result or {}), "seconds": round(time.monotonic() - started, 3)}


def _export(now: run_context.Run, item: Json) -> None:
    wanted = now.scratch.read_item(item["model_id"])
    with machine_lock.shared():
        pipeline.export(wanted, stage_dir=now.stage_dir(item["model_id"]), services=now.services)


def _validate(now: run_context.Run, item: Json) -> None:
    with machine_lock.shared():
        report = pipeline.prove(now.stage_dir(item["model_id"]), services=now.services)
        validation_report.require_passed(report)
        pipeline.make_variants(now.stage_dir(item["model_id"]), services=now.services)


def _validate_without_gpu(now: run_context.Run, item: Json) -> None:
    _validate(now, item)
    if item["gpu"]:
        pipeline.without_gpu(now.stage_dir(item["model_id"]), reason=NO_GPU_WORKER)


def _prove_on_gpu(now: run_context.Run, item: Json) -> None:
    with machine_lock.exclusive():
        report: ValidationReport = pipeline.prove_on_gpu(now.stage_dir(item["model_id"]), services=now.services)
    if report.status != "not_run":
        validation_report.require_passed(report)


def _measure(now: run_context.Run, item: Json) -> None:
    with machine_lock.exclusive():
        pipeline.measure(now.stage_dir(item["model_id"]), services=now.services)


def _compare(now: run_context.Run, item: Json, *, channel: str) -> None:
    pipeline.compare(
        now.stage_dir(item["model_id"]), services=now.services, channel=channel, alone=machine_lock.exclusive
    )


def _publish(now: run_context.Run, item: Json, *, channel: str) -> Json:
    with machine_lock.shared():
        publication = pipeline.publish_stage(
            now.stage_dir(item["model_id"]),
            services=now.services,
            provenance=now.provenance(catalogue_digest=item["catalogue_digest"]),
            channel=channel,
        )
    assets.emit(publication, get_current_context()["outlet_events"])
    return jsonio.to_json(publication)

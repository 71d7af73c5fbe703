"""The tasks of one model, one per step and then its record: the group that both DAGs map over their models."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

from airflow.sdk import get_current_context, task, task_group
from airflow.sdk.bases.decorator import Task
from airflow.sdk.exceptions import AirflowSkipException

from onnx_fleet import jsonio
from onnx_fleet.airflow import (
    assets,
    machine_lock,
    model_claim,
    model_record,
    pod_overrides,
    retries,
    run_context,
    store_links,
)
from onnx_fleet.airflow.settings import FleetSettings, LargeModels
from onnx_fleet.entities.sizing import StepCost
from onnx_fleet.jsonio import Json
from onnx_fleet.runs import claims, spending, steps
from onnx_fleet.runs.steps import Step

LABEL: Final = "{{ item['model_id'] }}"
NO_GPU_WORKER: Final = "no GPU worker is configured ([onnx_fleet] gpu_queue)"

Body = Callable[..., Any]

_LOCKS: Final[Mapping[str, Callable[[Path], AbstractContextManager[None]]]] = {
    "shared": machine_lock.shared,
    "alone": machine_lock.exclusive,
    "as_it_says": lambda folder: nullcontext(),
}
"""The lock with which each kind of step takes the machine that it runs on."""


def model_group(settings: FleetSettings, *, group_id: str, large: LargeModels | None = None) -> Any:
    """Make a task group for ``.expand(item=…)``; an item is what shards.py makes of a work item.

    The tasks of a model that is under way go before those of one that is not, so that few stages stand at a time.

    Args:
        large: the queue, the slots and the pods of a group of large models; None for a group of all others.
    """

    @task_group(group_id=group_id)
    def model(item: Json) -> None:
        before: list[Any] = []  # the task of the step before, and of one that a model may skip
        for step in steps.STEPS:
            if step.on_gpu and not settings.gpu_queue:
                continue
            links = store_links.OF_MODEL if step.name == "publish" else (store_links.REPORT,)
            made = store_links.attach(_task_of(step, settings, large)(item=item), links)
            if step.on_gpu:
                asked = _asking(asks_for_gpu)(item=item)
                before[-1] >> asked >> made
                before.append(made)
            else:
                before >> made
                before = [made]
        recorded = _light(record, settings, trigger_rule="all_done")(item=item)
        before >> store_links.attach(recorded, store_links.OF_MODEL)

    def asks_for_gpu(item: Json) -> None:
        if not item["gpu"]:
            raise AirflowSkipException("the entry does not name cuda among its providers")

    def record(item: Json) -> Json:
        now = run_context.current(settings)
        ended = model_record.of_model(now, item, channel=settings.channel)
        claims.release(item["model_id"], run=now.label, store=now.services.store)
        return jsonio.to_json(ended)

    return model


def _task_of(step: Step, settings: FleetSettings, large: LargeModels | None) -> Task[..., Any]:
    """Make a task of a step, in the pool, on the queue of the workers that can take it."""

    def body(item: Json) -> Json:
        return _take(step, item, settings)

    cpu_queue = (large and large.queue) or settings.cpu_queue
    queue = settings.gpu_queue if step.on_gpu else cpu_queue
    options: dict[str, Any] = {"task_id": step.name, "pool": settings.cpu_pool}
    if queue:
        options["queue"] = queue
    if large:
        options["pool_slots"] = large.pool_slots
    if step.name == "measure":
        options["trigger_rule"] = "none_failed"  # the step before it, on the GPU, is skipped where nobody asked for it
    if step.name == "publish":
        options["outlets"] = [assets.BUNDLE, assets.FLEET]
    options |= pod_overrides.options(
        settings, alone=step.machine != "shared", on_gpu=step.on_gpu, is_large=large is not None
    )
    return _light(body, settings, **options)


def _light(body: Body, settings: FleetSettings, **options: Any) -> Task[..., Any]:
    return task(map_index_template=LABEL, weight_rule="upstream", **retries.options(settings), **options)(body)


def _asking(body: Body) -> Task[..., Any]:
    """Make a task that skips itself, and with it the one behind it, where its answer is no.

    A short circuit would not do: Airflow 3.3.2 looks for its word under map index -1, where no task of a mapped group
    leaves one, and runs the task behind it.
    """
    return task(map_index_template=LABEL, weight_rule="upstream")(body)


def _take(step: Step, item: Json, settings: FleetSettings) -> Json:
    """Run a step; returns what it took, with the publication of the step that makes one."""
    started = time.monotonic()
    with (
        model_claim.held(item, settings),
        run_context.explained() as meter,
        run_context.current(settings).job(item, step, settings=settings) as job,
    ):
        asked = time.monotonic()
        with _LOCKS[step.machine](settings.lock_folder):
            waited_s = time.monotonic() - asked  # for other tasks, which says nothing of this model
            publication = step.take(job)
        if step.name == "validate" and item["gpu"] and not settings.gpu_queue:
            steps.without_gpu(job.stage, reason=NO_GPU_WORKER)
        disk_bytes = spending.disk_bytes(job.stage)
    if publication is None:
        told: Json = {}
    else:
        assets.emit(publication, get_current_context()["outlet_events"])
        told = jsonio.to_json(publication)
    seconds = round(time.monotonic() - started - waited_s, 3)
    cost = StepCost(memory_bytes=meter.peak_bytes, disk_bytes=disk_bytes, seconds=seconds)
    return {**told, model_record.COST: jsonio.to_json(cost)}

"""The tasks of one model, those of its steps and then its record: the group that both DAGs map over their models."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from airflow.sdk import get_current_context, task, task_group
from airflow.sdk.bases.decorator import Task
from airflow.sdk.exceptions import AirflowSkipException

from onnx_fleet import jsonio
from onnx_fleet.airflow import (
    assets,
    metrics,
    model_claim,
    model_record,
    pod_overrides,
    retries,
    run_context,
    step_tasks,
    store_links,
)
from onnx_fleet.airflow.run_context import Run
from onnx_fleet.airflow.settings import FleetSettings, LargeModels
from onnx_fleet.airflow.step_tasks import StepTask
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.jsonio import Json
from onnx_fleet.runs import claims, proving, spending
from onnx_fleet.runs.spending import Spending
from onnx_fleet.runs.steps import Step

log = logging.getLogger(__name__)

LABEL: Final = "{{ item['model_id'] }}"
LABEL_OF_RECORD: Final = LABEL + "{% if ended is defined %}: {{ ended }}{% endif %}"
"""The label of a record. Airflow makes it again when the task has ended, and the task says the state then."""
NO_GPU_WORKER: Final = "no GPU worker is configured ([onnx_fleet] gpu_queue)"

Body = Callable[..., Any]


def model_group(settings: FleetSettings, *, group_id: str, large: LargeModels | None = None) -> Any:
    """Make a task group for ``.expand(item=…)``; an item is what shards.py makes of a work item.

    The tasks of a model that is under way go before those of one that is not, so that few stages stand at a time.

    Args:
        large: the queue, the slots and the pods of a group of large models; None for a group of all others.
    """

    @task_group(group_id=group_id)
    def model(item: Json) -> None:
        before: list[Any] = []  # the task of the steps before, and of those that a model may skip
        for each in step_tasks.of_model(settings):
            links = store_links.OF_MODEL if each.takes("publish") else (store_links.REPORT,)
            made = store_links.attach(_task_of(each, settings, large)(item=item), links)
            if each.on_gpu:
                asked = _asking(asks_for_gpu)(item=item)
                before[-1] >> asked >> made
                before.append(made)
            else:
                before >> made
                before = [made]
        recorded = _light(record, settings, label=LABEL_OF_RECORD, trigger_rule="all_done")(item=item)
        before >> store_links.attach(recorded, store_links.OF_MODEL)

    def asks_for_gpu(item: Json) -> None:
        if not item["gpu"]:
            raise AirflowSkipException("the entry does not name cuda among its providers")

    def record(item: Json) -> Json:
        now = run_context.current(settings)
        ended = model_record.of_model(now, item, tasks=step_tasks.of_model(settings), channel=settings.channel)
        claims.release(item["model_id"], run=now.label, store=now.services.store)
        get_current_context()["ended"] = ended.ended_as  # type: ignore[typeddict-unknown-key]  # for LABEL_OF_RECORD
        return jsonio.to_json(ended)

    return model


def _task_of(each: StepTask, settings: FleetSettings, large: LargeModels | None) -> Task[..., Any]:
    """Make a task of steps, in the pool, on the queue of the workers that can take it."""

    def body(item: Json) -> Json:
        return _take(each, item, settings)

    cpu_queue = (large and large.queue) or settings.cpu_queue
    queue = settings.gpu_queue if each.on_gpu else cpu_queue
    options: dict[str, Any] = {"task_id": each.task_id, "pool": settings.cpu_pool}
    if queue:
        options["queue"] = queue
    if large:
        options["pool_slots"] = large.pool_slots
    if each.takes("measure"):
        options["trigger_rule"] = "none_failed"  # the step before it, on the GPU, is skipped where nobody asked for it
    if each.takes("publish"):
        options["outlets"] = [assets.BUNDLE, assets.FLEET]
    options |= pod_overrides.options(settings, alone=each.measures, on_gpu=each.on_gpu, is_large=large is not None)
    return _light(body, settings, **options)


def _light(body: Body, settings: FleetSettings, *, label: str = LABEL, **options: Any) -> Task[..., Any]:
    return task(map_index_template=label, weight_rule="upstream", **retries.options(settings), **options)(body)


def _asking(body: Body) -> Task[..., Any]:
    """Make a task that skips itself, and with it the one behind it, where its answer is no.

    A short circuit would not do: Airflow 3.3.2 looks for its word under map index -1, where no task of a mapped group
    leaves one, and runs the task behind it.
    """
    return task(map_index_template=LABEL, weight_rule="upstream")(body)


def _take(each: StepTask, item: Json, settings: FleetSettings) -> Json:
    """Run the steps of a task; returns what each took, with the publication of the step that makes one."""
    spent = Spending()
    publication = None
    with model_claim.held(item, settings) as run, run_context.explained(spent):
        work = run.handover.read_item(item["model_id"])
        opened = partial(run.job, work, catalogue_digest=item["catalogue_digest"], settings=settings)
        for step in _left_to_do(each, run, work):
            if len(each.steps) > 1:
                log.info("::group::%s", step.name)
            with spent.counted(step.name) as count, opened(step) as job:
                publication = count.take(step, job, machine=settings.lock_folder)
                if step.name == "validate" and item["gpu"] and not settings.gpu_queue:
                    proving.without_gpu(job.stage, reason=NO_GPU_WORKER)
                if step.name == "export":
                    metrics.exported(job.stage)
                count.disk_bytes = spending.disk_bytes(job.stage)
            seconds = spent.steps[step.name].seconds
            metrics.step_ended(step.name, family=job.stage.item.family, seconds=seconds)
            if len(each.steps) > 1:
                log.info("::endgroup::")
    if publication is None:
        told: Json = {}
    else:
        assets.emit(publication, get_current_context()["outlet_events"])
        told = jsonio.to_json(publication)
    return {**told, model_record.COSTS: {name: jsonio.to_json(cost) for name, cost in spent.steps.items()}}


def _left_to_do(each: StepTask, run: Run, work: WorkItem) -> tuple[Step, ...]:
    """Return the steps of a task but for those that an earlier try of it is through with."""
    if len(each.steps) == 1:
        return each.steps
    done = run.handover.done(work)
    left = tuple(itertools.dropwhile(lambda step: step.name in done, each.steps))
    if len(left) < len(each.steps):
        log.info("%s: an earlier try has done what comes before %s", work.model_id, left[0].name)
    return left

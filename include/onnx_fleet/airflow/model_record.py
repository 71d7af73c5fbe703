"""Make one record of what the tasks of one model left behind."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from airflow.sdk import get_current_context

from onnx_fleet import jsonio
from onnx_fleet.airflow.run_context import FAILURE, Failure, Run
from onnx_fleet.airflow.step_tasks import StepTask
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.sizing import StepCost
from onnx_fleet.errors import BundleNotFound, OnnxFleetError, ending
from onnx_fleet.jsonio import Json
from onnx_fleet.runs import pipeline, run_report, spending
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.steps import Step, StepName
from onnx_fleet.store import swaps

log = logging.getLogger(__name__)

COSTS: Final = "costs"
"""The key of what a task's steps took, in what it returns: a StepCost by each step's name."""


def of_model(run: Run, item: Json, *, tasks: Sequence[StepTask], channel: str) -> Record:
    """Return the record of the mapped group that the calling task ends.

    The stage of a published model is cleared away; that of another one stays, for the tasks that a person clears, until
    its run is old enough to be pruned. The record comes however the group ended, so what of a failed model cannot be
    kept is left out rather than raised. Of a published one the store has the manifest; where it does not answer, the
    task is tried again.

    Args:
        item: what shards.py makes of a work item.
        tasks: the tasks of the group that take the model's steps.
    """
    made = _Group(tasks)
    try:
        work = run.handover.read_item(item["model_id"])
    except BundleNotFound as err:
        return _without_scratch(item, made, lost=err)
    if made.published():
        ended = pipeline.record_of_bundle(work, services=run.services, channel=channel, spent=made.spent())
        run.handover.discard(work)
    elif made.left_to_another_run():
        ended = pipeline.record_of_another_runs(work, services=run.services, by=run.by, channel=channel)
        run.handover.discard(work)
    else:
        step = made.stopped_at(done=run.handover.done(work))
        with run.handover.ended(work, step.name) as stage:
            ended = _failed(stage, step, made)
            _keep_validation(run, stage)
    log.info("%s: %s", work.model.at_commit, ended.state)
    return ended


class _Group:
    """The other tasks of the group instance that the calling task belongs to.

    What is not there is not pulled: Airflow logs an error for an XCom that it does not find.
    """

    def __init__(self, tasks: Sequence[StepTask]) -> None:
        self._ti = get_current_context()["ti"]
        self._prefix = self._ti.task_id.rpartition(".")[0]
        self._tasks = tasks
        found = self._ti.get_task_states(
            dag_id=self._ti.dag_id,
            map_index=self._ti.map_index,
            task_ids=[f"{self._prefix}.{task.task_id}" for task in tasks],
            run_ids=[self._ti.run_id],
        )
        states = found.get(self._ti.run_id, {})
        self._states: dict[str, str | None] = {
            task.task_id: states.get(f"{self._prefix}.{task.task_id}_{self._ti.map_index}") for task in tasks
        }

    def published(self) -> bool:
        return self._states[self._tasks[-1].task_id] == "success"

    def left_to_another_run(self) -> bool:
        """Say whether a step found the version published: it was skipped then, and so were those behind it."""
        ended = {self._states[task.task_id] for task in self._tasks if not task.on_gpu}
        return self._states[self._tasks[-1].task_id] == "skipped" and ended <= {"success", "skipped"}

    def spent(self) -> dict[str, StepCost]:
        """Return what each step that ended by itself took, by its name in records."""
        told = (self._costs(task) for task in self._tasks)
        return spending.in_records({name: cost for costs in told for name, cost in costs.items()})

    def stopped_at(self, *, done: Collection[StepName] = ()) -> Step:
        """Return the step because of which there is no publication.

        Args:
            done: the steps that left their results, by which to tell where a task stopped that could not say it.
        """
        task = self._stopped()
        failure = self.failure(task)
        if failure is not None and failure.step is not None:
            return next(step for step in task.steps if step.name == failure.step)
        return next((step for step in task.steps if step.name not in done), task.steps[-1])

    def why(self, model_id: str) -> Failure:
        """Return the reason of the task because of which there is no publication."""
        task = self._stopped()
        return self.failure(task) or Failure(
            error="WorkerLost",
            message=f"{model_id}: the {task.task_id} task ended without a result: its process was killed, or a person"
            " marked it; read its log, then clear it to run it again",
        )

    def failure(self, task: StepTask) -> Failure | None:
        """Return why a task failed; None when it did not, or died without a report."""
        told = self._pull(task, FAILURE) if self._states[task.task_id] == "failed" else None
        return None if told is None else jsonio.from_json(Failure, told)

    def _costs(self, task: StepTask) -> Mapping[str, StepCost]:
        if (result := self._result(task)) is not None:
            return {name: jsonio.from_json(StepCost, cost) for name, cost in result[COSTS].items()}
        failure = self.failure(task)
        return failure.costs if failure is not None else {}

    def _stopped(self) -> StepTask:
        not_done = (task for task in self._tasks if self._states[task.task_id] not in ("success", "skipped", None))
        return next(not_done, self._tasks[-1])

    def _result(self, task: StepTask) -> Any:
        return self._pull(task, "return_value") if self._states[task.task_id] == "success" else None

    def _pull(self, task: StepTask, key: str) -> Any:
        return self._ti.xcom_pull(task_ids=f"{self._prefix}.{task.task_id}", key=key, map_indexes=self._ti.map_index)


def _failed(stage: Stage, step: Step, made: _Group) -> Record:
    failure = made.why(stage.item.model_id)
    return pipeline.record_of_failure(
        stage, step=step.in_records, error=failure.error, message=failure.message, spent=made.spent()
    )


def _without_scratch(item: Json, made: _Group, *, lost: BundleNotFound) -> Record:
    """Return the record of a model of which this worker has nothing: its steps said in XComs how they ended.

    Raises:
        BundleNotFound: it was published, and how is told by the work item.
    """
    if made.published():
        raise lost
    step = made.stopped_at()
    failure = made.why(item["model_id"])
    return Record(
        model_id=item["model_id"],
        version=item["version"],
        state=ending(failure.error),
        step=step.in_records,
        error=failure.error,
        message=failure.message,
        seconds={name: cost.seconds for name, cost in made.spent().items()},
    )


def _keep_validation(run: Run, stage: Stage) -> None:
    """Put a validation's report and picture into the store: no more would be left of a model that is not published."""
    prefix = run_report.kept_prefix(run.label, stage.item.model_id)
    for path in sorted((stage.folder / "reports").glob("validation*")):
        key = f"{prefix}{path.name}"
        try:
            swaps.put(run.services.store, key, path.read_bytes())
        except OnnxFleetError as err:
            log.warning("%s: its %s could not be stored: %s", stage.item.model_id, path.name, err)

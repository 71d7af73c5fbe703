"""Make one record of what the tasks of one model left behind."""

from __future__ import annotations

import logging
from typing import Any, Final

from airflow.sdk import get_current_context

from onnx_fleet import jsonio
from onnx_fleet.airflow.run_context import FAILURE, Failure, Run
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.sizing import StepCost
from onnx_fleet.errors import BundleNotFound, OnnxFleetError, ending
from onnx_fleet.jsonio import Json
from onnx_fleet.runs import pipeline, run_report
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.steps import STEPS, Step

log = logging.getLogger(__name__)

COST: Final = "cost"
"""The key of what a task took, a StepCost, in what it returns."""


def of_model(run: Run, item: Json, *, channel: str) -> Record:
    """Return the record of the mapped group that the calling task ends.

    The stage of a published model is cleared away; that of another one stays, for the tasks that a person clears, until
    its run is old enough to be pruned. The record comes however the group ended, so what of a failed model cannot be
    kept is left out rather than raised. Of a published one the store has the manifest; where it does not answer, the
    task is tried again.

    Args:
        item: what shards.py makes of a work item.
    """
    made = _Group()
    try:
        work = run.handover.read_item(item["model_id"])
    except BundleNotFound as err:
        return _without_scratch(item, made, lost=err)
    if made.published():
        ended = pipeline.record_of_bundle(work, services=run.services, channel=channel, spent=made.spent())
        run.handover.discard(work)
    elif made.left_to_another_run():
        ended = pipeline.record_of_another_runs(work, services=run.services, channel=channel)
        run.handover.discard(work)
    else:
        with run.handover.ended(work, made.stopped_at().name) as stage:
            ended = _failed(stage, made)
            _keep_validation(run, stage)
    log.info("%s: %s", work.model.at_commit, ended.state)
    return ended


class _Group:
    """The other tasks of the group instance that the calling task belongs to.

    What is not there is not pulled: Airflow logs an error for an XCom that it does not find.
    """

    def __init__(self) -> None:
        self._ti = get_current_context()["ti"]
        self._prefix = self._ti.task_id.rpartition(".")[0]
        found = self._ti.get_task_states(
            dag_id=self._ti.dag_id,
            map_index=self._ti.map_index,
            task_ids=[f"{self._prefix}.{step.name}" for step in STEPS],
            run_ids=[self._ti.run_id],
        )
        states = found.get(self._ti.run_id, {})
        self._states: dict[str, str | None] = {
            step.name: states.get(f"{self._prefix}.{step.name}_{self._ti.map_index}") for step in STEPS
        }

    def published(self) -> bool:
        return self._states["publish"] == "success"

    def left_to_another_run(self) -> bool:
        """Say whether a step found the version published: it was skipped then, and so were those behind it."""
        ended = {self._states[step.name] for step in STEPS if not step.on_gpu}
        return self._states["publish"] == "skipped" and ended <= {"success", "skipped"}

    def spent(self) -> dict[str, StepCost]:
        """Return what each task that ended by itself took, by the step that a record counts it as."""
        taken: dict[str, StepCost] = {}
        for step in STEPS:
            cost = self._cost(step.name)
            if cost is not None:
                before = taken.get(step.in_records)
                taken[step.in_records] = before.followed_by(cost) if before else cost
        return taken

    def stopped_at(self) -> Step:
        """Return the step because of which there is no publication."""
        not_done = (step for step in STEPS if self._states[step.name] not in ("success", "skipped", None))
        return next(not_done, STEPS[-1])

    def failure(self, name: str) -> Failure | None:
        """Return why a task failed; None when it did not, or died without a report."""
        told = self._pull(name, FAILURE) if self._states[name] == "failed" else None
        return None if told is None else jsonio.from_json(Failure, told)

    def _cost(self, name: str) -> StepCost | None:
        if self._states[name] == "success":
            return jsonio.from_json(StepCost, self._pull(name, "return_value")[COST])
        if (failure := self.failure(name)) is None:
            return None
        return StepCost(memory_bytes=failure.memory_bytes, disk_bytes=0, seconds=round(failure.seconds, 3))

    def _pull(self, name: str, key: str) -> Any:
        return self._ti.xcom_pull(task_ids=f"{self._prefix}.{name}", key=key, map_indexes=self._ti.map_index)


def _failed(stage: Stage, made: _Group) -> Record:
    step = made.stopped_at()
    failure = _why(stage.item.model_id, step, made)
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
    failure = _why(item["model_id"], step, made)
    return Record(
        model_id=item["model_id"],
        version=item["version"],
        state=ending(failure.error),
        step=step.in_records,
        error=failure.error,
        message=failure.message,
        seconds={name: cost.seconds for name, cost in made.spent().items()},
    )


def _why(model_id: str, step: Step, made: _Group) -> Failure:
    return made.failure(step.name) or Failure(
        error="WorkerLost",
        message=f"{model_id}: the {step.name} task ended without a result: its process was killed, or a person marked"
        " it; read its log, then clear it to run it again",
        seconds=0.0,
    )


def _keep_validation(run: Run, stage: Stage) -> None:
    """Put a validation's report and picture into the store: no more would be left of a model that is not published."""
    prefix = run_report.kept_prefix(run.label, stage.item.model_id)
    for path in sorted((stage.folder / "reports").glob("validation*")):
        key = f"{prefix}{path.name}"
        try:
            standing = run.services.store.stat(key)
            run.services.store.replace(key, path.read_bytes(), etag=standing.etag if standing else None)
        except OnnxFleetError as err:
            log.warning("%s: its %s could not be stored: %s", stage.item.model_id, path.name, err)

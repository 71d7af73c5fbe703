"""What follows a run of the fleet: the next wave of a rollout, or a question to a person about it or about licences.

Each is a run of its own, whose id follows from what it is about, so that it is started once however often it is asked
for.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from onnx_fleet import jsonio
from onnx_fleet.airflow import approval, retries, run_context, run_notes, run_params, store_links
from onnx_fleet.airflow.approval import Answer
from onnx_fleet.airflow.next_run import StartNext
from onnx_fleet.airflow.settings import FleetSettings
from onnx_fleet.jsonio import Json
from onnx_fleet.runs import licence_requests, report_page, rollout, rollout_report, rollout_steps, run_note, run_report
from onnx_fleet.runs.rollout import Rollout
from onnx_fleet.runs.run_report import RunReport

APPROVAL: Final = "rollout_approval"
"""The DAG that asks a person."""
_KEPT: Final = ("catalogue", "max_failed", "max_refused")
"""The parameters of a run that the run of the next wave has, too."""


def follow_up(reported: Any, *, settings: FleetSettings) -> None:
    """Wire the start of what follows into the DAG that is being defined: of a rollout, else a question about licences.

    Args:
        reported: the task ``report``, behind which the rollout stands where the run has left it.
    """

    def following() -> Json | None:
        planned = get_current_context()["ti"].xcom_pull(task_ids="plan")
        now, rollout_id = run_context.current(settings), planned.get("rollout")
        found = rollout.find(now.services.store, rollout_id)[0] if rollout_id else None
        return (starts(found, now.params) if found else None) or _about_licences(now)

    reported >> StartNext(task_id="start_next", following=following, **retries.options(settings))


def starts(found: Rollout, params: Mapping[str, object]) -> Json | None:
    """Return the run that follows where a rollout stands: its DAG, its id, and what it is asked for; None for none.

    Args:
        params: those of the run before.
    """
    if found.state == "stopped":
        conf: Json = {"rollout": found.rollout_id, "catalogue": params["catalogue"]}
    elif found.state == "running" and found.current > 0:
        conf = {**{name: params[name] for name in _KEPT if name in params}, "changed": True}
    else:
        return None
    dag_id = APPROVAL if found.state == "stopped" else run_params.FLEET
    return {"dag_id": dag_id, "run_id": found.label_of(found.current + 1), "conf": conf}


def _about_licences(now: run_context.Run) -> Json | None:
    """Return the run that asks a person about the licences that the run has refused, once for the same ones."""
    report = jsonio.parse(RunReport, now.services.store.read(run_report.key(now.label)))
    digest = licence_requests.digest(report.records)
    if digest is None:
        return None
    conf: Json = {"catalogue": now.params["catalogue"]}
    return {"dag_id": run_params.LICENCES, "run_id": f"licences__{digest[:16]}", "conf": conf}


def approvals(*, settings: FleetSettings) -> None:
    """Wire the question whether a rollout goes on, and what follows the answer, into the DAG that is being defined.

    The task that asks takes no worker while it waits.
    """

    def describe() -> str:
        with run_notes.of_failure():
            run_params.require_known()
            return _describe(run_context.current(settings))

    def go_on() -> Json | None:
        with run_notes.of_failure():
            told = get_current_context()["ti"].xcom_pull(task_ids="ask")
            return _go_on(run_context.current(settings), approval.answer(told))

    retried = retries.options(settings)
    described = task(**retried)(describe)()
    asked = approval.ask(
        subject="Let the rollout {{ params.rollout }} go on?",
        why="Why it goes on, for those who read about the rollout later.",
    )
    described >> asked >> StartNext(task_id="go_on", following=go_on, **retried)


def _describe(now: run_context.Run) -> str:
    """Return the page of a rollout, in Markdown, for the person who is asked."""
    found = rollout.read(now.services.store, str(now.params["rollout"]))
    run_notes.leave(_note(found))
    if found.state != "stopped":
        raise AirflowSkipException(f"nobody has to decide: {rollout_report.statement(found)}")
    return rollout_report.markdown(found)


def _note(found: Rollout) -> str:
    page = store_links.address(report_page.key_of(rollout_report.page_key(found)))
    return run_note.of_rollout(rollout_report.statement(found), page=page)


def _go_on(now: run_context.Run, answer: Answer) -> Json | None:
    """Let the rollout go on, and return the run of its next wave."""
    store, rollout_id = now.services.store, str(now.params["rollout"])
    found = rollout.read(store, rollout_id)
    if found.state == "stopped":
        found = rollout_steps.go_on(
            rollout_id,
            by=answer.by,
            reason=answer.reason,
            store=store,
            now=datetime.now(UTC),
        )
    run_notes.leave(_note(found))
    return starts(found, now.params)

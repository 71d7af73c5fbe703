"""The question to a person about licences: the models that wait, the answer, and the run for what is approved."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from onnx_fleet import jsonio
from onnx_fleet.airflow import approval, retries, run_context, run_notes, run_params
from onnx_fleet.airflow.next_run import StartNext
from onnx_fleet.airflow.settings import FleetSettings
from onnx_fleet.bundles.licence_answers import Decision
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.entities.naming import matches
from onnx_fleet.errors import CatalogueInvalid
from onnx_fleet.formatting import models as count_of
from onnx_fleet.jsonio import Json
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.runs import licence_requests, run_note, selection
from onnx_fleet.runs.licence_requests import LicenceRequest
from onnx_fleet.runs.selection import Selection

ROWS: Final = 100
"""The most models that one question is about; those behind them are asked about by the next run."""
_REQUESTS: Final = "requests"
"""The XCom key of what was asked: nothing else is answered."""


def approvals(*, settings: FleetSettings) -> None:
    """Wire the question and what follows the answer into the DAG that is being defined.

    The task that asks takes no worker while it waits.
    """

    def describe() -> str:
        with run_notes.of_failure():
            run_params.require_known()
            return _describe(run_context.current(settings), channel=settings.channel)

    def keep() -> Json | None:
        with run_notes.of_failure():
            return _keep(run_context.current(settings))

    retried = retries.options(settings)
    described = task(**retried)(describe)()
    asked = approval.choose(
        subject="May these models be exported under their licences?",
        why="Why, for those who read the answer later.",
    )
    described >> asked >> StartNext(task_id="keep", following=keep, **retried)


def _describe(now: run_context.Run, *, channel: str) -> str:
    """Return the question, in Markdown, and keep what it is about; where no model waits, nobody is asked."""
    entries = selection.entries(reader.load(Path(str(now.params["catalogue"]))), Selection(), services=now.services)
    waiting = licence_requests.waiting(entries, services=now.services, channel=channel)
    if not waiting:
        _note("no model waits for an answer")
        raise AirflowSkipException("no model of the catalogue waits for an answer about its licence")
    _note(f"{count_of(len(waiting))} to be answered")
    get_current_context()["ti"].xcom_push(_REQUESTS, [jsonio.to_json(each) for each in waiting[:ROWS]])
    return licence_requests.question(waiting[:ROWS], more=len(waiting[ROWS:]))


def _keep(now: run_context.Run) -> Json | None:
    """Keep the answer for each model that it is for, and return the run of those that are approved."""
    ti = get_current_context()["ti"]
    told = ti.xcom_pull(task_ids="ask")
    option, only = approval.chosen(told)
    if option == approval.LEAVE_OPEN:
        _note("left open")
        return None
    decision: Decision = "approved" if option == approval.APPROVE else "declined"
    said = approval.answer(told, unsaid=f"{decision} in Airflow")
    asked = [jsonio.from_json(LicenceRequest, each) for each in ti.xcom_pull(task_ids="describe", key=_REQUESTS)]
    answered = _meant(asked, only)
    for each in answered:
        licence_requests.answer(
            now.services.store,
            each.model_id,
            each.licence,
            decision=decision,
            by=Actor(kind="person", name=said.by),
            why=said.reason,
            now=datetime.now(UTC),
        )
    _note(f"{decision} by {said.by}: {', '.join(each.model_id for each in answered)}; {said.reason}")
    if decision == "declined":
        return None
    conf = run_params.of_models([each.entry for each in answered], catalogue=str(now.params["catalogue"]))
    return {"dag_id": run_params.FLEET, "run_id": now.label, "conf": conf}


def _meant(asked: Sequence[LicenceRequest], only: Sequence[str]) -> list[LicenceRequest]:
    """Return the models that an answer is for.

    Raises:
        CatalogueInvalid: a pattern matches none of those that were asked about.
    """
    unmatched = [each for each in only if not any(matches(request.model_id, [each]) for request in asked)]
    if unmatched:
        raise CatalogueInvalid.of(
            f"the answer is for {each!r}, which no model of the question matches; trigger the DAG again"
            for each in unmatched
        )
    return [request for request in asked if not only or matches(request.model_id, only)]


def _note(text: str) -> None:
    run_notes.leave(run_note.of_licences(text))

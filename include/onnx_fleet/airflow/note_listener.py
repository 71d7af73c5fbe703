"""Write the notes of our runs: the model, how it ended, and the link to its report, where Airflow shows a run.

Airflow calls a listener in its scheduler, amid the transaction in which the run's state changes. So the note goes in by
one statement behind a savepoint: whatever goes wrong with it is undone by itself, logged, and holds up no run. Runs of
other people's DAGs cost a comparison.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from airflow.listeners import hookimpl
from airflow.models.dagrun import DagRun, DagRunNote
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.orm import object_session

from onnx_fleet.airflow import run_notes
from onnx_fleet.runs import run_note

log = logging.getLogger(__name__)

WRITER: Final = "onnx-fleet"
"""The user that our notes are kept under; a note of anybody else is a person's, and stays."""
_NOTES: Final[Any] = DagRunNote.__table__
_XCOMS: Final[Any] = XComModel.__table__


class NotesOfRuns:
    """An Airflow listener."""

    @hookimpl
    def on_dag_run_running(self, dag_run: DagRun, msg: str) -> None:
        """Name the model as long as there is no more to say."""
        if dag_run.dag_id in run_notes.DAGS and (model := _model(dag_run)):
            _write(dag_run, run_note.of_model(model, "running"))

    @hookimpl
    def on_dag_run_success(self, dag_run: DagRun, msg: str) -> None:
        """Write what the run's tasks left."""
        if dag_run.dag_id in run_notes.DAGS:
            _write(dag_run)

    @hookimpl
    def on_dag_run_failed(self, dag_run: DagRun, msg: str) -> None:
        """Write what the run's tasks left, and have Airflow hand it on to alerts.py."""
        if dag_run.dag_id in run_notes.DAGS:
            _write(dag_run)
            _load(dag_run)


def _model(dag_run: DagRun) -> str | None:
    """Return the model that a run names in its conf."""
    named = (dag_run.conf or {}).get("model")
    return named if isinstance(named, str) else None


def _write(dag_run: DagRun, note: str | None = None) -> None:
    """Set the run's note, unless a person wrote one.

    Args:
        note: its text; None takes what the run's tasks left.
    """
    try:
        with _connection(dag_run) as connection:
            text = note or _ended(dag_run, _left(dag_run, connection))
            if text:
                _put(_clean(text), dag_run_id=dag_run.id, connection=connection)
    except Exception:  # a run without a note is better than a scheduler that stops
        log.warning("run %s of %s has no note", dag_run.run_id, dag_run.dag_id, exc_info=True)


def _load(dag_run: DagRun) -> None:
    """Load a run's note: a callback of its DAG is told of the run no more than what is loaded of it."""
    session = object_session(dag_run)
    if session is None:
        return
    try:
        with session.connection().begin_nested(), session.no_autoflush:  # a savepoint of the session would commit it
            session.refresh(dag_run, ["dag_run_note"])
    except Exception:
        log.warning("an alert of run %s of %s lacks its note", dag_run.run_id, dag_run.dag_id, exc_info=True)


@contextmanager
def _connection(dag_run: DagRun) -> Iterator[Connection]:
    """Open the transaction in which a run changes its state, behind a savepoint; ``airflow dags test`` has none."""
    session = object_session(dag_run)
    if session is None:
        with create_session(scoped=False) as own:
            yield own.connection()
    else:
        connection = session.connection()
        with connection.begin_nested():
            yield connection


def _left(dag_run: DagRun, connection: Connection) -> str | None:
    """Return the newest of the notes that the tasks of a run left."""
    asked = (
        select(_XCOMS.c.value)
        .where(
            _XCOMS.c.dag_run_id == dag_run.id,
            _XCOMS.c.task_id.in_(run_notes.TASKS),
            _XCOMS.c.map_index == -1,
            _XCOMS.c.key == run_notes.KEY,
        )
        .order_by(_XCOMS.c.timestamp.desc())
        .limit(1)
    )
    row = connection.execute(asked).one_or_none()
    told = None if row is None else XComModel.deserialize_value(row)
    return told if isinstance(told, str) else None


def _ended(dag_run: DagRun, left: str | None) -> str | None:
    """Return the note of a run that has ended, with its model also where there is no report to name it."""
    model = _model(dag_run)
    if model is None or (left and left.startswith("[")):
        return left
    unsaid = "; no task reported why: read the log of the one that failed" if dag_run.state == "failed" else ""
    return run_note.of_model(model, left or f"{dag_run.state}{unsaid}")


def _clean(text: str) -> str:
    """Return text that every database takes: as long as it may be, without zero bytes and halves of characters."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()[: run_note.LIMIT]


def _put(text: str, *, dag_run_id: int, connection: Connection) -> None:
    found = connection.execute(select(_NOTES.c.user_id).where(_NOTES.c.dag_run_id == dag_run_id)).one_or_none()
    if found is None:
        connection.execute(insert(_NOTES).values(dag_run_id=dag_run_id, content=text, user_id=WRITER))
    elif found.user_id == WRITER:
        connection.execute(update(_NOTES).where(_NOTES.c.dag_run_id == dag_run_id).values(content=text))

"""What a task leaves for the note of its run; note_listener.py writes the note when the run has ended.

Tasks cannot write it themselves: Airflow gives them no way to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowSkipException

from onnx_fleet.airflow import metrics
from onnx_fleet.runs import run_note

DAGS: Final = (
    "bundle_audit",
    "bundle_retention",
    "fleet_reexport",
    "hub_watch",
    "licence_approval",
    "model_promote",
    "model_reexport",
    "registry_feed",
    "registry_sinks",
    "rollout_approval",
)
"""The DAGs whose runs get a note."""
TASKS: Final = (
    "plan", "choose", "poll", "report", "gate", "rebuild", "describe", "go_on", "promote", "collect", "keep",
)  # fmt: skip
"""The tasks that may leave one; none of them is mapped."""
KEY: Final = "run_note"
"""The key of the XCom that holds it; of several in a run the newest counts."""


def leave(note: str) -> None:
    """Leave the note, in Markdown, for the run of the task that calls."""
    get_current_context()["ti"].xcom_push(KEY, note)


@contextmanager
def of_failure() -> Iterator[None]:
    """Leave a note that says why the task failed, then let the error go on to Airflow."""
    try:
        yield
    except AirflowSkipException:
        raise
    except Exception as err:
        task_id = get_current_context()["ti"].task_id
        leave(run_note.of_failure(task_id, error=type(err).__name__, message=str(err)))
        metrics.failed(task_id, err)
        raise

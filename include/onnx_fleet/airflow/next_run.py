"""The run that follows a run: which one that is, is found out in the task that starts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from onnx_fleet.airflow import run_params
from onnx_fleet.jsonio import Json


class StartNext(TriggerDagRunOperator):
    """Starts a run that is found out in the task, or is skipped where none follows.

    It is one task and not a mapped one behind another: each costs seconds, in every run of the fleet.
    """

    def __init__(self, *, following: Callable[[], Json | None], **options: Any) -> None:
        """Make the task.

        Args:
            following: returns the run to start: its DAG, its id, and what it is asked for; None for none.
        """
        super().__init__(trigger_dag_id=run_params.FLEET, logical_date=None, skip_when_already_exists=True, **options)
        self._following = following

    def execute(self, context: Context) -> None:
        """Start the run, unless it was started before."""
        start = self._following()
        if start is None:
            raise AirflowSkipException("no run follows this one")
        self.trigger_dag_id, self.trigger_run_id, self.conf = start["dag_id"], start["run_id"], start["conf"]
        super().execute(context)

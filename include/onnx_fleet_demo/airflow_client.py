"""Airflow's REST API, as far as the demo asks it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

COMPONENTS = ("scheduler", "dag_processor", "triggerer")


class NotReady(Exception):
    """Airflow does not answer (yet)."""


class Conflict(NotReady):
    """Airflow's scheduler has just written what was to be changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """One task instance."""

    task_id: str
    map_index: int
    state: str | None
    tries: int
    hostname: str
    """The worker that ran it last; empty before its first try."""


class AirflowClient:
    """One user's calls; it logs in by itself."""

    def __init__(self, url: str, *, user: str, password: str) -> None:
        self.url = url
        self._login = {"username": user, "password": password}
        self._token: str | None = None
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def healthy(self) -> bool:
        """Say whether every component has reported that it lives."""
        try:
            health = self._send("GET", "/api/v2/monitor/health")
        except NotReady:
            return False
        return all((health.get(name) or {}).get("status") == "healthy" for name in COMPONENTS)

    def has_dag(self, dag_id: str) -> bool:
        """Say whether the dag-processor has read a DAG."""
        try:
            self.call("GET", f"/api/v2/dags/{dag_id}")
        except NotReady:
            return False
        return True

    def import_errors(self) -> list[str]:
        """Return the DAG files that could not be read, and why."""
        found = self.call("GET", "/api/v2/importErrors")["import_errors"]
        return [f"{error['filename']}: {error['stack_trace']}" for error in found]

    def unpause(self, dag_id: str) -> None:
        """Let a DAG's runs begin: an Airflow of which nobody says otherwise has every new DAG wait."""
        self.call("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": False})

    def trigger(self, dag_id: str, conf: Mapping[str, object]) -> str:
        """Start a run; returns its id."""
        made = self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": dict(conf)})
        return str(made["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return a run's state: ``queued``, ``running``, ``success``, ``failed``."""
        return str(self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}")["state"])

    def end_runs(self, dag_id: str) -> None:
        """Fail what an Airflow that was stopped has left in the middle; the DAG runs once at a time."""
        for state in ("running", "queued"):
            found = self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns?state={state}")
            for run in found["dag_runs"]:
                self._end_run(dag_id, run["dag_run_id"])

    @retry(retry=retry_if_exception_type(Conflict), wait=wait_fixed(1), stop=stop_after_attempt(10), reraise=True)
    def _end_run(self, dag_id: str, run_id: str) -> None:
        """Fail a run, also while the scheduler makes its tasks: both then write the same rows, and one is refused."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}"
        self.call("PATCH", path, {"state": "failed", "note": "interrupted"})

    def runs(self, dag_id: str, *, since: str | None = None) -> list[str]:
        """Return the states of a DAG's runs."""
        query = urlencode({"limit": 50, **({"run_after_gte": since} if since else {})})
        return [str(run["state"]) for run in self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns?{query}")["dag_runs"]]

    def tasks(self, dag_id: str, run_id: str) -> list[TaskState]:
        """Return every task instance of a run."""
        found = self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances?limit=1000")
        return [
            TaskState(
                task_id=task["task_id"],
                map_index=task["map_index"],
                state=task["state"],
                tries=task["try_number"],
                hostname=task["hostname"] or "",
            )
            for task in found["task_instances"]
        ]

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return what an unmapped task returned."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task_id}/xcomEntries/return_value"
        value = self.call("GET", path)["value"]
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            return value

    def log(self, dag_id: str, run_id: str, task: TaskState) -> str:
        """Return the log of a task's last try, wherever Airflow finds it."""
        where = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task.task_id}/logs/{task.tries}"
        found = self.call("GET", f"{where}?map_index={task.map_index}")["content"]
        return "\n".join(line["event"] if isinstance(line, dict) else line for line in found)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Return the answer to any other call.

        Raises:
            NotReady: Airflow does not answer, or refuses; the message has the status.
        """
        if self._token is None:
            self._token = str(self._send("POST", "/auth/token", self._login)["access_token"])
        return self._send(method, path, body, token=self._token)

    def _send(self, method: str, path: str, body: object = None, *, token: str | None = None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})},
        )
        try:
            with self._opener.open(request, timeout=30) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as err:
            kind = Conflict if err.code == HTTPStatus.CONFLICT else NotReady
            raise kind(f"{method} {path}: {err.code}: {err.read().decode(errors='replace')[:500]}") from err
        except OSError as err:
            raise NotReady(f"{method} {path}: {err}") from err

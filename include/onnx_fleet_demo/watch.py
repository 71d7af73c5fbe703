"""Watch a run of ``fleet_reexport``: one line per model with its step and time; plain lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from onnx_fleet_demo.airflow_client import AirflowClient, TaskState

DAG_ID: Final = "fleet_reexport"
STEPS: Final = ("export", "validate", "measure", "compare", "publish")
POLL_S: Final = 0.5

_GROUP: Final = "model"
_ENDED: Final = frozenset({"success", "failed", "upstream_failed", "skipped", "removed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The line of one model."""

    model_id: str
    status: str
    ended: bool


def follow(client: AirflowClient, run_id: str, *, console: Console) -> str:
    """Show a run until it ends; returns its state, ``success`` or ``failed``."""
    models: Sequence[str] | None = None
    with Board(console) as board:
        while True:
            state = client.run_state(DAG_ID, run_id)
            tasks = client.tasks(DAG_ID, run_id)
            if models is None and _state(tasks, "plan") == "success":
                planned = client.result(DAG_ID, run_id, "plan")
                models = [item["model_id"] for item in planned["items"]]
                board.show(_settled(planned["records"]))
            board.show(_lines(tasks, models))
            if state in ("success", "failed"):
                return state
            time.sleep(POLL_S)


def settle_feed(client: AirflowClient, *, since: str, timeout_s: float = 30.0) -> bool:
    """Wait until the feed has been rebuilt after publications; False when it takes too long."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        states = client.runs("registry_feed", since=since)
        if states and all(state in ("success", "failed") for state in states):
            return "failed" not in states
        time.sleep(POLL_S)
    return False


def _settled(records: Sequence[Mapping[str, Any]]) -> list[Line]:
    return [Line(model_id=record["model_id"], status=record["state"], ended=True) for record in records]


def _lines(tasks: Sequence[TaskState], models: Sequence[str] | None) -> list[Line]:
    if models is None:
        state = _state(tasks, "plan") or "waiting for the scheduler"
        return [
            Line(model_id="plan", status="resolve the models and compare" if state == "running" else state, ended=False)
        ]
    plan = Line(model_id="plan", status=f"{len(models)} to export", ended=True)
    return [plan, *(_line(tasks, model_id, index) for index, model_id in enumerate(models))]


def _line(tasks: Sequence[TaskState], model_id: str, index: int) -> Line:
    status = "waiting"
    for step in STEPS:
        state = _state(tasks, f"{_GROUP}.{step}", index)
        if state == "failed":
            return Line(model_id=model_id, status=f"failed at {step}", ended=True)
        if state == "success":
            status = f"{step} done"
        elif state == "running":
            return Line(model_id=model_id, status=step, ended=False)
        elif state == "up_for_retry":
            return Line(model_id=model_id, status=f"{step}: failed, to be tried again", ended=False)
    if status == f"{STEPS[-1]} done":
        return Line(model_id=model_id, status="published", ended=True)
    return Line(model_id=model_id, status=status, ended=False)


def _state(tasks: Sequence[TaskState], task_id: str, map_index: int = -1) -> str | None:
    return next((task.state for task in tasks if (task.task_id, task.map_index) == (task_id, map_index)), None)


class Board:
    """The lines as they are now."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._lines: dict[str, Line] = {}
        self._since: dict[str, float] = {}
        self._took: dict[str, float] = {}
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, lines: Sequence[Line]) -> None:
        """Show these lines; others stay as they are."""
        for line in lines:
            if self._lines.get(line.model_id) == line:
                continue
            now = time.monotonic() - self._began
            self._since.setdefault(line.model_id, now)
            if line.ended:
                self._took[line.model_id] = now - self._since[line.model_id]
            self._lines[line.model_id] = line
            if not self._console.is_terminal:
                self._console.print(f"{now:6.1f} s  {line.model_id}: {line.status}", highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for line in self._lines.values():
            spent = self._took.get(line.model_id)
            if spent is None:
                spent = time.monotonic() - self._began - self._since[line.model_id]
            colour = "red" if line.status.startswith("failed") else "green" if line.ended else "cyan"
            mark = ("✗" if colour == "red" else "✓") if line.ended else Spinner("dots")
            table.add_row(mark, line.model_id, f"[{colour}]{line.status}[/]", f"{spent:.0f} s")
        return table

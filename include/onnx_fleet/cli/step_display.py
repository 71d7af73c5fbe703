"""What a command shows while it works: the step, how far it is, and about how long it still takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress as Display
from rich.progress import SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from onnx_fleet.cli.terminal import console
from onnx_fleet.formatting import human_bytes, human_s
from onnx_fleet.processes import progress
from onnx_fleet.processes.progress import Progress

_PRINTED_EVERY_S = 30
"""How often a log is told how far a step is."""


class Steps:
    """One line at the bottom of a terminal: step, done of all, time gone and left, model; plain lines in a log."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._task: TaskID | None = None
        self._step = ""
        self._model_id = ""
        self._unit = ""
        self._since = self._printed_at = 0.0

    def another(self) -> Steps:
        """A line of its own, for a model that goes through its steps beside others."""
        return Steps(self._display)

    def begin(self, model_id: str, step: str) -> None:
        """A model enters a step."""
        self.end()
        self._model_id, self._step, self._unit = model_id, step.replace("_", " "), ""
        self._printed_at = time.monotonic()
        self._task = self._display.add_task(self._step, total=None, model=model_id, told="")
        if not self._display.console.is_terminal:
            self._print(self._step)

    def note(self, text: str) -> None:
        """A line that stays, above what is going on."""
        self._display.console.print(text, highlight=False, soft_wrap=True)

    def bytes_moved(self, done: int, total: int) -> None:
        """Bytes of the step's download or upload."""
        self._show("bytes", f"{human_bytes(done)} of {human_bytes(total)}", done=done, total=total)

    def told(self, now: Progress) -> None:
        """What the step itself says of how far it is."""
        self._show(now.unit, str(now), done=now.done, total=now.total)

    def end(self) -> None:
        """The model is through."""
        if self._task is not None:
            self._display.remove_task(self._task)
            self._task = None

    def _show(self, unit: str, text: str, *, done: int, total: int) -> None:
        if self._task is None:
            return
        now = time.monotonic()
        if unit != self._unit:
            self._unit, self._since = unit, now
        elapsed = now - self._since
        if 0 < done < total and elapsed >= 1:
            text += f", about {human_s(elapsed / done * (total - done))} left"
        if self._display.console.is_terminal:
            self._display.update(self._task, told=text)
        elif now - self._printed_at >= _PRINTED_EVERY_S:
            self._printed_at = now
            self._print(f"{self._step}: {text}")

    def _print(self, text: str) -> None:
        self._display.console.print(f"{self._model_id}: {text}", highlight=False, soft_wrap=True)


@contextmanager
def steps() -> Iterator[Steps]:
    """Show on stderr what the block's steps do, those in processes of their own too."""
    display = Display(
        SpinnerColumn(),
        TextColumn("[cyan]{task.description}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[told]}"),
        TextColumn("{task.fields[model]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        console=console,
        disable=not console.is_terminal,
        expand=True,
        refresh_per_second=4,
        transient=True,
    )
    shown = Steps(display)
    with display, progress.listening(shown.told):
        yield shown

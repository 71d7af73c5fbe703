"""How results look at a terminal: tables and progress on people's side (stderr), data on programs' side (stdout)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from onnx_fleet import jsonio
from onnx_fleet.formatting import human_bytes, human_ms
from onnx_fleet.processes.profiling import Profile
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.run_report import VARIANT_COLUMNS, variant_row

_WIDTH_IN_A_FILE = 160
"""A log has no edge: nothing need be folded at 80 columns there."""

console = Console(stderr=True)
output = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH_IN_A_FILE)

_COLOURS = {
    "published": "green",
    "unchanged": "cyan",
    "new": "green",
    "changed": "yellow",
    "left out": "yellow",
    "passed": "green",
    "not_compared": "yellow",
}


def say(text: str) -> None:
    """A line for the person at the terminal, never on stdout."""
    console.print(text, highlight=False)


def paragraphs(*texts: str) -> None:
    """Lines for the person at the terminal that are taken as they are; the terminal wraps them."""
    for text in texts:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def as_json(value: object) -> None:
    """Print data for programs: one JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True))


def dataclasses_as_json(values: Iterable[object]) -> None:
    """Print a JSON list."""
    as_json([jsonio.to_json(value) for value in values])


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = ()) -> None:
    """Print a table; columns in ``numbers`` are aligned to the right."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    output.print(made)


def coloured(state: str) -> str:
    """A state in its colour; what is bad is red."""
    colour = _COLOURS.get(state, "red")
    return f"[{colour}]{state}[/{colour}]"


def line(text: str) -> None:
    """Print one line of a result; the terminal wraps it, so that it can be copied."""
    output.print(text, highlight=False, soft_wrap=True)


def records(found: Iterable[Record]) -> None:
    """The table that a run ends with, and each failure in full below it."""
    found = tuple(found)
    table(
        ("model", "state", "version", "worst diff", "p50 ms", "p95 ms", "vs torch", "size"),
        (
            (
                record.model_id,
                coloured(record.state),
                record.version or "–",
                "–" if record.worst_abs_diff is None else f"{record.worst_abs_diff:.1e}",
                human_ms(record.latency_ms_p50, noisy=record.latency_noisy),
                human_ms(record.latency_ms_p95, noisy=record.latency_noisy),
                "–" if record.ratio_to_torch is None else f"{record.ratio_to_torch:.2f}×",
                human_bytes(record.size_bytes),
            )
            for record in found
        ),
        numbers=("worst diff", "p50 ms", "p95 ms", "vs torch", "size"),
    )
    if any(record.location for record in found):
        output.print("\nwhere", style="bold")
    for record in found:
        if record.location:
            line(record.location)
    varied = [variant_row(record, each) for record in found for each in record.variants]
    if varied:
        output.print("\nvariants", style="bold")
        table(VARIANT_COLUMNS, ((*row[:2], coloured(row[2]), *row[3:]) for row in varied), numbers=("p50 ms",))
    for record in found:
        if record.message:
            where = f" at {record.step}: {record.error}" if record.step else ""
            console.print(f"\n[bold red]{record.model_id}[/] {record.state}{where}")
            console.print(record.message, markup=False, highlight=False, soft_wrap=True)
        if record.findings:
            worse(record.model_id, record.compared_with or "", record.findings)


def worse(model_id: str, compared_with: str, findings: Iterable[str]) -> None:
    """What of a new version is worse than of the one in use."""
    console.print(f"\n[bold yellow]{model_id}[/] is worse than {compared_with}", highlight=False)
    for finding in findings:
        console.print(f"- {finding}", markup=False, highlight=False, soft_wrap=True)


def profile(found: Profile) -> None:
    """Where the time went."""
    output.print("\nwhere the time went", style="bold")
    table(
        ("stage", "seconds", "share", "peak memory"),
        (
            *(
                (
                    cost.stage,
                    f"{cost.seconds:.2f}",
                    f"{cost.seconds / found.seconds:.0%}",
                    human_bytes(cost.peak_memory_bytes),
                )
                for cost in found.stages
            ),
            ("together", f"{found.seconds:.2f}", "100%", human_bytes(found.peak_memory_bytes)),
        ),
        numbers=("seconds", "share", "peak memory"),
    )


class Steps:
    """A line a model with its step and the time, and a bar where bytes move."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def begin(self, model_id: str, step: str) -> None:
        """A model enters a step."""
        self.end()
        step = step.replace("_", " ")
        self._task = self._progress.add_task(step, total=None, model=model_id)
        if not self._progress.console.is_terminal:
            self._progress.console.print(f"{model_id}: {step}", highlight=False)

    def note(self, text: str) -> None:
        """A line that stays, above what is going on."""
        self._progress.console.print(text, highlight=False)

    def bytes_moved(self, done: int, total: int) -> None:
        """Bytes of the step's download or upload."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def end(self) -> None:
        """The model is through."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


@contextmanager
def steps(*, quiet: bool = False) -> Iterator[Steps]:
    """Progress on stderr; plain lines where that is no terminal."""
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.fields[model]}"),
        TextColumn("[cyan]{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
        transient=True,
    )
    with progress:
        yield Steps(progress)

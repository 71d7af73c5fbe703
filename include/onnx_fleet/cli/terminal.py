"""How results look at a terminal: tables and lines for people, JSON for programs.

What is copied is never broken: model ids, versions, paths and commands stand whole on one line, which the terminal may
wrap. A table that is too wide gives up columns, and says them below or names them.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnx_fleet import jsonio
from onnx_fleet.formatting import human_bytes, human_ms
from onnx_fleet.processes.profiling import Profile
from onnx_fleet.runs.record import Record
from onnx_fleet.runs.run_report import taken_over_note, variant_row

Cell = str | Text

_WIDTH_IN_A_FILE = 160
"""A log has no edge; sentences are folded there all the same."""
_LEAST_PROSE = 28
"""Where a sentence would have fewer columns than that, it is easier to read below the table."""
_GAP = "  "
_NOTHING = ("", "–")
_UNBROKEN = "\N{NO-BREAK SPACE}"


def _has_edge(stream: TextIO) -> bool:
    """Whether lines are shown as wide as a terminal is; COLUMNS says so of any stream."""
    return stream.isatty() or "COLUMNS" in os.environ


def _console(*, stderr: bool) -> Console:
    edge = _has_edge(sys.stderr if stderr else sys.stdout)
    return Console(stderr=stderr, width=None if edge else _WIDTH_IN_A_FILE)


console = _console(stderr=True)
output = _console(stderr=False)

_COLOURS = {
    "published": "green",
    "unchanged": "cyan",
    "new": "green",
    "changed": "yellow",
    "waiting": "yellow",
    "running": "green",
    "done": "green",
    "superseded": "yellow",
    "left out": "yellow",
    "passed": "green",
    "good": "green",
    "not_compared": "yellow",
    "noted": "yellow",
    "started": "green",
    "approved": "green",
}


QUIETER = (
    "noisy: other processes used the cores during the measurement. For steadier figures, measure on an idle machine, or"
    " with fewer threads than it has cores (`latency: {threads: 1}` in the catalogue)"
)
"""What to do where most figures are marked so."""


def say(text: str) -> None:
    """A line for the person at the terminal, never on stdout; with markup."""
    console.print(text, highlight=False, soft_wrap=True)


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


def coloured(state: str) -> str:
    """A state in its colour, as markup for a line; what is bad is red."""
    colour = _COLOURS.get(state, "red")
    return f"[{colour}]{state}[/{colour}]"


def state_cell(state: str) -> Text:
    """A state in its colour, for a table."""
    return Text(state, style=_COLOURS.get(state, "red"))


def line(text: str) -> None:
    """Print one line of a result; the terminal wraps it, so that it can be copied."""
    output.print(text, highlight=False, soft_wrap=True)


def sentence(text: str) -> None:
    """Print words of a result of which none is there to be copied; they are folded between words."""
    output.print(text, highlight=False)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    numbers: Sequence[str] = (),
    prose: Sequence[str] = (),
    below: Sequence[str] = (),
    spare: Sequence[str] = (),
    named_by: int = 1,
) -> None:
    """Print a table that fits the terminal; only ``prose`` is ever folded, between words.

    Args:
        rows: a cell's text is taken as it is, without markup.
        numbers: columns that are aligned to the right.
        prose: columns of sentences.
        below: columns that are told below the table where there is no room in it; the first one leaves first.
        spare: columns that are left out where that is not enough; the first one goes first.
        named_by: how many leading columns name a row, where something of it is told below.
    """
    made = tuple(
        _Column(
            name=name,
            cells=tuple(cell if isinstance(cell, Text) else Text(cell) for cell in cells),
            is_number=name in numbers,
            is_prose=name in prose,
        )
        for name, cells in zip(columns, zip(*rows, strict=True), strict=False)
    )
    if not made:
        return
    shown, told, dropped = list(made), list[_Column](), list[str]()
    for name, gone in (*((name, True) for name in below), *((name, False) for name in spare)):
        if _needed(shown) <= output.width or not _has_edge(sys.stdout):
            break
        column = next(each for each in shown if each.name == name)
        shown.remove(column)
        if gone:
            told.append(column)
        else:
            dropped.append(name)
    if _needed(shown) > output.width and _has_edge(sys.stdout):
        _print_records(shown)
    else:
        _print_table(shown)
    if told:
        _print_below(made[:named_by], sorted(told, key=made.index))
    if dropped:
        say(f"[dim]this terminal has no room for: {', '.join(dropped)}; --json has everything[/]")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """One column of a table."""

    name: str
    cells: tuple[Text, ...]
    is_number: bool
    is_prose: bool

    @property
    def width(self) -> int:
        """What it takes at least: prose may be folded between words, anything else stays whole."""
        texts = (Text(self.name), *self.cells)
        whole = max(text.cell_len for text in texts)
        if not self.is_prose:
            return whole
        longest_word = max((Text(word).cell_len for text in texts for word in text.plain.split()), default=0)
        return min(whole, max(_LEAST_PROSE, longest_word))


def _needed(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + len(_GAP) * (len(columns) - 1)


def _print_table(columns: Sequence[_Column]) -> None:
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, len(_GAP), 0, 0))
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.is_number else "left"
        made.add_column(column.name, justify=justify, no_wrap=not column.is_prose, min_width=column.width)
    for cells in zip(*(column.cells for column in columns), strict=True):
        made.add_row(*cells)
    output.print(made, width=max(output.width, _needed(columns)), crop=False, no_wrap=True)


def _print_records(columns: Sequence[_Column]) -> None:
    """A row as lines, a column each: for a terminal that no table of it fits."""
    width = max(len(column.name) for column in columns)
    for number in range(len(columns[0].cells)):
        if number:
            output.print()
        for column in columns:
            name = Text(column.name.ljust(width), style="bold")
            output.print(Text.assemble(name, _GAP, column.cells[number]), soft_wrap=True)


def _print_below(names: Sequence[_Column], told: Sequence[_Column]) -> None:
    """What the table had no room for, row by row; short values together on a line, the others on lines of their own."""
    output.print()
    for number in range(len(told[0].cells)):
        values = [(column, column.cells[number].plain) for column in told]
        values = [(column, value) for column, value in values if value not in _NOTHING]
        if not values:
            continue
        output.print(" ".join(each.cells[number].plain for each in names), style="bold", markup=False, soft_wrap=True)
        short = [f"{column.name} {value}" for column, value in values if not (column.is_prose or "/" in value)]
        long = [
            f"{column.name}: {value}" if column.is_prose else value
            for column, value in values
            if column.is_prose or "/" in value
        ]
        together = ", ".join(each.replace(" ", _UNBROKEN) for each in short)
        for part in (part for text in (together, *long) for part in _folded(text)):
            output.print(part, markup=False, highlight=False, soft_wrap=True)


def _folded(text: str) -> list[str]:
    """Lines as wide as the terminal, indented; a word that is longer stays whole."""
    lines = textwrap.wrap(
        text,
        output.width,
        initial_indent=_GAP,
        subsequent_indent=_GAP,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_UNBROKEN, " ") for line in lines]


def records(found: Iterable[Record]) -> None:
    """The table that a run ends with, and what went wrong in full below it."""
    found = tuple(found)
    table(
        ("model", "state", "version", "worst diff", "p50 ms", "p95 ms", "vs torch", "size", "where"),
        (
            (
                record.model_id,
                state_cell(record.state),
                record.version or "–",
                "–" if record.worst_abs_diff is None else f"{record.worst_abs_diff:.1e}",
                human_ms(record.latency_ms_p50, noisy=record.latency_noisy),
                human_ms(record.latency_ms_p95, noisy=record.latency_noisy),
                "–" if record.ratio_to_torch is None else f"{record.ratio_to_torch:.2f}×",
                human_bytes(record.size_bytes),
                record.location or "–",
            )
            for record in found
        ),
        numbers=("worst diff", "p50 ms", "p95 ms", "vs torch", "size"),
        below=("where", "version", "p95 ms", "worst diff", "size", "vs torch", "p50 ms"),
    )
    measured = [record for record in found if record.latency_ms_p50 is not None]
    if note := taken_over_note(found):
        paragraphs(f"\n{note}")
    if 2 * sum(record.latency_noisy for record in measured) > len(measured):
        paragraphs(f"\n{QUIETER}; then run with --force")
    for record in found:
        if record.variants:
            _variants(record)
    for record in found:
        if record.message:
            where = f" at {record.step}: {record.error}" if record.step else ""
            console.print(f"\n[bold red]{record.model_id}[/] {record.state}{where}", highlight=False, soft_wrap=True)
            paragraphs(record.message)
        if record.findings:
            worse(record.model_id, record.compared_with or "", record.findings)


def _variants(record: Record) -> None:
    """What became of a model's variants."""
    output.print(f"\nvariants of {record.model_id}", style="bold", highlight=False, soft_wrap=True)
    rows = (variant_row(record, each)[1:] for each in record.variants)
    table(
        ("variant", "state", "layers' weights", "p50 ms", "figures"),
        ((name, state_cell(state), *rest) for name, state, *rest in rows),
        numbers=("p50 ms",),
        prose=("figures",),
        below=("figures",),
    )


def worse(model_id: str, compared_with: str, findings: Iterable[str]) -> None:
    """What of a new version is worse than of the one in use."""
    console.print(f"\n[bold yellow]{model_id}[/] is worse than {compared_with}", highlight=False, soft_wrap=True)
    paragraphs(*(f"- {finding}" for finding in findings))


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

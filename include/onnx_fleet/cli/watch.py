"""The command that says what has changed at the Hub: watch."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from onnx_fleet import jsonio
from onnx_fleet.cli import terminal
from onnx_fleet.cli.options import Json, Store
from onnx_fleet.cli.run import new_run_id
from onnx_fleet.cli.settings import opened_services
from onnx_fleet.planning.catalogue import reader


def watch(
    catalogue_file: Annotated[Path, typer.Option("--catalogue", "-c", help="A catalogue file.")],
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Show what has changed on the Hub since the last poll of the DAG hub_watch; nothing is written or started.

    Where that has never polled, it is said what is not published of the commits that the Hub has.
    """
    from onnx_fleet.runs import watch as watching  # huggingface_hub takes 0.2 s
    from onnx_fleet.runs import watch_report

    with opened_services(store) as services, terminal.console.status("asking the Hub"):
        report = watching.look(
            reader.load(catalogue_file),
            services=services,
            run_id=new_run_id(),
            now=datetime.now(UTC),
            room=sys.maxsize,
            max_requests=None,
        ).report
    if as_json:
        terminal.as_json(jsonio.to_json(report))
        return
    if report.findings:
        rows = map(watch_report.row, report.findings)
        terminal.table(
            watch_report.COLUMNS,
            [(model, terminal.state_cell(state), *rest) for model, state, *rest in rows],
            prose=("what changed", "why"),
            below=("why", "what changed"),
        )
    terminal.say(watch_report.title(report))

"""The command that collects garbage: versions that nothing keeps, and what nobody needs any more."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from onnx_fleet import jsonio
from onnx_fleet.cli import terminal
from onnx_fleet.cli.options import By, Json, OnlyPublished, Store
from onnx_fleet.cli.run import new_run_id
from onnx_fleet.cli.settings import opened_store, user
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.entities.retention import Retention
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.runs import garbage, garbage_report
from onnx_fleet.runs.garbage import Garbage


def gc(
    keep_last: Annotated[
        int | None, typer.Option(min=1, help="Keep this many of the newest versions of each model.", show_default=False)
    ] = None,
    history_days: Annotated[
        int | None,
        typer.Option(min=1, help="Keep what a channel has left within this many days.", show_default=False),
    ] = None,
    grace_days: Annotated[
        int | None, typer.Option(min=1, help="Keep what is younger than this many days.", show_default=False)
    ] = None,
    catalogue_file: Annotated[
        Path | None,
        typer.Option("--catalogue", "-c", help="A catalogue file whose `retention` holds; else that of no catalogue."),
    ] = None,
    only: OnlyPublished = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without this nothing is removed.")] = False,
    by: By = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Show which versions nothing keeps and what nobody needs any more; with --delete, remove it.

    A version stays while a channel points to it or did within the history window, while it is among the newest of its
    model, younger than the grace period, or signed. What killed writers and failed runs have left goes by its age, as
    `onnx-fleet sweep` removes it. The exit status is 1 where the store refused to remove something.
    """
    catalogue = reader.load(catalogue_file) if catalogue_file else None

    def policy(model_id: str) -> Retention:
        holds = catalogue.retention_of(model_id) if catalogue else Retention()
        return holds.limited(keep_last=keep_last, history_days=history_days, grace_days=grace_days)

    with opened_store(store) as opened:
        made = garbage.collect(
            opened,
            policy=policy,
            run_id=new_run_id(),
            by=Actor(kind="person", name=by or user()),
            now=datetime.now(UTC),
            only=only or (),
            delete=delete,
        )
    if as_json:
        terminal.as_json(jsonio.to_json(made))
    else:
        _show(made)
    if made.refused:
        raise typer.Exit(1)


def _show(made: Garbage) -> None:
    if made.versions:
        terminal.table(
            garbage_report.COLUMNS, list(map(garbage_report.cells, made.versions)), numbers=("size",), prose=("what",)
        )
    for text in garbage_report.statements(made):
        terminal.line(text)
    hint = "" if made.deleted or not (made.versions or made.swept) else "; --delete removes it"
    terminal.line(f"{garbage_report.title(made)}{hint}")

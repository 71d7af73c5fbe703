"""The commands for licences: licence list, show, approve, decline."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from onnx_fleet import jsonio
from onnx_fleet.bundles import licence_answers
from onnx_fleet.bundles.licence_answers import Decision, LicenceAnswer, LicenceAnswers
from onnx_fleet.cli import terminal
from onnx_fleet.cli.options import By, Json, OneModel, Store
from onnx_fleet.cli.settings import opened_services, opened_store, user
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.errors import BundleNotFound
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.runs import licence_requests, selection
from onnx_fleet.runs.selection import Selection

licence_app = typer.Typer(
    help="Show, approve or decline the licences of models that a person has to decide on.", no_args_is_help=True
)

Licence = Annotated[
    str,
    typer.Option(help="The licence as the refusal names it, such as gemma or other/acme-terms.", show_default=False),
]
Why = Annotated[str, typer.Option(help="Why, for those who read the answer later.", show_default=False)]
OfCatalogue = Annotated[
    Path | None, typer.Option("--catalogue", "-c", help="List the models of this file that wait for an answer.")
]


@licence_app.command("list")
def list_(catalogue_file: OfCatalogue = None, store: Store = None, as_json: Json = False) -> None:
    """List the answers in force; with --catalogue, the models of that file that wait for one instead."""
    if catalogue_file is not None:
        _list_waiting(catalogue_file, store=store, as_json=as_json)
        return
    with opened_store(store) as opened:
        found = licence_answers.listed(opened)
    if as_json:
        terminal.dataclasses_as_json(found)
    else:
        _show((each.model_id, row) for each in found for row in each.rows if row == each.in_force(row.licence))


@licence_app.command("show")
def show(model: OneModel, store: Store = None, as_json: Json = False) -> None:
    """Show every answer about a model, the oldest first; the last one of a licence is in force."""
    with opened_store(store) as opened:
        found = licence_answers.find(opened, model)
        if not found.rows:
            raise BundleNotFound(
                f"{model}: {opened.address} has no answer about its licence; see `onnx-fleet licence list`"
            )
    _told(found, as_json=as_json)


@licence_app.command("approve")
def approve(
    model: OneModel, licence: Licence, why: Why, by: By = None, store: Store = None, as_json: Json = False
) -> None:
    """Let a model be exported under a licence, from the next run on, until somebody declines it."""
    _answer("approved", model, licence, why=why, by=by, store=store, as_json=as_json)


@licence_app.command("decline")
def decline(
    model: OneModel, licence: Licence, why: Why, by: By = None, store: Store = None, as_json: Json = False
) -> None:
    """Refuse a model under a licence, or withdraw an approval; what is published stays."""
    _answer("declined", model, licence, why=why, by=by, store=store, as_json=as_json)


def _answer(
    decision: Decision, model: str, licence: str, *, why: str, by: str | None, store: str | None, as_json: bool
) -> None:
    actor = Actor(kind="person", name=by or user())
    with opened_store(store) as opened:
        kept = licence_requests.answer(
            opened, model, licence, decision=decision, by=actor, why=why, now=datetime.now(UTC)
        )
    _told(kept, as_json=as_json)


def _told(found: LicenceAnswers, *, as_json: bool) -> None:
    if as_json:
        terminal.as_json(jsonio.to_json(found))
    else:
        _show((found.model_id, row) for row in found.rows)


def _show(rows: Iterable[tuple[str, LicenceAnswer]]) -> None:
    terminal.table(
        ("model", "licence", "answer", "when", "by", "why"),
        [
            (model, row.licence, terminal.state_cell(row.decision), f"{row.at:%Y-%m-%d %H:%M}", str(row.by), row.why)
            for model, row in rows
        ],
        prose=("why",),
        below=("why", "by"),
        named_by=2,
    )


def _list_waiting(catalogue_file: Path, *, store: str | None, as_json: bool) -> None:
    with opened_services(store) as services:
        entries = selection.entries(reader.load(catalogue_file), Selection(), services=services)
        found = licence_requests.waiting(entries, services=services)
    if as_json:
        terminal.dataclasses_as_json(found)
    elif found:
        terminal.table(licence_requests.COLUMNS, [each.cells for each in found])
    else:
        terminal.say("no model of the catalogue waits for an answer")

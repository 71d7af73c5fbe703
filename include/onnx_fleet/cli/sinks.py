"""The commands for the registries of a deployment: sinks list, status, run, replay."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from onnx_fleet import jsonio
from onnx_fleet.cli import terminal
from onnx_fleet.cli.options import Json, Store
from onnx_fleet.cli.settings import opened_store, secret
from onnx_fleet.errors import SinksInvalid
from onnx_fleet.sinks import configuration, delivery, sink_state
from onnx_fleet.sinks.configuration import ConfiguredSink
from onnx_fleet.sinks.delivery import Delivery

sinks_app = typer.Typer(help="Bring what happens to the registries that the file of sinks lists.", no_args_is_help=True)

File = Annotated[
    Path | None,
    typer.Option("--sinks", metavar="FILE", help="The file of sinks; default: ONNX_FLEET_SINKS.", show_default=False),
]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these sinks; default: all.", show_default=False)
]


@sinks_app.command("list")
def list_(sinks_file: File = None, as_json: Json = False) -> None:
    """Show the sinks of the file, and what each takes; no registry is asked, and no secret is read."""
    sinks = _chosen(sinks_file, None)
    if as_json:
        terminal.as_json(
            [{"name": each.name, "kind": each.kind, **each.settings.model_dump(mode="json")} for each in sinks]
        )
        return
    terminal.table(
        ("sink", "kind", "models", "events", "since"),
        [
            (
                each.name,
                each.kind,
                ", ".join(each.only) or "all",
                ", ".join(each.events) or "all",
                f"{each.since:%Y-%m-%d %H:%M}" if each.since else "–",
            )
            for each in sinks
        ],
        below=("since", "events", "models"),
    )


@sinks_app.command("status")
def status(names: Names = None, sinks_file: File = None, store: Store = None, as_json: Json = False) -> None:
    """Show how far each sink is: what it got last, what waits, why, and which events it did not take.

    The exit status is 1 where events wait because of an error.
    """
    sinks = _chosen(sinks_file, names)
    with opened_store(store) as opened:
        found = {
            each.name: (sink_state.read(opened, each.name).state, delivery.waiting(each, store=opened))
            for each in sinks
        }
    if as_json:
        terminal.as_json({name: {**jsonio.to_json(state), "waiting": left} for name, (state, left) in found.items()})
    else:
        terminal.table(
            ("sink", "delivered", "last", "delivered at", "waiting", "set aside"),
            [
                (
                    name,
                    str(state.delivered),
                    str(state.last.event) if state.last else "–",
                    f"{state.last.at:%Y-%m-%d %H:%M}" if state.last else "–",
                    str(left),
                    str(len(state.set_aside)),
                )
                for name, (state, left) in found.items()
            ],
            numbers=("delivered", "waiting", "set aside"),
            below=("delivered at", "last"),
        )
        for name, (state, _) in found.items():
            if state.trouble:
                since = f"{state.trouble.since:%Y-%m-%d %H:%M}"
                terminal.paragraphs(f"\n{name} waits since {since}: {state.trouble.error}: {state.trouble.message}")
            terminal.paragraphs(*(f"{name} did not take {each.event}: {each.message}" for each in state.set_aside))
    if any(state.trouble for state, _ in found.values()):
        raise typer.Exit(1)


@sinks_app.command("run")
def run(names: Names = None, sinks_file: File = None, store: Store = None, as_json: Json = False) -> None:
    """Deliver what each sink has not had; one that is down holds back nothing of the others.

    The exit status is 1 where a sink could not be delivered to; the next call goes on there.
    """
    sinks = _chosen(sinks_file, names)
    with opened_store(store) as opened:
        _show([delivery.run(each, store=opened) for each in sinks], as_json=as_json)


@sinks_app.command("replay")
def replay(
    names: Names = None,
    *,
    since: Annotated[
        datetime,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"],
            help="Deliver again what happened since this time (UTC).",
        ),
    ],
    sinks_file: File = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Deliver again what happened since a time, to a registry that has lost it; registries take it twice as once.

    What was told up to 45 minutes before may be delivered again, too. A replay that is interrupted is gone on with by
    `onnx-fleet sinks run`.
    """
    sinks = _chosen(sinks_file, names)
    with opened_store(store) as opened:
        for each in sinks:
            delivery.replay(each, store=opened, since=since.replace(tzinfo=UTC))
        _show([delivery.run(each, store=opened) for each in sinks], as_json=as_json)


def _chosen(file: Path | None, names: list[str] | None) -> tuple[ConfiguredSink, ...]:
    named = file or os.environ.get("ONNX_FLEET_SINKS")
    if not named:
        raise SinksInvalid("no file of sinks is named; write --sinks FILE, or set ONNX_FLEET_SINKS (docs/sinks.md)")
    return configuration.chosen(configuration.load(Path(named), secrets=secret), names or ())


def _show(deliveries: list[Delivery], *, as_json: bool) -> None:
    if as_json:
        terminal.dataclasses_as_json(deliveries)
    else:
        for each in deliveries:
            aside = f", {each.set_aside} set aside" if each.set_aside else ""
            waits = f"; the others wait: {each.error}: {each.message}" if each.error else ""
            terminal.line(escape(f"{each.sink}: {each.delivered} delivered{aside}{waits}"))
    if any(each.error for each in deliveries):
        raise typer.Exit(1)

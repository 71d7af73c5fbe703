"""The commands for those who follow a fleet: feed tail, feed rebuild."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Final

import typer

from onnx_fleet import jsonio
from onnx_fleet.bundles import events, feed, fleet_event
from onnx_fleet.bundles.feed_document import INDEX_KEY
from onnx_fleet.cli import terminal
from onnx_fleet.cli.options import Json, Store
from onnx_fleet.cli.settings import opened_store

feed_app = typer.Typer(help="Follow what happens to bundles and channels.", no_args_is_help=True)

_PAUSE_S: Final = 5.0
"""How long a follower waits before it asks again, which takes one request."""


@feed_app.command("tail")
def tail(
    since: Annotated[
        str | None,
        typer.Option(
            metavar="POSITION|TIME",
            help="Where to go on: the `sequence` of a line, or a time such as 2026-01-31 or 2026-01-31T12:00Z;"
            " default: the beginning.",
            show_default=False,
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with the events that come.")] = False,
    store: Store = None,
) -> None:
    """Print the events of the fleet: one line of JSON for each, which is a CloudEvent.

    Each event comes at least once, those of the 45 minutes before the position again. The same event has the same id.
    """
    position = _position(since or "")
    with opened_store(store) as opened:
        told = (
            events.follow(opened, position, pause=partial(time.sleep, _PAUSE_S))
            if follow
            else events.since(opened, position)
        )
        for place, event in told:
            document = {**fleet_event.to_cloudevent(event, source=opened.address), "sequence": place}
            print(json.dumps(document, ensure_ascii=False, sort_keys=True), flush=follow)


@feed_app.command("rebuild")
def rebuild(store: Store = None, as_json: Json = False) -> None:
    """Write the feed anew, and tell of the moves of channels that it did not know; what has not changed is not read.

    Runs, and what moves channels, do it by themselves.
    """
    with opened_store(store) as opened, terminal.console.status("reading the store"):
        made = feed.rebuild(opened, now=datetime.now(UTC))
    if as_json:
        terminal.as_json(jsonio.to_json(made))
    else:
        terminal.line(f"{opened.address}/{INDEX_KEY}: {made.models} models, {made.versions} versions")


def _position(since: str) -> str:
    if events.is_position(since):
        return since
    try:
        time_ = datetime.fromisoformat(since)
    except ValueError as err:
        raise typer.BadParameter(
            f"{since!r} is neither the `sequence` of an event nor a time; write 2026-01-31 or 2026-01-31T12:00Z",
            param_hint="--since",
        ) from err
    return events.position_at(time_ if time_.tzinfo else time_.replace(tzinfo=UTC))

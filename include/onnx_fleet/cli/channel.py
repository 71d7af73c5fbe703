"""The commands for channels: channel show, channel set."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from onnx_fleet import jsonio
from onnx_fleet.bundles import bundle, channels, feed, publish
from onnx_fleet.bundles.bundle import Ref
from onnx_fleet.cli import terminal
from onnx_fleet.cli.options import By, Json, MoveWhy, Store
from onnx_fleet.cli.settings import opened_store, user
from onnx_fleet.entities.channel_move import Actor, MoveReason
from onnx_fleet.errors import BundleNotFound
from onnx_fleet.runs.record import told

channel_app = typer.Typer(help="Show or move channels, the named pointers to versions.", no_args_is_help=True)


@channel_app.command("show")
def show(
    model: Annotated[str, typer.Argument(help="ORG/NAME.", show_default=False)],
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Show where the channels of a model point, since when, and where they pointed before."""
    with opened_store(store) as opened:
        (listed,) = publish.list_models(opened, model_id=model) or (None,)
        if listed is None:
            raise BundleNotFound(f"{model}: no version of it is published in {opened.address}; see `onnx-fleet list`")
        found = [channels.read(opened, model, name) for name in listed.channels]
    if as_json:
        terminal.dataclasses_as_json(found)
        return
    terminal.table(
        ("channel", "version", "since", "before", "held"),
        [
            (
                each.channel,
                each.version,
                f"{each.moved_at:%Y-%m-%d %H:%M}",
                each.previous or "–",
                "runs do not move it" if each.held else "–",
            )
            for each in found
        ],
        below=("held", "before"),
    )


@channel_app.command("set")
def set_(
    model: Annotated[str, typer.Argument(help="ORG/NAME.", show_default=False)],
    channel: Annotated[str, typer.Argument(help="Such as latest.", show_default=False)],
    version: Annotated[str, typer.Argument(help="A published version, as `onnx-fleet list` names it.")],
    hold: Annotated[bool, typer.Option("--hold", help="Runs do not move the channel until it is set again.")] = False,
    reason: MoveWhy = None,
    by: By = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would move, and move nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Move a channel to a published version: one that its gates held back, or an earlier one."""
    with opened_store(store) as opened:
        found = bundle.find(Ref(model_id=model, channel=None, version=version), store=opened)
        now = channels.find(opened, model, channels.checked_name(channel))
        findings = told(found.manifest.regression)
        if findings and found.manifest.regression:
            terminal.worse(f"{model}@{version}", found.manifest.regression.compared_with, findings)
        before = now.version if now else "nothing"
        move = f"{model}@{channel}: {before} -> {version}" + (", held there" if hold else "")
        if not (dry_run or yes):
            typer.confirm(f"{move}?", abort=True, err=True)
        if not dry_run:
            given = MoveReason(
                kind="set", by=Actor(kind="person", name=by or user()), why=reason or "no reason was given"
            )
            channels.move(
                opened,
                model,
                channel,
                version,
                reason=given,
                now=datetime.now(UTC),
                expected=now.version if now else None,
                held=hold,
            )
            feed.rebuild(opened, now=datetime.now(UTC))
        moved = channels.find(opened, model, channel)
    if as_json:
        terminal.as_json({"before": before, "moved": not dry_run, "channel": jsonio.to_json(moved) if moved else None})
    else:
        terminal.line(f"would move {move}" if dry_run else f"moved {move}")

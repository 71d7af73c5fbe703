"""The commands for channels: channel show, channel set."""

from __future__ import annotations

from typing import Annotated

import typer

from onnx_fleet.bundles import channels, listing
from onnx_fleet.cli import moves, terminal
from onnx_fleet.cli.options import By, DryRun, Hold, Json, MoveWhy, Store, Yes
from onnx_fleet.cli.settings import opened_store
from onnx_fleet.errors import BundleNotFound
from onnx_fleet.runs import channel_moves

channel_app = typer.Typer(help="Show or move channels, the named pointers to versions.", no_args_is_help=True)


@channel_app.command("show")
def show(
    model: Annotated[str, typer.Argument(help="ORG/NAME.", show_default=False)],
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Show where the channels of a model point, since when, and where they pointed before."""
    with opened_store(store) as opened:
        (listed,) = listing.list_models(opened, model_id=model) or (None,)
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
    hold: Hold = False,
    reason: MoveWhy = None,
    by: By = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Move a channel to a published version: one that its gates held back, or an earlier one.

    `onnx-fleet promote` does the same for many models, and `onnx-fleet rollback` goes back.
    """
    with opened_store(store) as opened:
        proposed = channel_moves.to_version(opened, model, channel, version, held=hold)
        done = moves.decide(opened, [proposed], reason=moves.given("set", reason, by), dry_run=dry_run, yes=yes)
    moves.show(done, dry_run=dry_run, as_json=as_json, one=True)

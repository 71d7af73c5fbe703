"""The command that clears a store of what killed writers left in it: sweep."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from onnx_fleet.cli import terminal
from onnx_fleet.cli.options import Json, Store
from onnx_fleet.cli.settings import opened_store
from onnx_fleet.formatting import human_bytes
from onnx_fleet.store import leftovers


def sweep(
    days: Annotated[
        int, typer.Option(min=1, help="Only those that were begun at least this many days ago.")
    ] = leftovers.DAYS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")] = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Remove what killed writers and failed runs have left: multipart uploads, unfinished files, stages of models."""
    take = leftovers.find if dry_run else leftovers.sweep
    with opened_store(store) as opened:
        found = take(opened, days=days, now=datetime.now(UTC))
    if as_json:
        terminal.dataclasses_as_json(found)
        return
    terminal.table(
        ("began", "object", "size", "name"),
        [
            (
                f"{left.began_at:%Y-%m-%d %H:%M}",
                left.key or "–",
                "–" if left.size_bytes is None else human_bytes(left.size_bytes),
                left.name,
            )
            for left in found
        ],
        numbers=("size",),
    )
    terminal.say(f"{'would remove' if dry_run else 'removed'} {len(found)}, begun {days} days ago or earlier")

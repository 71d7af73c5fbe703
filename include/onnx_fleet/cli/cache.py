"""The commands for the cache: cache list, cache clear."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from onnx_fleet.cli import terminal
from onnx_fleet.cli.options import Json, Store
from onnx_fleet.cli.settings import opened_store
from onnx_fleet.export.cache import Cache, CacheEntry
from onnx_fleet.formatting import human_bytes

cache_app = typer.Typer(
    help="List or clear the export cache, from which a model takes the graphs of one like it.", no_args_is_help=True
)


@cache_app.command("list")
def list_(store: Store = None, as_json: Json = False) -> None:
    """List the export cache of the store, oldest first."""
    with opened_store(store) as opened:
        found = Cache(store=opened).list()
    if as_json:
        terminal.dataclasses_as_json(found)
        return
    terminal.table(
        ("kind", "key", "kept since", "size"),
        [
            (
                entry.kind,
                entry.key[:12],
                f"{entry.created_at:%Y-%m-%d %H:%M}" if entry.created_at else "–",
                human_bytes(entry.size_bytes),
            )
            for entry in found
        ],
        numbers=("size",),
    )
    terminal.say(f"{len(found)} entries, {human_bytes(_size_bytes(found))}")


@cache_app.command("clear")
def clear(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")] = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Clear the export cache of the store. The next export of each kind traces again; bundles are not touched."""
    with opened_store(store) as opened:
        cache = Cache(store=opened)
        found = cache.list()
        if not dry_run:
            cache.clear()
    size = _size_bytes(found)
    if as_json:
        terminal.as_json({"entries": len(found), "size_bytes": size, "removed": not dry_run})
    else:
        terminal.line(f"{'would remove' if dry_run else 'removed'} {len(found)} entries, {human_bytes(size)}")


def _size_bytes(entries: Iterable[CacheEntry]) -> int:
    return sum(entry.size_bytes for entry in entries)

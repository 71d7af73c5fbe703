"""The commands for the graph cache: cache list, cache clear."""

from __future__ import annotations

from typing import Annotated

import typer

from onnx_fleet import graph_cache
from onnx_fleet.cli import show
from onnx_fleet.cli.options import Json, Store
from onnx_fleet.cli.settings import opened_store
from onnx_fleet.graph_cache import GraphCache
from onnx_fleet.report import human_bytes

cache_app = typer.Typer(
    help="Look at the graphs that are kept for the next model of the same kind.", no_args_is_help=True
)


@cache_app.command("list")
def list_(store: Store = None, as_json: Json = False) -> None:
    """The graphs in the store's cache, the oldest first."""
    with opened_store(store) as opened:
        found = GraphCache(store=opened).list()
    if as_json:
        show.dataclasses_as_json(found)
        return
    show.table(
        ("graph key", "kept since", "size"),
        [
            (
                entry.key[:12],
                f"{entry.created_at:%Y-%m-%d %H:%M}" if entry.created_at else "–",
                human_bytes(entry.size_bytes),
            )
            for entry in found
        ],
        numbers=("size",),
    )
    show.say(f"{len(found)} kept, {human_bytes(graph_cache.size_bytes(found))}")


@cache_app.command("clear")
def clear(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Remove every graph from the store's cache; the next export of each kind traces again. Bundles stay."""
    with opened_store(store) as opened:
        cache = GraphCache(store=opened)
        found = cache.list()
        if not dry_run:
            cache.clear()
    size = graph_cache.size_bytes(found)
    if as_json:
        show.as_json({"entries": len(found), "size_bytes": size, "removed": not dry_run})
    else:
        show.line(f"{'would remove' if dry_run else 'removed'} {len(found)} entries, {human_bytes(size)}")

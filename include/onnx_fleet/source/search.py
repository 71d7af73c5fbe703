"""A catalogue's searches of the Hub: what is asked for, and which of the models that are listed count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from onnx_fleet.entities.entry import Discover
from onnx_fleet.source import hub_pages
from onnx_fleet.source.hub_client import Hub
from onnx_fleet.source.hub_pages import Document, Page

_SORTED_BY: Final[Mapping[str, str]] = {
    "last_modified": "lastModified",
    "trending_score": "trendingScore",
    "created_at": "createdAt",
}
"""The Hub's names of what results are sorted by, where they are not a catalogue's."""


def search(discover: Discover, *, hub: Hub) -> tuple[str, ...]:
    """Return the repo ids that a catalogue's search finds now, in the Hub's order, at most ``discover.limit``.

    Raises:
        HubUnavailable, HubRateLimited, ModelGated: see Hub.calling.
    """
    first = address(discover, hub=hub)
    with hub.calling("search"):
        pages = hub_pages.walk(first, ask=partial(hub_pages.get, hub), take=partial(take, discover))
    return tuple(repo_id for page in pages for repo_id in page.ids)


def address(discover: Discover, *, hub: Hub, expand: Sequence[str] = ()) -> str:
    """Return the address of a search's first page.

    Args:
        expand: the fields that each document is to have beside its id and what the search itself needs.
    """
    tags = [*discover.tags, *([discover.library] if discover.library else [])]
    everything_counts = not discover.exclude and not discover.min_downloads
    parameters: dict[str, object] = {
        **({"filter": tags} if tags else {}),
        **({"author": discover.author} if discover.author else {}),
        **({"pipeline_tag": discover.task} if discover.task else {}),
        "sort": _SORTED_BY.get(discover.sort, discover.sort),
        **({"limit": discover.limit} if everything_counts else {}),
        "expand": [*expand, *(["downloads"] if discover.min_downloads else [])],
    }
    return hub_pages.address(hub, "models", parameters)


def take(discover: Discover, documents: Sequence[Document], before: Sequence[Page]) -> tuple[tuple[str, ...], bool]:
    """Return the ids of a page that count, and whether nothing behind them does; see hub_pages.Take."""
    room = discover.limit - sum(len(page.ids) for page in before)
    ids: list[str] = []
    for document in documents:
        repo_id = str(document["id"])
        too_few = discover.min_downloads > 0 and int(document["downloads"] or 0) < discover.min_downloads
        if too_few and discover.sort == "downloads":
            return tuple(ids), True  # the rest have fewer still
        if too_few or discover.excludes(repo_id):
            continue
        ids.append(repo_id)
        if len(ids) == room:
            return tuple(ids), True
    return tuple(ids), False

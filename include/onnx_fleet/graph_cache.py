"""The graph cache: weight-free graphs in the store, for the next model of the same key.

cache/graphs/<graph key>.zip    created once; what another worker put there first stands

An entry is never trusted: it is read whole and held to its digests, and what a bundle is made of it is validated like
any other. One that is damaged is removed, and the graphs are traced again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime

from onnx_fleet import layout, traced
from onnx_fleet.errors import BundleCorrupt, BundleNotFound, StoreDenied
from onnx_fleet.store import ObjectStore

log = logging.getLogger(__name__)

LIMIT_BYTES = 1 << 30
"""Some thousand architectures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedGraphs:
    """One entry, as `onnx-fleet cache list` shows it."""

    key: str
    size_bytes: int
    created_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphCache:
    """The graph cache of one store; any number of workers may use it at once.

    Every method raises what the store raises where it cannot be reached; that it may not be written is no error.
    """

    store: ObjectStore
    limit_bytes: int = LIMIT_BYTES
    """Beyond it the oldest entries go; 0 turns the cache off."""

    def get(self, key: str) -> bytes | None:
        """The archive of a key, held to its digests; None where there is none that is whole."""
        if not self.limit_bytes:
            return None
        place = layout.graph_cache_key(key)
        try:
            archive = self.store.read(place)
        except BundleNotFound:
            return None
        try:
            traced.require_whole(archive)
        except BundleCorrupt as err:
            log.warning("%s/%s is damaged and is removed: %s", self.store.address, place, err)
            self._delete(place)
            return None
        return archive

    def put(self, key: str, archive: bytes) -> None:
        """Keep an archive, unless another worker's stands there; then let the oldest go until the limit is met."""
        if len(archive) > self.limit_bytes:
            return
        try:
            self.store.create(layout.graph_cache_key(key), archive)
        except StoreDenied as err:
            log.warning("the graphs are not kept for the next model: %s", err)
            return
        entries = self.list()
        excess = sum(entry.size_bytes for entry in entries) - self.limit_bytes
        for entry in entries:
            if excess <= 0:
                break
            self._delete(layout.graph_cache_key(entry.key))
            excess -= entry.size_bytes

    def list(self) -> tuple[CachedGraphs, ...]:
        """Every entry, the oldest first."""
        found = [
            CachedGraphs(key=match[1], size_bytes=info.size_bytes, created_at=info.modified_at)
            for info in self.store.list(layout.GRAPH_CACHE)
            if (match := layout.GRAPH_CACHE_KEY.fullmatch(info.key))
        ]
        return tuple(sorted(found, key=lambda entry: (entry.created_at is not None, entry.created_at, entry.key)))

    def clear(self) -> None:
        """Remove every entry; a worker that has read one goes on with it."""
        for info in list(self.store.list(layout.GRAPH_CACHE)):
            self.store.delete(info.key)

    def _delete(self, place: str) -> None:
        try:
            self.store.delete(place)
        except StoreDenied as err:
            log.warning("%s/%s cannot be removed: %s", self.store.address, place, err)


def size_bytes(entries: tuple[CachedGraphs, ...]) -> int:
    """Of all entries together."""
    return sum(entry.size_bytes for entry in entries)

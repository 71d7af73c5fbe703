"""The cache: what one export found out and the next one of the same kind can take, in the store.

cache/graphs/<key>.zip        graphs without weights
cache/tokenizers/<key>.zip    what a tokenizer's files lacked, and the proof that it is the source's

An entry is created once; what another worker put there first stands. It is never trusted: it is read whole and held
to its digests, and a bundle that is made with it is validated like any other. One that is damaged is removed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from onnx_fleet.errors import BundleCorrupt, BundleNotFound, StoreDenied
from onnx_fleet.store import ObjectStore, archive, layout

log = logging.getLogger(__name__)

Kind = Literal["graphs", "tokenizers"]

LIMIT_BYTES = 1 << 30
"""The default size limit, which holds some ten thousand architectures."""

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """One entry, as `onnx-fleet cache list` shows it."""

    kind: str
    key: str
    size_bytes: int
    created_at: datetime | None
    """The time at which the entry was written; None where the store does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """The cache of one store; any number of workers may use it at once.

    Every method raises what the store raises where it cannot be reached; a store that may not be written is no error.
    """

    store: ObjectStore
    limit_bytes: int = LIMIT_BYTES
    """The size limit in bytes, beyond which the oldest entries are removed; 0 turns the cache off."""

    def get(self, kind: Kind, key: str) -> bytes | None:
        """Return the archive of a key, held to its digests; None where there is no whole one."""
        if not self.limit_bytes:
            return None
        place = layout.cache_key(kind, key)
        try:
            found = self.store.read(place)
        except BundleNotFound:
            return None
        try:
            archive.unpack(found)
        except BundleCorrupt as err:
            log.warning("%s/%s is damaged and was removed: %s", self.store.address, place, err)
            self.remove(kind, key)
            return None
        return found

    def put(self, kind: Kind, key: str, data: bytes) -> None:
        """Keep an archive, unless another worker's stands there; then remove the oldest until the limit is met."""
        if len(data) > self.limit_bytes:
            return
        try:
            self.store.create(layout.cache_key(kind, key), data)
        except StoreDenied as err:
            log.warning("the export cache was not written: %s", err)
            return
        entries = self.list()
        excess = sum(entry.size_bytes for entry in entries) - self.limit_bytes
        for entry in entries:
            if excess <= 0:
                break
            self._delete(layout.cache_key(entry.kind, entry.key))
            excess -= entry.size_bytes

    def remove(self, kind: Kind, key: str) -> None:
        """Remove one entry; does nothing where there is none."""
        self._delete(layout.cache_key(kind, key))

    def list(self) -> tuple[CacheEntry, ...]:
        """Return every entry, the oldest first."""
        found = [
            CacheEntry(kind=match[1], key=match[2], size_bytes=info.size_bytes, created_at=info.modified_at)
            for info in self.store.list(layout.CACHE)
            if (match := layout.CACHE_KEY.fullmatch(info.key))
        ]
        return tuple(sorted(found, key=lambda entry: (entry.created_at or _EPOCH, entry.kind, entry.key)))

    def clear(self) -> None:
        """Remove every entry; a worker that has read one goes on with it."""
        for info in list(self.store.list(layout.CACHE)):
            self.store.delete(info.key)

    def _delete(self, place: str) -> None:
        try:
            self.store.delete(place)
        except StoreDenied as err:
            log.warning("%s/%s cannot be removed: %s", self.store.address, place, err)

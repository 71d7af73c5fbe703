"""Removal of one version: marked, asked about once more, decided, and then cleared away.

A version is gone in one step, when its tombstone says ``deleted``. What lies in the store of it goes afterwards, the
manifest first; whoever is killed there leaves something that the next removal clears away, whichever process makes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from onnx_fleet.bundles import events, fleet_event, tombstones
from onnx_fleet.bundles.tombstones import Tombstone
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.errors import BundleNotFound, StoreDenied, VersionConflict
from onnx_fleet.store import ObjectStore, layout, transfer

CLAIMED: Final = "another writer needs it at this moment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What became of a version that was to be removed."""

    model_id: str
    version: str
    why_not: str = ""
    """Why it stays; empty where it is gone."""
    objects: int = 0
    """The number of objects that were removed."""
    size_bytes: int = 0
    refused: tuple[str, ...] = ()
    """What the store did not let us remove, with the reason; the version is gone for readers all the same."""


def remove(
    store: ObjectStore,
    model_id: str,
    version: str,
    *,
    keeper: Callable[[], str | None],
    by: Actor,
    why: str,
    now: datetime,
) -> Removed:
    """Remove a version, or the remains of one that was never published; go on where an earlier removal was killed.

    Args:
        keeper: says why it has to stay, as things are now; None where nothing keeps it. It is asked behind the mark.
        why: the reason, for those who look for the version later.
    Raises:
        StoreUnavailable, StoreDenied: the store cannot be asked, or may not be written.
        VersionConflict: other writers keep changing the tombstone.
    """
    manifest = _manifest(store, model_id, version)
    standing, etag = tombstones.mark(
        store,
        model_id,
        version,
        manifest=_document(manifest),
        manifest_sha256=transfer.sha256_of(manifest) if manifest else None,
        by=by,
        why=why,
        now=now,
    )
    if standing.state != "deleted":
        kept = keeper()
        decided = _decide(store, standing, etag=etag, kept=kept)
        if decided is None:
            return Removed(model_id=model_id, version=version, why_not=kept or CLAIMED)
        standing = decided
    return clear(store, standing)


def clear(store: ObjectStore, deleted: Tombstone) -> Removed:
    """Remove what the store holds of a version that is gone, its manifest first.

    Its event comes before that: whoever is killed in between has left something, so that it is told once more.
    """
    model_id, version = deleted.model_id, deleted.version
    bundle, unfinished = layout.bundle_prefix(model_id, version), layout.unfinished_prefix(model_id, version)
    infos = [*store.list(bundle), *store.list(unfinished)]
    manifest_key = layout.manifest_key(model_id, version)
    if deleted.manifest_sha256 and infos:
        told = fleet_event.of_deletion(
            model_id,
            version,
            manifest_sha256=deleted.manifest_sha256,
            by=deleted.by,
            why=deleted.why,
            now=deleted.at,
        )
        events.append(store, told)
    infos.sort(key=lambda info: info.key != manifest_key)
    refused: list[str] = []
    objects = size_bytes = 0
    for info in infos:
        try:
            store.delete(info.key)
        except StoreDenied as err:  # a retention or a legal hold of this object: the others go
            refused.append(str(err))
        else:
            objects, size_bytes = objects + 1, size_bytes + info.size_bytes
    return Removed(model_id=model_id, version=version, objects=objects, size_bytes=size_bytes, refused=tuple(refused))


def _decide(store: ObjectStore, marked: Tombstone, *, etag: str, kept: str | None) -> Tombstone | None:
    """Withdraw a mark, or make it final; returns the tombstone of a version that is gone, and None of one that stays.

    Where another process decided first, its decision holds. The swap is held against the very mark behind which it was
    asked what keeps the version.
    """
    wanted = replace(marked, state="withdrawn" if kept else "deleted")
    try:
        tombstones.put(store, wanted, etag=etag)
    except VersionConflict:
        return tombstones.find(store, marked.model_id, marked.version)
    return None if kept else wanted


def _manifest(store: ObjectStore, model_id: str, version: str) -> bytes | None:
    try:
        return store.read(layout.manifest_key(model_id, version))
    except BundleNotFound:
        return None


def _document(manifest: bytes | None) -> dict[str, Any] | None:
    found: dict[str, Any] | None = json.loads(manifest) if manifest else None
    return found

"""Tombstones: what stays of a version that was removed, and the mark by which its removal begins.

deleted/<org>/<name>/<version>.json    the manifest that stood there; who removed the version, when and why

A mark is only a proposal: whoever needs the version withdraws it. ``deleted`` is final, and comes before anything is
removed: from then on the version counts as gone for every reader, and no bundle is published under its name again. All
states follow each other by compare-and-swap. docs/decisions/retention.md says why that is safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from pydantic import AwareDatetime, ConfigDict, ValidationError

from onnx_fleet import jsonio
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.errors import BundleCorrupt, BundleDeleted, BundleNotFound, VersionConflict
from onnx_fleet.store import ObjectStore, layout, swaps


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A version whose removal has begun, or took place."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    model_id: str
    version: str
    state: Literal["marked", "withdrawn", "deleted"]
    """``marked``: it may be removed; ``withdrawn``: it stays, since somebody needs it; ``deleted``: it is gone."""
    mark: int = 1
    """How many times the version was marked: so no two states of a tombstone are the same bytes."""
    at: AwareDatetime
    """The time of the mark."""
    by: Actor
    why: str
    manifest_sha256: str | None
    """The SHA-256 of the manifest; None where the version was never published, and only the remains of it went."""
    manifest: Mapping[str, Any] | None
    """The manifest's document; None likewise."""

    def __str__(self) -> str:
        return f"was deleted at {self.at:%Y-%m-%d %H:%M} UTC by {self.by}: {self.why}"


def find(store: ObjectStore, model_id: str, version: str) -> Tombstone | None:
    """Return the tombstone of a version that is gone; None where it is not.

    Raises:
        BundleCorrupt: there is a document that is no tombstone.
    """
    found = read(store, model_id, version)[0]
    return found if found is not None and found.state == "deleted" else None


def read(store: ObjectStore, model_id: str, version: str) -> tuple[Tombstone | None, str | None]:
    """Return a tombstone in any state, and its tag; None where there is none.

    Raises:
        BundleCorrupt: there is a document that is no tombstone.
    """
    key = layout.deleted_key(model_id, version)
    try:
        data, etag = store.read_tagged(key)
    except BundleNotFound:
        return None, None
    try:
        return jsonio.adapter(Tombstone).validate_json(data, strict=True), etag
    except ValidationError as err:
        raise BundleCorrupt(
            f"{store.address}/{key}: is not a tombstone that this onnx-fleet can read; upgrade it if a newer one wrote"
            " that, otherwise restore it from a copy of the store"
        ) from err


def noted(store: ObjectStore, *, model_id: str | None = None) -> frozenset[tuple[str, str]]:
    """Return the model ids and versions that have a tombstone, in whatever state: of one model, or of all."""
    keys = (layout.DELETED_KEY.fullmatch(info.key) for info in store.list(layout.deleted_prefix(model_id)))
    return frozenset((match[1], match[2]) for match in keys if match)


def error(store: ObjectStore, found: Tombstone) -> BundleDeleted:
    """Return the error of whoever asks for a version that is gone."""
    kept = f"; its manifest is kept in {store.address}/{layout.deleted_key(found.model_id, found.version)}"
    return BundleDeleted(
        f"{found.model_id}@{found.version}: {found}{kept if found.manifest else ''};"
        f" `onnx-fleet list {found.model_id}` shows what is there"
    )


def claim(store: ObjectStore, model_id: str, version: str) -> None:
    """Let a version stay that a writer needs: a mark is withdrawn.

    A writer calls it when what needs the version stands in the store already, where whoever marks it later sees it.

    Raises:
        BundleDeleted: the version is gone.
        VersionConflict: other writers keep changing the tombstone.
    """

    def claimed() -> None:
        standing, etag = read(store, model_id, version)
        if standing is None or standing.state == "withdrawn":
            return
        if standing.state == "deleted":
            raise error(store, standing)
        put(store, replace(standing, state="withdrawn"), etag=etag)

    swaps.repeated(claimed)


def mark(
    store: ObjectStore,
    model_id: str,
    version: str,
    *,
    manifest: Mapping[str, Any] | None,
    manifest_sha256: str | None,
    by: Actor,
    why: str,
    now: datetime,
) -> tuple[Tombstone, str]:
    """Mark a version, or take over the mark that stands; returns the tombstone, which may be ``deleted``, and its tag.

    Args:
        manifest: the document of its manifest; None where it was never published.
    Raises:
        VersionConflict: other writers keep changing the tombstone.
    """

    def marked() -> tuple[Tombstone, str]:
        standing, etag = read(store, model_id, version)
        is_of_less = standing is not None and standing.state == "marked" and not standing.manifest and manifest
        if standing is None or standing.state == "withdrawn" or is_of_less:
            wanted = Tombstone(
                model_id=model_id,
                version=version,
                state="marked",
                mark=standing.mark + 1 if standing else 1,
                at=now.astimezone(UTC).replace(microsecond=0),
                by=by,
                why=why,
                manifest_sha256=manifest_sha256,
                manifest=manifest,
            )
            put(store, wanted, etag=etag)
            standing, etag = read(store, model_id, version)
        if standing is None or etag is None or standing.state == "withdrawn":
            raise VersionConflict(f"{store.address}/{layout.deleted_key(model_id, version)}: another writer changed it")
        return standing, etag

    return swaps.repeated(marked)


def put(store: ObjectStore, tombstone: Tombstone, *, etag: str | None) -> None:
    """Put a tombstone where the one with this tag is; None says that there is none.

    Raises:
        VersionConflict: another writer came between.
    """
    key = layout.deleted_key(tombstone.model_id, tombstone.version)
    store.replace(key, jsonio.canonical(jsonio.to_json(tombstone)), etag=etag)

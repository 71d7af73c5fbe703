"""What happens to bundles and channels, as events that others can take: documents of CloudEvents 1.0.

The id of an event is made of what happened, so that whoever tells it, and however often, tells the same event.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import quote

from pydantic import AwareDatetime, StringConstraints, ValidationError

from onnx_fleet import jsonio
from onnx_fleet.bundles.channel_history import Row
from onnx_fleet.bundles.channels import Channel
from onnx_fleet.bundles.manifest import Manifest
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.jsonio import Json
from onnx_fleet.store import layout

EventKind = Literal["published", "held", "promoted", "rolled_back", "demoted", "deleted", "failed"]
"""What happened.

``published``: a version stands, and ``channel`` moved to it, if there is one; ``held``: ``channel`` did not follow a
version that was published; ``promoted``: a person, a run or a rollout moved ``channel`` to a version; ``rolled_back``:
a person or a rollout moved it back; ``demoted``: an audit did; ``deleted``: the bundle is removed; ``failed``: a run
could not make the model.
"""

_OF_MOVES: Final[Mapping[str, EventKind]] = {
    "repointed": "promoted",
    "set": "promoted",
    "promoted": "promoted",
    "restored": "promoted",
    "rolled_back": "rolled_back",
    "taken_back": "rolled_back",
    "demoted": "demoted",
}
"""By the kinds of the rows of histories; what was ``published`` and ``held_back`` is told by the publication itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetEvent:
    """Something that happened to a bundle or a channel."""

    id: str
    """The same for the same happening, whoever tells it and how often."""
    kind: EventKind
    at: AwareDatetime
    """The time by the clock of who did it; what a channel points to now is told by the channel and not by this."""
    model_id: str
    version: str | None
    """The version that it is about, to which a channel moved; of a model that failed, the one that it would have had,
    and None where it was not resolved."""
    channel: str | None = None
    """The channel that moved; of ``held``, the one that did not. None where no channel took part."""
    from_version: str | None = None
    """The version that the channel pointed to before; of ``held``, the one that it stays at."""
    by: Actor | None = None
    why: str = ""
    row: str | None = None
    """The name of the row of the channel's history that tells the same: its number says which of two moves is later."""
    path: str | None = None
    """The path of a bundle's folder that was published, relative to the store."""
    manifest_sha256: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """An event in the JSON format of CloudEvents 1.0, as it lies in a store."""

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    """The address of the store."""
    type: Annotated[
        str, StringConstraints(pattern=r"^onnx-fleet\.(published|held|promoted|rolled_back|demoted|deleted|failed)$")
    ]
    subject: str
    """The bundle, ``acme/tiny@0123abcd-4567ef01``; the model's id where there is no version."""
    time: AwareDatetime
    datacontenttype: Literal["application/json"] = "application/json"
    data: FleetEvent


def to_cloudevent(event: FleetEvent, *, source: str) -> Json:
    """Return an event in the JSON format of CloudEvents 1.0.

    Args:
        source: the address of the store.
    """
    return jsonio.to_json(
        CloudEvent(
            id=event.id,
            source=quote(source, safe=":/") if "://" in source else Path(source).as_uri(),
            type=f"onnx-fleet.{event.kind}",
            subject=f"{event.model_id}@{event.version}" if event.version else event.model_id,
            time=event.at,
            data=event,
        )
    )


def parse(data: bytes) -> FleetEvent | None:
    """Return the event in a document of a store; None where it is not one that this onnx-fleet can read."""
    try:
        return jsonio.adapter(CloudEvent).validate_json(data, strict=True).data
    except ValidationError:
        return _parse_first(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FirstPublished:
    """A publication, as it was told before there were other events."""

    schema_version: Literal[1]
    id: str
    at: AwareDatetime
    kind: Literal["published"]
    model_id: str
    version: str
    channel: str | None
    path: str
    manifest_sha256: str
    size_bytes: int


def _parse_first(data: bytes) -> FleetEvent | None:
    try:
        told = jsonio.adapter(_FirstPublished).validate_json(data, strict=True)
    except ValidationError:
        return None
    return FleetEvent(
        id=told.id,
        kind=told.kind,
        at=told.at,
        model_id=told.model_id,
        version=told.version,
        channel=told.channel,
        path=told.path,
        manifest_sha256=told.manifest_sha256,
        size_bytes=told.size_bytes,
    )


def of_publication(
    stands: Manifest, pointer: Channel, *, manifest_sha256: str, by: Actor, why: str, now: datetime
) -> FleetEvent:
    """Return the event of a bundle that was published.

    Args:
        pointer: the channel that the publication was to move, as it stands afterwards.
    """
    info = stands.bundle
    moved = pointer.version == info.version
    return FleetEvent(
        id=_id(f"{info.model_id}@{info.version}#{pointer.channel}:{manifest_sha256}"),
        kind="published",
        at=_seconds(now),
        model_id=info.model_id,
        version=info.version,
        channel=pointer.channel if moved else None,
        from_version=pointer.previous if moved else None,
        by=by,
        why=why,
        row=pointer.row if moved else None,
        path=layout.bundle_prefix(info.model_id, info.version),
        manifest_sha256=manifest_sha256,
        size_bytes=stands.size_bytes,
    )


def of_held_version(
    stands: Manifest, pointer: Channel, *, manifest_sha256: str, by: Actor, why: str, now: datetime
) -> FleetEvent:
    """Return the event of a bundle that was published, and that a channel did not follow.

    Args:
        pointer: the channel, which points to another version.
    """
    info = stands.bundle
    return FleetEvent(
        id=_id(f"held {info.model_id}@{info.version}#{pointer.channel}:{manifest_sha256}"),
        kind="held",
        at=_seconds(now),
        model_id=info.model_id,
        version=info.version,
        channel=pointer.channel,
        from_version=pointer.version,
        by=by,
        why=why,
        manifest_sha256=manifest_sha256,
    )


def of_move(row: Row) -> FleetEvent | None:
    """Return the event of a move that took place.

    Returns:
        None of a row that a publication tells, and of one that leaves the channel at its version and says only whether
        it is held there.
    """
    kind = _OF_MOVES.get(row.kind)
    if kind is None or row.from_version == row.to_version:
        return None
    return FleetEvent(
        id=_id(f"{row.model_id}@{row.channel}/{row.name}"),
        kind=kind,
        at=row.at,
        model_id=row.model_id,
        version=row.to_version,
        channel=row.channel,
        from_version=row.from_version,
        by=row.by,
        why=row.why,
        row=row.name,
    )


def of_deletion(model_id: str, version: str, *, manifest_sha256: str, by: Actor, why: str, now: datetime) -> FleetEvent:
    """Return the event of a bundle that was removed.

    Args:
        manifest_sha256: the digest of the manifest that stood there.
    """
    return FleetEvent(
        id=_id(f"deleted {model_id}@{version}:{manifest_sha256}"),
        kind="deleted",
        at=_seconds(now),
        model_id=model_id,
        version=version,
        by=by,
        why=why,
        manifest_sha256=manifest_sha256,
    )


def of_failure(model_id: str, version: str | None, *, by: Actor, why: str, now: datetime) -> FleetEvent:
    """Return the event of a model that a run could not make: one for each model and run.

    Args:
        by: the run, by the name that its report has.
    """
    return FleetEvent(
        id=_id(f"failed {model_id} in {by.name}"),
        kind="failed",
        at=_seconds(now),
        model_id=model_id,
        version=version,
        by=by,
        why=why,
    )


def _id(happening: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, happening).hex


def _seconds(now: datetime) -> datetime:
    return now.astimezone(UTC).replace(microsecond=0)

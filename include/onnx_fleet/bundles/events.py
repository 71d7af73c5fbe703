"""The feed's events: a publication, as it happened.

feed/events/<yyyy>/<mm>/<dd>/<id>.json   one per publication, never changed

A publication that was killed and finished by a later run may be told twice, under two days, with the same id: readers
of the events go by the id.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime

from onnx_fleet import jsonio
from onnx_fleet.bundles.manifest import Manifest
from onnx_fleet.store import ObjectStore, layout


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedEvent:
    """A publication, as it happened."""

    schema_version: Literal[1] = 1
    id: str
    at: AwareDatetime
    kind: Literal["published"]
    model_id: str
    version: str
    channel: str | None
    """The channel that the publication moved; None where its gates kept the channel where it was."""
    path: str
    manifest_sha256: str
    size_bytes: int


def append(
    store: ObjectStore, published: Manifest, *, manifest_sha256: str, channel: str, held: bool, now: datetime
) -> FeedEvent:
    """Keep that a bundle was published.

    One publication has one id, so telling it twice on a day leaves one event.

    Args:
        channel: the channel that the publication was to move.
        held: whether its gates kept the channel where it was.
    """
    info, at = published.bundle, now.astimezone(UTC).replace(microsecond=0)
    identity = f"{info.model_id}@{info.version}#{channel}:{manifest_sha256}"
    event = FeedEvent(
        id=uuid.uuid5(uuid.NAMESPACE_URL, identity).hex,
        at=at,
        kind="published",
        model_id=info.model_id,
        version=info.version,
        channel=None if held else channel,
        path=layout.bundle_prefix(info.model_id, info.version),
        manifest_sha256=manifest_sha256,
        size_bytes=published.size_bytes,
    )
    store.create(f"feed/events/{at:%Y/%m/%d}/{event.id}.json", jsonio.canonical(jsonio.to_json(event)))
    return event

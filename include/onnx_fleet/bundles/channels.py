"""Channels: named pointers to a version of a model, moved by compare-and-swap, each with a history of its moves."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Final, Literal, Never

from pydantic import AwareDatetime, ConfigDict, ValidationError

from onnx_fleet import jsonio
from onnx_fleet.bundles import channel_history, tombstones
from onnx_fleet.bundles.channel_history import History, Row, RowName
from onnx_fleet.entities.channel_move import Actor, MoveReason
from onnx_fleet.errors import BundleCorrupt, BundleNotFound, VersionConflict
from onnx_fleet.store import ObjectStore, layout, swaps

NOTHING: Final = "nothing"
"""What a channel points to that is not there."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_VERSION = re.compile(r"[0-9a-f]{8}-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A channel, and the version that it points to."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1, 2] = 2
    """1: a document without ``row``, of a channel that was last moved before there were histories."""
    model_id: str
    channel: str
    version: str
    previous: str | None
    """The version that it pointed to before."""
    moved_at: AwareDatetime
    held: bool = False
    """Whether a person holds the channel where it is: runs leave it alone, and only move() moves it."""
    row: RowName | None = None
    """The name of the row of its history that is about this very state."""


def is_name(text: str) -> bool:
    """Say whether a channel can have this name; a version's name cannot be one, because a ref could mean either."""
    return bool(_NAME.fullmatch(text)) and not _VERSION.fullmatch(text)


def checked_name(channel: str) -> str:
    """Return the name itself, when a channel can have it.

    Raises:
        BundleNotFound: a channel cannot have the name.
    """
    if not is_name(channel):
        raise BundleNotFound(
            f"{channel!r}: is not a valid channel name; use lower-case letters, digits, '-' and '_', as in latest"
        )
    return channel


def key_of(model_id: str, channel: str) -> str:
    """Return the key of the channel's document."""
    return layout.channel_key(model_id, checked_name(channel))


def parse(data: bytes, *, where: str) -> Channel:
    """Parse a channel's document.

    Raises:
        BundleCorrupt: it is not such a document.
    """
    try:
        return jsonio.adapter(Channel).validate_json(data, strict=True)
    except ValidationError as err:
        raise BundleCorrupt(
            f"{where}: is not a channel document that this onnx-fleet can read; upgrade it if a newer one wrote that,"
            " otherwise delete it and publish the model again"
        ) from err


def find(store: ObjectStore, model_id: str, channel: str) -> Channel | None:
    """Return where a channel points; None where there is no such channel."""
    return _read(store, model_id, channel)[0]


def read(store: ObjectStore, model_id: str, channel: str) -> Channel:
    """Return where a channel points.

    Raises:
        BundleNotFound: there is no such model or channel.
    """
    return find(store, model_id, channel) or _absent(store, model_id, channel)


def _absent(store: ObjectStore, model_id: str, channel: str) -> Never:
    raise BundleNotFound(
        f"{model_id}@{channel}: {store.address} has no such channel; `onnx-fleet list` shows what is there"
    )


def history(store: ObjectStore, model_id: str, channel: str) -> History:
    """Return every move of a channel, in the order of the swaps, and the versions that it did not follow.

    Raises:
        BundleNotFound: there is no such model or channel, and there was none.
    """
    found = find(store, model_id, channel)
    past = channel_history.read(store, model_id, channel, last=found.row if found else None)
    return past if found or past.rows else _absent(store, model_id, channel)


def move(
    store: ObjectStore,
    model_id: str,
    channel: str,
    version: str,
    *,
    reason: MoveReason,
    now: datetime,
    expected: str | None = None,
    held: bool = False,
) -> Channel:
    """Point a channel at a published version.

    Args:
        reason: who moves it and why, for its history.
        expected: the version that it must point to now, or NOTHING; None takes whatever it points to.
        held: whether runs leave it there from now on.

    Raises:
        BundleNotFound: the version is not published; BundleDeleted where it was.
        VersionConflict: it does not point to the expected version, or was moved by another writer meanwhile.
    """
    current, etag = _read(store, model_id, channel)
    points_to = current.version if current else NOTHING
    if expected not in (None, points_to):
        raise VersionConflict(
            f"{model_id}@{channel}: points to {points_to}, not to {expected};"
            " run `onnx-fleet channel show` and decide again"
        )
    if current is not None and (current.version, current.held) == (version, held):
        return current
    row = _row(store, model_id, channel, version, current=current, reason=reason, now=now, held=held)
    return _swap(store, row, current=current, etag=etag)


def ensure(
    store: ObjectStore,
    model_id: str,
    channel: str,
    version: str,
    *,
    reason: MoveReason,
    now: datetime,
    stay: bool = False,
) -> Channel:
    """Have a channel point at a published version, unless a person holds it; does nothing where it does.

    A run calls it for what it published and for what it found unchanged: so a crash between the manifest and the
    channel heals.

    Args:
        reason: who moves it and why, for its history.
        stay: leave it where it points, wherever that is; one that is not there yet is made all the same.

    Raises:
        BundleNotFound: the version is not published; BundleDeleted where it was.
        VersionConflict: other writers keep moving it.
    """

    def pointed() -> Channel:
        current, etag = _read(store, model_id, channel)
        if current is not None and (stay or current.held or current.version == version):
            return current
        row = _row(store, model_id, channel, version, current=current, reason=reason, now=now, held=False)
        return _swap(store, row, current=current, etag=etag)

    return swaps.repeated(pointed)


def keep_back(store: ObjectStore, standing: Channel, version: str, *, by: Actor, why: str, now: datetime) -> None:
    """Keep in the history of a channel that it did not follow a version that was published; the first time counts.

    Args:
        standing: where the channel points instead.
    """
    row = Row(
        model_id=standing.model_id,
        channel=standing.channel,
        number=channel_history.number_of(standing.row) if standing.row else 0,
        before=standing.row,
        kind="held_back",
        from_version=standing.version,
        to_version=version,
        held=standing.held,
        by=by,
        why=why,
        at=now.astimezone(UTC).replace(microsecond=0),
    )
    channel_history.append(store, row)


def _row(
    store: ObjectStore,
    model_id: str,
    channel: str,
    version: str,
    *,
    current: Channel | None,
    reason: MoveReason,
    now: datetime,
    held: bool,
) -> Row:
    last = current.row if current else None
    return Row(
        model_id=model_id,
        channel=channel,
        number=channel_history.next_number(store, model_id, channel, last=last),
        before=last,
        kind=reason.kind,
        from_version=current.version if current else None,
        to_version=version,
        held=held,
        by=reason.by,
        why=reason.why,
        at=now.astimezone(UTC).replace(microsecond=0),
    )


def _read(store: ObjectStore, model_id: str, channel: str) -> tuple[Channel | None, str | None]:
    key = key_of(model_id, channel)
    try:
        data, etag = store.read_tagged(key)
    except BundleNotFound:
        return None, None
    return parse(data, where=f"{store.address}/{key}"), etag


def _swap(store: ObjectStore, row: Row, *, current: Channel | None, etag: str | None) -> Channel:
    """Put the row, then the pointer where the one with this etag is, so that what was decided on it still holds.

    The row says what is intended: the version is claimed behind it, so that whoever removes versions either sees the
    row, or is seen here.
    """
    if store.stat(layout.manifest_key(row.model_id, row.to_version)) is None:
        tombstones.claim(store, row.model_id, row.to_version)  # says that it was deleted, where it was
        raise BundleNotFound(
            f"{row.model_id}@{row.to_version}: {store.address} has no such version to point {row.channel!r} to;"
            " publish it first"
        )
    named = channel_history.append(store, row)
    tombstones.claim(store, row.model_id, row.to_version)
    moved = Channel(
        model_id=row.model_id,
        channel=row.channel,
        version=row.to_version,
        previous=_previous(current, row.to_version),
        moved_at=row.at,
        held=row.held,
        row=named,
    )
    try:
        store.replace(key_of(row.model_id, row.channel), jsonio.canonical(jsonio.to_json(moved)), etag=etag)
    except VersionConflict:
        if not _took_place(store, row):
            raise
    return moved


def _took_place(store: ObjectStore, row: Row) -> bool:
    """Say whether a swap took place whose answer said otherwise: that of a request that was sent again may."""
    found = find(store, row.model_id, row.channel)
    name = found.row if found else None
    while name and channel_history.number_of(name) > row.number:
        name = channel_history.read_row(store, row.model_id, row.channel, name).before
    return name == row.name


def _previous(current: Channel | None, version: str) -> str | None:
    if current is None:
        return None
    return current.previous if current.version == version else current.version

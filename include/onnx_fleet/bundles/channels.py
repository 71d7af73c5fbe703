"""Channels: named pointers to a version of a model, moved by compare-and-swap."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Literal

from pydantic import AwareDatetime, ConfigDict, ValidationError

from onnx_fleet import jsonio
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.errors import BundleCorrupt, BundleNotFound, VersionConflict
from onnx_fleet.store import ObjectStore, layout, swaps

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_VERSION = re.compile(r"[0-9a-f]{8}-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A channel, and the version that it points to."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    model_id: str
    channel: str
    version: str
    previous: str | None
    """The version that it pointed to before."""
    moved_at: AwareDatetime
    held: bool = False
    """Whether a person holds the channel where it is: runs leave it alone, and only move() moves it."""


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
        raise BundleCorrupt(f"{where}: is not a channel document; delete it and publish the model again") from err


def find(store: ObjectStore, model_id: str, channel: str) -> Channel | None:
    """Return where a channel points; None where there is no such channel."""
    return _read(store, model_id, channel)[0]


def read(store: ObjectStore, model_id: str, channel: str) -> Channel:
    """Return where a channel points.

    Raises:
        BundleNotFound: there is no such model or channel.
    """
    found, _etag = _read(store, model_id, channel)
    if found is None:
        raise BundleNotFound(
            f"{model_id}@{channel}: {store.address} has no such channel; `onnx-fleet list` shows what is there"
        )
    return found


def move(
    store: ObjectStore,
    model_id: str,
    channel: str,
    version: str,
    *,
    now: datetime,
    expected: str | None = None,
    held: bool = False,
) -> Channel:
    """Point a channel at a published version.

    Args:
        expected: the version that it must point to now; None takes whatever it points to.
        held: whether runs leave it there from now on.

    Raises:
        BundleNotFound: the version is not published.
        VersionConflict: it does not point to the expected version, or was moved by another writer meanwhile.
    """
    current, etag = _read(store, model_id, channel)
    if expected is not None and (current is None or current.version != expected):
        raise VersionConflict(
            f"{model_id}@{channel}: points to {current.version if current else 'nothing'}, not to {expected};"
            " run `onnx-fleet channel show` and decide again"
        )
    if current is not None and (current.version, current.held) == (version, held):
        return current
    wanted = _pointing(model_id, channel, version, current=current, now=now, held=held)
    _swap(store, wanted, etag=etag)
    return wanted


def ensure(
    store: ObjectStore, model_id: str, channel: str, version: str, *, now: datetime, stay: bool = False
) -> Channel:
    """Have a channel point at a published version, unless a person holds it; does nothing where it does.

    A run calls it for what it published and for what it found unchanged: so a crash between the manifest and the
    channel heals.

    Args:
        stay: leave it where it points, wherever that is; one that is not there yet is made all the same.

    Raises:
        BundleNotFound: the version is not published.
        VersionConflict: other writers keep moving it.
    """

    def pointed() -> Channel:
        current, etag = _read(store, model_id, channel)
        if current is not None and (stay or current.held or current.version == version):
            return current
        wanted = _pointing(model_id, channel, version, current=current, now=now, held=False)
        _swap(store, wanted, etag=etag)
        return wanted

    return swaps.repeated(pointed)


def _pointing(
    model_id: str, channel: str, version: str, *, current: Channel | None, now: datetime, held: bool
) -> Channel:
    return Channel(
        model_id=model_id,
        channel=channel,
        version=version,
        previous=_previous(current, version),
        moved_at=now.astimezone(UTC).replace(microsecond=0),
        held=held,
    )


def _read(store: ObjectStore, model_id: str, channel: str) -> tuple[Channel | None, str | None]:
    key = key_of(model_id, channel)
    try:
        data, etag = store.read_tagged(key)
    except BundleNotFound:
        return None, None
    return parse(data, where=f"{store.address}/{key}"), etag


def _swap(store: ObjectStore, moved: Channel, *, etag: str | None) -> None:
    """Put the pointer where the one with this etag is, so that what was decided on it still holds."""
    if store.stat(layout.manifest_key(moved.model_id, moved.version)) is None:
        raise BundleNotFound(
            f"{ref_of(moved)}: {store.address} has no such version to point {moved.channel!r} to; publish it first"
        )
    store.replace(key_of(moved.model_id, moved.channel), jsonio.canonical(jsonio.to_json(moved)), etag=etag)


def _previous(current: Channel | None, version: str) -> str | None:
    if current is None:
        return None
    return current.previous if current.version == version else current.version

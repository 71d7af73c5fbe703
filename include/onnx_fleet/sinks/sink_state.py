"""How far the events are delivered to each sink: one small document for each, moved by compare-and-swap.

sinks/<name>.json    the position in the log, how it went, and the events that the sink did not take

Two drivers of one sink cannot skip an event: each moves the position only from where it stood when the event behind it
was read. An event may be delivered by both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Self

from pydantic import AwareDatetime

from onnx_fleet import jsonio
from onnx_fleet.bundles.fleet_event import FleetEvent
from onnx_fleet.errors import BundleNotFound, VersionConflict
from onnx_fleet.store import ObjectStore, layout

MOST_SET_ASIDE: Final = 1000
"""The number of events that a sink did not take of which is kept that it did not; the newest are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is kept of an event."""

    id: str
    kind: str
    at: AwareDatetime
    model_id: str
    version: str | None

    @classmethod
    def of(cls, event: FleetEvent) -> Self:
        return cls(id=event.id, kind=event.kind, at=event.at, model_id=event.model_id, version=event.version)

    def __str__(self) -> str:
        return f"{self.kind} {self.model_id}" + (f"@{self.version}" if self.version else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The event that was delivered last."""

    event: About
    at: AwareDatetime
    """When it was delivered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """An event that the sink did not take."""

    event: About
    error: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why events wait."""

    since: AwareDatetime
    """When the first try failed; others may have failed since."""
    error: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkState:
    """How far the events are delivered to one sink."""

    schema_version: Literal[1] = 1
    position: str = ""
    """The position in the log of the last event that is through; empty before the first one."""
    recent: tuple[tuple[str, str], ...] = ()
    """The positions and ids of the events that are through and that the log tells again: see events.WINDOW."""
    delivered: int = 0
    """The number of deliveries, repeated ones included."""
    last: Delivered | None = None
    trouble: Trouble | None = None
    set_aside: tuple[SetAside, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A state, and the tag of its document; None where there is none."""

    state: SinkState
    etag: str | None


def read(store: ObjectStore, name: str) -> Read:
    """Return how far the events are delivered to a sink; to one that is not known, none are.

    Raises:
        VersionConflict: the document is not one that this onnx-fleet can read.
    """
    key = layout.sink_key(name)
    try:
        data, etag = store.read_tagged(key)
    except BundleNotFound:
        return Read(state=SinkState(), etag=None)
    try:
        return Read(state=jsonio.parse(SinkState, data), etag=etag)
    except ValueError as err:
        raise VersionConflict(
            f"{store.address}/{key}: is not a sink's state ({err}); delete it, and everything is delivered again"
        ) from err


def swap(store: ObjectStore, name: str, state: SinkState, *, was: Read) -> Read:
    """Put a state in the place of the one that was read.

    Raises:
        VersionConflict: another driver has changed it meanwhile.
    """
    store.replace(layout.sink_key(name), jsonio.canonical(jsonio.to_json(state)), etag=was.etag)
    now = read(store, name)
    if now.state != state:
        raise VersionConflict(f"{store.address}/{layout.sink_key(name)}: another driver of {name} came between")
    return now

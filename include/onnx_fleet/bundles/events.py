"""The log of a fleet's events: objects that are only added, in the order in which they were told.

feed/events/<yyyy>/<mm>/<dd>/<hhmmss.ffffff>-<id>.json    one event, as a document of CloudEvents 1.0

A key has the time at which the event was told, by the clock of who told it. Clocks differ, and a put may take its time:
a reader that goes on from a position begins some minutes before it, and is told again what it was told there. The same
event may also lie there twice, told by two writers. Readers go by the id. docs/decisions/events.md says why it is so.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from onnx_fleet import jsonio
from onnx_fleet.bundles import fleet_event
from onnx_fleet.bundles.fleet_event import FleetEvent
from onnx_fleet.errors import BundleNotFound
from onnx_fleet.store import ObjectStore, layout
from onnx_fleet.store.concurrency import at_once

log = logging.getLogger(__name__)

WINDOW: Final = timedelta(minutes=45)
"""How far before a position a reader begins.

S3 refuses a request whose clock is more than 15 minutes off, so that the clocks of two writers are at most 30 minutes
apart; the rest is for a put that is sent again.
"""
_READ_AT_ONCE: Final = 64
_POSITION: Final = re.compile(r"(\d{4}/\d\d/\d\d)/(?:(\d{6}\.\d{6})(?:-[0-9a-f]+)?|[0-9a-f]{32})")
_HAS_TIME: Final = re.compile(rf"{layout.EVENTS}\d{{4}}/\d\d/\d\d/\d{{6}}\.")


def append(store: ObjectStore, event: FleetEvent) -> None:
    """Put an event into the log, unless it is there: it may be called again after a kill."""
    append_all(store, (event,))


def append_all(store: ObjectStore, told: Sequence[FleetEvent]) -> None:
    """Put those of several events into the log that are not there, in their order.

    What is there is asked once for all of them. Two writers that tell the same event at the same time may both put it.
    """
    if not told:
        return
    # The caller's time is that of the happening: an upload of an hour may lie between it and this.
    now = datetime.now(UTC)
    begin = position_at(min(now, *(event.at for event in told)) - WINDOW)
    listed = store.list(layout.EVENTS, after=layout.EVENTS + begin)
    there = {info.key.rpartition("-")[2].removesuffix(".json") for info in listed}
    missing = {event.id: event for event in told if event.id not in there}
    placed = [(now + timedelta(microseconds=place), event) for place, event in enumerate(missing.values())]
    at_once(lambda each: store.create(key_at(each[0], each[1]), to_bytes(store, each[1])), placed, threads="events")


def key_at(told_at: datetime, event: FleetEvent) -> str:
    """Return where an event lies that is told at a time."""
    return f"{layout.EVENTS}{position_at(told_at)}-{event.id}.json"


def to_bytes(store: ObjectStore, event: FleetEvent) -> bytes:
    """Return the bytes of an event in a store."""
    return jsonio.canonical(fleet_event.to_cloudevent(event, source=store.address))


def position_at(time: datetime) -> str:
    """Return the position in the log of a time."""
    return f"{time.astimezone(UTC):%Y/%m/%d/%H%M%S.%f}"


def is_position(text: str) -> bool:
    """Say whether a text is a position in the log, as since returns it; the empty one is its beginning."""
    return not text or bool(_POSITION.fullmatch(text))


def since(store: ObjectStore, position: str = "") -> Iterator[tuple[str, FleetEvent]]:
    """Yield the events from a position on, each with the position to go on from once it has been taken.

    At least once: the events of some time before the position come again, because one of them may have been put there
    after it was read. An event that cannot be read is left out, with a warning in the log.

    Args:
        position: a position that was yielded, or position_at of a time; the empty one is the beginning.
    Raises:
        BundleNotFound: the text is not a position.
    """
    yield from _read(store, _keys(store, position), position)


def follow(store: ObjectStore, position: str = "", *, pause: Callable[[], None]) -> Iterator[tuple[str, FleetEvent]]:
    """Yield the events from a position on as since does, and go on with those that come.

    Args:
        pause: is called when there is none, or no further one.
    """
    taken: Collection[str] = ()
    while True:
        keys = list(_keys(store, position))
        for place, event in _read(store, [key for key in keys if key not in taken], position):
            position = place
            yield place, event
        taken = frozenset(keys)
        pause()


def _keys(store: ObjectStore, position: str) -> Iterator[str]:
    """Yield the keys from WINDOW before a position on."""
    begin = ""
    if position:
        found = _POSITION.fullmatch(position)
        if found is None:
            raise BundleNotFound(
                f"{position!r}: is not a position in the log of events; write one that the log has told, or a time"
            )
        time = datetime.strptime(f"{found[1]} {found[2] or '000000.0'} +0000", "%Y/%m/%d %H%M%S.%f %z")
        begin = layout.EVENTS + position_at(time - WINDOW)
    told = "-" in position
    # Before there were other events than publications, keys had a day and no time: they come with their day.
    for info in store.list(layout.EVENTS, after=begin if told else begin[: len(f"{layout.EVENTS}2026/01/31")]):
        if info.key >= begin or not _HAS_TIME.match(info.key):
            yield info.key


def _read(store: ObjectStore, keys: Iterable[str], position: str) -> Iterator[tuple[str, FleetEvent]]:
    def one(key: str) -> tuple[str, FleetEvent] | None:
        try:
            event = fleet_event.parse(store.read(key))
        except BundleNotFound:
            return None  # it was removed meanwhile
        if event is None:
            log.warning("%s/%s: is not an event that this onnx-fleet can read; it is left out", store.address, key)
            return None
        return key.removeprefix(layout.EVENTS).removesuffix(".json"), event

    left = iter(keys)
    while some := list(islice(left, _READ_AT_ONCE)):
        for place, event in filter(None, at_once(one, some, threads="events")):
            position = max(position, place)
            yield position, event

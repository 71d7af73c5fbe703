"""Delivery: the events behind a sink's position are brought to it in their order, and the position moves on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from onnx_fleet.bundles import events
from onnx_fleet.bundles.fleet_event import FleetEvent
from onnx_fleet.entities.naming import matches
from onnx_fleet.errors import BundleCorrupt, BundleNotFound, EventRefused, OnnxFleetError, Retryable, VersionConflict
from onnx_fleet.sinks import sink_state
from onnx_fleet.sinks.configuration import ConfiguredSink
from onnx_fleet.sinks.sink import Sink
from onnx_fleet.sinks.sink_state import About, Delivered, Read, SetAside, SinkState, Trouble
from onnx_fleet.store import ObjectStore, swaps

log = logging.getLogger(__name__)

_NOT_TAKEN: Final = (EventRefused, BundleCorrupt, BundleNotFound)
"""The errors that say something of one event, and nothing of the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often a delivery is tried before its sink counts as down."""

    tries: int = 3
    first_pause_s: float = 1.0
    """The pause before the second try; it doubles each time."""
    longest_pause_s: float = 30.0
    """The longest pause, also where the registry asks for a longer one: the next call tries again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of a sink's events in one call."""

    sink: str
    delivered: int
    """The number of events that the sink took."""
    set_aside: int
    """The number of events that it did not take, and never will as they are."""
    error: str | None = None
    """The class of the error for which the others wait; None where nothing waits."""
    message: str = ""


def run(sink: ConfiguredSink, *, store: ObjectStore, patience: Patience | None = None) -> Delivery:
    """Deliver every event that a sink has not had; the next call goes on behind the last one that is through.

    Whatever a sink raises stays with it: it is in what this returns, and in the sink's state in the store.
    """
    driver = _Driver(sink, store=store, patience=patience or Patience())
    try:
        while not driver.through():
            log.info("%s: another driver delivers to it, too; going on behind that one", sink.name)
    except Exception as err:  # a fleet's own sink may raise anything, and the other sinks have nothing to do with it
        if not isinstance(err, OnnxFleetError):
            log.exception("%s: the sink has a fault", sink.name)
        log.warning("%s: the events wait: %s: %s", sink.name, type(err).__name__, err)
        driver.note(err)
        return driver.outcome(err)
    return driver.outcome(None)


def replay(sink: ConfiguredSink, *, store: ObjectStore, since: datetime) -> bool:
    """Set a sink back, so that the next run delivers again what was told since a time, and up to events.WINDOW before.

    Returns:
        Whether it was set back: a sink whose position lies before that has those events still to come.
    Raises:
        VersionConflict: other drivers keep changing the sink's state.
    """
    begin = events.position_at(since)

    def set_back() -> bool:
        was = sink_state.read(store, sink.name)
        if was.state.position <= begin:
            return False
        sink_state.swap(store, sink.name, replace(was.state, position=begin, recent=()), was=was)
        return True

    return swaps.repeated(set_back)


def waiting(sink: ConfiguredSink, *, store: ObjectStore) -> int:
    """Return how many events a sink has not had."""
    state = sink_state.read(store, sink.name).state
    had = {event_id for _, event_id in state.recent}
    told = {event.id: event for _, event in events.since(store, state.position)}
    return sum(_concerns(sink, event) for event_id, event in told.items() if event_id not in had)


def _still_told(recent: Iterable[tuple[str, str]], position: str) -> Iterator[tuple[str, str]]:
    """Yield those of the events that are through which the log tells again to whoever goes on from a position."""
    begin = _begin_of(position)
    return ((place, event_id) for place, event_id in recent if place >= begin)


def _begin_of(position: str) -> str:
    """Return where in the log a reader begins who goes on from a position; its beginning where that has no time."""
    try:
        told_at = datetime.strptime(f"{position.partition('-')[0]} +0000", "%Y/%m/%d/%H%M%S.%f %z")
    except ValueError:
        return ""
    return events.position_at(told_at - events.WINDOW)


def _concerns(sink: ConfiguredSink, event: FleetEvent) -> bool:
    if sink.since is not None and event.at < sink.since:
        return False
    return (not sink.events or event.kind in sink.events) and (not sink.only or matches(event.model_id, sink.only))


class _Driver:
    """One call's way through a sink's events."""

    def __init__(self, sink: ConfiguredSink, *, store: ObjectStore, patience: Patience) -> None:
        self.sink = sink
        self.store = store
        self.patience = patience
        self.delivered = 0
        self.set_aside = 0

    def through(self) -> bool:
        """Deliver what waits; returns False where another driver came between, and the state has to be read again."""
        was = sink_state.read(self.store, self.sink.name)
        opened = self.sink.open()
        had = {event_id for _, event_id in was.state.recent}
        behind = was.state.position
        passed: list[tuple[str, str]] = []
        for position, event in events.since(self.store, behind):
            if event.id in had:
                continue
            behind = position
            had.add(event.id)
            passed.append((position, event.id))
            if _concerns(self.sink, event):
                moved = self._moved(was, self._delivered(opened, was.state, event), behind, passed)
                if moved is None:
                    return False
                was, passed = moved, []
        if passed or was.state.trouble:
            return self._moved(was, was.state, behind, passed) is not None
        return True

    def _moved(self, was: Read, state: SinkState, position: str, passed: Iterable[tuple[str, str]]) -> Read | None:
        recent = tuple(_still_told((*state.recent, *passed), position))
        moved = replace(state, position=position, recent=recent, trouble=None)
        try:
            return sink_state.swap(self.store, self.sink.name, moved, was=was)
        except VersionConflict:
            return None

    def _delivered(self, opened: Sink, state: SinkState, event: FleetEvent) -> SinkState:
        """Deliver one event, and return the state behind it."""
        about = About.of(event)
        others = tuple(each for each in state.set_aside if each.event.id != event.id)
        try:
            done = self._tried(opened, event)
        except _NOT_TAKEN as err:
            log.warning("%s: %s is set aside: %s", self.sink.name, about, err)
            self.set_aside += 1
            left = SetAside(event=about, error=type(err).__name__, message=str(err))
            return replace(state, set_aside=(*others, left)[-sink_state.MOST_SET_ASIDE :])
        log.info("%s: %s: %s", self.sink.name, about, done)
        self.delivered += 1
        last = Delivered(event=about, at=datetime.now(UTC))
        return replace(state, delivered=state.delivered + 1, last=last, set_aside=others)

    def _tried(self, opened: Sink, event: FleetEvent) -> str:
        from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

        usual = wait_exponential(multiplier=self.patience.first_pause_s, max=self.patience.longest_pause_s)

        def pause_s(tried: RetryCallState) -> float:
            error = tried.outcome.exception() if tried.outcome else None
            asked = getattr(error, "retry_after_s", None)
            return min(asked, self.patience.longest_pause_s) if asked is not None else float(usual(tried))

        attempts = Retrying(
            retry=retry_if_exception_type(Retryable),
            wait=pause_s,
            stop=stop_after_attempt(self.patience.tries),
            reraise=True,
        )
        return attempts(opened.deliver, event, store=self.store)

    def note(self, err: Exception) -> None:
        """Keep in the sink's state why its events wait, since when; another driver's word may stand there instead."""
        try:
            was = sink_state.read(self.store, self.sink.name)
            before = was.state.trouble
            trouble = Trouble(
                since=before.since if before else datetime.now(UTC), error=type(err).__name__, message=str(err)
            )
            sink_state.swap(self.store, self.sink.name, replace(was.state, trouble=trouble), was=was)
        except OnnxFleetError as store_err:
            log.warning("%s: its state cannot be written: %s", self.sink.name, store_err)

    def outcome(self, err: Exception | None) -> Delivery:
        return Delivery(
            sink=self.sink.name,
            delivered=self.delivered,
            set_aside=self.set_aside,
            error=type(err).__name__ if err else None,
            message=str(err) if err else "",
        )

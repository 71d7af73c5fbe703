"""The log of events: what is told, by which id, in which order, and how a reader goes on."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from fixtures.moved import REASON
from fixtures.stages import NOW
from onnx_fleet.bundles import events, fleet_event
from onnx_fleet.bundles.channel_history import Row
from onnx_fleet.bundles.fleet_event import EventKind, FleetEvent
from onnx_fleet.entities.channel_move import MoveKind
from onnx_fleet.errors import BundleNotFound
from onnx_fleet.store import ObjectStore, layout

VERSION = "0123abcd-4567ef01"


class Enough(Exception):
    """A reader has read what there was to read."""


def happened(number: int, *, at: datetime | None = None) -> FleetEvent:
    """A model that some run could not make."""
    by = REASON.by
    return fleet_event.of_failure(f"acme/m{number}", VERSION, by=by, why="no room", now=at or datetime.now(UTC))


def told(store: ObjectStore, position: str = "") -> list[FleetEvent]:
    return [event for _, event in events.since(store, position)]


def put(store: ObjectStore, event: FleetEvent, *, told_at: datetime) -> str:
    """Put an event where a writer with this clock puts it; returns its key."""
    key = events.key_at(told_at, event)
    store.create(key, events.to_bytes(store, event))
    return key


def test_an_event_is_a_document_that_the_sdk_of_cloudevents_reads(any_store: ObjectStore) -> None:
    event = happened(1)
    events.append(any_store, event)
    [info] = any_store.list(layout.EVENTS)

    read = JSONFormat().read(CloudEvent, any_store.read(info.key))

    assert (read.get_id(), read.get_type(), read.get_time()) == (event.id, "onnx-fleet.failed", event.at)
    assert read.get_subject() == f"acme/m1@{VERSION}"
    assert read.get_source().endswith(any_store.address.split("://")[-1])
    data = read.get_data()
    assert isinstance(data, dict)
    assert (data["model_id"], data["kind"], data["by"]["name"]) == ("acme/m1", "failed", REASON.by.name)


def test_the_same_event_is_put_once_however_often_it_is_told(any_store: ObjectStore) -> None:
    first, second = happened(1), happened(2)
    events.append(any_store, first)
    events.append_all(any_store, [first, second, first])
    assert told(any_store) == [first, second]


def test_a_reader_goes_on_from_each_position_and_misses_nothing(any_store: ObjectStore) -> None:
    begin = NOW
    happenings = [happened(number) for number in range(4)]
    for number, event in enumerate(happenings):
        put(any_store, event, told_at=begin + timedelta(hours=10 * number))

    everything = list(events.since(any_store))
    assert [event for _, event in everything] == happenings
    for number, (position, _) in enumerate(everything):
        assert told(any_store, position) == happenings[number:]
        assert events.is_position(position)
    assert told(any_store, events.position_at(begin + timedelta(hours=11))) == happenings[2:]
    assert told(any_store, events.position_at(begin + timedelta(days=30))) == []


def test_an_event_of_a_writer_whose_clock_is_behind_comes_to_a_reader_who_was_further_already(
    any_store: ObjectStore,
) -> None:
    put(any_store, happened(1), told_at=NOW)
    [(position, _)] = events.since(any_store)

    late = happened(2)
    put(any_store, late, told_at=NOW - timedelta(minutes=30))

    assert late in told(any_store, position)
    assert {further for further, _ in events.since(any_store, position)} == {position}, "a position never goes back"


def test_a_follower_is_told_each_event_once_and_those_that_come_later(any_store: ObjectStore) -> None:
    coming = [happened(number) for number in range(1, 4)]
    put(any_store, happened(0), told_at=NOW)

    def pause() -> None:
        if not coming:
            raise Enough
        put(any_store, coming.pop(0), told_at=NOW - timedelta(minutes=20) + timedelta(minutes=10 * len(coming)))

    seen = []
    with suppress(Enough):
        for _, event in events.follow(any_store, pause=pause):
            seen.append(event.model_id)
    assert seen == ["acme/m0", "acme/m1", "acme/m2", "acme/m3"]


def test_what_was_told_before_there_were_other_events_stays_readable(any_store: ObjectStore) -> None:
    old = {
        "schema_version": 1,
        "id": "0f" * 16,
        "at": "2026-11-21T09:30:00Z",
        "kind": "published",
        "model_id": "acme/tiny",
        "version": VERSION,
        "channel": "latest",
        "path": f"models/acme/tiny/{VERSION}/",
        "manifest_sha256": "ab" * 32,
        "size_bytes": 7,
    }
    any_store.create(f"feed/events/2026/11/21/{old['id']}.json", json.dumps(old).encode())
    new = happened(1)
    put(any_store, new, told_at=datetime(2026, 11, 21, 18, tzinfo=UTC))

    first, second = told(any_store, events.position_at(datetime(2026, 11, 21, 12, tzinfo=UTC)))
    assert {first.kind, second.kind} == {"published", "failed"}
    (position, read), *_ = ((place, event) for place, event in events.since(any_store) if event.kind == "published")
    assert (read.id, read.version, read.size_bytes) == (old["id"], VERSION, 7)
    assert {event.id for event in told(any_store, position)} == {old["id"], new.id}


def test_a_document_that_is_no_event_is_left_out(any_store: ObjectStore, caplog: pytest.LogCaptureFixture) -> None:
    events.append(any_store, happened(1))
    any_store.create(f"{layout.EVENTS}2026/01/31/000000.000000-ff.json", b"{}")
    assert [event.model_id for event in told(any_store)] == ["acme/m1"]
    assert "is not an event" in caplog.text


def test_a_text_that_is_no_position_is_refused(local_store: ObjectStore) -> None:
    with pytest.raises(BundleNotFound, match="is not a position"):
        list(events.since(local_store, "yesterday"))


@pytest.mark.parametrize(
    ("move", "kind"),
    [
        ("set", "promoted"),
        ("promoted", "promoted"),
        ("repointed", "promoted"),
        ("restored", "promoted"),
        ("rolled_back", "rolled_back"),
        ("taken_back", "rolled_back"),
        ("demoted", "demoted"),
        ("published", None),
    ],
)
def test_a_move_is_told_as_what_it_is_for_readers_unless_its_publication_tells_it(
    move: MoveKind, kind: EventKind | None
) -> None:
    row = Row(
        model_id="acme/tiny", channel="latest", number=2, before=None, kind=move, from_version="9be01d20-51c08a3e",
        to_version=VERSION, held=False, by=REASON.by, why="it is the better one", at=NOW,
    )  # fmt: skip
    told = fleet_event.of_move(row)
    assert (told.kind if told else None) == kind
    if told:
        assert (told.version, told.from_version, told.row) == (VERSION, "9be01d20-51c08a3e", row.name)
        assert told == fleet_event.of_move(row)
    assert fleet_event.of_move(replace(row, from_version=VERSION)) is None, "it is held or released where it is"

"""The moves of channels that are still to be told: those between the row that a feed knows and the one that stands.

A mover does not tell its own move, so that none is lost where it is killed: docs/decisions/events.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

from onnx_fleet.bundles import channel_history, fleet_event
from onnx_fleet.bundles.channel_history import Row
from onnx_fleet.bundles.feed_document import FeedModel
from onnx_fleet.bundles.fleet_event import FleetEvent
from onnx_fleet.errors import BundleCorrupt, BundleNotFound
from onnx_fleet.store import ObjectStore
from onnx_fleet.store.concurrency import at_once

log = logging.getLogger(__name__)


def untold(store: ObjectStore, before: Mapping[str, FeedModel], now: Iterable[FeedModel]) -> list[FleetEvent]:
    """Return the events of the moves since a feed, in the order of their times.

    Args:
        before: the models as the feed had them, by id.
        now: the models as they are now.
    """
    known = {(model.model_id, each.channel): each.row for model in before.values() for each in model.channels}
    standing = {(model.model_id, each.channel): each.row for model in now for each in model.channels}
    moved = [place for place, row in standing.items() if row != known.get(place)]
    found = at_once(
        lambda place: list(_rows(store, *place, last=standing[place], known=known.get(place))), moved, threads="events"
    )
    rows = sorted((row for each in found for row in each), key=lambda row: (row.at, row.model_id, row.number))
    return [event for event in map(fleet_event.of_move, rows) if event is not None]


def _rows(store: ObjectStore, model_id: str, channel: str, *, last: str | None, known: str | None) -> Iterator[Row]:
    """Yield the rows of a channel from the last one back to one that is known, without that."""
    name = last
    while name and name != known:
        try:
            row = channel_history.read_row(store, model_id, channel, name)
        except (BundleNotFound, BundleCorrupt) as err:
            log.warning("%s@%s: the moves before this row are not told: %s", model_id, channel, err)
            return
        yield row
        name = row.before

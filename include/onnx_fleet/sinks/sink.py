"""What a sink is: a registry, or another place, to which the feed's events are brought one after the other.

A fleet's own sink is a file beside the recipes: include/sinks/pages.py is a worked example; docs/sinks.md says more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from onnx_fleet.bundles.fleet_event import FleetEvent
from onnx_fleet.store import ObjectStore

Secrets = Callable[[str], str]
"""A function that returns the secret of a name: that of an Airflow connection, a variable or a file.

Raises:
    SinkDenied: the deployment has no secret of that name.
"""


class Sink(Protocol):
    """A place that events are brought to."""

    def deliver(self, event: FleetEvent, *, store: ObjectStore) -> str:
        """Bring one event there, and return what was done, as the end of a sentence for the log.

        The same event may come several times, and an older one behind a newer one: what is done must be the same. So
        a sink that has to know where a channel points asks the store (channel_following), and not the event.

        Args:
            store: where the event's bundle is; it may have been deleted since.
        Raises:
            Retryable: the same event may be taken later; everything behind it waits.
            EventRefused: this event cannot be taken, and the next one may be.
            Permanent: no event can be taken, until somebody does something; everything waits.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkKind:
    """A kind of sink, as a file of sinks names it."""

    settings: type[BaseModel]
    """What such a sink is configured with, beside what all sinks are."""
    make: Callable[[Any, Secrets], Sink]
    """(the settings, where secrets are) -> the sink; nothing is asked of the registry yet."""

"""What writers that were killed leave in a store, where no listing of objects shows it: found, and swept by its age."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from onnx_fleet.store.objects import Leftover, ObjectStore

DAYS: Final = 14
"""How old a leftover is before it is swept: a writer that is under way must not lose what it has sent."""


def find(store: ObjectStore, *, days: int = DAYS, now: datetime) -> tuple[Leftover, ...]:
    """Return those that began that many days ago or earlier, the oldest first.

    Raises:
        StoreUnavailable, StoreDenied, StoreNotFound: the store cannot be asked.
    """
    latest = now - timedelta(days=days)
    return tuple(
        sorted((left for left in store.leftovers() if left.began_at <= latest), key=lambda left: left.began_at)
    )


def sweep(store: ObjectStore, *, days: int = DAYS, now: datetime) -> tuple[Leftover, ...]:
    """Remove those that began that many days ago or earlier, and return them.

    Raises:
        StoreUnavailable, StoreDenied, StoreNotFound: the store cannot be asked, or may not be written.
    """
    found = find(store, days=days, now=now)
    for left in found:
        store.discard(left)
    return found

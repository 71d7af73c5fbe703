"""What is left in a store and belongs to nothing: found, and swept by its age.

Writers that were killed leave what no listing of objects shows, and runs leave the stages of models that failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from onnx_fleet.store import layout
from onnx_fleet.store.objects import Leftover, ObjectStore

DAYS: Final = 14
"""How old a leftover is before it is swept: a writer that is under way must not lose what it has sent."""
OF_A_RUN: Final = "left by a run"
"""The name of what a run's tasks handed on to each other, in a Leftover."""


def find(store: ObjectStore, *, days: int = DAYS, now: datetime) -> tuple[Leftover, ...]:
    """Return those that began that many days ago or earlier, the oldest first.

    Raises:
        StoreUnavailable, StoreDenied, StoreNotFound: the store cannot be asked.
    """
    latest = now - timedelta(days=days)
    found = (*store.leftovers(), *_of_runs(store))
    return tuple(sorted((left for left in found if left.began_at <= latest), key=lambda left: left.began_at))


def sweep(store: ObjectStore, *, days: int = DAYS, now: datetime) -> tuple[Leftover, ...]:
    """Remove those that began that many days ago or earlier, and return them.

    Raises:
        StoreUnavailable, StoreDenied, StoreNotFound: the store cannot be asked, or may not be written.
    """
    found = find(store, days=days, now=now)
    for left in found:
        if left.name == OF_A_RUN and left.key:
            store.delete(left.key)
        else:
            store.discard(left)
    return found


def _of_runs(store: ObjectStore) -> Iterator[Leftover]:
    for info in store.list(layout.SCRATCH):
        if info.modified_at:
            yield Leftover(name=OF_A_RUN, key=info.key, began_at=info.modified_at, size_bytes=info.size_bytes)

"""Changing a small document that others change too: it is put only where that stands which the change was made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from onnx_fleet.errors import VersionConflict
from onnx_fleet.store.objects import ObjectStore

T = TypeVar("T")


def repeated(change: Callable[[], T], *, tries: int = 10, longest_pause_s: float = 0.2) -> T:
    """Return what a change by compare-and-swap returns, and make it anew where another writer came between.

    Args:
        change: reads what stands there, decides, and replaces that with its etag.
        longest_pause_s: the pause before each further try is drawn from 0 to this.
    Raises:
        VersionConflict: other writers keep coming between.
    """
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random  # brings asyncio, tornado

    attempts = Retrying(
        retry=retry_if_exception_type(VersionConflict),
        wait=wait_random(max=longest_pause_s),
        stop=stop_after_attempt(tries),
        reraise=True,
    )
    return attempts(change)


def put(store: ObjectStore, key: str, data: bytes) -> None:
    """Put a small object in the place of whatever stands there.

    Raises:
        VersionConflict: another writer came between.
    """
    standing = store.stat(key)
    store.replace(key, data, etag=standing.etag if standing else None)

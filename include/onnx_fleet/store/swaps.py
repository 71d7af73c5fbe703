"""Changing a small document that others change too: it is put only where that stands which the change was made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from onnx_fleet.errors import VersionConflict
from onnx_fleet.store.objects import ObjectStore

T = TypeVar("T")

_LONGEST_PAUSE_S: Final = 5.0


def repeated(change: Callable[[], T], *, tries: int = 15, first_pause_s: float = 0.1) -> T:
    """Return what a change by compare-and-swap returns, and make it anew where another writer came between.

    Args:
        change: reads what stands there, decides, and replaces that with its etag.
        first_pause_s: the pause before the second try is drawn from 0 to this, before each further one from 0 to twice
            as much, up to 5 s: so many writers on a slow server spread out until each gets through.
    Raises:
        VersionConflict: other writers keep coming between.
    """
    from tenacity import (
        Retrying,
        retry_if_exception_type,
        stop_after_attempt,
        wait_random_exponential,
    )  # brings asyncio, tornado

    attempts = Retrying(
        retry=retry_if_exception_type(VersionConflict),
        wait=wait_random_exponential(multiplier=first_pause_s, max=_LONGEST_PAUSE_S),
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

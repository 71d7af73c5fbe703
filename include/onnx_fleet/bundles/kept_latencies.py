"""Latencies that later models may take over: what one variant's graphs take on one kind of machine.

latencies/<key>.json    the figures, and the bundle that they were measured on

They stand beside the bundles: every worker that sees the store finds them, and a bundle that takes them over has a copy
in its own report. They are never trusted: whoever takes them over confirms them by a few calls.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from pydantic import ValidationError

from onnx_fleet import jsonio
from onnx_fleet.entities.kept_latency import KeptLatency
from onnx_fleet.errors import BundleNotFound, OnnxFleetError, StoreDenied
from onnx_fleet.store import ObjectStore, layout, swaps

log = logging.getLogger(__name__)


def keep(figures: KeptLatency, *, store: ObjectStore) -> None:
    """Keep figures in place of those that stand there; what hinders that is logged: the next model measures anew."""
    try:
        swaps.put(store, layout.latency_key(figures.key), jsonio.canonical(jsonio.to_json(figures)))
    except OnnxFleetError as err:
        log.warning("%s: its latencies are not kept for models like it: %s", figures.model_id, err)


def find(keys: Iterable[str], *, store: ObjectStore) -> tuple[KeptLatency, ...]:
    """Return what is kept under some keys; a document that is torn, or is of something else, is left alone and logged.

    Raises:
        StoreUnavailable: the store cannot be asked.
    """
    return tuple(found for key in keys if (found := _find(key, store=store)) is not None)


def _find(key: str, *, store: ObjectStore) -> KeptLatency | None:
    place = layout.latency_key(key)
    try:
        found = jsonio.adapter(KeptLatency).validate_json(store.read(place), strict=True)
    except (BundleNotFound, StoreDenied):
        return None
    except ValidationError as err:
        first = err.errors(include_url=False, include_input=False)[0]["msg"]
        log.warning("%s/%s cannot be read, and its figures are measured anew: %s", store.address, place, first)
        return None
    if found.key != key:
        log.warning("%s/%s is of other graphs or another machine, and is not used", store.address, place)
        return None
    return found

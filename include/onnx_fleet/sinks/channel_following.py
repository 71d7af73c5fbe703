"""Channels as registries follow them: by what the store says now, and not by what an event said then."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from onnx_fleet.bundles import bundle, channels, listing
from onnx_fleet.bundles.bundle import Bundle, Ref
from onnx_fleet.errors import BundleNotFound
from onnx_fleet.store import ObjectStore


def find(store: ObjectStore, model_id: str, version: str | None) -> Bundle | None:
    """Return a bundle; None where there is none, any more or because a model failed.

    Raises:
        BundleCorrupt: its manifest is not readable.
    """
    if version is None:
        return None
    try:
        return bundle.find(Ref(model_id=model_id, channel=None, version=version), store=store)
    except BundleNotFound:
        return None


def pointers(store: ObjectStore, model_id: str) -> Iterator[str]:
    """Yield the names of a model's channels."""
    for listed in listing.list_models(store, model_id=model_id):
        yield from listed.channels


def follow(store: ObjectStore, model_id: str, channel: str, *, point: Callable[[str], None]) -> str | None:
    """Have a registry's pointer follow a channel; returns the version, or None where there is no such channel.

    The store is asked again afterwards. So the pointer ends where the channel points also where two drivers do this at
    once, and one of them is slow: what it has read may be out of date by the time that it is written.

    Args:
        point: points the registry's pointer at a version.
    """
    pointed: str | None = None
    while (standing := channels.find(store, model_id, channel)) is not None and standing.version != pointed:
        pointed = standing.version
        point(pointed)
    return pointed

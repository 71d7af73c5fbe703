"""What is published in a store: models, their versions and their channels, read from a listing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from onnx_fleet.bundles import tombstones
from onnx_fleet.entities.naming import matches
from onnx_fleet.store import ObjectStore, layout


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """The published versions of one model."""

    model_id: str
    versions: tuple[str, ...]
    channels: tuple[str, ...]
    renamed: bool = False
    """Whether a note under its id says that the Hub has another one for it: see renames.find."""


def list_models(
    store: ObjectStore, *, model_id: str | None = None, only: Collection[str] = ()
) -> tuple[PublishedModel, ...]:
    """Return every model with a published version, by id; or a single one, or those that match.

    A version that is being removed counts as gone from the moment that its tombstone says so.

    Args:
        only: patterns of ids, matched without regard to case; none takes all.
    """
    versions: dict[str, list[str]] = {}
    pointers: dict[str, list[str]] = {}
    noted: set[str] = set()
    for info in store.list(layout.model_prefix(model_id) if model_id else layout.MODELS):
        if match := layout.MANIFEST_KEY.fullmatch(info.key):
            versions.setdefault(match[1], []).append(match[2])
        elif match := layout.CHANNEL_KEY.fullmatch(info.key):
            pointers.setdefault(match[1], []).append(match[2])
        elif match := layout.RENAMED_KEY.fullmatch(info.key):
            noted.add(match[1])
    for name, version in tombstones.noted(store, model_id=model_id):
        if version in versions.get(name, ()) and tombstones.find(store, name, version):
            versions[name].remove(version)
    return tuple(
        PublishedModel(
            model_id=name,
            versions=tuple(sorted(versions[name])),
            channels=tuple(sorted(pointers.get(name, ()))),
            renamed=name in noted,
        )
        for name in sorted(versions)
        if versions[name] and (not only or matches(name, only))
    )

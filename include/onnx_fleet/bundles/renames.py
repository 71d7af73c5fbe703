"""A note under the id that a repo of the Hub had before: what is published there gets no more versions.

models/<org>/<name>/renamed.json    where the model is published now

Nothing under the old id is removed or moved: whoever reads it goes on reading it, and can be told.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Literal

from pydantic import AwareDatetime, ConfigDict, ValidationError

from onnx_fleet import jsonio
from onnx_fleet.bundles import manifest
from onnx_fleet.entities.resolved_model import ResolvedModel
from onnx_fleet.errors import BundleCorrupt, BundleNotFound, VersionConflict
from onnx_fleet.store import ObjectStore, layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Rename:
    """The note under an id that the Hub has given up for another one."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    model_id: str
    renamed_to: str
    since: AwareDatetime
    """The time at which a run first published the model under its new id."""

    def __str__(self) -> str:
        return (
            f"the Hub has renamed {self.model_id} to {self.renamed_to}: new versions have been published there since"
            f" {self.since:%Y-%m-%d}"
        )


def leave_for(model: ResolvedModel, *, store: ObjectStore, now: datetime) -> None:
    """Write the note of a model that stands in the store now, where its entry names an id that the Hub has given up."""
    if model.renamed_from:
        leave(store, model.renamed_from, renamed_to=model.repo_id, now=now)


def leave(store: ObjectStore, model_id: str, *, renamed_to: str, now: datetime) -> None:
    """Write the note under the old id; one that says the same stays as it is."""
    key = layout.renamed_key(model_id)
    etag = None
    with suppress(BundleNotFound):
        data, etag = store.read_tagged(key)
        standing = _parse(data)
        if standing and standing.renamed_to == renamed_to:
            return
    note = Rename(model_id=model_id, renamed_to=renamed_to, since=now.astimezone(UTC).replace(microsecond=0))
    with suppress(VersionConflict):  # another run has left it meanwhile
        store.replace(key, jsonio.canonical(jsonio.to_json(note)), etag=etag)


def find(store: ObjectStore, model_id: str) -> Rename | None:
    """Return the note under an id; None where there is none, or another repo has the id and was published since."""
    note = read(store, model_id)
    if note is None or any(created_at > note.since for created_at in _publications(store, model_id)):
        return None
    return note


def read(store: ObjectStore, model_id: str) -> Rename | None:
    """Return the note under an id, whatever was published there since; None where there is none."""
    try:
        return _parse(store.read(layout.renamed_key(model_id)))
    except BundleNotFound:
        return None


def _publications(store: ObjectStore, model_id: str) -> list[datetime]:
    times = []
    for info in store.list(layout.model_prefix(model_id)):
        if layout.MANIFEST_KEY.fullmatch(info.key):
            with suppress(BundleNotFound, BundleCorrupt):
                times.append(manifest.read(store.read(info.key), where=info.key).bundle.created_at)
    return times


def _parse(data: bytes) -> Rename | None:
    try:
        return jsonio.adapter(Rename).validate_json(data, strict=True)
    except ValidationError:
        return None

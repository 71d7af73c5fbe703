"""What persons have answered about the licences of a model: every answer stays, and the last one of a licence counts.

licences/<org>/<name>.json    the answers, in the order in which they were given

Answers are added by compare-and-swap, so that none is lost where two persons answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import AwareDatetime, ConfigDict, ValidationError

from onnx_fleet import jsonio
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.errors import BundleCorrupt, BundleNotFound
from onnx_fleet.store import ObjectStore, layout, swaps
from onnx_fleet.store.concurrency import at_once

Decision = Literal["approved", "declined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenceAnswer:
    """One answer."""

    licence: str
    """How the licence is called: ``gemma``, ``other/acme-community``, ``none``."""
    decision: Decision
    by: Actor
    why: str
    at: AwareDatetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenceAnswers:
    """The answers about one model."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    model_id: str
    rows: tuple[LicenceAnswer, ...] = ()

    def in_force(self, licence: str) -> LicenceAnswer | None:
        """Return the answer that counts for a licence; None where nobody has given one."""
        return next((row for row in reversed(self.rows) if row.licence == licence), None)


def find(store: ObjectStore, model_id: str) -> LicenceAnswers:
    """Return the answers about a model, of which there may be none.

    Raises:
        BundleCorrupt: there is a document that has no answers.
    """
    return _read(store, model_id)[0]


def listed(store: ObjectStore) -> tuple[LicenceAnswers, ...]:
    """Return the answers about every model that has some, by id."""
    keys = (layout.LICENCES_KEY.fullmatch(info.key) for info in store.list(layout.LICENCES))
    names = sorted(match[1] for match in keys if match)
    return tuple(at_once(lambda name: find(store, name), names, threads="licences"))


def keep(store: ObjectStore, model_id: str, answer: LicenceAnswer) -> LicenceAnswers:
    """Add an answer behind those that stand, unless the one in force says the same; returns all of them.

    Raises:
        BundleCorrupt: what stands there cannot be read, and is left as it is.
        VersionConflict: other writers keep coming between.
    """

    def kept() -> LicenceAnswers:
        standing, etag = _read(store, model_id)
        before = standing.in_force(answer.licence)
        if before is not None and replace(before, at=answer.at) == answer:
            return standing
        wanted = replace(standing, rows=(*standing.rows, answer))
        store.replace(layout.licences_key(model_id), jsonio.canonical(jsonio.to_json(wanted)), etag=etag)
        return wanted

    return swaps.repeated(kept)


def _read(store: ObjectStore, model_id: str) -> tuple[LicenceAnswers, str | None]:
    key = layout.licences_key(model_id)
    try:
        data, etag = store.read_tagged(key)
    except BundleNotFound:
        return LicenceAnswers(model_id=model_id), None
    try:
        return jsonio.adapter(LicenceAnswers).validate_json(data, strict=True), etag
    except ValidationError as err:
        raise BundleCorrupt(
            f"{store.address}/{key}: has no answers about licences that this onnx-fleet can read; upgrade it if a newer"
            " one wrote that, otherwise restore it from a copy of the store"
        ) from err

"""Garbage: the versions of models that nothing keeps, and what nobody needs any more; found, and collected.

docs/decisions/retention.md says why that is safe beside publications, moves of channels and readers.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Final, Literal

from onnx_fleet.bundles import feed, removal, retention, tombstones
from onnx_fleet.bundles.retention import Stored
from onnx_fleet.entities.channel_move import Actor
from onnx_fleet.entities.naming import matches
from onnx_fleet.entities.retention import WORDS, Keeper, Retention
from onnx_fleet.runs import garbage_sweep, rollout
from onnx_fleet.runs.garbage_sweep import Swept
from onnx_fleet.store import ObjectStore, bucket_versions, layout
from onnx_fleet.store.concurrency import at_once

log = logging.getLogger(__name__)

UNFINISHED: Final = "its publication was begun and never finished"
"""Why the remains of a version go that was never published."""

Policy = Callable[[str], Retention]
"""A function that returns what holds for a model, by its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """One version that goes, or would go."""

    model_id: str
    version: str
    kind: Literal["version", "unfinished", "remains"]
    """``unfinished``: it was never published; ``remains``: it is gone already, and something of it is left."""
    put_at: datetime
    """The time at which the last of its objects was put there."""
    objects: int
    size_bytes: int
    why: str
    why_not: str = ""
    """Why it stays after all; empty where it is gone, or would go."""
    refused: tuple[str, ...] = ()
    """What the store did not let us remove of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """What a collection found in a store, and what became of it."""

    schema_version: Literal[1] = 1
    run_id: str
    created_at: datetime
    deleted: bool
    """Whether it was removed; else this says what would be."""
    versions: tuple[Gone, ...]
    kept: Mapping[Keeper, int]
    """The number of versions that stay, by what keeps them."""
    swept: tuple[Swept, ...]
    notes: tuple[str, ...] = ()
    """Statements about what the bucket keeps all the same."""

    @property
    def gone(self) -> tuple[Gone, ...]:
        """The versions that go, without those that stay after all."""
        return tuple(each for each in self.versions if not each.why_not)

    @property
    def refused(self) -> tuple[str, ...]:
        """What the store did not let us remove."""
        of_versions = (text for each in self.versions for text in each.refused)
        return (*of_versions, *(text for each in self.swept for text in each.refused))

    @property
    def size_bytes(self) -> int:
        """The bytes that are removed, or would be; what is not known counts as none."""
        return sum(each.size_bytes for each in self.gone) + sum(each.size_bytes for each in self.swept)


def collect(
    store: ObjectStore,
    *,
    policy: Policy,
    run_id: str,
    by: Actor,
    now: datetime,
    only: Collection[str] = (),
    delete: bool = False,
) -> Garbage:
    """Find what nothing keeps, and remove it where that is asked for; goes on where an earlier one was killed.

    Args:
        policy: what holds for each model; that of no model ("") for what belongs to none.
        only: patterns of the ids of the models to take; with them, nothing that belongs to no model is swept.
    Raises:
        StoreUnavailable, StoreDenied, StoreNotFound: the store cannot be asked, or may not be written.
        BundleCorrupt: a rollout's document, or a tombstone of something that is still there, cannot be read.
    """
    found, kept = _find(store, policy=policy, now=now, only=only)
    if delete:
        found = tuple(at_once(lambda each: _remove(store, each, policy=policy, by=by, now=now), found, threads="gc"))
        feed.rebuild(store, now=now)
    return Garbage(
        run_id=run_id,
        created_at=now,
        deleted=delete,
        versions=found,
        kept={keeper: kept[keeper] for keeper in WORDS if kept[keeper]},
        swept=garbage_sweep.sweep(store, policy=policy, now=now, only=only, delete=delete),
        notes=bucket_versions.notes(store),
    )


def _find(
    store: ObjectStore, *, policy: Policy, now: datetime, only: Collection[str]
) -> tuple[tuple[Gone, ...], Counter[Keeper]]:
    """Return the versions that go, by model, the oldest first, and the number of those that stay by what keeps them."""
    stored = retention.stored(chain(store.list(layout.MODELS), store.list(layout.UNFINISHED)), now=now)
    noted = tombstones.noted(store)
    of_models: dict[str, list[Stored]] = {}
    for (model_id, _version), each in stored.items():
        if not only or matches(model_id, only):
            of_models.setdefault(model_id, []).append(each)
    in_rollouts = _in_rollouts(store)

    def of_model(model_id: str) -> tuple[list[Gone], Counter[Keeper]]:
        versions = of_models[model_id]
        return _of_model(store, versions, holds=policy(model_id), now=now, noted=noted, in_rollouts=in_rollouts)

    found = at_once(of_model, sorted(of_models), threads="gc")
    gone = (each for of_one, _kept in found for each in sorted(of_one, key=lambda each: (each.put_at, each.version)))
    return tuple(gone), sum((kept for _gone, kept in found), Counter())


def _of_model(
    store: ObjectStore,
    versions: Sequence[Stored],
    *,
    holds: Retention,
    now: datetime,
    noted: Collection[tuple[str, str]],
    in_rollouts: Collection[tuple[str, str]],
) -> tuple[list[Gone], Counter[Keeper]]:
    places = [(each.model_id, each.version) for each in versions]
    deleted = {place for place in places if place in noted and tombstones.find(store, *place)}
    gone = [
        _gone(each, kind="remains", why="it is deleted, and this is left of it")
        for place, each in zip(places, versions, strict=True)
        if place in deleted
    ]
    living = [each for place, each in zip(places, versions, strict=True) if place not in deleted]
    published = [each for each in living if each.is_published]
    kept = dict(retention.kept(store, published, retention=holds, now=now)) if published else {}
    for each in published:
        if each.version not in kept and (each.model_id, each.version) in in_rollouts:
            kept[each.version] = "rollout"
    gone += [_gone(each, kind="version", why=_why(holds)) for each in published if each.version not in kept]
    grace = now - timedelta(days=holds.grace_days)
    abandoned = (each for each in living if not each.is_published and each.newest_at <= grace)
    gone += [_gone(each, kind="unfinished", why=UNFINISHED) for each in abandoned]
    return gone, Counter(kept.values())


def _gone(each: Stored, *, kind: Literal["version", "unfinished", "remains"], why: str) -> Gone:
    return Gone(
        model_id=each.model_id,
        version=each.version,
        kind=kind,
        put_at=each.newest_at,
        objects=each.objects,
        size_bytes=each.size_bytes,
        why=why,
    )


def _why(holds: Retention) -> str:
    return (
        f"it was not among the newest {holds.keep_last} of its model, was older than {holds.grace_days} days, and no"
        f" channel had pointed to it for {holds.history_days} days"
    )


def _in_rollouts(store: ObjectStore) -> frozenset[tuple[str, str]]:
    """Return the versions to which a rollout may move a channel: those that it took back, and where they went to."""
    taken = (pair for each in rollout.listed(store) for pair in each.taken_back.items())
    return frozenset((model_id, version) for model_id, back in taken for version in (back.version, back.to))


def _remove(store: ObjectStore, gone: Gone, *, policy: Policy, by: Actor, now: datetime) -> Gone:
    holds = policy(gone.model_id)

    def keeper() -> str | None:
        if gone.kind == "unfinished":
            return _resumed(store, gone, grace=now - timedelta(days=holds.grace_days))
        found = retention.named(store, gone.model_id, [gone.version], retention=holds, now=now).get(gone.version)
        return WORDS[found] if found else None

    done = removal.remove(store, gone.model_id, gone.version, keeper=keeper, by=by, why=gone.why, now=now)
    log.info("%s@%s: %s", gone.model_id, gone.version, done.why_not or f"removed, {done.size_bytes} bytes")
    for text in done.refused:
        log.warning("%s@%s: could not be removed: %s", gone.model_id, gone.version, text)
    if done.why_not:
        return replace(gone, why_not=done.why_not)
    return replace(gone, objects=done.objects, size_bytes=done.size_bytes, refused=done.refused)


def _resumed(store: ObjectStore, gone: Gone, *, grace: datetime) -> str | None:
    """Say why the remains of a publication stay after all; None where nobody has gone on with it."""
    places = (layout.bundle_prefix(gone.model_id, gone.version), layout.unfinished_prefix(gone.model_id, gone.version))
    infos = [info for place in places for info in store.list(place)]
    if any(info.key == layout.manifest_key(gone.model_id, gone.version) for info in infos):
        return "it is published by now"
    if any(info.modified_at is None or info.modified_at > grace for info in infos):
        return "its publication goes on at this moment"
    return None

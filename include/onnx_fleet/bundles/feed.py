"""The feed: what is published, for registries that mirror the fleet; rebuilt from the manifests and channels.

It is an index of shards, so that a reader fetches what has changed, and a rebuild makes only that anew. A rebuild also
tells the events of the channels that have moved since the one before.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from onnx_fleet import __version__, jsonio
from onnx_fleet.bundles import events, feed_document, feed_entry, told_moves
from onnx_fleet.bundles.feed_document import INDEX_KEY, SHARDS, FeedIndex, FeedModel, FeedShard, ShardEntry, shard_of
from onnx_fleet.bundles.feed_entry import Listed
from onnx_fleet.errors import BundleCorrupt, BundleNotFound, StoreDenied
from onnx_fleet.store import ObjectInfo, ObjectStore, swaps, transfer
from onnx_fleet.store.concurrency import at_once

KEPT: Final = timedelta(days=1)
"""How long a shard stays at least that the index no longer names: a reader may have the index of before.

Two rebuilds at once take nothing from each other: one clears away only after its swap of the index, and only what was
old in a listing before that; the other names nothing anew that is old in its own listing, or its swap fails.
"""
_MADE_BY: Final = f"onnx-fleet {__version__}"


def read_index(store: ObjectStore) -> FeedIndex:
    """Return the index of the feed as it was rebuilt last.

    Raises:
        BundleNotFound: nothing was published yet.
        BundleCorrupt: the document is not an index of a feed.
    """
    return feed_document.parse(FeedIndex, store.read(INDEX_KEY), where=f"{store.address}/{INDEX_KEY}")


def read(store: ObjectStore, *, only: Collection[str] | None = None) -> tuple[FeedModel, ...]:
    """Return the models of the feed as it was rebuilt last, by id.

    Args:
        only: the ids of those to return; None returns all.
    Raises:
        BundleNotFound: nothing was published yet.
        BundleCorrupt: a document of the feed is missing, or is not what the index says.
    """
    wanted = None if only is None else {shard_of(model_id) for model_id in only}

    def whole() -> list[FeedShard]:
        entries = [each for each in read_index(store).shards if wanted is None or each.shard in wanted]
        return at_once(lambda entry: _read_shard(store, entry), entries, threads="feed")

    try:
        shards = whole()
    except BundleCorrupt:
        shards = whole()  # the index may have been read before a rebuild, and the shard after it was cleared away
    models = (model for shard in shards for model in shard.models if only is None or model.model_id in only)
    return tuple(sorted(models, key=lambda model: model.model_id))


def models(store: ObjectStore, *, model_id: str | None = None) -> tuple[FeedModel, ...]:
    """Return what the store holds now, from its manifests and channels: every model by id, or a single one.

    What the feed knows of manifests that still stand is not read again.
    """
    if model_id:
        found = feed_entry.listed(store, model_id=model_id)
        return tuple(feed_entry.made(store, name, each, known=None) for name, each in found.items())

    def of(shard: _Shard) -> tuple[FeedModel, ...]:
        return shard.models or _read_shard(store, shard.entry).models

    try:
        every = at_once(of, _made(store, _standing(store)[0], there=None), threads="feed")
    except BundleCorrupt:  # a shard is missing or damaged: the manifests have it all
        every = [shard.models or () for shard in _made(store, None, there=None)]
    return tuple(sorted((model for some in every for model in some), key=lambda model: model.model_id))


def rebuild(store: ObjectStore, *, now: datetime) -> FeedIndex:
    """Write the feed anew from what the store holds, and tell of the moves of channels that it did not know.

    Equal stores give equal shards. The index is swapped against what stood there before the store was read: when
    another rebuild came between, the store is read once more, so that the last index written has seen every manifest
    that any of them saw.

    Raises:
        VersionConflict: other rebuilds keep coming between.
    """
    return swaps.repeated(lambda: _rebuild_once(store, now=now), tries=20, first_pause_s=0.25)


def catch_up(store: ObjectStore, bundles: Iterable[tuple[str, str]], *, now: datetime) -> None:
    """Write the feed anew where it lacks a bundle that stands: the run that published it ended before it could.

    Args:
        bundles: the model id and version of each.
    """
    wanted = set(bundles)
    if not wanted:
        return
    try:
        found = read(store, only={model_id for model_id, _ in wanted})
        listed = {(model.model_id, each.version) for model in found for each in model.versions}
    except (BundleNotFound, BundleCorrupt):
        listed = set()
    if wanted - listed:
        rebuild(store, now=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shard:
    """A shard as the store is now."""

    entry: ShardEntry
    models: tuple[FeedModel, ...] | None
    """None where it is the one that stands, and was not read."""
    before: Mapping[str, FeedModel]
    """The models that the feed had in it, where they were read."""
    data: bytes | None
    """What is to be written; None where it stands."""


def _rebuild_once(store: ObjectStore, *, now: datetime) -> FeedIndex:
    before, etag = _standing(store)
    there = {info.key: info for info in store.list(SHARDS)}
    made = _made(store, before, there=there)
    known = {model_id: model for shard in made for model_id, model in shard.before.items()}
    standing = [model for shard in made for model in shard.models or ()]
    events.append_all(store, told_moves.untold(store, known, standing))
    old = _old(there.values())
    written = at_once(lambda shard: _written(store, shard, old=old), made, threads="feed")
    at = now.astimezone(UTC).replace(microsecond=0)
    index = feed_document.index_of(written, made_by=_MADE_BY, generated_at=at)
    if before == replace(index, generated_at=before.generated_at if before else at):
        return before  # nothing is new: readers that poll it see no change
    store.replace(INDEX_KEY, jsonio.canonical(jsonio.to_json(index)), etag=etag)
    _clear(store, old - {entry.key for each in (before, index) if each for entry in each.shards})
    return index


def _standing(store: ObjectStore) -> tuple[FeedIndex | None, str | None]:
    """Return the index that stands, and the etag of its bytes; one that cannot be read is mended by rebuilding."""
    try:
        data, etag = store.read_tagged(INDEX_KEY)
    except BundleNotFound:
        return None, None
    try:
        return feed_document.parse(FeedIndex, data, where=INDEX_KEY), etag
    except BundleCorrupt:
        return None, etag


def _made(store: ObjectStore, before: FeedIndex | None, *, there: Mapping[str, ObjectInfo] | None) -> list[_Shard]:
    """Return the shards as the store is now.

    Args:
        before: the index that stands.
        there: the documents of shards that a listing has, where one was made: one that is missing is made anew.
    """
    shards: dict[str, dict[str, Listed]] = {}
    for model_id, found in feed_entry.listed(store).items():
        shards.setdefault(shard_of(model_id), {})[model_id] = found
    standing = {entry.shard: entry for entry in before.shards if there is None or entry.key in there} if before else {}
    made_by_us = before is not None and before.made_by == _MADE_BY

    def one(name: str) -> _Shard:
        return _made_one(store, name, shards[name], standing=standing.get(name), trusted=made_by_us)

    return at_once(one, sorted(shards), threads="feed")


def _made_one(
    store: ObjectStore, name: str, found: Mapping[str, Listed], *, standing: ShardEntry | None, trusted: bool
) -> _Shard:
    """Return a shard as the store is now.

    Args:
        trusted: whether what the standing one says of a manifest is what this onnx-fleet would say.
    """
    listed_sha256 = feed_entry.digest_of(found)
    if trusted and standing and listed_sha256 and standing.listed_sha256 == listed_sha256:
        return _Shard(entry=standing, models=None, before={}, data=None)
    before: dict[str, FeedModel] = {}
    if standing:
        try:
            before = {model.model_id: model for model in _read_shard(store, standing).models}
        except BundleCorrupt:
            standing = None
    known = before if trusted else {}
    models = tuple(
        feed_entry.made(store, model_id, each, known=known.get(model_id)) for model_id, each in found.items()
    )
    data = jsonio.canonical(jsonio.to_json(FeedShard(shard=name, models=models)))
    sha256 = transfer.sha256_of(data)
    same = standing is not None and standing.sha256 == sha256
    entry = ShardEntry(
        shard=name,
        key=standing.key if standing and same else f"{SHARDS}{name}-{sha256[:16]}.json",
        sha256=sha256,
        size_bytes=len(data),
        models=len(models),
        versions=sum(len(model.versions) for model in models),
        listed_sha256=listed_sha256,
    )
    return _Shard(entry=entry, models=models, before=before, data=None if same else data)


def _written(store: ObjectStore, shard: _Shard, *, old: Collection[str]) -> ShardEntry:
    """Put a shard into the store where it does not stand; returns how the index names it.

    Args:
        old: the keys of shards that another rebuild may be about to clear away: what has such a key gets another one.
    """
    entry, data = shard.entry, shard.data
    if data is None:
        return entry
    if entry.key in old or not (store.create(entry.key, data) or store.read(entry.key) == data):
        entry = replace(entry, key=f"{entry.key.removesuffix('.json')}-{uuid.uuid4().hex[:8]}.json")
        store.create(entry.key, data)
    return entry


def _read_shard(store: ObjectStore, entry: ShardEntry) -> FeedShard:
    where = f"{store.address}/{entry.key}"
    try:
        data = store.read(entry.key)
    except BundleNotFound as err:
        raise BundleCorrupt(f"{where}: is missing, and the feed names it; run `onnx-fleet feed rebuild`") from err
    if transfer.sha256_of(data) != entry.sha256:
        raise BundleCorrupt(f"{where}: is not what the feed's index says; delete it and run `onnx-fleet feed rebuild`")
    return feed_document.parse(FeedShard, data, where=where)


def _old(there: Iterable[ObjectInfo]) -> frozenset[str]:
    """Return the keys of the shards that are KEPT older than the newest one: the server's clock alone counts."""
    times = {info.key: info.modified_at for info in there if info.modified_at}
    newest = max(times.values(), default=None)
    return frozenset(key for key, modified_at in times.items() if newest and modified_at < newest - KEPT)


def _clear(store: ObjectStore, keys: Iterable[str]) -> None:
    """Remove shards that no index names; a publisher that may not delete leaves them."""
    for key in keys:
        try:
            store.delete(key)
        except StoreDenied:
            return

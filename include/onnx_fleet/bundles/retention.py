"""Retention: which versions of a model stay, and what keeps each of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from onnx_fleet.bundles import channel_history, channels, manifest
from onnx_fleet.bundles.channel_history import Row
from onnx_fleet.bundles.channels import Channel
from onnx_fleet.entities.retention import Keeper, Retention
from onnx_fleet.errors import BundleCorrupt, BundleNotFound
from onnx_fleet.store import ObjectInfo, ObjectStore, layout
from onnx_fleet.store.concurrency import at_once


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What lies under one version's name, whether it is a bundle or the remains of one."""

    model_id: str
    version: str
    objects: int
    size_bytes: int
    newest_at: datetime
    """The time at which the last of its objects was put there, by the store's clock."""
    is_published: bool
    """Whether its manifest is among them."""


def stored(infos: Iterable[ObjectInfo], *, now: datetime) -> dict[tuple[str, str], Stored]:
    """Gather what a listing has of each version, by model id and version.

    Args:
        infos: objects of bundles, and what publishing keeps beside them.
        now: the time of objects of which the store does not say it.
    """
    found: dict[tuple[str, str], Stored] = {}
    for info in infos:
        match = layout.BUNDLE_KEY.fullmatch(info.key) or layout.UNFINISHED_KEY.fullmatch(info.key)
        if match is None:
            continue
        before, put_at = found.get((match[1], match[2])), info.modified_at or now
        found[match[1], match[2]] = Stored(
            model_id=match[1],
            version=match[2],
            objects=(before.objects if before else 0) + 1,
            size_bytes=(before.size_bytes if before else 0) + info.size_bytes,
            newest_at=max(before.newest_at, put_at) if before else put_at,
            is_published=bool(before and before.is_published) or bool(layout.MANIFEST_KEY.fullmatch(info.key)),
        )
    return found


def kept(
    store: ObjectStore, versions: Sequence[Stored], *, retention: Retention, now: datetime
) -> Mapping[str, Keeper]:
    """Return what keeps the published versions of one model, by version; one that nothing keeps is not in it.

    What is cheap to know is asked first: the history of a model is read only where something of it could go.

    Raises:
        StoreUnavailable, StoreDenied: the store cannot be asked.
    """
    grace = now - timedelta(days=retention.grace_days)
    found: dict[str, Keeper] = {each.version: "young" for each in versions if each.newest_at > grace}
    if len(versions) <= retention.keep_last or len(found) == len(versions):
        return {each.version: found.get(each.version, "newest") for each in versions}
    model_id = versions[0].model_id
    made = dict(at_once(lambda each: (each.version, _made_at(store, each)), versions, threads="retention"))
    for version, at in made.items():
        if at is None:
            found[version] = "unreadable"
        elif at > grace:
            found[version] = "young"
    known = sorted(((at, version) for version, at in made.items() if at), reverse=True)
    for _at, version in known[: retention.keep_last]:
        found[version] = "newest"
    if len(found) < len(versions):
        found |= named(store, model_id, made, retention=retention, now=now)
    return found


def _made_at(store: ObjectStore, version: Stored) -> datetime | None:
    """Return when a version was made; None where its manifest cannot be read, so that nothing decides on it."""
    key = layout.manifest_key(version.model_id, version.version)
    try:
        return manifest.read(store.read(key), where=key).bundle.created_at
    except (BundleCorrupt, BundleNotFound):
        return None


def named(
    store: ObjectStore, model_id: str, versions: Iterable[str], *, retention: Retention, now: datetime
) -> dict[str, Keeper]:
    """Return which of a model's versions its channels, their histories and its signatures keep, as they are now.

    Whoever moves a channel writes its row first. So a row counts that is within the history window, and one of any age
    whose move may still take place: it goes on from where its channel stands now.

    Args:
        versions: those that are asked about.
    """
    asked, since = frozenset(versions), now - timedelta(days=retention.history_days)
    rows, pointers = _recorded(store, model_id)
    try:
        standing = {name: channels.find(store, model_id, name) for name in {*pointers, *(name for name, _ in rows)}}
        told = dict(_by_rows(store, model_id, rows, standing, since=since))
    except BundleCorrupt:
        return dict.fromkeys(asked, "unreadable")
    for each in standing.values():
        if each is not None:
            told |= dict.fromkeys(filter(None, (each.previous, each.version)), "channel")
    found = {version: told[version] for version in asked & told.keys()}
    signed = (each for each in asked - found.keys() if _is_release(store, model_id, each, keys=retention.release_keys))
    return found | dict.fromkeys(signed, "signed")


def _is_release(store: ObjectStore, model_id: str, version: str, *, keys: Collection[str] | None) -> bool:
    """Say whether a version is signed, by one of these keys where they are named."""
    names = (info.key.rpartition("/")[2] for info in store.list(layout.signatures_prefix(model_id, version)))
    return any(keys is None or name.partition(".")[0] in keys for name in names)


def _recorded(store: ObjectStore, model_id: str) -> tuple[dict[tuple[str, str], ObjectInfo], frozenset[str]]:
    """Return the rows of all channels of a model, by channel and name, and the channels that there are."""
    rows: dict[tuple[str, str], ObjectInfo] = {}
    for info in store.list(f"{layout.HISTORY}{model_id}/"):
        if match := layout.HISTORY_KEY.fullmatch(info.key):
            rows[match[2], match[3]] = info
    keys = (layout.CHANNEL_KEY.fullmatch(info.key) for info in store.list(f"{layout.model_prefix(model_id)}channels/"))
    return rows, frozenset(match[2] for match in keys if match)


def _by_rows(
    store: ObjectStore,
    model_id: str,
    rows: Mapping[tuple[str, str], ObjectInfo],
    standing: Mapping[str, Channel | None],
    *,
    since: datetime,
) -> Iterator[tuple[str, Keeper]]:
    """Yield the versions that rows name, with what keeps them."""

    def is_recent(info: ObjectInfo) -> bool:
        return info.modified_at is None or info.modified_at >= since

    def is_ahead(channel: str, name: str) -> bool:
        pointer = standing[channel]
        last = channel_history.number_of(pointer.row) if pointer and pointer.row else 0
        return not channel_history.is_held_back(name) and channel_history.number_of(name) > last

    asked = [place for place, info in rows.items() if is_recent(info) or is_ahead(*place)]
    read: list[tuple[tuple[str, str], Row]] = []
    for place, row in zip(asked, at_once(lambda p: _row(store, model_id, *p), asked, threads="history"), strict=True):
        if row:
            read.append((place, row))
    for (channel, name), row in read:
        pointer = standing[channel]
        if is_ahead(channel, name) and row.before == (pointer.row if pointer else None):
            yield row.to_version, "moving"
        if is_recent(rows[channel, name]):
            yield from ((version, "history") for version in (row.from_version, row.to_version) if version)


def _row(store: ObjectStore, model_id: str, channel: str, name: str) -> Row | None:
    with suppress(BundleNotFound):  # one that lost its race was swept meanwhile
        return channel_history.read_row(store, model_id, channel, name)
    return None

"""What a store has beside versions and nobody needs any more, by its age."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from onnx_fleet.bundles import channel_history, channels
from onnx_fleet.entities.naming import matches
from onnx_fleet.entities.retention import Retention
from onnx_fleet.errors import BundleCorrupt, StoreDenied
from onnx_fleet.store import Leftover, ObjectInfo, ObjectStore, layout, leftovers

SweptKind = Literal["uploads", "scratch", "publications", "rows", "reports"]
"""What was swept.

``uploads``: what killed writers had half written; ``scratch``: what tasks of runs handed on to each other;
``publications``: what publishing kept of publications that are through; ``rows``: those of a channel's history whose
moves never took place; ``reports``: those of runs and audits.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What was swept of one kind, or would be."""

    kind: SweptKind
    objects: int
    size_bytes: int
    """What is not known counts as none: an open upload says no size."""
    refused: tuple[str, ...] = ()
    """What the store did not let us remove."""


def sweep(
    store: ObjectStore, *, policy: Callable[[str], Retention], now: datetime, only: Collection[str], delete: bool
) -> tuple[Swept, ...]:
    """Find what nobody needs any more, and remove it where that is asked for; kinds without any are left out.

    Args:
        policy: what holds for a model, and for what belongs to none ("").
        only: patterns of ids; with them only what belongs to these models is taken.
    """

    def before(model_id: str) -> datetime:
        return now - timedelta(days=policy(model_id).grace_days)

    def is_meant(model_id: str) -> bool:
        return not only or matches(model_id, only)

    made: list[Swept] = [
        _removed("publications", _outlived(store, before=before, is_meant=is_meant), store=store, delete=delete),
        _removed("rows", _rows(store, before=before, is_meant=is_meant), store=store, delete=delete),
    ]
    if not only:
        holds = policy("")
        oldest = now - timedelta(days=holds.history_days)
        try:
            found = leftovers.find(store, days=holds.grace_days, now=now)
        except StoreDenied as err:  # a bucket's open uploads take a permission of their own
            made.append(Swept(kind="uploads", objects=0, size_bytes=0, refused=(str(err),)))
            found = ()
        made += [
            _discarded(found, store=store, delete=delete),
            _removed("scratch", _of_runs(found), store=store, delete=delete),
            _removed("reports", _reports(store, before=oldest), store=store, delete=delete),
        ]
    return tuple(each for each in made if each.objects or each.refused)


def _removed(kind: SweptKind, infos: Iterable[tuple[str, int]], *, store: ObjectStore, delete: bool) -> Swept:
    objects = size_bytes = 0
    refused = []
    for key, size in infos:
        try:
            if delete:
                store.delete(key)
        except StoreDenied as err:
            refused.append(str(err))
        else:
            objects, size_bytes = objects + 1, size_bytes + size
    return Swept(kind=kind, objects=objects, size_bytes=size_bytes, refused=tuple(refused))


def _discarded(found: Iterable[Leftover], *, store: ObjectStore, delete: bool) -> Swept:
    uploads = [left for left in found if left.name != leftovers.OF_A_RUN]
    for left in uploads if delete else ():
        store.discard(left)
    return Swept(kind="uploads", objects=len(uploads), size_bytes=sum(left.size_bytes or 0 for left in uploads))


def _of_runs(found: Iterable[Leftover]) -> Iterator[tuple[str, int]]:
    for left in found:
        if left.name == leftovers.OF_A_RUN and left.key:
            yield left.key, left.size_bytes or 0


def _outlived(
    store: ObjectStore, *, before: Callable[[str], datetime], is_meant: Callable[[str], bool]
) -> Iterator[tuple[str, int]]:
    """Yield what publishing kept of publications that are through, where their publisher may not delete it itself.

    The object that says so comes last of each: a publication without it would count as unfinished.
    """
    found: dict[str, list[ObjectInfo]] = {}
    for info in store.list(layout.UNFINISHED):
        match = layout.UNFINISHED_KEY.fullmatch(info.key)
        if match and is_meant(match[1]):
            found.setdefault(layout.unfinished_prefix(match[1], match[2]), []).append(info)
    for prefix, infos in found.items():
        through = f"{prefix}{layout.THROUGH}"
        model_id = prefix.removeprefix(layout.UNFINISHED).rsplit("/", 2)[0]
        if any(info.key == through and _is_old(info, before(model_id)) for info in infos):
            for info in sorted(infos, key=lambda each: each.key == through):
                yield info.key, info.size_bytes


def _rows(
    store: ObjectStore, *, before: Callable[[str], datetime], is_meant: Callable[[str], bool]
) -> Iterator[tuple[str, int]]:
    """Yield the rows of moves that lost to another one; only a channel that has two of one number has any."""
    found: dict[tuple[str, str], dict[str, ObjectInfo]] = {}
    for info in store.list(layout.HISTORY):
        match = layout.HISTORY_KEY.fullmatch(info.key)
        if match and is_meant(match[1]) and not channel_history.is_held_back(match[3]):
            found.setdefault((match[1], match[2]), {})[match[3]] = info
    for (model_id, channel), rows in found.items():
        old = [name for name, info in rows.items() if _is_old(info, before(model_id))]
        if not old or len({channel_history.number_of(name) for name in rows}) == len(rows):
            continue
        try:
            standing = channels.find(store, model_id, channel)
        except BundleCorrupt:
            continue
        if standing and standing.row:
            for name in channel_history.lost(store, model_id, channel, last=standing.row, names=old):
                yield rows[name].key, rows[name].size_bytes


def _reports(store: ObjectStore, *, before: datetime) -> Iterator[tuple[str, int]]:
    """Yield the old reports of runs, and the old results of audits but for the last one of each version."""
    for info in store.list(layout.REPORTS):
        if _is_old(info, before):
            yield info.key, info.size_bytes
    last: dict[tuple[str, str], ObjectInfo] = {}
    for info in store.list(layout.AUDITS):
        if match := layout.AUDIT_KEY.fullmatch(info.key):
            place = (match[1], match[2])
            older, last[place] = sorted((last.get(place, info), info), key=lambda each: each.key)
            if older is not last[place] and _is_old(older, before):
                yield older.key, older.size_bytes


def _is_old(info: ObjectInfo, before: datetime) -> bool:
    return info.modified_at is not None and info.modified_at <= before

"""What holds of a store at every moment, whoever is killed in it and whatever fails on the way to it."""

from __future__ import annotations

import json
import re

from onnx_fleet import jsonio
from onnx_fleet.bundles import channels, feed, tombstones, verify
from onnx_fleet.bundles.feed_document import INDEX_KEY, SHARDS
from onnx_fleet.bundles.listing import list_models
from onnx_fleet.errors import BundleNotFound
from onnx_fleet.store import ObjectStore, layout

_EVENT = re.compile(rf"{layout.EVENTS}\d{{4}}/\d\d/\d\d/\d{{6}}\.\d{{6}}-([0-9a-f]+\.json)")
"""The pattern of an event's key, whose group does not follow from the time of the telling."""
_ETAG = re.compile(rb'"etag": ?"[^"]*"')


def broken(store: ObjectStore) -> list[str]:
    """Return what does not hold: statements, none where all is well."""
    found: list[str] = []
    for model in list_models(store):
        for version in model.versions:
            report = verify.verify(f"{model.model_id}@{version}", store=store)
            found += [f"{model.model_id}@{version}: {each.path} is {each.fault}" for each in report.faults]
    found += _of_channels(store)
    try:
        listed = feed.read(store)
    except BundleNotFound:
        return found
    return found + [
        f"the feed lists {model.model_id}@{each.version}, which is not published, and was not deleted"
        for model in listed
        for each in model.versions
        if store.stat(layout.manifest_key(model.model_id, each.version)) is None
        and tombstones.find(store, model.model_id, each.version) is None
    ]


def _of_channels(store: ObjectStore) -> list[str]:
    found = []
    for key in [info.key for info in store.list(layout.MODELS)]:
        if not (match := layout.CHANNEL_KEY.fullmatch(key)):
            continue
        model_id, name = match.groups()
        pointer, past = channels.read(store, model_id, name), channels.history(store, model_id, name)
        if store.stat(layout.manifest_key(model_id, pointer.version)) is None:
            found.append(f"{model_id}@{name} points to {pointer.version}, which is not published")
        found += [f"the history of {model_id}@{name}: {problem}" for problem in past.problems]
        moves = [row for row in past.rows if row.kind != "held_back"]
        if moves[-1].name != pointer.row:
            found.append(f"{model_id}@{name} stands where its history does not end")
        if [row.before for row in moves] != [None, *(row.name for row in moves)][:-1]:
            found.append(f"the history of {model_id}@{name} lost a row")
    return found


def contents(store: ObjectStore) -> dict[str, bytes]:
    """Return every object but what is swept by its age."""
    return {info.key: store.read(info.key) for info in store.list("") if not info.key.startswith(layout.SCRATCH)}


def comparable(objects: dict[str, bytes]) -> dict[str, bytes]:
    """Return what two stores have alike that went the same way.

    An event lies under the time of its telling, names the store, and may be told twice: it counts once, by its id. The
    feed has the etags of its server, and shards that nobody names any more stand for a day: it counts as it is read.
    """
    found: dict[str, bytes] = {}
    for key, data in objects.items():
        if match := _EVENT.fullmatch(key):
            event = json.loads(data)
            found[layout.EVENTS + match[1]] = jsonio.canonical({**event, "source": ""})
        elif key != INDEX_KEY and not key.startswith(SHARDS):
            found[key] = data
    if INDEX_KEY in objects:
        for entry in json.loads(objects[INDEX_KEY])["shards"]:
            found[SHARDS + entry["shard"]] = _ETAG.sub(b"", objects[entry["key"]])
    return found


def differences(ours: dict[str, bytes], theirs: dict[str, bytes]) -> list[str]:
    """Return the keys whose objects differ, or that only one of two stores has, where they should be alike."""
    ours, theirs = comparable(ours), comparable(theirs)
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))

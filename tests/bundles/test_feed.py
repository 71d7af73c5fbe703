"""The feed: an index of shards that say what is published, and the moves that a rebuild tells."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import jsonschema
import pytest

from fixtures.faulty_stores import Interrupted, SteppedStore, interrupted
from fixtures.moved import REASON
from fixtures.planned_models import COMMIT, NEXT_COMMIT, VERSIONS, resolved
from fixtures.planned_models import publish as publish_planned
from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from fixtures.watched_store import AskedStore
from onnx_fleet import schemas
from onnx_fleet.bundles import bundle, channels, events, feed, renames
from onnx_fleet.bundles.feed_document import INDEX_KEY, SHARDS, FeedModel, shard_of
from onnx_fleet.bundles.publish import Publication, publish
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.errors import BundleCorrupt, BundleNotFound
from onnx_fleet.planning import plan
from onnx_fleet.store import ObjectStore, layout, open_store


def _publish(folder: Path, store: ObjectStore, *, model_id: str = "acme/tiny", digit: str = "a") -> Publication:
    stage = tiny_stage(
        folder / f"{model_id.replace('/', '-')}-{digit}", item=work_item(model_id=model_id, fingerprint=digit * 64)
    )
    return publish(
        Stage.open(stage), store=store, provenance=PROVENANCE, created_at=NOW + timedelta(hours=int(digit, 16))
    )


def _rebuilt(store: ObjectStore, *, now: datetime = NOW) -> tuple[FeedModel, ...]:
    feed.rebuild(store, now=now)
    return feed.read(store)


def test_the_feed_has_everything_that_a_registry_needs(tmp_path: Path, any_store: ObjectStore) -> None:
    done = _publish(tmp_path, any_store)
    (model,) = _rebuilt(any_store)
    (version,) = model.versions
    (latency,) = version.latency
    (channel,) = model.channels

    assert (model.model_id, channel.channel, channel.version) == ("acme/tiny", "latest", done.version)
    assert (version.task, version.licence, version.variants) == ("feature-extraction", "apache-2.0", ("fp32",))
    assert version.manifest_sha256 == done.manifest_sha256
    assert version.validation.max_abs_diff == 3e-6
    assert version.validation.gpu.startswith("not validated on GPU")
    assert (latency.batch_size, latency.latency_ms_p50) == (1, 1.0)
    sealed = bundle.find("acme/tiny", store=any_store).manifest
    assert {file.path: file.sha256 for file in version.files} == {file.path: file.sha256 for file in sealed.files}
    assert feed.read(any_store) == (model,)


def test_a_model_that_the_hub_renamed_says_where_it_is_published_now(tmp_path: Path, any_store: ObjectStore) -> None:
    _publish(tmp_path, any_store, model_id="acme/old")
    _publish(tmp_path, any_store, model_id="acme/new")
    feed.rebuild(any_store, now=NOW)
    since = NOW + timedelta(days=1)
    for day in (1, 2):  # each run leaves the note, and the first one stays
        renames.leave(any_store, "acme/old", renamed_to="acme/new", now=NOW + timedelta(days=day))
    new, old = _rebuilt(any_store, now=since)
    assert (old.model_id, old.renamed_to, old.renamed_since) == ("acme/old", "acme/new", since)
    assert (new.renamed_to, new.renamed_since) == (None, None)
    assert bundle.find("acme/old", store=any_store)

    with pytest.raises(
        BundleNotFound, match="renamed acme/old to acme/new: new versions have been published there since 20"
    ):
        bundle.find("acme/old@stable", store=any_store)
    renames.leave(any_store, "acme/old", renamed_to="acme/newer", now=since)
    found = renames.find(any_store, "acme/old")
    assert found
    assert found.renamed_to == "acme/newer"


def test_an_id_that_another_repo_got_since_is_not_told_as_renamed(tmp_path: Path, any_store: ObjectStore) -> None:
    renames.leave(any_store, "acme/old", renamed_to="acme/new", now=NOW)
    assert renames.find(any_store, "acme/old")
    _publish(tmp_path, any_store, model_id="acme/old", digit="f")
    assert renames.find(any_store, "acme/old") is None


def test_the_newest_version_comes_first_and_models_by_id(tmp_path: Path, local_store: ObjectStore) -> None:
    for model_id, digit in (("b/b", "c"), ("acme/tiny", "a"), ("acme/tiny", "f"), ("acme/tiny", "b")):
        _publish(tmp_path, local_store, model_id=model_id, digit=digit)
    models = _rebuilt(local_store, now=NOW)

    assert [model.model_id for model in models] == ["acme/tiny", "b/b"]
    assert [version.version[-1] for version in models[0].versions] == ["f", "b", "a"]


def test_rebuilding_an_unchanged_store_leaves_the_document_alone(tmp_path: Path, any_store: ObjectStore) -> None:
    _publish(tmp_path, any_store)
    feed.rebuild(any_store, now=NOW)
    before = any_store.read(INDEX_KEY)
    feed.rebuild(any_store, now=NOW + timedelta(days=1))
    assert any_store.read(INDEX_KEY) == before

    any_store.delete(INDEX_KEY)
    feed.rebuild(any_store, now=NOW + timedelta(days=1))
    again, first = json.loads(any_store.read(INDEX_KEY)), json.loads(before)
    assert again.pop("generated_at") != first.pop("generated_at")
    assert again == first


def test_a_bundle_that_is_published_while_the_feed_is_rebuilt_is_not_lost(
    tmp_path: Path, local_store: ObjectStore
) -> None:
    _publish(tmp_path, local_store)
    counted = SteppedStore(local_store, step=0, before=lambda: None)
    feed.rebuild(counted, now=NOW)
    for step in range(1, counted.steps + 1):
        other = f"acme/other-{step}"

        def meanwhile(model_id: str = other) -> None:
            _publish(tmp_path, local_store, model_id=model_id)
            feed.rebuild(local_store, now=NOW)

        local_store.delete(INDEX_KEY)
        feed.rebuild(SteppedStore(local_store, step=step, before=meanwhile), now=NOW)
        assert other in [model.model_id for model in feed.read(local_store)], f"before operation {step}"


def test_rebuilds_at_once_lose_nothing(tmp_path: Path, any_store: ObjectStore) -> None:
    names = [f"acme/m{number}" for number in range(5)]

    def run(model_id: str) -> None:
        _publish(tmp_path, any_store, model_id=model_id)
        feed.rebuild(any_store, now=NOW)

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(run, names))
    assert [model.model_id for model in feed.read(any_store)] == names


def test_a_damaged_manifest_is_named_and_hides_nothing_else(tmp_path: Path, any_store: ObjectStore) -> None:
    _publish(tmp_path, any_store)
    bad = _publish(tmp_path, any_store, digit="b")
    key = layout.manifest_key("acme/tiny", bad.version)
    any_store.replace(key, b"{", etag=any_store.read_tagged(key)[1])
    (model,) = _rebuilt(any_store, now=NOW)

    assert [version.version[-1] for version in model.versions] == ["a"]
    assert len(model.problems) == 1
    assert bad.version in model.problems[0]


def test_a_damaged_feed_is_mended_by_rebuilding(tmp_path: Path, any_store: ObjectStore) -> None:
    _publish(tmp_path, any_store)
    any_store.create(INDEX_KEY, b"?")
    with pytest.raises(BundleCorrupt, match="registry_feed"):
        feed.read(any_store)
    feed.rebuild(any_store, now=NOW)
    assert len(feed.read(any_store)) == 1


def test_a_held_channel_shows_as_held(tmp_path: Path, local_store: ObjectStore) -> None:
    done = _publish(tmp_path, local_store)
    channels.move(local_store, "acme/tiny", "latest", done.version, reason=REASON, now=NOW, held=True)
    (model,) = _rebuilt(local_store, now=NOW)
    assert model.channels[0].held


def test_an_empty_store_has_an_empty_feed(any_store: ObjectStore) -> None:
    with pytest.raises(BundleNotFound):
        feed.read(any_store)
    assert _rebuilt(any_store, now=NOW) == ()


NAMES = [f"acme/m{number:03d}" for number in range(40)]
CROWDED = next(name for name in NAMES if [shard_of(other) for other in NAMES].count(shard_of(name)) > 1)
"""A model that has another one in its shard."""


def _fleet(store: ObjectStore, *names: str, commit: str = COMMIT) -> list[str]:
    """Leave behind what the feed reads of the publications of models; returns their newest versions."""
    models = [resolved(name, commit=commit) for name in names]
    items = plan.plan(models, store=store, versions=VERSIONS).items
    for item in items:
        publish_planned(store, item)
    return [item.version for item in items]


def test_a_rebuild_reads_and_writes_what_has_changed_and_nothing_else(s3_store: ObjectStore) -> None:
    _fleet(s3_store, *NAMES)
    feed.rebuild(s3_store, now=NOW)
    first = feed.read_index(s3_store)

    idle = AskedStore(s3_store)
    feed.rebuild(idle, now=NOW)
    assert idle.asked == [("read", INDEX_KEY), ("list", SHARDS), ("list", layout.MODELS), ("list", layout.DELETED)]

    [version] = _fleet(s3_store, CROWDED, commit=NEXT_COMMIT)
    asked = AskedStore(s3_store)
    feed.rebuild(asked, now=NOW)
    second = feed.read_index(s3_store)

    shard = shard_of(CROWDED)
    [old] = (entry.key for entry in first.shards if entry.shard == shard)
    [new] = (entry.key for entry in second.shards if entry.shard == shard)
    row = channels.read(s3_store, CROWDED, "latest").row
    assert sorted(asked.keys("read")) == sorted(
        [
            INDEX_KEY,
            old,
            layout.manifest_key(CROWDED, version),
            layout.channel_key(CROWDED, "latest"),
            layout.history_key(CROWDED, "latest", str(row)),
        ]
    )
    told = [key for key in asked.keys("write") if key.startswith(layout.EVENTS)]
    assert sorted(asked.keys("write")) == sorted([INDEX_KEY, new, *told])
    assert [entry for entry in first.shards if entry.shard != shard] == [
        entry for entry in second.shards if entry.shard != shard
    ]
    assert (second.models, second.versions, len(told)) == (40, 41, 1)


def test_a_model_of_which_only_the_channel_moved_is_told_without_reading_its_manifests(s3_store: ObjectStore) -> None:
    old, in_use = _fleet(s3_store, "acme/m000")[0], _fleet(s3_store, "acme/m000", commit=NEXT_COMMIT)[0]
    feed.rebuild(s3_store, now=NOW)
    channels.move(s3_store, "acme/m000", "latest", old, reason=REASON, now=NOW, expected=in_use)
    asked = AskedStore(s3_store)
    feed.rebuild(asked, now=NOW)
    [model] = feed.read(s3_store)
    assert [each.version for each in model.channels] == [old]
    assert not [key for key in asked.keys("read") if key.endswith(layout.MANIFEST)]


def test_the_documents_of_the_feed_are_what_their_schemas_say(tmp_path: Path, any_store: ObjectStore) -> None:
    _publish(tmp_path, any_store)
    index = feed.rebuild(any_store, now=NOW)
    jsonschema.validate(json.loads(any_store.read(INDEX_KEY)), schemas.json_schema("feed"))
    [entry] = index.shards
    data = any_store.read(entry.key)
    jsonschema.validate(json.loads(data), schemas.json_schema("feed-shard"))
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (entry.sha256, entry.size_bytes)


def test_the_single_document_of_before_is_replaced(tmp_path: Path, any_store: ObjectStore) -> None:
    _publish(tmp_path, any_store)
    first = {"schema_version": 1, "generated_at": "2026-11-21T09:30:00Z", "models": []}
    any_store.create(INDEX_KEY, json.dumps(first).encode())
    with pytest.raises(BundleCorrupt, match="feed rebuild"):
        feed.read(any_store)
    assert [model.model_id for model in _rebuilt(any_store)] == ["acme/tiny"]


def test_a_shard_that_is_damaged_or_missing_is_found_out_and_mended(tmp_path: Path, any_store: ObjectStore) -> None:
    _publish(tmp_path, any_store)
    whole = _rebuilt(any_store)
    [entry] = feed.read_index(any_store).shards
    any_store.replace(entry.key, b"{}", etag=any_store.read_tagged(entry.key)[1])
    with pytest.raises(BundleCorrupt, match="delete it and run `onnx-fleet feed rebuild`"):
        feed.read(any_store)
    assert feed.models(any_store) == whole

    any_store.delete(entry.key)
    with pytest.raises(BundleCorrupt, match="run `onnx-fleet feed rebuild`"):
        feed.read(any_store)
    assert feed.models(any_store) == whole
    assert _rebuilt(any_store) == whole


def test_shards_that_no_index_names_are_cleared_away_when_they_are_old(
    tmp_path: Path, local_store: ObjectStore
) -> None:
    def shards() -> list[str]:
        return [info.key for info in local_store.list(SHARDS)]

    for digit in "abc":
        _publish(tmp_path, local_store, digit=digit)
        feed.rebuild(local_store, now=NOW)
    assert len(shards()) == 3, "a reader may still have the index of before"

    standing = [entry.key for entry in feed.read_index(local_store).shards]
    old = time.time() - 2 * feed.KEPT.total_seconds()
    for key in set(shards()) - set(standing):
        os.utime(Path(local_store.address, key), (old, old))
    _publish(tmp_path, local_store, digit="d")
    feed.rebuild(local_store, now=NOW)
    assert set(shards()) == {*standing, *(entry.key for entry in feed.read_index(local_store).shards)}


def test_a_store_as_it_was_before_names_no_shard_that_is_about_to_be_cleared_away(
    tmp_path: Path, local_store: ObjectStore
) -> None:
    _publish(tmp_path, local_store)
    [before] = feed.rebuild(local_store, now=NOW).shards
    _publish(tmp_path, local_store, model_id="acme/other")
    feed.rebuild(local_store, now=NOW)
    local_store.delete(INDEX_KEY)
    old = time.time() - 2 * feed.KEPT.total_seconds()
    os.utime(Path(local_store.address, before.key), (old, old))
    [again] = (entry for entry in feed.rebuild(local_store, now=NOW).shards if entry.shard == before.shard)
    assert (again.sha256, again.key == before.key) == (before.sha256, False)
    assert len(feed.read(local_store)) == 2


def _moves(store: ObjectStore) -> list[str | None]:
    return [event.row for _, event in events.since(store) if event.kind == "promoted"]


def test_a_move_is_told_by_its_row_wherever_mover_and_rebuild_are_killed(tmp_path: Path) -> None:
    def act(store: ObjectStore) -> None:
        channels.move(store, "acme/m000", "latest", versions[0], reason=REASON, now=NOW)
        feed.rebuild(store, now=NOW)

    counted = 0
    for step in itertools.count(1):
        store = open_store(str(tmp_path / f"store-{step}"))
        versions = [_fleet(store, "acme/m000", commit=commit)[0] for commit in (COMMIT, NEXT_COMMIT)]
        feed.rebuild(store, now=NOW)
        before = _moves(store)
        stopped = interrupted(store, step=step)
        with suppress(Interrupted):
            act(stopped)
        feed.rebuild(store, now=NOW)
        after = channels.history(store, "acme/m000", "latest").rows
        assert _moves(store) == [row.name for row in after], f"before operation {step}"
        feed.rebuild(store, now=NOW)
        assert len(_moves(store)) == len(after)
        assert before == [row.name for row in after[:2]]
        if stopped.steps < step:
            break
        counted += 1
    assert counted > 10


def test_a_feed_that_is_lost_tells_no_move_again(any_store: ObjectStore) -> None:
    _fleet(any_store, "acme/a", "acme/b")
    feed.rebuild(any_store, now=NOW)
    told = _moves(any_store)
    any_store.delete(INDEX_KEY)
    feed.rebuild(any_store, now=NOW)
    assert len(told) == 2
    assert _moves(any_store) == told

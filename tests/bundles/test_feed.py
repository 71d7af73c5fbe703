"""The feed: one document that says what is published."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from fixtures.faulty_stores import SteppedStore
from fixtures.moved import REASON
from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles import bundle, channels, events, feed, renames
from onnx_fleet.bundles.publish import Publication, publish
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.errors import BundleCorrupt, BundleNotFound
from onnx_fleet.store import ObjectStore, layout


def _publish(folder: Path, store: ObjectStore, *, model_id: str = "acme/tiny", digit: str = "a") -> Publication:
    stage = tiny_stage(
        folder / f"{model_id.replace('/', '-')}-{digit}", item=work_item(model_id=model_id, fingerprint=digit * 64)
    )
    return publish(
        Stage.open(stage), store=store, provenance=PROVENANCE, created_at=NOW + timedelta(hours=int(digit, 16))
    )


def test_the_feed_has_everything_that_a_registry_needs(tmp_path: Path, any_store: ObjectStore) -> None:
    done = _publish(tmp_path, any_store)
    (model,) = feed.rebuild(any_store, now=NOW).models
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
    assert feed.read(any_store).models == (model,)


def test_a_model_that_the_hub_renamed_says_where_it_is_published_now(tmp_path: Path, any_store: ObjectStore) -> None:
    _publish(tmp_path, any_store, model_id="acme/old")
    _publish(tmp_path, any_store, model_id="acme/new")
    feed.rebuild(any_store, now=NOW)
    since = NOW + timedelta(days=1)
    for day in (1, 2):  # each run leaves the note, and the first one stays
        renames.leave(any_store, "acme/old", renamed_to="acme/new", now=NOW + timedelta(days=day))
    new, old = feed.rebuild(any_store, now=since).models
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
    models = feed.rebuild(local_store, now=NOW).models

    assert [model.model_id for model in models] == ["acme/tiny", "b/b"]
    assert [version.version[-1] for version in models[0].versions] == ["f", "b", "a"]


def test_rebuilding_an_unchanged_store_leaves_the_document_alone(tmp_path: Path, any_store: ObjectStore) -> None:
    _publish(tmp_path, any_store)
    feed.rebuild(any_store, now=NOW)
    before = any_store.read(feed.INDEX_KEY)
    feed.rebuild(any_store, now=NOW + timedelta(days=1))
    assert any_store.read(feed.INDEX_KEY) == before

    any_store.delete(feed.INDEX_KEY)
    feed.rebuild(any_store, now=NOW + timedelta(days=1))
    again, first = json.loads(any_store.read(feed.INDEX_KEY)), json.loads(before)
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

        local_store.delete(feed.INDEX_KEY)
        feed.rebuild(SteppedStore(local_store, step=step, before=meanwhile), now=NOW)
        assert other in [model.model_id for model in feed.read(local_store).models], f"before operation {step}"


def test_rebuilds_at_once_lose_nothing(tmp_path: Path, any_store: ObjectStore) -> None:
    names = [f"acme/m{number}" for number in range(5)]

    def run(model_id: str) -> None:
        _publish(tmp_path, any_store, model_id=model_id)
        feed.rebuild(any_store, now=NOW)

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(run, names))
    assert [model.model_id for model in feed.read(any_store).models] == names


def test_a_damaged_manifest_is_named_and_hides_nothing_else(tmp_path: Path, any_store: ObjectStore) -> None:
    _publish(tmp_path, any_store)
    bad = _publish(tmp_path, any_store, digit="b")
    key = layout.manifest_key("acme/tiny", bad.version)
    any_store.replace(key, b"{", etag=any_store.read_tagged(key)[1])
    (model,) = feed.rebuild(any_store, now=NOW).models

    assert [version.version[-1] for version in model.versions] == ["a"]
    assert len(model.problems) == 1
    assert bad.version in model.problems[0]


def test_a_damaged_feed_is_mended_by_rebuilding(tmp_path: Path, any_store: ObjectStore) -> None:
    _publish(tmp_path, any_store)
    any_store.create(feed.INDEX_KEY, b"?")
    with pytest.raises(BundleCorrupt, match="registry_feed"):
        feed.read(any_store)
    feed.rebuild(any_store, now=NOW)
    assert len(feed.read(any_store).models) == 1


def test_a_held_channel_shows_as_held(tmp_path: Path, local_store: ObjectStore) -> None:
    done = _publish(tmp_path, local_store)
    channels.move(local_store, "acme/tiny", "latest", done.version, reason=REASON, now=NOW, held=True)
    (model,) = feed.rebuild(local_store, now=NOW).models
    assert model.channels[0].held


def test_an_empty_store_has_an_empty_feed(any_store: ObjectStore) -> None:
    with pytest.raises(BundleNotFound):
        feed.read(any_store)
    assert feed.rebuild(any_store, now=NOW).models == ()


def test_an_event_is_kept_once_under_its_day(tmp_path: Path, any_store: ObjectStore) -> None:
    done = _publish(tmp_path, any_store)
    stands = bundle.find("acme/tiny", store=any_store)
    event = events.append(
        any_store,
        stands.manifest,
        manifest_sha256=stands.manifest_sha256,
        channel="latest",
        held=False,
        now=NOW + timedelta(hours=1),
    )

    (info,) = any_store.list("feed/events/")
    assert info.key == f"feed/events/2026/11/21/{event.id}.json"
    kept = json.loads(any_store.read(info.key))
    assert (kept["model_id"], kept["version"], kept["path"]) == (
        "acme/tiny",
        done.version,
        f"models/acme/tiny/{done.version}/",
    )

"""Channels: pointers that only move on purpose."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from fixtures.moved import REASON
from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles import channels
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.errors import BundleCorrupt, BundleNotFound, VersionConflict
from onnx_fleet.store import ObjectStore

MODEL = "acme/tiny"
OLD, NEW = "01234567-aaaaaaaa", "01234567-bbbbbbbb"


@pytest.fixture
def store(tmp_path: Path, any_store: ObjectStore) -> ObjectStore:
    """Two versions; latest points at NEW."""
    for digit in "ab":
        stage = tiny_stage(tmp_path / digit, item=work_item(fingerprint=digit * 64))
        publish(Stage.open(stage), store=any_store, provenance=PROVENANCE, created_at=NOW)
    return any_store


def test_latest_follows_what_was_published_last_and_remembers_what_was_before(store: ObjectStore) -> None:
    latest = channels.read(store, MODEL, "latest")
    assert (latest.version, latest.previous) == (NEW, OLD)


def test_a_channel_moves_and_says_when(store: ObjectStore) -> None:
    moved = channels.move(store, MODEL, "stable", OLD, reason=REASON, now=NOW)
    assert (moved.version, moved.previous, moved.moved_at) == (OLD, None, NOW)
    again = channels.move(store, MODEL, "stable", NEW, reason=REASON, now=NOW + timedelta(days=1), expected=OLD)
    assert channels.read(store, MODEL, "stable") == again
    assert (again.version, again.previous) == (NEW, OLD)


def test_a_channel_that_is_elsewhere_than_expected_is_a_conflict(store: ObjectStore) -> None:
    with pytest.raises(VersionConflict, match=f"points to {NEW}, not to {OLD}"):
        channels.move(store, MODEL, "latest", OLD, reason=REASON, now=NOW, expected=OLD)
    with pytest.raises(VersionConflict, match="points to nothing"):
        channels.move(store, MODEL, "stable", OLD, reason=REASON, now=NOW, expected=OLD)


def test_a_channel_never_points_at_a_version_that_is_not_published(store: ObjectStore) -> None:
    with pytest.raises(BundleNotFound, match="publish it first"):
        channels.move(store, MODEL, "latest", "00000000-00000000", reason=REASON, now=NOW)
    assert channels.read(store, MODEL, "latest").version == NEW


def test_a_run_leaves_a_held_channel_alone(store: ObjectStore) -> None:
    channels.move(store, MODEL, "latest", OLD, reason=REASON, now=NOW, held=True)
    assert channels.ensure(store, MODEL, "latest", NEW, reason=REASON, now=NOW).version == OLD
    channels.move(store, MODEL, "latest", OLD, reason=REASON, now=NOW, held=False)
    assert channels.ensure(store, MODEL, "latest", NEW, reason=REASON, now=NOW).version == NEW


def test_having_a_channel_where_it_is_changes_nothing(store: ObjectStore) -> None:
    before = store.read(channels.key_of(MODEL, "latest"))
    channels.ensure(store, MODEL, "latest", NEW, reason=REASON, now=NOW + timedelta(days=1))
    assert store.read(channels.key_of(MODEL, "latest")) == before


def test_many_runs_at_once_leave_a_readable_channel(store: ObjectStore) -> None:
    wanted = [OLD, NEW] * 4
    with ThreadPoolExecutor(len(wanted)) as pool:
        list(pool.map(lambda version: channels.ensure(store, MODEL, "stable", version, reason=REASON, now=NOW), wanted))
    assert channels.read(store, MODEL, "stable").version in (OLD, NEW)


def test_a_damaged_channel_is_told(store: ObjectStore) -> None:
    key = channels.key_of(MODEL, "latest")
    store.replace(key, b"{}", etag=store.read_tagged(key)[1])
    with pytest.raises(BundleCorrupt, match="is not a channel document"):
        channels.read(store, MODEL, "latest")


@pytest.mark.parametrize("name", ["", "../latest", "a/b", "Latest", "stable.json", "01234567-aaaaaaaa"])
def test_a_name_that_no_channel_can_have_is_told_before_anything_is_written(
    tmp_path: Path, local_store: ObjectStore, name: str
) -> None:
    with pytest.raises(BundleNotFound, match="is not a valid channel name"):
        publish(
            Stage.open(tiny_stage(tmp_path / "stage")),
            store=local_store,
            provenance=PROVENANCE,
            created_at=NOW,
            channel=name,
        )
    assert list(local_store.list("")) == []

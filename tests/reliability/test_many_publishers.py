"""Sixteen publishers at once, each in a process of its own: one outcome, and no move of the channel is lost."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles import bundle, channels
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.errors import VersionConflict
from onnx_fleet.store import ObjectStore, S3Settings, open_store
from onnx_fleet_demo.s3_server import EmbeddedS3
from reliability import invariants

MODEL = "acme/tiny"
PUBLISHERS = 16


def _publish(stage: Path, *, address: str, s3: S3Settings) -> str:
    store = open_store(address, s3=s3)
    try:
        return publish(Stage.open(stage), store=store, provenance=PROVENANCE, created_at=NOW).state
    except VersionConflict:
        return "conflict"


@pytest.fixture
def publish_at_once(s3_server: EmbeddedS3) -> Callable[[list[Path], ObjectStore], list[str]]:
    """Publishes stages, each in a process of its own, and returns what became of each."""

    def published(stages: list[Path], store: ObjectStore) -> list[str]:
        one = partial(_publish, address=store.address, s3=s3_server.settings)
        with ProcessPoolExecutor(len(stages), mp_context=multiprocessing.get_context("fork")) as pool:
            return list(pool.map(one, stages))

    return published


def test_of_sixteen_publishers_of_one_version_all_leave_the_one_bundle_that_was_decided_on(
    tmp_path: Path, any_store: ObjectStore, publish_at_once: Callable[[list[Path], ObjectStore], list[str]]
) -> None:
    """Every second one has other graphs, and each has other reports."""
    stages = [
        tiny_stage(tmp_path / f"{number}", scale=2.0 + number % 2, latency_ms=1.0 + number)
        for number in range(PUBLISHERS)
    ]
    outcomes = publish_at_once(stages, any_store)

    assert invariants.broken(any_store) == []
    graph = any_store.read(bundle.find(MODEL, store=any_store).key("onnx/model.onnx"))
    for stage, outcome in zip(stages, outcomes, strict=True):
        same = (stage / "onnx" / "model.onnx").read_bytes() == graph
        assert outcome in (("published", "unchanged") if same else ("conflict",))
    assert "published" in outcomes
    assert [row.kind for row in channels.history(any_store, MODEL, "latest").rows] == ["published"]
    told = {info.key.rpartition("-")[2] for info in any_store.list("feed/events/")}
    assert len(told) == 1, "several may tell it in the same moment, by one id"
    assert list(any_store.list("unfinished/")) == []


def test_of_sixteen_publishers_of_as_many_versions_each_moves_the_channel_once(
    tmp_path: Path, any_store: ObjectStore, publish_at_once: Callable[[list[Path], ObjectStore], list[str]]
) -> None:
    items = [work_item(fingerprint=f"{number:x}" * 64) for number in range(PUBLISHERS)]
    stages = [tiny_stage(tmp_path / item.version, item=item) for item in items]
    assert publish_at_once(stages, any_store) == ["published"] * PUBLISHERS

    assert invariants.broken(any_store) == []
    rows = channels.history(any_store, MODEL, "latest").rows
    assert {row.to_version for row in rows} == {item.version for item in items}
    assert [row.number for row in rows] == list(range(1, PUBLISHERS + 1))
    assert channels.read(any_store, MODEL, "latest").version == rows[-1].to_version

"""A publication that was killed is finished by the run that comes next, wherever it broke off."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fixtures.faulty_stores import Interrupted, SteppedStore, interrupted
from fixtures.moved import BY
from fixtures.stages import PROVENANCE, tiny_stage
from onnx_fleet.bundles import channels, feed
from onnx_fleet.bundles.publish import Publication, publish, unfinished
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.runs import pipeline
from onnx_fleet.runs.services import Services
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet.store import ObjectStore, layout, open_store

MODEL = "acme/tiny"


def _publish(stage: Stage, store: ObjectStore) -> None:
    """Everything that a run does for a stage, and the feed behind it."""
    publish(stage, store=store, provenance=PROVENANCE, created_at=datetime.now(UTC))
    feed.rebuild(store, now=datetime.now(UTC))


def test_the_next_run_finishes_what_was_killed_behind_the_manifest(tmp_path: Path) -> None:
    stage = Stage.open(tiny_stage(tmp_path / "stage"))
    model_id, version = stage.item.model_id, stage.item.version
    counted = SteppedStore(open_store(str(tmp_path / "counted")), step=0, before=lambda: None)
    _publish(stage, counted)
    finished, begun = 0, set()
    for step in range(1, counted.steps + 1):
        store = open_store(str(tmp_path / f"store-{step}"))
        with pytest.raises(Interrupted):
            _publish(stage, interrupted(store, step=step))
        if store.stat(layout.manifest_key(model_id, version)) is None:
            continue  # the next run exports it, and publishes
        finished += 1
        services = Services(store=store, hub=Hub(HubSettings()), work_dir=tmp_path, limits=Limits())
        told: list[Publication] = []
        [record] = pipeline.settle_unchanged([stage.item], services=services, by=BY, on_finished=told.append)

        where = f"before operation {step} of {counted.steps}"
        assert record.state == "unchanged", where
        assert channels.read(store, MODEL, "latest").version == version, where
        assert len(list(store.list("feed/events/"))) == 1, where
        assert [(model.model_id, model.versions[0].version) for model in feed.read(store)] == [(MODEL, version)]
        assert (unfinished(store), list(store.list("unfinished/"))) == (frozenset(), []), where
        begun |= {(each.model_id, each.version, each.state, each.held) for each in told}
    assert begun == {(model_id, version, "published", False)}
    assert finished >= 8, "channel, event, clearing and index each take operations"


def test_a_run_that_finds_all_through_writes_nothing(tmp_path: Path) -> None:
    stage = Stage.open(tiny_stage(tmp_path / "stage"))
    store = open_store(str(tmp_path / "store"))
    _publish(stage, store)
    before = {info.key: info.etag for info in store.list("")}
    services = Services(store=store, hub=Hub(HubSettings()), work_dir=tmp_path, limits=Limits())

    told: list[Publication] = []
    pipeline.settle_unchanged([stage.item], services=services, by=BY, on_finished=told.append)

    assert told == []
    assert {info.key: info.etag for info in store.list("")} == before

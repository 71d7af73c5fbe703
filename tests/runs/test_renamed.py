"""A repo that the Hub has renamed: its record has both ids, and readers of the old one are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fixtures.moved import BY
from fixtures.stages import PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles import renames
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.runs import pipeline, record, steps
from onnx_fleet.runs.services import Services
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet.store import ObjectStore


def _asked_for_as(item: WorkItem, repo_id: str) -> WorkItem:
    return replace(item, model=replace(item.model, entry=replace(item.model.entry, repo_id=repo_id)))


def test_a_model_that_the_hub_renamed_is_recorded_with_both_ids_and_noted_under_the_old_one(
    tmp_path: Path, any_store: ObjectStore
) -> None:
    services = Services(store=any_store, hub=Hub(HubSettings()), work_dir=tmp_path, limits=Limits())
    item = _asked_for_as(work_item(model_id="acme/new"), "acme/old")
    steps.publish(Stage.open(tiny_stage(tmp_path / "stage", item=item)), services=services, provenance=PROVENANCE)
    noted = renames.find(any_store, "acme/old")
    assert noted
    assert noted.renamed_to == "acme/new"

    older = _asked_for_as(item, "acme/older")
    (settled,) = pipeline.settle_unchanged([older], services=services, by=BY)
    assert (settled.state, settled.model_id, settled.renamed_from) == ("unchanged", "acme/new", "acme/older")
    assert renames.find(any_store, "acme/older")
    assert pipeline.record_of_bundle(item, services=services).renamed_from == "acme/old"
    failed = record.of_failure(item, step="export", error="StepCrashed", message="died")
    assert (failed.model_id, failed.renamed_from) == ("acme/new", "acme/old")


def test_a_model_that_is_asked_for_by_its_own_id_leaves_no_note(tmp_path: Path, any_store: ObjectStore) -> None:
    services = Services(store=any_store, hub=Hub(HubSettings()), work_dir=tmp_path, limits=Limits())
    item = work_item(model_id="acme/new")
    steps.publish(Stage.open(tiny_stage(tmp_path / "stage", item=item)), services=services, provenance=PROVENANCE)
    (settled,) = pipeline.settle_unchanged([item], services=services, by=BY)
    assert settled.renamed_from is None
    assert not [info.key for info in any_store.list("models/") if info.key.endswith("renamed.json")]

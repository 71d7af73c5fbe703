"""The one list of steps: what each needs and leaves, and which models have it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.stages import PROVENANCE, tiny_stage, work_item
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.errors import BundleNotFound
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.runs.services import Services
from onnx_fleet.runs.steps import STEPS, Job, steps_of
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet.store import ObjectStore


def test_each_step_needs_only_what_those_before_it_leave() -> None:
    left: set[str] = set()
    for step in STEPS:
        assert set(step.needs) <= left, step.name
        left |= set(step.leaves)


def test_a_step_that_lacks_what_an_earlier_one_leaves_names_that_one(tmp_path: Path, local_store: ObjectStore) -> None:
    folder = tiny_stage(tmp_path / "stage")
    (folder / "reports" / "validation.json").unlink()
    services = Services(store=local_store, hub=Hub(HubSettings()), work_dir=tmp_path, limits=Limits())
    with pytest.raises(BundleNotFound, match=r"reports/validation\.json, which the step validate writes; run validate"):
        STEPS[-1].take(Job(stage=Stage.open(folder), services=services, provenance=PROVENANCE))
    assert list(local_store.list("")) == []


def test_a_model_has_a_step_on_the_gpu_where_it_asks_for_one_and_none_where_it_stands() -> None:
    item = work_item()
    on_gpu = replace(item, model=replace(item.model, entry=replace(item.model.entry, providers=("cpu", "cuda"))))

    assert [step.name for step in steps_of(item)] == ["export", "validate", "measure", "compare", "publish"]
    assert [step.name for step in steps_of(on_gpu)][1:4] == ["validate", "prove_on_gpu", "measure"]
    assert steps_of(replace(item, state="unchanged")) == ()

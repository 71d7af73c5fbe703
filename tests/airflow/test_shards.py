"""Dealing models out to mapped groups."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fixtures.stages import work_item
from onnx_fleet.airflow import shards
from onnx_fleet.entities.sizing import Estimate, StepCost
from onnx_fleet.errors import CatalogueInvalid


@pytest.mark.parametrize("models", [0, 1, 2, 7, 2000])
def test_every_model_is_dealt_to_one_group(models: int) -> None:
    items = [{"model_id": f"acme/{number}"} for number in range(models)]
    parts = [shards.deal(items, shards=4, shard=number) for number in range(4)]
    assert sorted(item["model_id"] for part in parts for item in part) == sorted(item["model_id"] for item in items)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_most_wanted_models_come_first_in_every_group() -> None:
    items = [{"model_id": str(number)} for number in range(6)]
    assert [shards.deal(items, shards=3, shard=number)[0]["model_id"] for number in range(3)] == ["0", "1", "2"]


def test_too_many_models_are_refused_with_the_setting_to_raise() -> None:
    shards.require_room(4096, shards=4, per_shard=1024)
    with pytest.raises(CatalogueInvalid, match=r"AIRFLOW__ONNX_FLEET__SHARDS\) to at least 5"):
        shards.require_room(4097, shards=4, per_shard=1024)


def test_a_model_is_large_where_its_steps_are_predicted_to_need_more_than_the_threshold() -> None:
    cost = StepCost(memory_bytes=4_000, disk_bytes=0, seconds=1.0)
    item = replace(work_item(), estimate=Estimate.of({"validate": cost}, basis="formula"))
    told = [shards.item(item, catalogue_digest=None, large_bytes=above)["large"] for above in (3_999, 4_000, None)]
    assert told == [True, False, False]


def test_too_many_large_models_are_refused_with_the_setting_to_raise() -> None:
    shards.require_room_for_large(1024, per_shard=1024)
    with pytest.raises(CatalogueInvalid, match="AIRFLOW__ONNX_FLEET__LARGE_MEMORY_BYTES"):
        shards.require_room_for_large(1025, per_shard=1024)

"""Dealing models out to mapped groups."""

from __future__ import annotations

import pytest

from onnx_fleet.airflow import shards
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

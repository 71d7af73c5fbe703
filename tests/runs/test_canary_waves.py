"""The waves of a rollout: the first has every architecture, and each beginning is a sample of the fleet."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from fixtures.planned_models import of_entry
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.runs import canary_waves

ARCHITECTURES = {"BertModel": 600, "LlamaForCausalLM": 200, "ViTModel": 190, "T5Model": 9, "BlipModel": 1}


def item(number: int, architecture: str, *, size_bytes: int = 10**6, variants: tuple[str, ...] = ("fp32",)) -> WorkItem:
    entry = Entry(repo_id=f"acme/{architecture.lower()}-{number}", variants=variants)
    model = of_entry(entry, architecture=architecture, size_bytes=size_bytes)
    return WorkItem(
        model=model,
        family="encoder",
        fingerprint="f" * 64,
        version="3f2a1c00-ffffffff",
        state="changed",
        reason="toolchain: torch 2.13.0 -> 2.14.0",
        toolchain={},
        cause="toolchain",
    )


FLEET = [
    item(
        number,
        name,
        size_bytes=10**9 if number % 2 else 10**6,
        variants=("fp32", "q4") if number % 4 == 0 else ("fp32",),
    )
    for name, count in ARCHITECTURES.items()
    for number in range(count)
]


def waves(items: list[WorkItem], *shares: int, seed: str = "a") -> tuple[tuple[WorkItem, ...], ...]:
    return canary_waves.waves(items, shares=shares, seed=seed)


@pytest.mark.parametrize("seed", ["a", "b", "c"])
def test_the_first_wave_has_every_architecture_and_the_fleets_proportions(seed: str) -> None:
    first, *_ = waves(FLEET, 5, 25, 100, seed=seed)
    assert len(first) == 50
    counted = Counter(each.model.architecture for each in first)
    assert counted.keys() == ARCHITECTURES.keys()
    assert 27 <= counted["BertModel"] <= 33, "about 5 % of 600"
    assert 8 <= counted["LlamaForCausalLM"] <= 12
    berts = [each for each in first if each.model.architecture == "BertModel"]
    assert 10 <= sum(each.model.size_bytes == 10**9 for each in berts) <= 20, "half of them are large"
    assert 4 <= sum("q4" in each.model.entry.variants for each in berts) <= 12, "a quarter has another variant"


def test_the_waves_together_are_the_fleet_each_model_once() -> None:
    dealt = waves(FLEET, 5, 25, 100)
    assert [len(wave) for wave in dealt] == [50, 200, 750]
    assert Counter(each.model_id for wave in dealt for each in wave) == Counter(each.model_id for each in FLEET)


def test_the_same_seed_gives_the_same_waves_in_whatever_order_models_come() -> None:
    assert waves(FLEET, 5, 100) == waves(FLEET[::-1], 5, 100)
    assert waves(FLEET, 5, 100) != waves(FLEET, 5, 100, seed="b"), "another change, another sample"


def test_more_architectures_than_the_share_has_room_for_make_a_larger_first_wave() -> None:
    few = [item(number, f"Model{number % 8}") for number in range(16)]
    assert [len(wave) for wave in waves(few, 5, 25, 100)] == [8, 8]
    assert [len(wave) for wave in waves([replace(few[0])], 5, 25, 100)] == [1]
    assert waves([], 5, 100) == ()


def test_a_small_stratum_has_its_fair_chance_to_be_in_an_early_wave() -> None:
    fleet = [item(number, "BertModel") for number in range(100)] + [item(100, "BertModel", size_bytes=10**10)]
    early = sum(
        any(each.model.size_bytes == 10**10 for each in waves(fleet, 25, 100, seed=str(n))[0]) for n in range(200)
    )
    assert 25 <= early <= 80, "in about a quarter of all draws"

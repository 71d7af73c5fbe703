"""Sizing: what a plan says its models take, the order that follows, and the models that no worker can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from onnx_fleet.bundles import costs
from onnx_fleet.bundles.costs import EarlierCosts
from onnx_fleet.entities.entry import Entry, LatencyGrid
from onnx_fleet.entities.resolved_model import ResolvedModel, SourceFile
from onnx_fleet.entities.sizing import Capacity, SizingFacts, StepCost
from onnx_fleet.entities.work_item import Plan, WorkItem
from onnx_fleet.formatting import human_bytes
from onnx_fleet.planning import cost_formula, plan, sizing
from onnx_fleet.store import ObjectStore, layout, open_store

MB = 1_000_000
VERSIONS = {"torch": "2.13.0"}
STEPS = {"export", "validate", "measure", "compare", "publish"}
NO_LIMIT = Capacity()


def model(repo_id: str, *, size_bytes: int, task: str = "text-classification", **entry: object) -> ResolvedModel:
    """A model of one file of float32 weights."""
    weights = SourceFile(path="model.safetensors", size_bytes=size_bytes, digest="sha256:" + "0" * 64)
    return ResolvedModel(
        entry=Entry(repo_id=repo_id, **entry),  # type: ignore[arg-type]
        repo_id=repo_id,
        commit="3f2a1c0" + "0" * 33,
        task=task,
        architecture="BertForSequenceClassification",
        model_type="bert",
        licence="apache-2.0",
        gated=False,
        files=(weights,),
        needed=("model.safetensors",),
        float32_bytes=size_bytes,
    )


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    (tmp_path / "store").mkdir()
    return open_store(str(tmp_path / "store"))


def sized(store: ObjectStore, *models: ResolvedModel, largest_worker: Capacity = NO_LIMIT) -> Plan:
    made = plan.plan(models, store=store, versions=VERSIONS)
    return sizing.sized(made, store=store, largest_worker=largest_worker)


def only(made: Plan) -> WorkItem:
    (item,) = made.items
    return item


def facts(**changes: object) -> SizingFacts:
    usual = SizingFacts(
        family="encoder",
        float32_bytes=438 * MB,
        download_bytes=439 * MB,
        variants=("fp32",),
        latency=LatencyGrid(),
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def test_every_step_has_a_prediction_that_decides_nothing_of_the_bundle(store: ObjectStore) -> None:
    planned = only(plan.plan([model("acme/a", size_bytes=400 * MB)], store=store, versions=VERSIONS))
    item = only(sized(store, planned.model))
    assert item.estimate
    assert item.estimate.steps.keys() == STEPS
    assert item.estimate.memory_bytes == item.estimate.steps["validate"].memory_bytes, "it takes the most"
    assert item.estimate.seconds == pytest.approx(sum(cost.seconds for cost in item.estimate.steps.values()), abs=0.1)
    assert replace(item, estimate=None) == planned, "fingerprint and version are those without it"


def test_models_begin_by_priority_and_the_longest_first_whatever_order_they_come_in(store: ObjectStore) -> None:
    models = [
        model("acme/small", size_bytes=MB),
        model("acme/large", size_bytes=900 * MB),
        model("acme/middle", size_bytes=90 * MB),
        model("acme/urgent", size_bytes=MB, priority=1),
        model("acme/a-twin", size_bytes=MB),
    ]
    for order in (models, models[::-1]):
        ids = [item.model_id for item in sized(store, *order).items]
        assert ids == ["acme/urgent", "acme/large", "acme/middle", "acme/a-twin", "acme/small"]


def test_a_model_takes_less_once_one_of_its_kind_is_made(store: ObjectStore) -> None:
    """The first of a kind is traced, proven whole and measured; the others take that over."""
    models = [
        model("acme/first", size_bytes=400 * MB, priority=1),
        model("acme/second", size_bytes=400 * MB),
        model("acme/larger", size_bytes=401 * MB),
        model("acme/whole", size_bytes=400 * MB, proof="full"),
        model("acme/other", size_bytes=400 * MB, task="fill-mask"),
        model("acme/several", size_bytes=400 * MB, variants=("fp32", "fp16")),
        model("acme/measured", size_bytes=400 * MB, latency=LatencyGrid(reuse="never")),
    ]
    made = {item.model_id: item.estimate for item in sized(store, *models).items}
    found = {name for name, each in made.items() if each and each.basis == "model alike"}
    first, second = made["acme/first"], made["acme/second"]
    assert found == {"acme/second"}
    assert first
    assert second
    assert second.memory_bytes == first.memory_bytes
    assert {name for name in STEPS if second.steps[name].seconds < first.steps[name].seconds} == {
        "export", "validate", "measure",
    }  # fmt: skip
    assert second.seconds < first.seconds / 2


def test_a_model_of_a_kind_that_is_published_takes_less_too(store: ObjectStore) -> None:
    made = plan.plan([model(f"acme/{name}", size_bytes=400 * MB) for name in "ab"], store=store, versions=VERSIONS)
    one, other = made.items
    standing = replace(made, items=(replace(one, state="unchanged"), other))
    estimates = [item.estimate for item in sizing.sized(standing, store=store, largest_worker=NO_LIMIT).items]
    assert [each.basis for each in estimates if each] == ["model alike"]


@pytest.mark.parametrize(
    ("largest_worker", "step"),
    [(Capacity(memory_bytes=2500 * MB), "validate"), (Capacity(disk_bytes=3000 * MB), "export")],
    ids=["memory", "disk"],
)
def test_a_model_that_no_worker_can_hold_is_refused_and_the_others_are_not(
    store: ObjectStore, largest_worker: Capacity, step: str
) -> None:
    huge = model("acme/huge", size_bytes=2000 * MB)
    made = sized(store, huge, model("acme/small", size_bytes=MB), largest_worker=largest_worker)
    assert [item.model_id for item in made.items] == ["acme/small"]
    (refusal,) = made.refusals
    assert (refusal.repo_id, refusal.step, refusal.error, refusal.state) == (
        "acme/huge",
        "plan",
        "WorkerTooSmall",
        "refused",
    )
    (what, limit) = ("memory", "2.5 GB") if largest_worker.memory_bytes else ("disk", "3.0 GB")
    estimate = only(sized(store, huge)).estimate
    assert estimate
    needed = human_bytes(estimate.memory_bytes if largest_worker.memory_bytes else estimate.disk_bytes)
    assert refusal.message == (
        f"acme/huge@3f2a1c00: {step} is predicted to need {needed} of {what}, and the largest worker has {limit}; give"
        f" a worker more and raise [onnx_fleet] worker_{what}_bytes (ONNX_FLEET_WORKER_{what.upper()}_BYTES for the"
        " command line), or remove the entry"
    )


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        ({"float32_bytes": 876 * MB}, {"export", "validate", "measure", "publish"}),
        ({"variants": ("fp32", "q4")}, {"validate", "measure", "publish"}),
        ({"latency": LatencyGrid(batch_sizes=(1, 8, 32))}, {"measure"}),
        ({"family": "seq2seq"}, {"export", "validate", "measure"}),
        ({"replaces": True}, {"compare"}),
    ],
    ids=["weights", "variants", "grid", "family", "a version in use"],
)
def test_what_costs_time_is_predicted_to(more: Mapping[str, object], steps: set[str]) -> None:
    before, after = cost_formula.predict(facts()), cost_formula.predict(facts(**more))
    assert {name for name in STEPS if after[name].seconds > before[name].seconds} == steps


def test_a_budget_for_the_points_makes_the_measurement_shorter_and_the_comparison_not() -> None:
    usual, short = (
        cost_formula.predict(facts(replaces=True, latency=LatencyGrid(budget_s=budget_s))) for budget_s in (None, 12)
    )
    assert {name for name in STEPS if short[name].seconds != usual[name].seconds} == {"measure"}
    assert 12 < short["measure"].seconds < usual["measure"].seconds


def test_a_model_that_is_loaded_whole_needs_more_memory_to_export() -> None:
    usual, whole = (cost_formula.predict(facts(is_loaded_whole=each))["export"] for each in (False, True))
    assert whole.memory_bytes == usual.memory_bytes + 2 * 438 * MB


def kept(store: ObjectStore, item: WorkItem, **steps: StepCost) -> None:
    costs.keep(
        EarlierCosts(model_id=item.model_id, version=item.version, facts=sizing.facts_of(item), steps=steps),
        store=store,
    )


def test_what_an_earlier_run_took_is_predicted_again_and_disk_stays_what_the_files_say(store: ObjectStore) -> None:
    source = model("acme/a", size_bytes=400 * MB)
    first = only(sized(store, source))
    kept(store, first, validate=StepCost(memory_bytes=3000 * MB, disk_bytes=1, seconds=77.0))
    kept(store, first, validate=StepCost(memory_bytes=3100 * MB, disk_bytes=1, seconds=70.0))  # the last one counts
    again = only(sized(store, source)).estimate
    assert first.estimate
    assert again
    validate = again.steps["validate"]
    assert (first.estimate.basis, again.basis) == ("formula", "earlier run")
    assert (validate.memory_bytes, validate.seconds) == (3100 * MB, 70.0)
    assert validate.disk_bytes == first.estimate.steps["validate"].disk_bytes
    assert again.steps["export"] == first.estimate.steps["export"], "of a step that is not known the formula tells"


def test_what_has_changed_since_an_earlier_run_changes_its_figures_as_the_formula_does(store: ObjectStore) -> None:
    source = model("acme/a", size_bytes=400 * MB)
    first = only(sized(store, source))
    kept(store, first, validate=StepCost(memory_bytes=1000 * MB, disk_bytes=1, seconds=10.0))
    more = only(sized(store, replace(source, entry=replace(source.entry, variants=("fp32", "fp16", "int8", "q4")))))
    ratio = (
        cost_formula.predict(sizing.facts_of(more))["validate"].seconds
        / cost_formula.predict(sizing.facts_of(first))["validate"].seconds
    )
    assert more.estimate
    assert ratio > 1.5
    assert more.estimate.steps["validate"].seconds == pytest.approx(10.0 * ratio, abs=0.1)


def test_a_comparison_that_there_was_not_says_nothing_of_one_that_there_is() -> None:
    taken = StepCost(memory_bytes=1, disk_bytes=1, seconds=0.001)
    earlier = EarlierCosts(
        model_id="acme/a", version="11111111-22222222", facts=facts(), steps={"compare": taken, "publish": taken}
    )
    now = facts(replaces=True)
    assert sizing.estimate(now, earlier=earlier).steps["compare"] == cost_formula.predict(now)["compare"]


def test_costs_that_cannot_be_read_are_as_good_as_none(store: ObjectStore) -> None:
    store.create(layout.costs_key("acme/a"), b'{"schema_version": 2}')
    estimate = only(sized(store, model("acme/a", size_bytes=MB))).estimate
    assert estimate
    assert estimate.basis == "formula"


def test_a_total_is_of_the_models_to_export_one_after_the_other(store: ObjectStore) -> None:
    small, large = model("acme/small", size_bytes=MB), model("acme/large", size_bytes=400 * MB)
    made = sized(store, small, large)
    standing = replace(made, items=(*made.items, replace(made.items[0], state="unchanged", estimate=None)))
    together, estimates = sizing.total(standing), [item.estimate for item in made.items if item.estimate]
    assert together
    assert together.seconds == pytest.approx(sum(each.seconds for each in estimates), abs=0.1)
    assert together.memory_bytes == max(each.memory_bytes for each in estimates)
    assert together.disk_bytes == 801 * MB, "both checkpoints in the Hub's cache, and the stage of one at a time"
    assert sizing.total(Plan(items=(), refusals=())) is None

"""Planning: a model is exported when, and only when, something that decides its graphs is not published yet."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.planned_models import COMMIT, NEXT_COMMIT, VERSIONS, publish, resolved
from onnx_fleet import jsonio
from onnx_fleet.entities.entry import Entry, LatencyGrid, Tolerances
from onnx_fleet.entities.resolved_model import ResolvedModel
from onnx_fleet.entities.work_item import Plan, WorkItem
from onnx_fleet.errors import StoreNotFound
from onnx_fleet.planning import fingerprint, plan, toolchain
from onnx_fleet.store import ObjectStore, open_store


def test_a_model_that_the_hub_renamed_is_planned_with_both_ids(store: ObjectStore) -> None:
    model = replace(resolved("acme/new"), entry=Entry(repo_id="acme/old"))
    (item,) = plan.plan([model], store=store, versions=VERSIONS).items
    assert item.model_id == "acme/new"
    assert item.reason == "nothing is published yet; the Hub has renamed acme/old to acme/new"
    (same,) = plan.plan([resolved("acme/new")], store=store, versions=VERSIONS).items
    assert (same.version, same.reason) == (item.version, "nothing is published yet")


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    (tmp_path / "store").mkdir()
    return open_store(str(tmp_path / "store"))


def planned(model: ResolvedModel, store: ObjectStore, *, force: str | None = None, **versions: str) -> WorkItem:
    (item,) = plan.plan([model], store=store, force=force, versions={**VERSIONS, **versions}).items
    return item


def test_a_model_that_was_never_published_is_new(store: ObjectStore) -> None:
    item = planned(resolved(), store)
    assert (item.state, item.reason) == ("new", "nothing is published yet")
    assert item.version == f"3f2a1c00-{item.fingerprint[:8]}"
    assert item.family == "encoder"


def test_what_is_published_is_unchanged(store: ObjectStore) -> None:
    first = planned(resolved(), store)
    publish(store, first)
    again = planned(resolved(), store)
    assert again == replace(first, state="unchanged", reason=f"{first.version} is published")
    assert plan.plan([resolved()], store=store, versions=VERSIONS).to_export == ()


def test_a_crash_between_manifest_and_channel_is_not_exported_again(store: ObjectStore) -> None:
    item = planned(resolved(), store)
    publish(store, item)
    store.delete("models/acme/tiny/channels/latest.json")
    assert planned(resolved(), store).state == "unchanged"


def test_a_bundle_without_a_manifest_does_not_count(store: ObjectStore) -> None:
    item = planned(resolved(), store)
    store.create(f"models/acme/tiny/{item.version}/config.json", b"{}")
    assert planned(resolved(), store).state == "new"


@pytest.mark.parametrize(
    ("model", "versions", "reason"),
    [
        (resolved(commit=NEXT_COMMIT), {}, "commit 3f2a1c0 -> 9be01d2"),
        (resolved(), {"torch": "2.14.0"}, "toolchain: torch 2.13.0 -> 2.14.0"),
        (resolved(), {"onnx": "1.23.2"}, "toolchain: onnx none -> 1.23.2"),
        (resolved(opset=21), {}, "opset 20 -> 21"),
        (resolved(task="token-classification"), {}, "task fill-mask -> token-classification"),
        (
            resolved(commit=NEXT_COMMIT, opset=18),
            {"torch": "2.14.0"},
            "commit 3f2a1c0 -> 9be01d2; opset 20 -> 18; toolchain: torch 2.13.0 -> 2.14.0",
        ),
        (resolved(may_be_fixed=("sequence_length",)), {}, "may_be_fixed none -> sequence_length"),
        (resolved(allow_pickle=COMMIT), {}, "the export settings have changed"),
    ],
)
def test_a_change_is_named(store: ObjectStore, model: ResolvedModel, versions: dict[str, str], reason: str) -> None:
    publish(store, planned(resolved(), store))
    item = planned(model, store, **versions)
    assert (item.state, item.reason) == ("changed", reason)


@pytest.mark.parametrize(
    ("model", "versions", "cause"),
    [
        (resolved(), {"torch": "2.14.0"}, "toolchain"),
        (resolved(), {"onnx": "1.23.2"}, "toolchain"),
        (resolved(opset=21), {}, "defaults"),
        (resolved(opset=21), {"torch": "2.14.0"}, "defaults"),
        (resolved(opset=21, own=("opset",)), {}, "own"),
        (resolved(opset=21, own=("opset",)), {"torch": "2.14.0"}, "own"),
        (resolved(commit=NEXT_COMMIT), {"torch": "2.14.0"}, "own"),
        (resolved(variants=("fp32", "q4"), required_variants=("q4",), own=("required_variants",)), {}, "own"),
        (resolved(variants=("fp32", "q4")), {}, "defaults"),
        (resolved(inline_max_bytes=1), {}, "defaults"),
        (resolved(inline_max_bytes=1, own=("inline_max_bytes",)), {"torch": "2.14.0"}, "own"),
        (resolved(allow_pickle=COMMIT, own=("allow_pickle",)), {}, "own"),
        (resolved(priority=3, own=("priority",)), {"torch": "2.14.0"}, "toolchain"),
    ],
)
def test_a_change_that_is_not_the_models_own_is_told_from_one_that_is(
    store: ObjectStore, model: ResolvedModel, versions: dict[str, str], cause: str
) -> None:
    publish(store, planned(resolved(), store))
    assert planned(model, store, **versions).cause == cause
    assert planned(resolved(), store).cause is None


def test_a_forced_export_and_one_of_an_unreadable_version_are_a_models_own(store: ObjectStore) -> None:
    publish(store, planned(resolved(), store))
    assert planned(resolved(), store, force="manual__1").cause == "own"
    forced = planned(resolved(), store, force="manual__1")
    publish(store, forced)
    assert planned(resolved(), store, torch="2.14.0").cause == "toolchain", "the version in use was forced"


def test_what_all_models_share_is_the_toolchain_and_what_the_defaults_decide() -> None:
    plain = Entry(repo_id="")
    prints = {
        fingerprint.of_defaults(plain, versions=VERSIONS),
        fingerprint.of_defaults(plain, versions={**VERSIONS, "torch": "2.14.0"}),
        fingerprint.of_defaults(replace(plain, opset=21), versions=VERSIONS),
        fingerprint.of_defaults(replace(plain, recipe="cls"), versions=VERSIONS),
    }
    assert len(prints) == 4
    assert fingerprint.of_defaults(replace(plain, priority=3), versions=VERSIONS) in prints


def test_going_back_to_a_published_commit_exports_nothing(store: ObjectStore) -> None:
    first = planned(resolved(), store)
    publish(store, first)
    publish(store, planned(resolved(commit=NEXT_COMMIT), store))
    assert planned(resolved(), store).version == first.version
    assert planned(resolved(), store).state == "unchanged"


def test_force_gives_a_new_version_and_a_retry_of_that_run_finds_it(store: ObjectStore) -> None:
    first = planned(resolved(), store)
    publish(store, first)
    forced = planned(resolved(), store, force="manual__1")
    assert (forced.state, forced.reason) == ("changed", "a re-export was asked for: manual__1")
    assert forced.version != first.version
    publish(store, forced)
    assert planned(resolved(), store, force="manual__1").state == "unchanged"


def test_the_run_after_a_forced_one_keeps_the_forced_version(store: ObjectStore) -> None:
    publish(store, planned(resolved(), store))
    forced = planned(resolved(), store, force="manual__1")
    publish(store, forced)
    after = planned(resolved(), store)
    assert (after.state, after.version, after.rebuild) == ("unchanged", forced.version, "manual__1")
    changed = planned(resolved(commit=NEXT_COMMIT), store)
    assert (changed.state, changed.rebuild) == ("changed", None)


def test_an_unreadable_manifest_leads_to_a_new_bundle_and_not_to_a_failed_plan(store: ObjectStore) -> None:
    store.create("models/acme/tiny/old/manifest.json", b"not JSON")
    store.create("models/acme/tiny/channels/latest.json", b'{"version": "old"}')
    item = planned(resolved(), store)
    assert (item.state, item.reason) == ("changed", "the manifest of old is unreadable")


def test_an_unreadable_channel_counts_as_none(store: ObjectStore) -> None:
    store.create("models/acme/tiny/channels/latest.json", b"[]")
    assert planned(resolved(), store).state == "new"


def test_equal_inputs_give_an_equal_fingerprint() -> None:
    backwards = dict(reversed(VERSIONS.items()))
    one = fingerprint.fingerprint(resolved(), family="encoder", versions=VERSIONS)
    assert one == fingerprint.fingerprint(resolved(), family="encoder", versions=backwards)
    assert len(one) == 64


def test_every_deciding_field_changes_the_fingerprint() -> None:
    prints = [
        fingerprint.fingerprint(resolved(), family="encoder", versions=VERSIONS),
        fingerprint.fingerprint(resolved(commit=NEXT_COMMIT), family="encoder", versions=VERSIONS),
        fingerprint.fingerprint(resolved(task="text-classification"), family="encoder", versions=VERSIONS),
        fingerprint.fingerprint(resolved(), family="decoder", versions=VERSIONS),
        fingerprint.fingerprint(resolved(recipe="cls"), family="encoder", versions=VERSIONS),
        fingerprint.fingerprint(resolved(variants=("fp32", "fp16")), family="encoder", versions=VERSIONS),
        fingerprint.fingerprint(resolved(opset=21), family="encoder", versions=VERSIONS),
        fingerprint.fingerprint(resolved(decoder_form="plain"), family="encoder", versions=VERSIONS),
        fingerprint.fingerprint(resolved(may_be_fixed=("sequence_length",)), family="encoder", versions=VERSIONS),
        fingerprint.fingerprint(resolved(architecture="BertForMaskedLM"), family="encoder", versions=VERSIONS),
        fingerprint.fingerprint(resolved(weights_variant="fp16"), family="encoder", versions=VERSIONS),
        fingerprint.fingerprint(resolved(trust_remote_code=COMMIT), family="encoder", versions=VERSIONS),
        fingerprint.fingerprint(resolved(allow_pickle=COMMIT), family="encoder", versions=VERSIONS),
        fingerprint.fingerprint(resolved(), family="encoder", versions={**VERSIONS, "torch": "2.14.0"}),
        fingerprint.fingerprint(resolved(), family="encoder", versions={"torch": "2.13.0"}),
        fingerprint.fingerprint(resolved(), family="encoder", versions=VERSIONS, rebuild="manual__1"),
    ]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize(
    "entry",
    [
        {"tolerances": Tolerances(atol=1e-2)},
        {"latency": LatencyGrid(timed_runs=3)},
        {"latency": LatencyGrid(reuse="never", max_age_days=1, precision=0.1, budget_s=5)},
        {"providers": ("cpu", "cuda")},
        {"priority": 7},
        {"max_bytes": 10**9},
        {"allowed_licences": ("mit",)},
        {"licences_to_approve": ("gemma",)},
        {"revision": "v1"},
    ],
)
def test_what_does_not_decide_the_graphs_stays_out_of_the_fingerprint(entry: dict[str, object]) -> None:
    plain = fingerprint.fingerprint(resolved(), family="encoder", versions=VERSIONS)
    assert fingerprint.fingerprint(resolved(**entry), family="encoder", versions=VERSIONS) == plain


def test_items_go_by_priority_then_id_whatever_order_they_come_in(store: ObjectStore) -> None:
    models = [resolved("b/b"), resolved("A/a"), resolved("z/urgent", priority=5), resolved("a/b")]
    orders = [plan.plan(order, store=store, versions=VERSIONS) for order in (models, models[::-1])]
    assert [item.model_id for item in orders[0].items] == ["z/urgent", "A/a", "a/b", "b/b"]
    assert orders[0] == orders[1]


def test_a_task_without_a_family_is_refused_and_touches_no_other_model(store: ObjectStore) -> None:
    made = plan.plan([resolved("a/speech", task="text-to-speech"), resolved("b/b")], store=store, versions=VERSIONS)
    assert [item.model_id for item in made.items] == ["b/b"]
    (refusal,) = made.refusals
    told = (refusal.repo_id, refusal.step, refusal.error, refusal.state)
    assert told == ("a/speech", "plan", "ExportUnsupported", "failed")
    assert refusal.message.startswith("a/speech@3f2a1c00: no family exports text-to-speech; give the entry one of")


def test_a_recipe_for_another_task_is_refused(store: ObjectStore) -> None:
    (refusal,) = plan.plan([resolved(recipe="cls")], store=store, versions=VERSIONS).refusals
    assert "recipe 'cls' is for feature-extraction, sentence-similarity, not for fill-mask" in refusal.message


def test_another_form_is_a_change_and_only_encoder_decoders_have_forms(store: ObjectStore) -> None:
    publish(store, planned(resolved(task="translation"), store))
    assert planned(resolved(task="translation", decoder_form="plain"), store).reason == "decoder_form merged -> plain"
    (refusal,) = plan.plan([resolved(decoder_form="plain")], store=store, versions=VERSIONS).refusals
    assert "decoder_form 'plain' is for text2text-generation, summarization, translation, not for" in refusal.message


def test_two_entries_that_the_hub_knows_as_one_model_give_one_item(store: ObjectStore) -> None:
    short = replace(resolved("openai-community/gpt2"), entry=Entry(repo_id="gpt2"))
    made = plan.plan([resolved("openai-community/gpt2", priority=1), short], store=store, versions=VERSIONS)
    assert len(made.items) == 1
    (refusal,) = made.refusals
    assert (refusal.error, refusal.state) == ("DuplicateModel", "refused")
    assert "'gpt2' and 'openai-community/gpt2' are the same model on the Hub" in refusal.message


def test_a_plan_of_nothing_is_empty(store: ObjectStore) -> None:
    assert plan.plan([], store=store) == Plan(items=(), refusals=())


def test_a_store_that_is_not_there_stops_the_plan(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound):
        plan.plan([resolved()], store=open_store(str(tmp_path / "no" / "such" / "folder")), versions=VERSIONS)


def test_a_plan_survives_json(store: ObjectStore) -> None:
    made = plan.plan([resolved(), resolved("a/speech", task="text-to-speech")], store=store)
    assert jsonio.parse(Plan, json.dumps(jsonio.to_json(made))) == made


def test_the_toolchain_names_every_package_without_local_parts() -> None:
    versions = toolchain.versions()
    assert set(versions) == {*toolchain.PACKAGES, toolchain.FORMAT_KEY}
    assert not [text for text in versions.values() if "+" in text]
    assert list(versions) == sorted(versions)


def test_planning_imports_neither_torch_nor_onnxruntime_nor_airflow() -> None:
    code = "import sys, onnx_fleet.planning.plan, onnx_fleet.runs.run_report; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "transformers", "onnxruntime", "onnx", "airflow", "boto3"} & set(loaded)

"""Audits of published bundles: sound ones, damaged ones, wrong ones, and ones whose source is gone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import version as installed
from pathlib import Path

import jsonschema
import onnx
import pytest

from fixtures import statsd
from fixtures.airflow import AirflowHome
from fixtures.audited import MODEL, Audited, put
from fixtures.faulty_stores import SteppedStore
from fixtures.models import RepoMaker
from fixtures.moved import AUDIT, BY, REASON
from fixtures.stages import NOW
from mutations.encoder import mask_dropped
from mutations.mutation import change_graph
from onnx_fleet import jsonio
from onnx_fleet.bundles import bundle, channels, feed, listing, manifest, publish, verify
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.entry import Entry, Tolerances
from onnx_fleet.errors import BundleNotFound, ExportUnsupported, StoreUnavailable, UnsafeModel
from onnx_fleet.runs import audit, restored_stage, rollback
from onnx_fleet.runs.audit import Audit, Target
from onnx_fleet.runs.audit_report import AuditReport
from onnx_fleet.runs.restored_stage import Trust
from onnx_fleet.runs.services import Services
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet.store import ObjectStore, open_store, transfer

pytestmark = pytest.mark.timeout(600)

AUDITED_AT = NOW + timedelta(days=30)
SCHEMA = Path(__file__).parents[2] / "docs" / "audit.schema.json"


@pytest.fixture
def services(audited: Audited, tmp_path: Path) -> Services:
    """An empty store, and the Hub that has the source."""
    (tmp_path / "store").mkdir()
    return replace(audited.services, store=open_store(str(tmp_path / "store")), work_dir=tmp_path / "work")


@pytest.fixture
def hubless(services: Services, tmp_path: Path) -> Services:
    """The same, where nothing answers and nothing is in the cache."""
    settings = HubSettings(endpoint="http://127.0.0.1:9", cache_dir=tmp_path / "no-cache", retry_attempts=1)
    return replace(services, hub=Hub(settings, sleep=lambda _: None))


def _target(version: str, **trust: str) -> Target:
    return Target(model_id=MODEL, version=version, trust=Trust(**trust))


def _kept(services: Services) -> list[Audit]:
    """Every result in the store, the oldest first."""
    data = [json.loads(services.store.read(info.key)) for info in services.store.list("audits/")]
    for each in data:
        jsonschema.validate(each, json.loads(SCHEMA.read_text()))
    return [jsonio.from_json(Audit, each) for each in data]


def _published(store: ObjectStore) -> dict[str, str]:
    return {info.key: transfer.sha256_of(store.read(info.key)) for info in store.list("models/")}


def _made_with_older_onnxruntime(folder: Path) -> None:
    record = Stage.open(folder).read_export()
    Stage.open(folder).write_export(replace(record, toolchain={**record.toolchain, "onnxruntime": "1.20.0"}))


def _wrong(folder: Path) -> None:
    """A graph that ignores the mask, recorded as it is, with the old reports."""
    change_graph(folder / "onnx" / "model.onnx", mask_dropped)


def _with_wrong_fp16(folder: Path) -> None:
    """fp16 weights that were halved; the fp32 graph stays right."""

    def halve(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype == "float16" and array.ndim == 2:
                tensor.CopyFrom(onnx.numpy_helper.from_array(array[::-1].copy(), tensor.name))

    change_graph(folder / "onnx" / "model_fp16.onnx", halve)


def test_a_sound_bundle_passes_and_the_other_onnxruntime_is_told(
    audited: Audited, services: Services, tmp_path: Path
) -> None:
    made = audited.copy(tmp_path / "made", digit="a")
    _made_with_older_onnxruntime(made)
    version = put(made, services.store)
    before = _published(services.store)

    found = audit.audit(_target(version), services=services, now=AUDITED_AT)

    assert (found.verdict, found.files, found.runs) == ("passed", (), ())
    assert {row.check for row in found.checks} >= {"parity", "padding_left", "contract", "answers"}
    assert [(each.variant, each.passed) for each in found.variants] == [("fp16", True)]
    assert found.changed == (f"onnxruntime 1.20.0 -> {installed('onnxruntime')}",)
    assert _kept(services) == [found]
    assert _published(services.store) == before
    assert not list((tmp_path / "work").rglob("*.onnx"))


def test_results_disturb_no_reader_and_stay(hubless: Services, audited: Audited) -> None:
    version = put(audited.stage_dir, hubless.store)
    listed, index = listing.list_models(hubless.store), feed.rebuild(hubless.store, now=NOW)
    for day in range(2):
        audit.audit(_target(version), services=hubless, now=AUDITED_AT + timedelta(days=day))

    assert [each.audited_at for each in _kept(hubless)] == [AUDITED_AT, AUDITED_AT + timedelta(days=1)]
    assert listing.list_models(hubless.store) == listed
    assert feed.rebuild(hubless.store, now=NOW) == index
    assert verify.verify(MODEL, store=hubless.store).passed


def test_a_flipped_byte_fails_before_anything_is_run(audited: Audited, services: Services) -> None:
    version = put(audited.stage_dir, services.store)
    key = bundle.find(MODEL, store=services.store).key("onnx/model.onnx")
    data, etag = services.store.read_tagged(key)
    services.store.replace(key, data[:-1] + bytes([data[-1] ^ 1]), etag=etag)

    found = audit.audit(_target(version), services=services, now=AUDITED_AT)

    assert (found.verdict, found.checks, found.runs) == ("failed", (), ())
    assert [(fault.path, fault.fault) for fault in found.files] == [("onnx/model.onnx", "changed")]
    assert "onnx/model.onnx: changed" in found.reason
    assert _kept(services) == [found]


def test_a_wrong_graph_with_right_hashes_fails_and_its_channel_goes_back_to_the_version_before(
    audited: Audited, services: Services, tmp_path: Path
) -> None:
    sound = put(audited.stage_dir, services.store)
    bad_stage = audited.copy(tmp_path / "bad", digit="b")
    _wrong(bad_stage)
    bad = put(bad_stage, services.store, days=1)
    assert verify.verify(MODEL, store=services.store).passed
    assert channels.read(services.store, MODEL, "latest").version == bad

    failed = audit.audit(_target(bad), services=services, now=AUDITED_AT)
    assert failed.verdict == "failed"
    assert not next(row for row in failed.checks if row.check == "padding_left").passed
    assert "padding" in failed.reason

    dry = rollback.demote(failed, channel="latest", services=services, by=AUDIT, now=AUDITED_AT, dry_run=True)
    assert dry is not None
    assert (dry.to, dry.moved) == (sound, False)
    assert channels.read(services.store, MODEL, "latest").version == bad

    known = [each for each in _kept(services) if each.version == sound]
    done = rollback.demote(failed, channel="latest", services=services, by=AUDIT, now=AUDITED_AT, known=known)
    assert done is not None
    assert (done.version, done.to, done.moved) == (bad, sound, True)
    pointer = channels.read(services.store, MODEL, "latest")
    assert (pointer.version, pointer.previous, pointer.held) == (sound, bad, True)
    row = channels.history(services.store, MODEL, "latest").rows[-1]
    assert (row.kind, row.by, row.from_version, row.to_version) == ("demoted", AUDIT, bad, sound)
    assert row.why == f"{bad} failed its audit: {failed.reason}"
    stands = bundle.find(f"{MODEL}@{bad}", store=services.store)
    publish.settle(
        stands.manifest,
        manifest_sha256=stands.manifest_sha256,
        store=services.store,
        channel="latest",
        by=BY,
        now=AUDITED_AT,
        begun=False,
    )
    assert channels.read(services.store, MODEL, "latest").version == sound, "a run leaves it there"
    assert rollback.demote(failed, channel="latest", services=services, by=AUDIT, now=AUDITED_AT) is None, (
        "it points elsewhere now"
    )


def test_a_wrong_variant_fails_beside_a_right_fp32_graph(audited: Audited, services: Services, tmp_path: Path) -> None:
    folder = audited.copy(tmp_path / "made", digit="c")
    _with_wrong_fp16(folder)
    found = audit.audit(_target(put(folder, services.store)), services=services, now=AUDITED_AT)

    assert found.verdict == "failed"
    assert {row.passed for row in found.checks} == {True}
    assert [(each.variant, each.passed) for each in found.variants] == [("fp16", False)]
    assert found.reason.startswith("fp16: ")


def test_a_bundle_whose_source_is_gone_is_run_and_not_compared(audited: Audited, hubless: Services) -> None:
    found = audit.audit(_target(put(audited.stage_dir, hubless.store)), services=hubless, now=AUDITED_AT)

    assert found.verdict == "not_compared"
    assert found.reason.startswith("not compared with PyTorch: HubUnavailable: ")
    assert [(run.graph, run.passed) for run in found.runs] == [
        ("onnx/model.onnx", True),
        ("onnx/model_fp16.onnx", True),
    ]
    assert rollback.demote(found, channel="latest", services=hubless, by=AUDIT, now=AUDITED_AT) is None
    assert channels.read(hubless.store, MODEL, "latest").version == found.version


def test_a_graph_that_onnxruntime_does_not_take_fails_without_its_source_too(
    audited: Audited, hubless: Services, tmp_path: Path
) -> None:
    def unknown_operator(model: onnx.ModelProto) -> None:
        model.graph.node[-1].op_type = "OfTheFuture"

    folder = audited.copy(tmp_path / "made", digit="d")
    change_graph(folder / "onnx" / "model.onnx", unknown_operator)
    version = put(folder, hubless.store)
    found = audit.audit(_target(version), services=hubless, now=AUDITED_AT)

    assert found.verdict == "failed"
    assert [run.graph for run in found.runs if not run.passed] == ["onnx/model.onnx"]
    assert "OfTheFuture" in found.reason
    assert str(hubless.work_dir) not in found.reason
    kept = rollback.demote(found, channel="latest", services=hubless, by=AUDIT, now=AUDITED_AT)
    assert kept is not None
    assert (kept.to, kept.reason) == (None, "no older version passes its audit; the channel was not moved")


def test_a_channel_that_a_person_holds_stays(audited: Audited, hubless: Services) -> None:
    version = put(audited.stage_dir, hubless.store)
    channels.move(hubless.store, MODEL, "latest", version, reason=REASON, now=NOW, held=True)
    hubless.store.delete(bundle.find(MODEL, store=hubless.store).key("config.json"))
    failed = audit.audit(_target(version), services=hubless, now=AUDITED_AT)

    left = rollback.demote(failed, channel="latest", services=hubless, by=AUDIT, now=AUDITED_AT)
    assert failed.verdict == "failed"
    assert left is not None
    assert (left.moved, left.to) == (False, None)
    assert "a person holds" in left.reason


def test_a_store_that_does_not_answer_is_no_verdict(audited: Audited, services: Services) -> None:
    version = put(audited.stage_dir, services.store)

    def unavailable() -> None:
        raise StoreUnavailable("the store does not answer")

    broken = replace(services, store=SteppedStore(services.store, step=4, before=unavailable))
    with pytest.raises(StoreUnavailable):
        audit.audit(_target(version), services=broken, now=AUDITED_AT)
    assert _kept(services) == []


def test_a_manifest_that_cannot_be_read_fails_and_one_of_a_later_onnx_fleet_does_not(
    audited: Audited, services: Services
) -> None:
    version = put(audited.stage_dir, services.store)
    key = bundle.find(MODEL, store=services.store).key(manifest.FILE_NAME)
    data, etag = services.store.read_tagged(key)
    services.store.replace(key, json.dumps({**json.loads(data), "schema_version": 2}).encode(), etag=etag)
    later = audit.audit(_target(version), services=services, now=AUDITED_AT)
    services.store.replace(key, data[:100], etag=services.store.read_tagged(key)[1])
    cut = audit.audit(_target(version), services=services, now=AUDITED_AT + timedelta(days=1))

    assert (later.verdict, cut.verdict) == ("not_compared", "failed")
    assert "upgrade onnx-fleet" in later.reason


def test_what_was_published_decides_what_a_bundle_is_held_to(audited: Audited, tmp_path: Path) -> None:
    folder = audited.copy(tmp_path / "made", digit="e")
    item = Stage.open(folder).item
    (tmp_path / "store").mkdir()
    store = open_store(str(tmp_path / "store"))
    put(folder, store)
    again = restored_stage.write(folder, bundle.find(MODEL, store=store).manifest, trust=Trust()).item

    for name in ("repo_id", "commit", "task", "architecture", "model_type", "licence", "gated", "needed"):
        assert getattr(again.model, name) == getattr(item.model, name), name
    entry, published = again.model.entry, item.model.entry
    assert (entry.variants, entry.opset) == (published.variants, published.opset)
    proven = json.loads((folder / "reports" / "validation.json").read_bytes())
    applied = next(row for row in proven["rows"] if row["check"] == "contract")
    assert entry.tolerances == Tolerances(atol=applied["atol"], rtol=applied["rtol"], derived=True)
    assert entry.variant_gates["fp16"].min_cosine == json_threshold(folder, "cosine")
    assert entry.variant_gates["fp16"].max_layers_ratio == json_threshold(folder, "size")
    assert Stage.open(folder).read_export().graphs == bundle.find(MODEL, store=store).manifest.graphs


def json_threshold(folder: Path, name: str) -> float:
    report = json.loads((folder / "reports" / "variants.json").read_bytes())
    measures = report["verdicts"][0]["graphs"][0]["measures"]
    return float(next(measure["threshold"] for measure in measures if measure["name"] == name))


def _as_pickle(made: manifest.Manifest) -> manifest.Manifest:
    files = [
        replace(file, path=file.path.replace("model.safetensors", "pytorch_model.bin")) for file in made.source.files
    ]
    return replace(made, source=replace(made.source, files=tuple(files)))


def _with_another_recipe_file(made: manifest.Manifest) -> manifest.Manifest:
    return replace(made, export=replace(made.export, recipe="recipes.swish:swish", recipe_digest="0" * 64))


def _with_a_path_that_leaves(made: manifest.Manifest) -> manifest.Manifest:
    files = (*made.source.files, replace(made.source.files[0], path="../../outside"))
    return replace(made, source=replace(made.source, files=files))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (_as_pickle, UnsafeModel),
        (_with_another_recipe_file, ExportUnsupported),
        (_with_a_path_that_leaves, UnsafeModel),
    ],
)
def test_a_manifest_alone_gets_nothing_run(
    change: Callable[[manifest.Manifest], manifest.Manifest], error: type[Exception], audited: Audited, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    store = open_store(str(tmp_path / "store"))
    put(audited.stage_dir, store)
    made = bundle.find(MODEL, store=store).manifest
    with pytest.raises(error):
        restored_stage.write(audited.copy(tmp_path / "made", digit="f"), change(made), trust=Trust())


def test_a_catalogue_may_allow_the_pickles_of_one_commit(audited: Audited, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = open_store(str(tmp_path / "store"))
    put(audited.stage_dir, store)
    made = _as_pickle(bundle.find(MODEL, store=store).manifest)
    folder = audited.copy(tmp_path / "made", digit="f")
    item = restored_stage.write(folder, made, trust=Trust(allow_pickle=made.source.revision)).item
    assert item.model.entry.allow_pickle == item.model.commit
    with pytest.raises(UnsafeModel):
        restored_stage.write(folder, made, trust=Trust(allow_pickle="0" * 40))


def test_bundles_are_chosen_by_channel_pattern_and_sample(audited: Audited, services: Services, tmp_path: Path) -> None:
    old = put(audited.stage_dir, services.store)
    new = put(audited.copy(tmp_path / "new", digit="a"), services.store, days=1)
    choose = audit.choose

    def versions(*targets: Target) -> list[str]:
        return [target.version for target in targets]

    assert versions(*choose(services.store)) == [new]
    assert versions(*choose(services.store, all_versions=True)) == sorted([old, new])
    assert choose(services.store, channel="stable") == ()
    assert versions(*choose(services.store, only=["ACME/*"])) == [new]
    with pytest.raises(BundleNotFound, match="no published model matches other"):
        choose(services.store, only=["other/*"])
    drawn = {seed: choose(services.store, all_versions=True, sample=1, seed=seed) for seed in range(16)}
    assert {len(each) for each in drawn.values()} == {1}
    assert len(set(drawn.values())) == 2, "another seed takes another one"
    assert choose(services.store, all_versions=True, sample=1, seed=3) == drawn[3]
    (trusted,) = choose(services.store, entries=[Entry(repo_id=MODEL.upper(), trust_remote_code="1" * 40)])
    assert trusted.trust == Trust(trust_remote_code="1" * 40)


def test_the_command_line_tells_a_failure_and_moves_the_channel_when_asked(
    audited: Audited, services: Services, tmp_path: Path
) -> None:
    sound = put(audited.stage_dir, services.store)
    bad_stage = audited.copy(tmp_path / "bad", digit="b")
    _wrong(bad_stage)
    bad = put(bad_stage, services.store, days=1)

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HF_"))}
        return subprocess.run(
            [sys.executable, "-c", "from onnx_fleet.cli import main; main()", "audit", *arguments],
            env={
                **environment,
                "HF_ENDPOINT": audited.hub.url,
                "HF_HOME": str(tmp_path / "hf"),
                "ONNX_FLEET_STORE": services.store.address,
                "ONNX_FLEET_WORK_DIR": str(tmp_path / "work"),
                "COLUMNS": "200",
            },
            capture_output=True,
            text=True,
            check=False,
        )

    assert command("--dry-run").returncode == 2
    nothing = command("--channel", "stable")
    assert (nothing.returncode, nothing.stderr) == (
        0,
        f"{services.store.address} has no channel 'stable' that points to a version\n",
    )
    moved = command("--demote", "--all-versions")
    assert moved.returncode == 1
    assert [line.split()[:3] for line in moved.stdout.splitlines()[1:3]] == [
        [MODEL, version, verdict] for version, verdict in sorted([(sound, "passed"), (bad, "failed")])
    ]
    assert f"{MODEL}@latest: moved to {sound} and held there" in moved.stdout
    told = moved.stderr
    assert re.search(f"^{MODEL}@{bad}: audit [12] of 2$", told, flags=re.MULTILINE)
    assert re.search("^failed: .*padding_right", told, flags=re.MULTILINE)
    assert f"\nresult: {services.store.address}/audits/{MODEL}/{bad}/" in told
    assert f"next: make a new version: `onnx-fleet run {MODEL} --force`, or `force` in Airflow\n" in told
    assert told.endswith(f"1 failed, 1 passed; results: {services.store.address}/audits/\n")
    assert channels.read(services.store, MODEL, "latest").version == sound
    assert [each.version for each in feed.read(services.store)[0].channels] == [sound]
    assert len(_kept(services)) == 2, "the version that it goes back to was audited already"


@pytest.mark.airflow
def test_the_dag_moves_the_channels_of_bundles_that_failed_and_no_others(
    audited: Audited, services: Services, small_repo: Path, tmp_path: Path, airflow_home: AirflowHome
) -> None:
    """One model is right, one is wrong in its newest version, and one's source is gone."""
    root = audited.hub.repos.root
    for repo_id in ("acme/second", "acme/gone"):
        RepoMaker(root, small_repo).sound(repo_id)
    right = put(audited.stage_dir, services.store)
    older = put(audited.copy(tmp_path / "older", digit="a", repo_id="acme/second"), services.store)
    wrong_stage = audited.copy(tmp_path / "wrong", digit="b", repo_id="acme/second")
    _wrong(wrong_stage)
    wrong = put(wrong_stage, services.store, days=1)
    gone = put(audited.copy(tmp_path / "gone", digit="a", repo_id="acme/gone"), services.store)
    shutil.rmtree(root / "acme" / "gone")
    options = {
        "AIRFLOW__ONNX_FLEET__STORE": services.store.address,
        "AIRFLOW__ONNX_FLEET__SCRATCH": str(tmp_path / "scratch"),
        "AIRFLOW__ONNX_FLEET__SHARDS": "1",
        "HF_ENDPOINT": audited.hub.url,
        "HF_HOME": str(tmp_path / "hf"),
    }

    end = airflow_home.run("bundle_audit", {"demote": True, "max_failed": 1, "max_not_compared": 1}, options=options)

    assert end.state == "success", end.log
    report = jsonio.parse(AuditReport, services.store.read(str(end.results["report"])))
    assert {(row.model_id, row.version): row.verdict for row in report.rows} == {
        ("acme/second", wrong): "failed",
        ("acme/gone", gone): "not_compared",
        (MODEL, right): "passed",
    }
    moves = {row.model_id: (row.demotion.to, row.demotion.moved) for row in report.rows if row.demotion}
    assert moves == {"acme/second": (older, True)}
    now = {model: channels.read(services.store, model, "latest") for model in (MODEL, "acme/second", "acme/gone")}
    assert {model: (pointer.version, pointer.held) for model, pointer in now.items()} == {
        MODEL: (right, False),
        "acme/second": (older, True),
        "acme/gone": (gone, False),
    }
    assert {(each.model_id, each.version) for each in _kept(services)} == {
        (MODEL, right), ("acme/second", wrong), ("acme/second", older), ("acme/gone", gone),
    }  # fmt: skip


@pytest.mark.airflow
def test_the_dag_audits_every_bundle_and_its_gate_counts_those_that_failed(
    audited: Audited, services: Services, tmp_path: Path, airflow_home: AirflowHome
) -> None:
    sound = put(audited.stage_dir, services.store)
    damaged = put(audited.copy(tmp_path / "damaged", digit="b"), services.store, days=1)
    key = bundle.find(f"{MODEL}@{damaged}", store=services.store).key("tokenizer.json")
    services.store.replace(key, b"{}", etag=services.store.read_tagged(key)[1])
    options = {
        "AIRFLOW__ONNX_FLEET__STORE": services.store.address,
        "AIRFLOW__ONNX_FLEET__SCRATCH": str(tmp_path / "scratch"),
        "AIRFLOW__ONNX_FLEET__SHARDS": "2",
        "HF_ENDPOINT": audited.hub.url,
        "HF_HOME": str(tmp_path / "hf"),
    }
    with statsd.served() as metrics:
        asked = {"all_versions": True, "demote": True}
        end = airflow_home.run("bundle_audit", asked, options={**options, **metrics.options})
        counted = {sent.tags["verdict"]: sent.value for sent in metrics.of("onnx_fleet.audits")}

    assert (end.state, end.states("gate")) == ("failed", ["failed"])
    labels = {task.label for task in end.tasks if task.task_id in ("audit_1", "audit_2")}
    assert labels == {f"{MODEL}@{sound}", f"{MODEL}@{damaged}"}
    report = jsonio.parse(AuditReport, services.store.read(str(end.results["report"])))
    assert {row.version: row.verdict for row in report.rows} == {damaged: "failed", sound: "passed"}
    assert report.counts == {"failed": 1, "broke_off": 0, "not_compared": 0, "passed": 1}
    assert counted == {"failed": 1, "passed": 1}
    assert "1 failed or broke off (allowed: 0)" in end.log
    assert "tokenizer.json: changed" in services.store.read(str(end.results["report"]).replace(".json", ".md")).decode()
    assert channels.read(services.store, MODEL, "latest").version == sound
    assert [each.version for each in feed.read(services.store)[0].channels] == [sound]
    assert {each.version for each in _kept(services)} == {damaged, sound}
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]

"""The DAGs, run by Airflow against a local Hub and an S3 server: what a user finds in the store afterwards."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.airflow import ROOT, AirflowHome, RunEnd
from fixtures.fleet_options import FUSED, LATENCY
from fixtures.models import RepoMaker
from fixtures.signers import PASSPHRASE, SignerFiles, policy, signer
from onnx_fleet import jsonio
from onnx_fleet.bundles import channels, costs, feed, listing, manifest
from onnx_fleet.bundles.verify import verify
from onnx_fleet.runs import run_report
from onnx_fleet.runs.run_report import RunReport
from onnx_fleet.source.hub_client import HubSettings
from onnx_fleet.store import ObjectStore, layout, open_store
from onnx_fleet_demo.hub_failures import Failure
from onnx_fleet_demo.hub_server import HubServer
from onnx_fleet_demo.s3_server import EmbeddedS3

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]

SOUND = "acme/sound"
CORRUPT = "acme/corrupt-weights"
PICKLE = "acme/pickle-only"
NOWHERE = "acme/nowhere"
MENDED = "acme/mended"
MENDED_ELSEWHERE = "acme/mended-elsewhere"
MENDED_IN_ONE_TASK = "acme/mended-in-one-task"
STEPS = ("export", "validate", "measure", "compare", "publish")
CATALOGUE = f"""
defaults:
  latency: {json.dumps(LATENCY)}
models:
  - repo_id: {SOUND}
    providers: [cpu, cuda]
    priority: 1
  - {CORRUPT}
  - {PICKLE}
  - {NOWHERE}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A deployment: one Airflow, one Hub, one store."""

    home: AirflowHome
    store: ObjectStore
    catalogue: Path
    options: Mapping[str, str]
    signer: SignerFiles

    def run(self, **conf: object) -> RunEnd:
        return self.home.run("fleet_reexport", {"catalogue": str(self.catalogue), **conf}, options=self.options)

    def report(self, end: RunEnd) -> RunReport:
        return jsonio.parse(RunReport, self.store.read(str(end.results["report"])))


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, airflow_home: AirflowHome, s3_server: EmbeddedS3, small_repo: Path
) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "hub").mkdir()
    maker = RepoMaker(folder / "hub", small_repo)
    maker.sound(SOUND)
    maker.sound(MENDED)
    maker.sound(MENDED_ELSEWHERE)
    maker.sound(MENDED_IN_ONE_TASK)
    maker.corrupt_weights(CORRUPT)
    maker.pickle_only(PICKLE)
    (folder / "catalogue.yaml").write_text(CATALOGUE)
    address = f"{s3_server.address}/fleet-{uuid.uuid4().hex}"
    connection = {
        "conn_type": "aws",
        "login": "onnx-fleet",
        "password": "onnx-fleet",
        "extra": {"endpoint_url": s3_server.endpoint_url, "region_name": "us-east-1"},
    }
    files = signer(folder / "keys", "ci")
    signing = {"conn_type": "generic", "password": PASSPHRASE, "extra": {"private_key": files.encrypted.read_text()}}
    with HubServer(folder / "hub") as hub:
        # As often as one download fetches a file anew: then it gives up, and the task is what is tried again.
        times = HubSettings().download_attempts
        hub.fail(Failure(kind="corrupt", repo_id=SOUND, path="model.safetensors", times=times))
        yield Fleet(
            home=airflow_home,
            store=open_store(address, s3=s3_server.settings),
            catalogue=folder / "catalogue.yaml",
            signer=files,
            options={
                "AIRFLOW__ONNX_FLEET__SIGNING_CONN_ID": "fleet_signer",
                "AIRFLOW_CONN_FLEET_SIGNER": json.dumps(signing),
                "AIRFLOW__ONNX_FLEET__STORE": address,
                "AIRFLOW__ONNX_FLEET__AWS_CONN_ID": "fleet_store",
                "AIRFLOW_CONN_FLEET_STORE": json.dumps(connection),
                "AIRFLOW__ONNX_FLEET__SCRATCH": str(folder / "scratch"),
                "AIRFLOW__ONNX_FLEET__SHARDS": "2",
                **FUSED,
                "AIRFLOW__ONNX_FLEET__RETRY_DELAY_S": "1",
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(folder / "hub-cache"),
            },
        )


@pytest.fixture(scope="module")
def first(fleet: Fleet) -> RunEnd:
    """A run of four models: one sound, one that cannot be exported, one that is refused, one that is not there.

    Each step is a task of its own there.
    """
    options = {**fleet.options, "AIRFLOW__ONNX_FLEET__TASKS": "staged"}
    return fleet.home.run("fleet_reexport", {"catalogue": str(fleet.catalogue)}, options=options)


@pytest.fixture(scope="module")
def second(fleet: Fleet, first: RunEnd) -> RunEnd:
    """The same again, with two failures allowed."""
    return fleet.run(max_failed=2)


def test_one_model_that_fails_leaves_the_others_alone(fleet: Fleet, first: RunEnd) -> None:
    records = {record.model_id: record for record in fleet.report(first).records}
    assert {model_id: record.state for model_id, record in records.items()} == {
        SOUND: "published",
        CORRUPT: "failed",
        PICKLE: "refused",
        NOWHERE: "failed",
    }
    assert [model.model_id for model in listing.list_models(fleet.store)] == [SOUND]
    assert channels.read(fleet.store, SOUND, "latest").version == records[SOUND].version


def test_what_a_run_publishes_is_signed_and_the_key_is_nowhere_to_be_found(fleet: Fleet, first: RunEnd) -> None:
    """Not in the store, in what tasks print, in Airflow's logs or in its database."""
    folder = fleet.signer.public.parent
    signers = {"ci": {"public_key": "ci.pub"}}
    wanted = policy(folder, {"signers": signers, "rules": [{"models": ["*"], "signers": ["ci"]}]})
    assert verify(SOUND, store=fleet.store, policy=wanted).passed
    kept = [fleet.store.read(info.key) for info in fleet.store.list("")]
    kept += [path.read_bytes() for path in fleet.home.folder.rglob("*") if path.is_file()]
    assert len(kept) > 20
    found = [secret for secret in fleet.signer.secrets if any(secret.encode() in data for data in kept)]
    assert (found, [secret for secret in fleet.signer.secrets if secret in first.log]) == ([], [])


def test_a_record_tells_where_and_why_a_model_failed(fleet: Fleet, first: RunEnd) -> None:
    records = {record.model_id: record for record in fleet.report(first).records}
    assert (records[CORRUPT].step, records[CORRUPT].error) == ("export", "ModelInvalid")
    assert CORRUPT in records[CORRUPT].message
    assert (records[PICKLE].step, records[PICKLE].error) == ("resolve", "UnsafeModel")
    assert (records[NOWHERE].step, records[NOWHERE].error) == ("resolve", "ModelNotFound")
    took = records[SOUND]
    assert set(took.seconds) == set(STEPS)
    assert took.seconds.keys() == took.memory_bytes.keys() == took.disk_bytes.keys()
    assert took.memory_bytes["validate"] > took.memory_bytes["publish"] > 0
    assert took.predicted
    assert took.predicted.steps.keys() == took.seconds.keys()
    kept = costs.find(fleet.store, SOUND)
    assert kept, "the next plan predicts from it"
    assert kept.steps["validate"].seconds == took.seconds["validate"]
    assert records[CORRUPT].memory_bytes["export"] > 0
    assert records[SOUND].latency_ms_p50 is not None


def test_a_permanent_error_is_not_tried_again_and_a_passing_one_is(first: RunEnd) -> None:
    tries = {
        (task.label, task.state): task.tries for task in first.tasks if task.task_id.endswith(".export") and task.label
    }
    assert tries == {(SOUND, "success"): 2, (CORRUPT, "failed"): 1}


def test_a_model_that_asks_for_a_gpu_says_that_there_is_none(fleet: Fleet, first: RunEnd) -> None:
    record = next(record for record in fleet.report(first).records if record.model_id == SOUND)
    assert record.gpu == "not validated on GPU: no GPU worker is configured ([onnx_fleet] gpu_queue)"


def test_the_gate_fails_a_run_with_more_failures_than_allowed(first: RunEnd, second: RunEnd) -> None:
    assert (first.state, first.states("gate")) == ("failed", ["failed"])
    assert (second.state, second.states("gate")) == ("success", ["success"])
    assert f"{CORRUPT}: failed at export: `ModelInvalid`" in first.log, "the gate says why, too"


def test_a_publication_is_an_event_of_its_model_and_one_of_the_fleet(first: RunEnd, second: RunEnd) -> None:
    assert sorted(first.events) == [("onnx_fleet", None), ("onnx_fleet_bundle", SOUND)]
    assert second.events == ()


def test_a_runs_note_has_its_counts_and_the_models_that_need_a_person(fleet: Fleet, first: RunEnd) -> None:
    assert first.note
    head, _, *failed = first.note.splitlines()
    page = f"onnx-fleet/store/{str(first.results['report']).removesuffix('.json')}.html"
    assert head == f"[4 models: 2 failed, 1 refused, 1 published]({page})"
    assert [line.split(": ")[:3] for line in failed] == [
        [f"- {CORRUPT}", "failed at export", "ModelInvalid"],
        [f"- {NOWHERE}", "failed at resolve", "ModelNotFound"],
        [f"- {PICKLE}", "refused at resolve", "UnsafeModel"],
    ]


def test_the_buttons_of_a_models_tasks_lead_to_what_is_in_the_store(fleet: Fleet, first: RunEnd) -> None:
    version = channels.read(fleet.store, SOUND, "latest").version
    keys = {
        "Report": f"{str(first.results['report']).removesuffix('.json')}.html",
        "Manifest": layout.manifest_key(SOUND, version),
        "Validation": f"{layout.bundle_prefix(SOUND, version)}reports/validation.svg",
    }
    assert all(fleet.store.stat(key) for key in keys.values())
    links = {name: f"onnx-fleet/store/{key}" for name, key in keys.items()}
    only_report = {"Report": links["Report"]}
    by_model = {(task.label, task.task_id.rpartition(".")[2]): task.links for task in first.tasks if task.label}
    assert by_model[SOUND, "publish"] == by_model[f"{SOUND}: published", "record"] == links
    assert by_model[SOUND, "export"] == by_model[CORRUPT, "export"] == only_report
    assert by_model[f"{CORRUPT}: failed at export", "record"] == only_report


def test_a_publication_that_a_later_run_finishes_is_an_event_too(fleet: Fleet, second: RunEnd) -> None:
    version = channels.read(fleet.store, SOUND, "latest").version
    # What is left where a publisher is killed behind the manifest, before its task has ended.
    fleet.store.create(f"{layout.unfinished_prefix(SOUND, version)}decision.json", b"{}")
    end = fleet.run(only=[SOUND])
    assert (end.state, fleet.report(end).counts["unchanged"]) == ("success", 1)
    assert sorted(end.events) == [("onnx_fleet", None), ("onnx_fleet_bundle", SOUND)]
    assert [task.label for task in end.tasks if task.task_id == "announce"] == [SOUND]
    assert not list(fleet.store.list("unfinished/"))
    again = fleet.run(only=[SOUND])
    assert (again.state, again.events, again.states("announce")) == ("success", (), ["skipped"])


def test_an_unchanged_model_runs_no_tasks(fleet: Fleet, second: RunEnd) -> None:
    records = {record.model_id: record.state for record in fleet.report(second).records}
    assert records == {SOUND: "unchanged", CORRUPT: "failed", PICKLE: "refused", NOWHERE: "failed"}
    assert [task.label for task in second.tasks if task.task_id.endswith(".record") and task.label] == [
        f"{CORRUPT}: failed at export"
    ]


def test_the_work_of_a_model_is_cleared_away_when_it_has_its_record(fleet: Fleet, first: RunEnd) -> None:
    scratch = Path(fleet.options["AIRFLOW__ONNX_FLEET__SCRATCH"])
    assert not [path for path in scratch.rglob("stages/acme/sound/*") if path.is_dir()]


def test_a_run_in_which_nothing_is_to_do_succeeds(fleet: Fleet, second: RunEnd) -> None:
    end = fleet.run(only=[SOUND])
    assert end.state == "success"
    assert fleet.report(end).counts["unchanged"] == 1


def test_a_fleets_run_fails_over_a_model_that_is_not_there_and_not_over_one_that_is_refused(
    fleet: Fleet, second: RunEnd
) -> None:
    end = fleet.run(only=[NOWHERE])
    assert (end.state, fleet.report(end).counts["failed"]) == ("failed", 1)
    end = fleet.run(only=[PICKLE])
    assert (end.state, fleet.report(end).counts["refused"]) == ("success", 1)


def test_a_catalogue_with_faults_stops_the_run_before_anything_is_begun(fleet: Fleet, tmp_path: Path) -> None:
    faulty = tmp_path / "faulty.yaml"
    faulty.write_text("models:\n  - repo_id: acme/sound\n    opsett: 20\n")
    end = fleet.run(catalogue=str(faulty))
    assert end.state == "failed"
    assert {name: end.states(name) for name in ("plan", "report", "gate")} == {
        "plan": ["failed"],
        "report": ["skipped"],
        "gate": ["upstream_failed"],
    }
    assert f"{faulty}:3" in end.log


def test_a_parameter_that_no_dag_knows_stops_the_run_before_anything_is_begun(fleet: Fleet) -> None:
    end = fleet.home.run("model_reexport", {"model": SOUND, "varients": ["fp16"]}, options=fleet.options)
    assert (end.state, end.states("plan"), end.states("report")) == ("failed", ["failed"], ["skipped"])
    assert "the run's conf says 'varients', which model_reexport does not know; did you mean 'variants'?" in end.log


def test_the_feed_lists_what_was_published(fleet: Fleet, first: RunEnd) -> None:
    end = fleet.home.run("registry_feed", {}, options=fleet.options)
    assert end.results["rebuild"] == {"models": 1, "versions": 1}
    assert [model.model_id for model in feed.read(fleet.store)] == [SOUND]


def test_one_model_is_exported_anew_by_force(fleet: Fleet, first: RunEnd) -> None:
    asked = {"model": SOUND, "force": True, "latency": LATENCY}
    options = {"AIRFLOW__ONNX_FLEET__GPU_QUEUE": "gpu", "AIRFLOW__ONNX_FLEET__LARGE_MEMORY_BYTES": "1000"}
    end = fleet.home.run("model_reexport", asked, options={**fleet.options, **options})
    assert end.state == "success"
    assert end.states("model_large.record") == ["success"], "what needs more than 1,000 bytes is a large model there"
    [on_gpu] = [task for task in end.tasks if task.task_id.endswith(".prove_on_gpu") and task.map_index >= 0]
    assert on_gpu.state == "skipped", "there is a GPU worker, and the model does not ask for it"
    [record] = fleet.report(end).records
    assert record.state == "published"
    assert record.predicted
    assert record.predicted.basis == "earlier run"
    [model] = listing.list_models(fleet.store)
    assert len(model.versions) == 2
    page = f"onnx-fleet/store/{str(end.results['report']).removesuffix('.json')}.html"
    assert end.note == f"[{SOUND}]({page}#acme--sound): published {record.version}"
    assert channels.read(fleet.store, SOUND, "latest").version == record.version
    moved = channels.history(fleet.store, SOUND, "latest").rows[-1]
    assert (moved.kind, moved.to_version, moved.by.kind) == ("published", record.version, "run")
    assert fleet.store.stat(run_report.key(moved.by.name)), "it is named as its report is"
    assert moved.by.asked_by, "the user who started it"
    found = manifest.read(fleet.store.read(layout.manifest_key(SOUND, str(record.version))))
    assert [(row.batch_size, row.sequence_length) for row in found.latency[0].rows] == [(1, 8)]


def test_one_model_that_is_refused_fails_its_run(fleet: Fleet) -> None:
    end = fleet.home.run("model_reexport", {"model": PICKLE}, options=fleet.options)
    assert end.state == "failed"
    assert fleet.report(end).counts["refused"] == 1


@pytest.mark.parametrize(
    ("stages", "tasks", "model"),
    [
        ("shared", "staged", MENDED),
        ("store", "staged", MENDED_ELSEWHERE),
        ("shared", "fused", MENDED_IN_ONE_TASK),
    ],
)
def test_where_a_cause_is_mended_only_the_cleared_task_and_what_follows_run_again(
    fleet: Fleet, stages: str, tasks: str, model: str
) -> None:
    options = {**fleet.options, "AIRFLOW__ONNX_FLEET__STAGES": stages, "AIRFLOW__ONNX_FLEET__TASKS": tasks}
    failing, first_step = ("compare", "compare") if tasks == "staged" else ("export_to_publish", "export")
    blocking = layout.channel_key(model, "latest")
    fleet.store.create(blocking, b"not a channel")
    end = fleet.home.run("model_reexport", {"model": model, "latency": LATENCY}, options=options)
    [record] = fleet.report(end).records
    assert (record.state, record.step, record.error) == ("failed", "compare", "BundleCorrupt")
    assert "delete it" in record.message
    assert end.note
    assert f"[{model}](" in end.note
    assert "failed at compare: BundleCorrupt: " in end.note
    assert {"export", "validate", "measure", "compare"} == set(record.seconds)
    if model == MENDED:  # of a second run in the process that answers, dag.test() keeps no buttons
        [recorded] = [task for task in end.tasks if task.label == f"{model}: failed at compare"]
        picture = recorded.links["Validation"].removeprefix("onnx-fleet/store/")
        assert picture.startswith("reports/")
        assert fleet.store.stat(picture)
    [failed] = [task for task in end.tasks if task.task_id.endswith(f".{failing}") and task.state == "failed"]

    fleet.store.delete(blocking)
    if stages == "store":  # the rest is done by a worker that has nothing of it on its disk
        shutil.rmtree(fleet.options["AIRFLOW__ONNX_FLEET__SCRATCH"])
        shutil.rmtree(fleet.options["HF_HOME"])
    cleared = [(failed.task_id, failed.map_index)]
    again = fleet.home.clear("model_reexport", end.run_id, cleared, options=options)
    assert again.state == "success", again.log
    assert [record.state for record in fleet.report(again).records] == ["published"]
    assert again.note
    assert ": published " in again.note
    before = {(task.task_id, task.map_index): task.start for task in end.tasks if task.start}
    ran = {
        task.task_id.rpartition(".")[2]
        for task in again.tasks
        if task.start and task.start != before.get((task.task_id, task.map_index))
    }
    if tasks == "staged":
        assert ran == {"compare", "publish", "record", "report", "gate"}
    else:
        assert ran == {"export_to_publish", "record", "report", "gate"}
        assert "an earlier try has done what comes before compare" in again.log
        assert [name for name in STEPS if f"::group::{name}" in again.log] == ["compare", "publish"]

    shutil.rmtree(fleet.options["AIRFLOW__ONNX_FLEET__SCRATCH"])
    for info in list(fleet.store.list(layout.SCRATCH)):
        fleet.store.delete(info.key)
    lost = fleet.home.clear("model_reexport", end.run_id, cleared, options=options)
    [record] = fleet.report(lost).records
    assert (record.state, record.step, record.error) == ("failed", first_step, "BundleNotFound")
    assert "clear the run's plan task" in record.message


def test_the_example_consumer_copies_a_bundle_to_its_registry(fleet: Fleet, first: RunEnd, tmp_path: Path) -> None:
    end = fleet.home.run(
        "mirror_to_registry",
        {"model_id": SOUND, "registry": str(tmp_path)},
        options=fleet.options,
        dags=ROOT / "docs" / "examples",
    )
    assert end.state == "success"
    assert [path.parent.parent for path in tmp_path.rglob("manifest.json")] == [tmp_path / SOUND]


def test_a_version_that_breaks_consumers_is_published_and_leaves_the_channel(fleet: Fleet, first: RunEnd) -> None:
    before = channels.read(fleet.store, SOUND, "latest").version
    asked = {"model": SOUND, "opset": 23, "latency": LATENCY}
    end = fleet.home.run("model_reexport", asked, options=fleet.options)
    [record] = fleet.report(end).records

    assert (end.state, end.states("gate")) == ("failed", ["failed"])
    assert (record.state, record.compared_with) == ("held", before)
    assert "onnxruntime 1.22 is needed, 1.18 was" in record.findings[0]
    published = [*end.states("model_1.export_to_publish"), *end.states("model_2.export_to_publish")]
    assert published.count("success") == 1
    assert channels.read(fleet.store, SOUND, "latest").version == before
    assert manifest.read(fleet.store.read(layout.manifest_key(SOUND, str(record.version)))).regression is not None

    again = fleet.home.run("model_reexport", asked, options=fleet.options)
    assert (again.state, fleet.report(again).counts["held"]) == ("failed", 1)
    assert channels.read(fleet.store, SOUND, "latest").version == before
    scratch = Path(fleet.options["AIRFLOW__ONNX_FLEET__SCRATCH"])
    assert not list(scratch.rglob("*.onnx"))

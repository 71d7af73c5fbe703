"""Stages through the store: workers that share no disk make the bundle that one machine makes, whatever is killed."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fixtures.faulty_stores import Interrupted, interrupted
from fixtures.fleet_options import LATENCY
from fixtures.models import RepoMaker
from fixtures.stages import NOW, PROVENANCE, tiny_stage, validation_report, work_item
from fixtures.watched_store import WatchedStore
from onnx_fleet.bundles import bundle, verify
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.entities.validation_report import ValidationReport
from onnx_fleet.entities.work_item import WorkItem
from onnx_fleet.errors import BundleNotFound, ExportUnsupported, ValidationFailed
from onnx_fleet.planning.calibration import source as calibration
from onnx_fleet.planning.catalogue import reader
from onnx_fleet.processes.isolation import Limits
from onnx_fleet.runs import pipeline
from onnx_fleet.runs.handover import Handover, SharedFolder
from onnx_fleet.runs.services import Services
from onnx_fleet.runs.stage_transfer import ThroughStore
from onnx_fleet.runs.steps import Job, StepName, steps_of
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet.store import ObjectStore, layout, transfer
from onnx_fleet.store.blob_cache import BlobCache
from onnx_fleet.store.local import LocalStore
from onnx_fleet_demo.hub_server import HubServer

MODEL = "acme/sound"
RUN = "fleet_reexport__manual__2026-11-28T12:00:00+00:00"
NAMES: tuple[StepName, ...] = ("export", "validate", "measure", "compare", "publish")


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A machine with a disk of its own."""

    folder: Path
    services: Services
    store: WatchedStore

    @property
    def handover(self) -> ThroughStore:
        """A new one for each task, as each is a new process."""
        kept = BlobCache(folder=self.folder / "blobs", limit_bytes=1 << 30)
        return ThroughStore(run=RUN, services=self.services, blobs=kept)


def _worker(folder: Path, store: ObjectStore, *, endpoint: str = "http://127.0.0.1:9") -> Worker:
    watched = WatchedStore(store)
    hub = Hub(HubSettings(endpoint=endpoint, cache_dir=folder / "hub"))
    services = Services(store=watched, hub=hub, work_dir=folder / "work", limits=Limits())
    return Worker(folder=folder, services=services, store=watched)


def _job(stage: Stage, item: WorkItem, handover: Handover, services: Services, *, name: str) -> Job:
    stored = handover.stored(item) if name == "publish" else {}
    return Job(stage=stage, services=services, provenance=PROVENANCE, stored=stored)


@pytest.fixture(scope="module")
def hub_url(tmp_path_factory: pytest.TempPathFactory, small_repo: Path) -> Iterator[str]:
    root = tmp_path_factory.mktemp("hub")
    RepoMaker(root, small_repo).sound(MODEL)
    with HubServer(root) as server:
        yield server.url


def _planned(worker: Worker) -> WorkItem:
    values = {"repo_id": MODEL, "variants": ["fp32", "fp16"], "latency": LATENCY}
    (item,) = pipeline.plan([reader.entry(values, source="the test")], services=worker.services).items
    return item


def test_workers_without_a_common_disk_publish_what_one_machine_publishes(
    tmp_path: Path, s3_store: ObjectStore, local_store: ObjectStore, hub_url: str
) -> None:
    workers = [_worker(tmp_path / name, s3_store, endpoint=hub_url) for name in ("one", "two")]
    item = _planned(workers[0])
    workers[0].handover.write_item(item)
    for number, step in enumerate(steps_of(item)):
        worker = workers[number % 2]
        told = worker.handover.read_item(MODEL)
        with worker.handover.opened(told, step.name) as stage:
            step.take(_job(stage, told, worker.handover, worker.services, name=step.name))
        assert not list((worker.folder / "work" / "stages").rglob("*.onnx")), "a task leaves no stage behind"

    alone = _worker(tmp_path / "alone", local_store, endpoint=hub_url)
    shared = SharedFolder(folder=alone.folder, services=alone.services)
    shared.write_item(item)
    for step in steps_of(item):
        with shared.opened(shared.read_item(MODEL), step.name) as stage:
            step.take(_job(stage, item, shared, alone.services, name=step.name))

    assert verify.verify(MODEL, store=s3_store).passed
    found, expected = (
        {file.path: file.sha256 for file in bundle.find(MODEL, store=store).manifest.files if file.role != "report"}
        for store in (s3_store, alone.store)
    )
    assert found == expected
    assert "onnx/model_fp16.onnx" in found

    weights = [file for file in item.model.files if file.path.endswith(".safetensors")]
    digests = {file.digest.removeprefix("sha256:") for file in weights}
    blobs = {key.rpartition("/")[2] for worker in workers for key in worker.store.sent if "/blobs/" in key}
    assert digests
    assert not digests & blobs, "the checkpoint's own files are not sent: each worker has them from the Hub"
    sent = [key for worker in workers for key in worker.store.sent if key.startswith(layout.SCRATCH)]
    assert len(sent) == len(set(sent)), "nothing is sent twice"
    made_by_two = {key for key in workers[1].store.sent if "/blobs/" in key}
    assert not made_by_two & set(workers[1].store.fetched), "a worker does not fetch what it made itself"

    workers[1].handover.discard(item)
    left = [info.key for info in s3_store.list(layout.SCRATCH)]
    assert [key.split("/")[4] for key in left] == ["item"], "the work item stays, for who clears a task"


# The rest looks at the transfer alone, with stages that are made at once.


def _take(name: StepName, stage: Stage) -> None:
    """Do what a step does, as far as the transfer sees it."""
    if name == "export":
        stage.begin()
        tiny_stage(stage.folder, item=stage.item)
        shutil.rmtree(stage.folder / "reports")
    elif name == "validate":
        stage.write_report("validation", validation_report(stage.item))
        (stage.folder / "onnx" / "model_fp16.onnx").write_bytes(b"half as many bits")
    else:
        stage.write_report(name, {"step": name})


def _content(stage: Stage) -> dict[str, bytes]:
    return {path: (stage.folder / path).read_bytes() for path in stage.published_files()}


def _run(worker: Worker, item: WorkItem, names: Sequence[StepName]) -> None:
    for name in names:
        with worker.handover.opened(item, name) as stage:
            _take(name, stage)


def _seen(worker: Worker, item: WorkItem, name: StepName) -> dict[str, bytes]:
    """What a step finds that then does nothing, as one that was killed at once."""
    with suppress(Interrupted), worker.handover.opened(item, name) as stage:
        found = _content(stage)
        raise Interrupted
    return found


@pytest.mark.parametrize("killed", NAMES[:-1])
def test_a_task_that_is_killed_at_any_operation_is_done_by_its_next_try(tmp_path: Path, killed: StepName) -> None:
    item, place = work_item(), NAMES.index(killed)
    behind = NAMES[place + 1]
    whole = _worker(tmp_path / "whole", LocalStore(tmp_path / "whole-store"))
    _run(whole, item, NAMES[:place])
    before = _seen(whole, item, killed)
    _run(whole, item, [killed])
    expected = _seen(whole, item, behind)
    assert expected != before

    for number in itertools.count(1):
        store = LocalStore(tmp_path / f"store-{number}")
        _run(_worker(tmp_path / f"first-{number}", store), item, NAMES[:place])
        died = _worker(tmp_path / f"died-{number}", interrupted(store, step=number))
        try:
            _run(died, item, [killed])
        except Interrupted:
            pass
        else:
            break
        second = _worker(tmp_path / f"second-{number}", store)
        assert _seen(second, item, killed) == before, "the next try begins as the one that was killed"
        _run(second, item, [killed])
        assert _seen(_worker(tmp_path / f"third-{number}", store), item, behind) == expected
    assert number > 4, "reads, files, and at the end the snapshot"


def test_a_step_that_fails_leaves_its_reports_and_its_next_try_begins_anew(
    tmp_path: Path, any_store: ObjectStore
) -> None:
    item, worker = work_item(), _worker(tmp_path / "one", any_store)
    _run(worker, item, ["export"])
    with suppress(ValidationFailed), worker.handover.opened(item, "validate") as stage:
        _take("validate", stage)
        raise ValidationFailed("wrong")
    other = _worker(tmp_path / "two", any_store)
    with other.handover.ended(item, "validate") as stage:
        assert stage.read_report("validation", ValidationReport) == validation_report(item)
        assert not (stage.folder / "onnx").exists(), "a record needs no graphs"
    assert not [path for path in _seen(other, item, "validate") if path.startswith("reports/")]

    _run(other, item, ["validate"])
    with worker.handover.ended(item, "measure") as stage:
        assert stage.read_report("validation", ValidationReport), "a model that dies in measure was validated"


def test_only_what_a_step_has_changed_is_sent(tmp_path: Path, any_store: ObjectStore) -> None:
    item, worker = work_item(), _worker(tmp_path / "one", any_store)
    _run(worker, item, ["export", "validate"])
    other = _worker(tmp_path / "two", any_store)
    _run(other, item, ["measure"])
    assert len(other.store.sent) == 1, "its report"
    other.store.fetched.clear()
    _run(other, item, ["compare"])
    assert other.store.fetched == [], "all of it is on this worker's disk"


def test_a_large_file_that_the_version_in_use_has_too_is_copied_by_the_store(
    tmp_path: Path, any_store: ObjectStore
) -> None:
    """After an upgrade of the packages a model's variants are made anew, with the same bytes."""
    before = Stage(tiny_stage(tmp_path / "before", weight_bytes=2 << 20), work_item())
    publish(before, store=any_store, provenance=PROVENANCE, created_at=NOW)
    item, worker = work_item(fingerprint="e" * 64), _worker(tmp_path / "one", any_store)

    with worker.handover.opened(item, "export") as stage:
        shutil.copytree(before.folder, stage.folder, dirs_exist_ok=True)

    assert {key.rpartition("/")[2] for key in worker.store.copied} == {
        transfer.hash_file(before.folder / "onnx" / "model.onnx_data")
    }
    assert not set(worker.store.copied) & set(worker.store.sent)
    assert _seen(_worker(tmp_path / "two", any_store), item, "validate") == _content(before)


def test_a_stage_that_came_from_elsewhere_counts_as_unchanged(tmp_path: Path, any_store: ObjectStore) -> None:
    item = work_item()
    _run(_worker(tmp_path / "one", any_store), item, ["export"])
    with suppress(Interrupted), _worker(tmp_path / "two", any_store).handover.opened(item, "validate") as stage:
        assert not stage.is_changed(), "else wrong graphs would get no second chance"
        raise Interrupted


def test_a_blob_that_was_swept_away_is_a_failure_that_says_what_to_do(tmp_path: Path, any_store: ObjectStore) -> None:
    item = work_item()
    _run(_worker(tmp_path / "one", any_store), item, ["export"])
    for info in list(any_store.list(layout.SCRATCH)):
        if "/blobs/" in info.key:
            any_store.delete(info.key)
    with pytest.raises(BundleNotFound, match="clear the model's export task"):
        _run(_worker(tmp_path / "two", any_store), item, ["validate"])


def test_the_texts_to_calibrate_with_come_from_the_worker_that_planned(
    tmp_path: Path, any_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planned" / "corpora").mkdir(parents=True)
    (tmp_path / "planned" / "corpora" / "reviews.txt").write_text("A train.\nA ship.\n")
    item = _calibrated(work_item(), "corpora/reviews.txt", root=tmp_path / "planned")
    monkeypatch.setattr(calibration, "ROOT", tmp_path / "planned")
    worker = _worker(tmp_path / "one", any_store)
    worker.handover.write_item(item)
    _run(worker, item, ["export"])

    monkeypatch.setattr(calibration, "ROOT", tmp_path / "bare")
    with suppress(Interrupted), _worker(tmp_path / "two", any_store).handover.opened(item, "validate") as stage:
        root = calibration.root_of(stage)
        assert (root / "corpora" / "reviews.txt").read_text() == "A train.\nA ship.\n"
        assert not [path for path in stage.published_files() if "corpora" in path]
        raise Interrupted


def test_other_texts_than_the_plan_was_made_with_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reviews.txt").write_text("A train.\n")
    item = _calibrated(work_item(), "reviews.txt", root=tmp_path)
    monkeypatch.setattr(calibration, "ROOT", tmp_path)
    stage = Stage.make(tmp_path / "stage", item)
    assert calibration.root_of(stage) == tmp_path
    (tmp_path / "reviews.txt").write_text("A ship.\n")
    with pytest.raises(ExportUnsupported, match="not the one that the plan was made with"):
        calibration.root_of(stage)


def _calibrated(item: WorkItem, name: str, *, root: Path) -> WorkItem:
    entry = replace(item.model.entry, calibration=name)
    digest = calibration.digest(name, root=root)
    return replace(item, model=replace(item.model, entry=entry), calibration_digest=digest)

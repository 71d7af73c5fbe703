"""Pull: a folder that appears whole and verified, or not at all."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from filelock import FileLock

from fixtures import faulty_network
from fixtures.faulty_network import Request
from fixtures.faulty_stores import Interrupted, SteppedStore, interrupted
from fixtures.killed_updates import holds
from fixtures.stages import NOW, PROVENANCE, tiny_stage, work_item
from fixtures.watched_store import WatchedStore
from onnx_fleet.bundles import bundle
from onnx_fleet.bundles.publish import publish
from onnx_fleet.bundles.pull import pull
from onnx_fleet.bundles.stage import Stage
from onnx_fleet.bundles.verify import verify
from onnx_fleet.errors import BundleCorrupt, FolderOccupied, StoreUnavailable, WorkerOutOfResources
from onnx_fleet.store import ObjectStore, open_store, transfer
from onnx_fleet_demo.s3_server import EmbeddedS3

MODEL = "acme/tiny"
OLD = f"{MODEL}@01234567-ffffffff"
WEIGHT_BYTES = 3 * 1024 * 1024


@pytest.fixture
def store(tmp_path: Path, any_store: ObjectStore) -> ObjectStore:
    """A store with one bundle."""
    stage = tiny_stage(tmp_path / "stage", weight_bytes=WEIGHT_BYTES)
    publish(Stage.open(stage), store=any_store, provenance=PROVENANCE, created_at=NOW)
    return any_store


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty folder to pull into."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def newer(tmp_path: Path, store: ObjectStore) -> str:
    """A second version of it, which ``latest`` points at; its graph is another one."""
    stage = tiny_stage(tmp_path / "newer", item=work_item(fingerprint="e" * 64), scale=3.0, weight_bytes=WEIGHT_BYTES)
    publish(Stage.open(stage), store=store, provenance=PROVENANCE, created_at=NOW)
    return "01234567-eeeeeeee"


def _damage(store: ObjectStore, path: str) -> None:
    key = bundle.find(MODEL, store=store).key(path)
    data, etag = store.read_tagged(key)
    store.replace(key, data[:-1] + b"?", etag=etag)


def test_a_pulled_folder_holds_the_bundle_and_nothing_else_is_left(store: ObjectStore, home: Path) -> None:
    sealed = pull(MODEL, store=store, to=home / "tiny")

    found = {path.relative_to(home / "tiny").as_posix() for path in (home / "tiny").rglob("*") if path.is_file()}
    assert found == {file.path for file in sealed.files} | {"manifest.json"}
    for file in sealed.files:
        assert transfer.hash_file(home / "tiny" / file.path) == file.sha256
    assert bundle.find(MODEL, store=store).manifest_sha256 == transfer.hash_file(home / "tiny" / "manifest.json")
    assert [entry.name for entry in home.iterdir()] == ["tiny"]
    onnx.checker.check_model(home / "tiny" / "onnx" / "model.onnx")


def test_a_second_pull_of_the_same_bundle_fetches_nothing(store: ObjectStore, home: Path) -> None:
    pull(MODEL, store=store, to=home / "tiny")
    (home / "tiny" / "config.json").touch()
    before = {path: path.stat().st_mtime_ns for path in (home / "tiny").rglob("*")}
    watched = SteppedStore(store, step=0, before=lambda: None)

    pull(MODEL, store=watched, to=home / "tiny")
    assert watched.steps == 3  # the channel, the manifest, and which signatures there are
    assert before == {path: path.stat().st_mtime_ns for path in (home / "tiny").rglob("*")}


def test_an_empty_folder_is_taken(store: ObjectStore, home: Path) -> None:
    pull(MODEL, store=store, to=home)
    assert (home / "manifest.json").is_file()


def test_a_folder_that_holds_something_else_is_left_alone(store: ObjectStore, home: Path) -> None:
    (home / "notes.txt").write_text("mine")
    for update in (False, True):
        with pytest.raises(FolderOccupied, match="does not contain a bundle of acme/tiny; name another folder"):
            pull(MODEL, store=store, to=home, update=update)
        assert [entry.name for entry in home.iterdir()] == ["notes.txt"]
        with pytest.raises(FolderOccupied):
            pull(MODEL, store=store, to=home / "notes.txt", update=update)
    assert (home / "notes.txt").read_text() == "mine"


def test_a_folder_that_holds_another_version_is_left_alone_unless_it_is_to_be_updated(
    store: ObjectStore, home: Path, newer: str
) -> None:
    pull(OLD, store=store, to=home / "tiny")
    with pytest.raises(FolderOccupied, match=f"holds {OLD}; to replace it with {newer}, pull it with --update"):
        pull(MODEL, store=store, to=home / "tiny")
    assert holds(home / "tiny") == OLD


def test_an_update_fetches_what_changed_and_leaves_nothing_of_the_old_version(
    store: ObjectStore, home: Path, newer: str
) -> None:
    pull(OLD, store=store, to=home / "tiny")
    (home / "served").symlink_to("tiny")
    watched = WatchedStore(store)
    told: list[tuple[int, int]] = []
    with (home / "tiny" / "onnx" / "model.onnx").open("rb") as served:
        sealed = pull(
            MODEL,
            store=watched,
            to=home / "served",
            update=True,
            progress=lambda done, total: told.append((done, total)),
        )
        kept = served.read()

    assert holds(home / "tiny") == holds(home / "served") == f"{MODEL}@{newer}"
    fetched = {key.rpartition("/")[2] for key in watched.fetched}
    assert "model.onnx" in fetched
    assert not {"model.onnx_data", "tokenizer.json", "config.json", "LICENSE"} & fetched, "they are the same"
    assert told[-1] == (sealed.size_bytes, sealed.size_bytes)
    assert kept == store.read(bundle.find(OLD, store=store).key("onnx/model.onnx")), "who had it open reads it on"
    assert sorted(entry.name for entry in home.iterdir()) == ["served", "tiny"]


def test_an_update_makes_a_folder_that_is_not_there_and_leaves_one_that_is_up_to_date(
    store: ObjectStore, home: Path
) -> None:
    pull(MODEL, store=store, to=home / "tiny", update=True)
    before = {path: path.stat().st_ino for path in (home / "tiny").rglob("*")}
    pull(MODEL, store=store, to=home / "tiny", update=True)
    assert before == {path: path.stat().st_ino for path in (home / "tiny").rglob("*")}


def test_an_update_mends_a_folder_that_was_changed(store: ObjectStore, home: Path) -> None:
    pull(MODEL, store=store, to=home / "tiny")
    (home / "tiny" / "onnx" / "model.onnx").write_bytes(b"?")
    (home / "tiny" / "tokenizer.json").unlink()
    pull(MODEL, store=store, to=home / "tiny", update=True)
    assert holds(home / "tiny").startswith(MODEL)


def test_an_update_takes_no_file_that_is_somebody_elses(store: ObjectStore, home: Path, newer: str) -> None:
    pull(OLD, store=store, to=home / "tiny")
    (home / "tiny" / "onnx" / "engine.cache").write_text("hours of tuning")
    with pytest.raises(FolderOccupied, match=r"would be lost \(onnx/engine\.cache\)"):
        pull(MODEL, store=store, to=home / "tiny", update=True)
    assert (home / "tiny" / "onnx" / "engine.cache").exists()


def test_an_update_takes_no_folder_of_another_model(store: ObjectStore, home: Path, tmp_path: Path) -> None:
    other = tiny_stage(tmp_path / "other", item=work_item(model_id="acme/other"))
    publish(Stage.open(other), store=store, provenance=PROVENANCE, created_at=NOW)
    pull("acme/other", store=store, to=home / "tiny")
    with pytest.raises(FolderOccupied, match="a different model than acme/tiny"):
        pull(MODEL, store=store, to=home / "tiny", update=True)


def test_an_update_that_is_killed_leaves_one_version_or_the_other_whole(
    tmp_path: Path, local_store: ObjectStore
) -> None:
    for digit in "ab":
        stage = tiny_stage(tmp_path / digit, item=work_item(fingerprint=digit * 64), scale=ord(digit))
        publish(Stage.open(stage), store=local_store, provenance=PROVENANCE, created_at=NOW)
    old, new = (f"{MODEL}@01234567-{digit * 8}" for digit in "ab")
    command = [sys.executable, "-m", "fixtures.killed_updates", local_store.address, str(tmp_path / "home"), old, new]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    *killed, through = map(json.loads, done.stdout.splitlines())

    assert through == {"before": None, "holds": new, "afterwards": new, "left": ["tiny"]}
    assert {each["holds"] for each in killed} == {old, new}
    assert [each["holds"] for each in killed] == sorted(each["holds"] for each in killed), "it changes once"
    assert all((each["afterwards"], each["left"]) == (new, ["tiny"]) for each in killed), "the next one finishes"
    events = {each["before"] for each in killed}
    assert {"os.link", "open", "os.rename", "ctypes.dlsym", "shutil.rmtree", "os.rmdir"} <= events


def test_a_damaged_file_in_the_store_gives_no_folder_and_heals_when_it_does(store: ObjectStore, home: Path) -> None:
    good = store.read(bundle.find(MODEL, store=store).key("tokenizer.json"))
    _damage(store, "tokenizer.json")
    with pytest.raises(BundleCorrupt, match=r"tokenizer\.json has other bytes"):
        pull(MODEL, store=store, to=home / "tiny")
    assert not (home / "tiny").exists()

    key = bundle.find(MODEL, store=store).key("tokenizer.json")
    store.replace(key, good, etag=store.read_tagged(key)[1])
    pull(MODEL, store=store, to=home / "tiny")
    assert [entry.name for entry in home.iterdir()] == ["tiny"]


def test_a_file_that_is_missing_in_the_store_gives_no_folder(store: ObjectStore, home: Path) -> None:
    store.delete(bundle.find(MODEL, store=store).key("onnx/model.onnx"))
    with pytest.raises(BundleCorrupt, match=r"onnx/model\.onnx is missing"):
        pull(MODEL, store=store, to=home / "tiny")
    assert not (home / "tiny").exists()


def test_wherever_a_pull_breaks_off_no_folder_shows_and_the_next_one_finishes(store: ObjectStore, home: Path) -> None:
    counted = SteppedStore(store, step=0, before=lambda: None)
    pull(MODEL, store=counted, to=home / "counted")
    for step in range(1, counted.steps + 1):
        target = home / f"tiny-{step}"
        with pytest.raises(Interrupted):
            pull(MODEL, store=interrupted(store, step=step), to=target)
        assert not target.exists()
        pull(MODEL, store=store, to=target)
        assert (target / "manifest.json").is_file()
    assert not [entry.name for entry in home.iterdir() if entry.name.startswith(".")]


def test_a_pull_that_broke_off_in_the_middle_of_a_file_goes_on_from_there(store: ObjectStore, home: Path) -> None:
    def stop(done: int, _total: int) -> None:
        if done > WEIGHT_BYTES // 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        pull(MODEL, store=store, to=home / "tiny", progress=stop)
    assert not (home / "tiny").exists()

    told: list[int] = []
    sealed = pull(MODEL, store=store, to=home / "tiny", progress=lambda done, _total: told.append(done))
    assert told == sorted(told)
    assert told[-1] == sealed.size_bytes
    fetched = [done for done in told if done > WEIGHT_BYTES // 2]
    assert len(fetched) < len(told)
    assert not list(home.rglob("*.part"))


def test_what_another_version_left_behind_does_not_come_along(store: ObjectStore, home: Path) -> None:
    (home / ".tiny.partial" / "old").mkdir(parents=True)
    (home / ".tiny.partial" / "old" / "stale.onnx").write_bytes(b"?")
    pull(MODEL, store=store, to=home / "tiny")
    assert not (home / "tiny" / "old").exists()


def test_a_full_disk_gives_no_folder_and_the_next_pull_goes_on(store: ObjectStore, home: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (WEIGHT_BYTES // 2, hard))
    try:
        with pytest.raises(WorkerOutOfResources, match="free some space"):
            pull(MODEL, store=store, to=home / "tiny")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (home / "tiny").exists()
    pull(MODEL, store=store, to=home / "tiny")


def test_two_pulls_into_one_folder_do_not_mix(store: ObjectStore, home: Path) -> None:
    with FileLock(home / ".tiny.partial.lock"), pytest.raises(StoreUnavailable, match="another pull is writing to it"):
        pull(MODEL, store=store, to=home / "tiny")
    pull(MODEL, store=store, to=home / "tiny")


def test_a_relative_target_is_taken_from_where_the_user_is(
    store: ObjectStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    pull(MODEL, store=store, to=Path("tiny"))
    assert [entry.name for entry in home.iterdir()] == ["tiny"]


def test_the_command_in_the_docs_checks_a_pulled_bundle_without_our_code(store: ObjectStore, home: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "bundle-format.md").read_text()
    (command,) = re.findall(r"```sh\n((?:(?!```).)*?sha256sum.*?)```", text, re.DOTALL)
    sealed = pull(MODEL, store=store, to=home / "tiny")

    def check() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, shell=True, cwd=home / "tiny", capture_output=True, text=True, check=False)

    intact = check()
    assert (intact.returncode, intact.stdout.count(": OK")) == (0, len(sealed.files))
    (home / "tiny" / "tokenizer.json").write_text("{ }")
    assert "tokenizer.json: FAILED" in check().stdout


def test_a_file_that_is_damaged_on_the_way_once_is_no_fault_of_the_store(
    tmp_path: Path, s3_server: EmbeddedS3, s3_store: ObjectStore
) -> None:
    """Where the server keeps no digests, only the manifest tells that a byte is another one."""
    stage = tiny_stage(tmp_path / "stage")
    publish(Stage.open(stage), store=s3_store, provenance=PROVENANCE, created_at=NOW)

    def once_each(request: Request) -> str | None:
        is_graph = request.key.endswith(".onnx") and request.reads_object
        return "wrong bytes received" if is_graph and request.number in (1, 3) else None

    with faulty_network.serve(s3_server.endpoint_url, once_each) as network:
        settings = replace(s3_server.settings, endpoint_url=network.endpoint_url, checksum_mode="when_required")
        store = open_store(s3_store.address, s3=settings)
        pull(MODEL, store=store, to=tmp_path / "tiny")
        assert holds(tmp_path / "tiny") == OLD
        assert verify(MODEL, store=store).passed
        assert network.met == {"wrong bytes received": 2}

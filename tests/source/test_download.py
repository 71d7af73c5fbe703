"""Download from a Hub that really fails."""

from __future__ import annotations

import json
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.hub import PatientClock
from fixtures.models import RepoMaker
from onnx_fleet.entities.entry import Entry
from onnx_fleet.entities.resolved_model import ResolvedModel, SourceFile
from onnx_fleet.errors import (
    HubFileCorrupt,
    HubUnavailable,
    ModelGated,
    ModelInvalid,
    ModelNotFound,
    UnsafeModel,
    WorkerOutOfResources,
)
from onnx_fleet.source.download import download
from onnx_fleet.source.hub_client import Hub, HubSettings
from onnx_fleet.source.resolve import resolve
from onnx_fleet_demo import models
from onnx_fleet_demo.hub_failures import Failure
from onnx_fleet_demo.hub_server import HubServer

WEIGHTS = "model.safetensors"


@pytest.fixture
def model(hub: Hub, hub_server: HubServer, repo_maker: RepoMaker) -> ResolvedModel:
    """A sound classifier with some files that no export needs, resolved; the request log is empty."""
    extra = {"pytorch_model.bin": b"pickle", "onnx/model.onnx": b"graph", "model.gguf": b"gguf", "train.py": b"code"}
    resolved = resolve(Entry(repo_id=repo_maker.with_files(extra, repo_id="acme/sound")), hub=hub)
    hub_server.log.clear()
    return resolved


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _blobs(hub: Hub) -> set[str]:
    return {path.name for path in (hub.cache_dir / "models--acme--sound" / "blobs").iterdir()}


def test_exactly_the_needed_files_come(hub: Hub, model: ResolvedModel, repo_maker: RepoMaker) -> None:
    folder = download(model, hub=hub)
    assert _files(folder) == set(model.needed)
    assert _files(folder) == {
        "README.md",
        "config.json",
        WEIGHTS,
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    }
    assert (folder / WEIGHTS).read_bytes() == (repo_maker.root / model.repo_id / WEIGHTS).read_bytes()


def test_what_is_there_is_not_asked_for_again(hub: Hub, hub_server: HubServer, model: ResolvedModel) -> None:
    first = download(model, hub=hub)
    assert hub_server.log.counts() == {"file-head": 7, "file-get": 7}
    assert download(model, hub=hub) == first
    assert hub_server.log.counts() == {"file-head": 7, "file-get": 7}


def test_progress_counts_every_byte_once(hub: Hub, model: ResolvedModel) -> None:
    told: list[tuple[int, int]] = []
    download(model, hub=hub, progress=lambda done, total: told.append((done, total)))
    assert {total for _, total in told} == {model.size_bytes}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (model.size_bytes, model.size_bytes)


def test_nothing_is_printed(hub: Hub, model: ResolvedModel, capfd: pytest.CaptureFixture[str]) -> None:
    download(model, hub=hub)
    assert capfd.readouterr() == ("", "")


def test_an_older_commit_comes_as_it_was(hub: Hub, hub_server: HubServer, repo_maker: RepoMaker) -> None:
    repo = repo_maker.sound()
    old = hub_server.repos.keep(repo)
    before = (repo_maker.root / repo / "README.md").read_text()
    (repo_maker.root / repo / "README.md").write_text("newer")
    folder = download(resolve(Entry(repo_id=repo, revision=old), hub=hub), hub=hub)
    assert (folder / "README.md").read_text() == before


def test_a_connection_cut_in_the_middle_of_a_file_goes_on_where_it_stopped(demo_repos: Path, tmp_path: Path) -> None:
    with HubServer(demo_repos) as server:
        hub = Hub(HubSettings(endpoint=server.url, cache_dir=tmp_path / "hub-cache"))
        model = resolve(Entry(repo_id=models.MINILM), hub=hub)
        server.fail(Failure(kind="cut", path=WEIGHTS, after_bytes=25_000_000, times=1))
        told: list[int] = []
        download(model, hub=hub, progress=lambda done, _: told.append(done))
        ranges = [asked.range_header for asked in server.log.asked if asked.path == WEIGHTS]
    # huggingface_hub keeps whole chunks of 10 MiB; what came of the third one is asked for again.
    assert ranges == [None, None, f"bytes={20 << 20}-"]
    assert told == sorted(told)
    assert told[-1] == model.size_bytes


@pytest.mark.parametrize("kind", ["wrong_size", "corrupt"])
@pytest.mark.parametrize("path", [WEIGHTS, "config.json"])
def test_a_wrong_file_is_thrown_away_and_fetched_again(
    hub: Hub, hub_server: HubServer, model: ResolvedModel, repo_maker: RepoMaker, kind: str, path: str
) -> None:
    failure = Failure(kind="corrupt", path=path, times=2)
    hub_server.fail(failure if kind == "corrupt" else replace(failure, kind="wrong_size"))
    folder = download(model, hub=hub)
    assert (folder / path).read_bytes() == (repo_maker.root / model.repo_id / path).read_bytes()
    assert hub_server.log.counts()["file-get"] == 9


@pytest.mark.parametrize(
    ("kind", "message"), [("wrong_size", "Consistency check failed"), ("corrupt", "has sha256 .* where the Hub lists")]
)
def test_a_file_that_stays_wrong_is_an_error_and_leaves_no_blob(
    hub: Hub, hub_server: HubServer, model: ResolvedModel, kind: str, message: str
) -> None:
    failure = Failure(kind="corrupt", path=WEIGHTS)
    hub_server.fail(failure if kind == "corrupt" else replace(failure, kind="wrong_size"))
    with pytest.raises(HubFileCorrupt, match=rf"acme/sound@\w{{8}}: {WEIGHTS}.*{message}(.|\n)*downloaded 3 times"):
        download(model, hub=hub)
    digest = next(file.digest for file in model.files if file.path == WEIGHTS).partition(":")[2]
    assert digest not in _blobs(hub)


def test_a_cache_that_was_spoiled_heals(hub: Hub, hub_server: HubServer, model: ResolvedModel) -> None:
    folder = download(model, hub=hub)
    weights = (folder / WEIGHTS).resolve()
    good = weights.read_bytes()
    for bad in (good[:-1] + b"\x00", good[:100], b""):
        weights.write_bytes(bad)
        hub_server.log.clear()
        assert download(model, hub=hub) == folder
        assert weights.read_bytes() == good
        assert hub_server.log.counts() == {"file-head": 1, "file-get": 1}


def test_a_failing_hub_is_asked_again_for_a_file(
    hub: Hub, hub_server: HubServer, hub_clock: PatientClock, model: ResolvedModel
) -> None:
    hub_server.fail(Failure(kind="server_error", route="file-head", path=WEIGHTS, times=1))
    hub_server.fail(Failure(kind="server_error", route="file-get", path=WEIGHTS, times=1))
    assert download(model, hub=hub)
    assert hub_clock.waits_s == [1.0, 1.0]
    hub_server.fail(Failure(kind="server_error", route="file-get"))
    with pytest.raises(HubUnavailable, match="HTTP 503"):
        download(replace(model, needed=(*model.needed, "onnx/model.onnx")), hub=hub)


def test_a_rate_limit_on_files_is_waited_out(
    hub: Hub, hub_server: HubServer, hub_clock: PatientClock, model: ResolvedModel
) -> None:
    hub_server.fail(Failure(kind="rate_limited", path=WEIGHTS, retry_after_s=9, times=1))
    assert download(model, hub=hub)
    assert sum(hub_clock.waits_s) >= 10


@pytest.mark.parametrize(
    ("failure", "expected", "message"),
    [
        (Failure(kind="gated"), ModelGated, "is gated; accept its terms"),
        (Failure(kind="unauthorized"), ModelGated, "HTTP 401"),
        (Failure(kind="repo_not_found"), ModelNotFound, "no such model"),
        (Failure(kind="revision_not_found"), ModelNotFound, "no such revision"),
        (Failure(kind="entry_not_found", path="vocab.txt"), ModelNotFound, "vocab.txt .*listed but not served"),
    ],
    ids=lambda value: value.kind if isinstance(value, Failure) else None,
)
def test_what_the_hub_refuses_is_an_error_of_ours(
    hub: Hub,
    hub_server: HubServer,
    model: ResolvedModel,
    failure: Failure,
    expected: type[Exception],
    message: str,
) -> None:
    hub_server.fail(failure)
    with pytest.raises(expected, match=message):
        download(model, hub=hub)


@pytest.mark.parametrize("make", [RepoMaker.truncated_weights, RepoMaker.corrupt_weights])
def test_weights_that_were_uploaded_broken_are_named(hub: Hub, repo_maker: RepoMaker, make: object) -> None:
    assert callable(make)
    broken = resolve(Entry(repo_id=make(repo_maker)), hub=hub)
    with pytest.raises(ModelInvalid, match=rf"{broken.repo_id}@.*: {WEIGHTS} is not readable as safetensors"):
        download(broken, hub=hub)


def test_code_that_only_the_files_ask_for_is_refused(hub: Hub, repo_maker: RepoMaker) -> None:
    settings = {"auto_map": {"AutoTokenizer": ["tokenization_acme.AcmeTokenizer", None]}}
    files = {"tokenizer_config.json": json.dumps(settings).encode()}
    model = resolve(Entry(repo_id=repo_maker.with_files(files, repo_id="acme/coded")), hub=hub)
    with pytest.raises(UnsafeModel, match="runs Python code"):
        download(model, hub=hub)


def test_an_index_that_names_other_files_is_refused(hub: Hub, repo_maker: RepoMaker) -> None:
    repo = repo_maker.sound()
    folder = repo_maker.root / repo
    (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(UnsafeModel, match="could leave its folder"):
        resolve(Entry(repo_id=repo), hub=hub)
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    assert download(resolve(Entry(repo_id=repo), hub=hub), hub=hub)


def test_a_download_that_cannot_fit_is_refused_before_its_first_byte(
    hub: Hub, hub_server: HubServer, model: ResolvedModel
) -> None:
    huge = SourceFile(path="model-00001-of-00001.safetensors", size_bytes=10**18, digest=f"sha256:{'0' * 64}")
    larger = replace(model, files=(*model.files, huge), needed=(*model.needed, huge.path))
    with pytest.raises(WorkerOutOfResources, match=r"\d+ bytes to download and \d+ free in the Hub cache"):
        download(larger, hub=hub)
    assert hub_server.log.counts() == {}


def test_a_disk_that_fills_up_is_the_workers_fault_and_leaves_no_part_of_a_file(hub: Hub, model: ResolvedModel) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))  # writing past it fails as writing to a full disk does
    try:
        with pytest.raises(WorkerOutOfResources, match=rf"{WEIGHTS}: no room in the Hub cache"):
            download(model, hub=hub)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    digests = {file.digest.partition(":")[2] for file in model.files if file.path != WEIGHTS}
    assert _blobs(hub) <= digests
    assert download(model, hub=hub)


def test_a_cache_that_cannot_be_written_is_the_workers_fault(hub: Hub, model: ResolvedModel) -> None:
    hub.cache_dir.mkdir()
    (hub.cache_dir / "models--acme--sound").write_text("a file where a folder should be")
    with pytest.raises(WorkerOutOfResources, match=r"the Hub cache .* cannot be used"):
        download(model, hub=hub)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that may be read and not written inside, by root as little as by anyone."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            (folder / "anything").touch()
        yield
    finally:
        if was_root:
            os.seteuid(0)
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)


@pytest.fixture
def shared_cache(hub_server: HubServer) -> Iterator[Hub]:
    """A Hub whose cache lies where every user may read it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "cache").mkdir()
        yield Hub(HubSettings(endpoint=hub_server.url, cache_dir=Path(folder) / "cache", retry_attempts=1))


def test_a_cache_that_others_filled_and_may_not_be_written_is_enough(shared_cache: Hub, model: ResolvedModel) -> None:
    for file in model.sources.values():
        shared_cache.fetch(model.repo_id, file.path, commit=model.commit)
    with read_only(shared_cache.cache_dir):
        folder = download(model, hub=shared_cache)
        assert _files(folder) == set(model.needed)


def test_a_cache_that_nobody_may_write_is_told_with_the_setting_to_change(
    hub_server: HubServer, model: ResolvedModel
) -> None:
    hub = Hub(HubSettings(endpoint=hub_server.url, cache_dir=Path("/sys/onnx-fleet")))
    with pytest.raises(WorkerOutOfResources, match=r"/sys/onnx-fleet cannot be used: .*let HF_HOME name a folder"):
        hub.fetch(model.repo_id, WEIGHTS, commit=model.commit)


def test_a_folder_beside_a_snapshot_that_may_not_be_made_is_told_alike(
    shared_cache: Hub, hub: Hub, repo_maker: RepoMaker
) -> None:
    completed = resolve(Entry(repo_id=repo_maker.with_config("acme/bare", architectures=None)), hub=hub)
    assert completed.completed
    for file in completed.sources.values():
        shared_cache.fetch(completed.repo_id, file.path, commit=completed.commit)
    with (
        read_only(shared_cache.cache_dir),
        pytest.raises(WorkerOutOfResources, match=r"onnx-fleet-completed.*let HF_HOME name a folder"),
    ):
        download(completed, hub=shared_cache)

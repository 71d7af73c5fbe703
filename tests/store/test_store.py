"""What every store promises, a folder and a bucket alike."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from onnx_fleet.errors import (
    BundleCorrupt,
    BundleNotFound,
    StoreDenied,
    StoreNotFound,
    StoreUnavailable,
    UnsafeModel,
    VersionConflict,
    WorkerOutOfResources,
)
from onnx_fleet.store import ObjectStore, leftovers, open_store

MIB = 1024 * 1024


def _file(path: Path, data: bytes) -> tuple[Path, str]:
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


def test_an_object_is_created_once(any_store: ObjectStore) -> None:
    assert any_store.create("a/b.json", b"first")
    assert not any_store.create("a/b.json", b"second")
    assert any_store.read("a/b.json") == b"first"


def test_what_is_not_there_is_none_or_not_found(any_store: ObjectStore, tmp_path: Path) -> None:
    assert any_store.stat("nothing") is None
    assert list(any_store.list("nothing/")) == []
    any_store.delete("nothing")
    for ask in (
        lambda: any_store.read("nothing"),
        lambda: list(any_store.chunks("nothing")),
        lambda: any_store.download("nothing", tmp_path / "x"),
    ):
        with pytest.raises(BundleNotFound, match="nothing: there is no such object"):
            ask()
    assert not (tmp_path / "x").exists()


def test_one_of_many_racing_creators_wins_and_its_bytes_stand(any_store: ObjectStore) -> None:
    writers = [f"writer {number}".encode() for number in range(12)]
    with ThreadPoolExecutor(len(writers)) as pool:
        won = list(pool.map(lambda data: any_store.create("race", data), writers))

    assert won.count(True) == 1
    assert any_store.read("race") == writers[won.index(True)]


def test_racing_compare_and_swaps_lose_no_increment(any_store: ObjectStore) -> None:
    any_store.create("counter", b"0")

    def increment(_: int) -> int:
        tries = 0
        while True:
            tries += 1
            data, etag = any_store.read_tagged("counter")
            try:
                any_store.replace("counter", str(int(data) + 1).encode(), etag=etag)
            except VersionConflict:
                continue
            return tries

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(increment, range(12)))

    assert any_store.read("counter") == b"12"


def test_a_swap_against_nothing_needs_nothing_there(any_store: ObjectStore) -> None:
    any_store.replace("pointer", b"one", etag=None)
    with pytest.raises(VersionConflict, match="read it and decide again"):
        any_store.replace("pointer", b"two", etag=None)
    assert any_store.read("pointer") == b"one"


def test_a_swap_against_something_removed_is_a_conflict(any_store: ObjectStore) -> None:
    any_store.create("pointer", b"one")
    _data, etag = any_store.read_tagged("pointer")
    any_store.delete("pointer")
    with pytest.raises(VersionConflict):
        any_store.replace("pointer", b"two", etag=etag)
    assert any_store.stat("pointer") is None


def test_an_upload_is_verified_and_told(any_store: ObjectStore, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path, digest = _file(tmp_path / "file", os.urandom(3 * MIB))
    info = any_store.upload("big", path, sha256=digest, progress=lambda *pair: told.append(pair))

    assert (info.size_bytes, info.sha256) == (3 * MIB, digest)
    assert told[-1] == (3 * MIB, 3 * MIB)
    assert hashlib.sha256(b"".join(any_store.chunks("big"))).hexdigest() == digest


def test_an_upload_of_what_stands_there_does_nothing(any_store: ObjectStore, tmp_path: Path) -> None:
    path, digest = _file(tmp_path / "file", b"bytes")
    first = any_store.upload("big", path, sha256=digest)
    assert any_store.upload("big", path, sha256=digest) == first


def test_an_upload_over_other_bytes_is_a_conflict_unless_it_is_meant(any_store: ObjectStore, tmp_path: Path) -> None:
    any_store.create("big", b"other bytes")
    path, digest = _file(tmp_path / "file", b"bytes")
    with pytest.raises(VersionConflict, match="exists already with other bytes"):
        any_store.upload("big", path, sha256=digest)
    assert any_store.read("big") == b"other bytes"

    any_store.upload("big", path, sha256=digest, overwrite=True)
    assert any_store.read("big") == b"bytes"


@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_a_copy_of_what_the_store_has_is_verified_as_an_upload_is(
    any_store: ObjectStore, tmp_path: Path, size: int
) -> None:
    path, digest = _file(tmp_path / "file", os.urandom(size))
    any_store.upload("first", path, sha256=digest)
    assert any_store.upload("second", path, sha256=digest, copy_of="first").sha256 == digest
    any_store.delete("first")
    assert any_store.read("second") == path.read_bytes()

    other, other_digest = _file(tmp_path / "other", os.urandom(size))
    with pytest.raises(VersionConflict):
        any_store.upload("second", other, sha256=other_digest, copy_of="second")


@pytest.mark.parametrize("there", [None, b"other bytes", b"no bytes"])
def test_a_copy_of_what_is_gone_or_differs_is_sent_instead(
    any_store: ObjectStore, tmp_path: Path, there: bytes | None
) -> None:
    path, digest = _file(tmp_path / "file", b"my bytes")
    if there is not None:
        any_store.create("first", there)
    assert any_store.upload("second", path, sha256=digest, copy_of="first").sha256 == digest
    assert any_store.read("second") == b"my bytes"


def test_a_file_that_is_not_what_its_digest_says_is_not_uploaded(any_store: ObjectStore, tmp_path: Path) -> None:
    path, _ = _file(tmp_path / "file", b"bytes")
    with pytest.raises(BundleCorrupt, match="file"):
        any_store.upload("big", path, sha256="0" * 64)
    assert any_store.stat("big") is None
    assert list(any_store.list("")) == []


def test_racing_uploads_of_different_bytes_leave_one_whole_file(any_store: ObjectStore, tmp_path: Path) -> None:
    files = [_file(tmp_path / f"{number}", bytes([number]) * MIB) for number in range(6)]
    barrier = threading.Barrier(len(files))

    def upload(file: tuple[Path, str]) -> str | None:
        barrier.wait()
        try:
            return any_store.upload("big", file[0], sha256=file[1]).sha256
        except VersionConflict:
            return None

    with ThreadPoolExecutor(len(files)) as pool:
        won = [digest for digest in pool.map(upload, files) if digest]

    assert won == [hashlib.sha256(any_store.read("big")).hexdigest()]


def test_a_download_appears_whole(any_store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(2 * MIB + 7)
    path, digest = _file(tmp_path / "file", data)
    any_store.upload("big", path, sha256=digest)
    told: list[tuple[int, int]] = []
    any_store.download("big", tmp_path / "deep" / "copy", progress=lambda *pair: told.append(pair))

    assert (tmp_path / "deep" / "copy").read_bytes() == data
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["copy"]
    assert told[-1] == (len(data), len(data))


def test_a_broken_off_download_goes_on_where_it_stopped(any_store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(4 * MIB)
    path, digest = _file(tmp_path / "file", data)
    any_store.upload("big", path, sha256=digest)

    class Stopped(Exception):
        pass

    def stop(done: int, _total: int) -> None:
        if done > MIB:
            raise Stopped

    with pytest.raises(Stopped):
        any_store.download("big", tmp_path / "copy", progress=stop)
    assert not (tmp_path / "copy").exists()
    (part,) = tmp_path.glob("copy.*.part")
    already = part.stat().st_size
    assert 0 < already < len(data)

    told: list[int] = []
    any_store.download("big", tmp_path / "copy", progress=lambda done, _total: told.append(done))
    assert told[0] > already
    assert (tmp_path / "copy").read_bytes() == data


def test_a_download_does_not_go_on_with_other_bytes(any_store: ObjectStore, tmp_path: Path) -> None:
    any_store.create("big", b"first bytes")
    stale = tmp_path / "copy.0123456789ab.part"
    stale.write_bytes(b"other")
    any_store.download("big", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"first bytes"


def test_a_full_disk_is_told_as_such_and_the_download_goes_on_when_there_is_room(
    any_store: ObjectStore, tmp_path: Path
) -> None:
    data = os.urandom(3 * MIB)
    path, digest = _file(tmp_path / "file", data)
    any_store.upload("big", path, sha256=digest)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB + 100, hard))
    try:
        with pytest.raises(WorkerOutOfResources, match="free some space"):
            any_store.download("big", tmp_path / "copy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "copy").exists()

    any_store.download("big", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data


def test_keys_are_listed_in_order_and_by_prefix(any_store: ObjectStore) -> None:
    for key in ("a/b/c", "a/b.txt", "a/bc", "z", "a-b"):
        any_store.create(key, key.encode())

    assert [info.key for info in any_store.list("")] == ["a-b", "a/b.txt", "a/b/c", "a/bc", "z"]
    assert [info.key for info in any_store.list("a/b")] == ["a/b.txt", "a/b/c", "a/bc"]
    assert [(info.key, info.size_bytes) for info in any_store.list("a/b/")] == [("a/b/c", 5)]
    for after, behind in {
        "a/b.txt": ["a/b/c", "a/bc", "z"],
        "a/b": ["a/b.txt", "a/b/c", "a/bc", "z"],
        "a/b/c": ["a/bc", "z"],
        "a/z": ["z"],
        "z": [],
    }.items():
        assert [info.key for info in any_store.list("", after=after)] == behind
    assert [info.key for info in any_store.list("a/b", after="a/b.txt")] == ["a/b/c", "a/bc"]


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../other", "a/../../b", "a//b", "./a", "a/.", "a\\b", "a\x00b", "a\nb", "x" * 2000]
)
def test_keys_that_could_leave_the_store_are_refused(any_store: ObjectStore, tmp_path: Path, key: str) -> None:
    path, digest = _file(tmp_path / "file", b"bytes")
    for use in (
        lambda: any_store.read(key),
        lambda: any_store.stat(key),
        lambda: any_store.create(key, b""),
        lambda: any_store.replace(key, b"", etag="x"),
        lambda: any_store.upload(key, path, sha256=digest),
        lambda: any_store.download(key, tmp_path / "copy"),
        lambda: any_store.delete(key),
    ):
        with pytest.raises(UnsafeModel, match="relative POSIX paths"):
            use()


@pytest.mark.parametrize("address", ["", "gs://bucket/x", "s3://", "s3:///x"])
def test_an_address_that_names_no_store_is_told(address: str) -> None:
    with pytest.raises(StoreNotFound, match=r"s3://BUCKET"):
        open_store(address)


def test_a_link_inside_the_folder_does_not_lead_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store" / "link").symlink_to(tmp_path / "elsewhere")
    store = open_store(str(tmp_path / "store"))

    with pytest.raises(UnsafeModel, match="leads out"):
        store.create("link/file", b"bytes")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_a_folder_was_sent_is_read_again_once_it_was_touched(local_store: ObjectStore, tmp_path: Path) -> None:
    path, digest = _file(tmp_path / "weights", b"as sent" * 1000)
    sent = local_store.upload("weights", path, sha256=digest)
    stored = Path(local_store.address, "weights")
    assert local_store.stat("weights") == sent

    stored.write_bytes(b"damaged" * 1000)
    os.utime(stored, ns=(0, 0))  # whatever a clock says, and however coarse it is

    found = local_store.stat("weights")
    assert found is not None
    assert found.sha256 == hashlib.sha256(b"damaged" * 1000).hexdigest()
    assert found.etag != sent.etag
    with pytest.raises(VersionConflict, match="exists already with other bytes"):
        local_store.upload("weights", path, sha256=digest)


def test_the_folders_private_part_is_no_place_for_objects(local_store: ObjectStore) -> None:
    local_store.create("a", b"1")
    local_store.create("b", b"1")
    with pytest.raises(UnsafeModel, match="private folder"):
        local_store.read(".onnx-fleet-store/lock")
    assert [info.key for info in local_store.list("")] == ["a", "b"]


def test_a_folder_whose_parent_is_missing_is_a_lost_mount_or_a_typo(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "missing" / "store"))
    with pytest.raises(StoreNotFound, match="mount it or make it"):
        store.stat("a")
    with pytest.raises(StoreNotFound):
        store.create("a", b"")


def test_a_store_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreUnavailable, match="is a folder"):
        open_store(str(tmp_path / "store")).create("a", b"")


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder where not even root may write")
def test_a_folder_that_may_not_be_written_is_a_denial() -> None:
    with pytest.raises(StoreDenied, match="let this user write there"):
        open_store("/sys/onnx-fleet").create("a", b"")


def test_a_crash_in_the_middle_of_a_write_shows_nothing(local_store: ObjectStore) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(WorkerOutOfResources):
            local_store.create("a", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(local_store.list("")) == []
    assert local_store.create("a", b"whole")


def test_what_a_killed_writer_left_is_shown_and_swept_by_its_age(any_store: ObjectStore, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    any_store.create("models/acme/tiny/1/config.json", b"{}")
    assert list(any_store.leftovers()) == []
    _killed_while_it_uploads(any_store, "models/acme/tiny/1/model.onnx", tmp_path / "file")
    assert leftovers.find(any_store, days=1, now=now) == ()
    assert leftovers.sweep(any_store, days=1, now=now + timedelta(hours=23)) == ()

    (found,) = leftovers.find(any_store, days=1, now=now + timedelta(days=2))
    assert found.key == (None if any_store.address.startswith("/") else "models/acme/tiny/1/model.onnx")
    assert leftovers.sweep(any_store, days=1, now=now + timedelta(days=2)) == (found,)
    assert list(any_store.leftovers()) == []
    any_store.discard(found)
    assert [info.key for info in any_store.list("")] == ["models/acme/tiny/1/config.json"]


def test_a_store_that_nobody_has_written_to_has_no_leftovers(any_store: ObjectStore) -> None:
    assert list(any_store.leftovers()) == []


def _killed_while_it_uploads(store: ObjectStore, key: str, path: Path) -> None:
    path, digest = _file(path, os.urandom(20 * MIB))
    if (child := os.fork()) == 0:
        store.upload(key, path, sha256=digest, progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

"""The files that a worker keeps by their digest."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from onnx_fleet.errors import BundleCorrupt, WorkerOutOfResources
from onnx_fleet.store.blob_cache import LINKED_BYTES, BlobCache


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Source:
    """Where files are fetched from."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.fetched = 0

    def __call__(self, path: Path) -> None:
        self.fetched += 1
        path.write_bytes(self.data)


def test_a_file_is_fetched_once_and_is_another_file_each_time(tmp_path: Path) -> None:
    cache, source = BlobCache(folder=tmp_path / "blobs", limit_bytes=1000), Source(b"bytes")
    for name in ("one", "two"):
        cache.put(_digest(b"bytes"), tmp_path / "stage" / name, fetch=source)
    assert source.fetched == 1
    (tmp_path / "stage" / "one").write_bytes(b"written to in place")
    assert (tmp_path / "stage" / "two").read_bytes() == b"bytes"
    cache.put(_digest(b"bytes"), tmp_path / "three", fetch=source)
    assert (tmp_path / "three").read_bytes() == b"bytes"


def test_a_large_file_takes_its_bytes_of_the_disk_once(tmp_path: Path) -> None:
    data = os.urandom(LINKED_BYTES)
    cache, source = BlobCache(folder=tmp_path / "blobs", limit_bytes=1 << 30), Source(data)
    cache.put(_digest(data), tmp_path / "one", fetch=source)
    cache.put(_digest(data), tmp_path / "two", fetch=source)
    assert (tmp_path / "one").samefile(tmp_path / "two")


def test_what_was_used_longest_ago_goes_first_and_a_stage_keeps_its_file(tmp_path: Path) -> None:
    cache = BlobCache(folder=tmp_path / "blobs", limit_bytes=25)
    blobs = [bytes([number]) * 10 for number in range(3)]
    for number, data in enumerate(blobs[:2]):
        cache.put(_digest(data), tmp_path / str(number), fetch=Source(data))
        os.utime(tmp_path / "blobs" / _digest(data), ns=(0, number))
    cache.put(_digest(blobs[0]), tmp_path / "again", fetch=Source(b"is not asked"))
    cache.put(_digest(blobs[2]), tmp_path / "2", fetch=Source(blobs[2]))
    assert {path.name for path in (tmp_path / "blobs").iterdir()} == {_digest(blobs[0]), _digest(blobs[2])}
    assert (tmp_path / "1").read_bytes() == blobs[1]


def test_what_comes_with_another_digest_is_neither_kept_nor_handed_out(tmp_path: Path) -> None:
    cache = BlobCache(folder=tmp_path / "blobs", limit_bytes=1000)
    with pytest.raises(BundleCorrupt, match="does not have the digest"):
        cache.put(_digest(b"bytes"), tmp_path / "file", fetch=Source(b"other bytes"))
    assert not (tmp_path / "file").exists()
    assert not (tmp_path / "blobs").exists()


def test_a_full_disk_costs_the_kept_files_before_it_costs_the_task(tmp_path: Path) -> None:
    cache = BlobCache(folder=tmp_path / "blobs", limit_bytes=1000)
    cache.put(_digest(b"kept"), tmp_path / "kept", fetch=Source(b"kept"))

    def fetch(path: Path) -> None:
        if list((tmp_path / "blobs").iterdir()):
            raise WorkerOutOfResources("the disk is full")
        path.write_bytes(b"new")

    cache.put(_digest(b"new"), tmp_path / "new", fetch=fetch)
    assert (tmp_path / "new").read_bytes() == b"new"

    def never(path: Path) -> None:
        raise WorkerOutOfResources("the disk is full")

    with pytest.raises(WorkerOutOfResources):
        cache.put(_digest(b"more"), tmp_path / "more", fetch=never)

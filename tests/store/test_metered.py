"""A store that counts the bytes of large files, whatever kind of store it is."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from onnx_fleet.errors import VersionConflict
from onnx_fleet.store import ObjectStore
from onnx_fleet.store.metered import MeteredStore


def test_bytes_are_counted_by_whether_they_had_to_travel(any_store: ObjectStore, tmp_path: Path) -> None:
    counted: Counter[str] = Counter()
    store: ObjectStore = MeteredStore(store=any_store, count=lambda way, size_bytes: counted.update({way: size_bytes}))
    path = tmp_path / "weights"
    path.write_bytes(bytes(3 * 1024 * 1024))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    told: list[int] = []

    store.upload("first", path, sha256=digest, progress=lambda done, total: told.append(done))
    assert (counted, told[-1]) == ({"sent": path.stat().st_size}, path.stat().st_size)
    store.upload("first", path, sha256=digest)
    assert counted["reused"] == path.stat().st_size
    store.download("first", tmp_path / "there")
    assert counted["fetched"] == path.stat().st_size

    counted.clear()
    store.upload("second", path, sha256=digest, copy_of="first")
    assert counted == {"reused" if any_store.address.startswith("s3://") else "sent": path.stat().st_size}
    counted.clear()
    path.write_bytes(b"other")
    with pytest.raises(VersionConflict):
        store.upload("second", path, sha256=hashlib.sha256(b"other").hexdigest())
    assert not counted
    assert [info.key for info in store.list("")] == ["first", "second"]

"""The cache of exports by itself, and its commands: what is damaged or too much goes, and bundles are left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from onnx_fleet.errors import BundleCorrupt
from onnx_fleet.export.cache import Cache
from onnx_fleet.store import archive, layout
from onnx_fleet.store.local import LocalStore

KEY, OTHER, THIRD = "a" * 64, "b" * 64, "c" * 64


def _archive(size: int = 10, *, letter: str = "x") -> bytes:
    """What the cache takes for whole; random bytes, for an archive is compressed."""
    data = np.random.default_rng(ord(letter)).bytes(size)
    return archive.pack({"file": data}, about={})


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def cache(store: LocalStore) -> Cache:
    return Cache(store=store)


def test_what_was_put_is_got(cache: Cache) -> None:
    cache.put("graphs", KEY, _archive())

    assert cache.get("graphs", KEY) == _archive()
    assert cache.get("tokenizers", KEY) is None
    assert cache.get("graphs", OTHER) is None


@pytest.mark.parametrize("damage", ["cut", "other bytes", "no archive", "empty"])
def test_a_damaged_entry_is_none_and_is_removed(cache: Cache, store: LocalStore, tmp_path: Path, damage: str) -> None:
    cache.put("graphs", KEY, _archive(1000))
    path = tmp_path / "store" / layout.cache_key("graphs", KEY)
    whole = path.read_bytes()
    middle = len(whole) // 2
    changed = bytes([whole[middle] ^ 1])
    damaged = {
        "cut": whole[:middle],
        "other bytes": whole[:middle] + changed + whole[middle + 1 :],
        "no archive": b"not a zip at all",
        "empty": b"",
    }
    path.write_bytes(damaged[damage])

    assert cache.get("graphs", KEY) is None
    assert list(store.list(layout.CACHE)) == []


def test_an_archive_that_was_changed_and_packed_well_has_wrong_digests() -> None:
    """A zip has its own checksums, which whoever changes a file makes anew."""
    import io
    import zipfile

    given = _archive()
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(given)) as old, zipfile.ZipFile(buffer, "w") as new:
        new.writestr("about.json", old.read("about.json"))
        new.writestr("file", b"something else")

    with pytest.raises(BundleCorrupt, match="content of file has changed"):
        archive.unpack(buffer.getvalue())


def test_of_many_that_put_one_key_at_once_all_succeed_and_one_stands(store: LocalStore) -> None:
    workers = 8
    offered = [_archive(50_000, letter=chr(ord("a") + number)) for number in range(workers)]
    together = Barrier(workers)

    def work(own: bytes) -> bytes | None:
        cache = Cache(store=store)
        together.wait(timeout=30)
        cache.put("graphs", KEY, own)
        return cache.get("graphs", KEY)

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(work, offered))

    assert len(set(found)) == 1
    assert found[0] in offered
    assert [entry.key for entry in Cache(store=store).list()] == [KEY]


def test_beyond_the_limit_the_oldest_go(store: LocalStore, tmp_path: Path) -> None:
    size = len(_archive(10_000))
    cache = Cache(store=store, limit_bytes=int(2.5 * size))
    for age_s, key, kind in ((300, OTHER, "graphs"), (200, KEY, "tokenizers")):
        cache.put(kind, key, _archive(10_000))
        path = tmp_path / "store" / layout.cache_key(kind, key)
        os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    cache.put("graphs", THIRD, _archive(10_000))

    assert [(entry.kind, entry.key) for entry in cache.list()] == [("tokenizers", KEY), ("graphs", THIRD)]


def test_what_is_larger_than_the_limit_drives_nothing_out(store: LocalStore) -> None:
    cache = Cache(store=store, limit_bytes=5_000)
    cache.put("graphs", KEY, _archive(1_000))
    cache.put("graphs", OTHER, _archive(10_000))

    assert [entry.key for entry in cache.list()] == [KEY]


def test_a_limit_of_zero_turns_it_off(cache: Cache, store: LocalStore) -> None:
    cache.put("graphs", KEY, _archive())
    off = Cache(store=store, limit_bytes=0)
    off.put("graphs", OTHER, _archive())

    assert off.get("graphs", KEY) is None
    assert [entry.key for entry in cache.list()] == [KEY]


def test_clearing_leaves_bundles_alone(cache: Cache, store: LocalStore) -> None:
    store.create("models/acme/tiny/channels/latest.json", b"{}")
    cache.put("graphs", KEY, _archive())
    cache.clear()

    assert cache.list() == ()
    assert store.read("models/acme/tiny/channels/latest.json") == b"{}"


# The command line


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "ONNX_FLEET_"))}

    def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from onnx_fleet.cli import main; main()", "cache", *arguments],
            env={**environment, "ONNX_FLEET_STORE": str(tmp_path / "store"), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )

    return _run


def test_the_commands_list_and_clear_it(command: Callable[..., subprocess.CompletedProcess[str]], cache: Cache) -> None:
    cache.put("graphs", KEY, _archive())
    cache.put("tokenizers", OTHER, _archive())
    size = 2 * len(_archive())

    listed = json.loads(command("list", "--json").stdout)
    assert {(entry["kind"], entry["key"], entry["size_bytes"]) for entry in listed} == {
        ("graphs", KEY, size // 2), ("tokenizers", OTHER, size // 2),
    }  # fmt: skip
    shown = command("list")
    assert (shown.returncode, KEY[:12] in shown.stdout, OTHER[:12] in shown.stdout) == (0, True, True)

    tried = command("clear", "--dry-run", "--json")
    assert json.loads(tried.stdout) == {"entries": 2, "size_bytes": size, "removed": False}
    assert len(cache.list()) == 2

    cleared = command("clear")
    assert (cleared.returncode, cleared.stdout.startswith("removed 2 entries")) == (0, True)
    assert cache.list() == ()

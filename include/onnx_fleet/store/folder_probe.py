"""What a folder can do: tried with the store's own operations, on the file system that it lies on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from onnx_fleet.errors import OnnxFleetError, VersionConflict
from onnx_fleet.store import capability
from onnx_fleet.store.capability import ONE_WINS, Capability, StoreCheck
from onnx_fleet.store.local import LocalStore

_AT_ONCE: Final = 8
"""How many writers race."""
_LISTED: Final = ("listed/B", "listed/a-b", "listed/a.b", "listed/a/b", "listed/a0")
"""Keys in the order of their bytes, which is not that of words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """A store, and the objects that were put there to try it."""

    store: LocalStore
    folder: str
    keys: list[str] = field(default_factory=list)

    def key(self, name: str) -> str:
        key = self.folder + name
        self.keys.append(key)
        return key

    def path(self, name: str) -> Path:
        return Path(self.store.address, self.folder, name)


def check(store: LocalStore, folder: str, *, trying: Callable[[str], None]) -> StoreCheck:
    """Try what a folder can do.

    Args:
        folder: what the keys of the check begin with, a slash at its end.
        trying: a function that is called with the name of each thing before it is tried.
    Raises:
        StoreUnavailable, StoreDenied, StoreNotFound: nothing can be written there.
    """
    tried, found, left = _Tried(store=store, folder=folder), dict[str, Capability](), list[str]()
    try:
        for name, probe in _PROBES.items():
            trying(name)
            found[name] = probe(tried)
    finally:
        left += _removed(tried)
    return capability.found(store.address, found, left=tuple(left))


def _removed(tried: _Tried) -> list[str]:
    """Remove what was put there, and return what could not be."""
    left = []
    for key in dict.fromkeys(tried.keys):
        try:
            tried.store.delete(key)
        except OnnxFleetError:
            left.append(f"{tried.store.address}/{key}")
    for folder in (tried.path("listed/a"), tried.path("listed"), tried.path(""), tried.path("").parent):
        with suppress(OSError):  # it was not made, or holds something else
            folder.rmdir()
    return left


def _read_after_write(tried: _Tried) -> Capability:
    key = tried.key("read")
    tried.store.create(key, b"one")
    first, etag = tried.store.read_tagged(key)
    tried.store.replace(key, b"two", etag=etag)
    seen = (first, tried.store.read(key))
    tried.store.delete(key)
    right = seen == (b"one", b"two") and tried.store.stat(key) is None
    return Capability(
        supported="yes" if right else "no",
        seen="A file was read as it was written last, and was gone after its removal."
        if right
        else f"After b'one' and then b'two' was written, {seen[0]!r} and {seen[1]!r} was read.",
        means="Readers see whole files only: each is written aside, synced, and then given its name.",
        needed=True,
    )


def _conditional_create(tried: _Tried) -> Capability:
    key = tried.key("created")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        won = sum(pool.map(lambda number: tried.store.create(key, b"%d" % number), range(_AT_ONCE)))
    linked, link = tried.path("created"), tried.path("linked")
    try:
        os.link(linked, link)
        how = "by a hard link"
        link.unlink()
    except OSError as err:
        how = f"under the lock, since the file system has no hard links ({err.strerror})"
    return _race("create the same file", won, how=how)


def _conditional_replace(tried: _Tried) -> Capability:
    locked = _lock(tried)
    if locked:
        return Capability(
            supported="no",
            seen=locked,
            means="Channels are moved under a lock: two writers could overwrite each other. Use another file system.",
            needed=True,
        )
    key = tried.key("replaced")
    tried.store.create(key, b"first")
    _data, etag = tried.store.read_tagged(key)

    def replaced(number: int) -> bool:
        try:
            tried.store.replace(key, b"%d" % number, etag=etag)
        except VersionConflict:
            return False
        return True

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        won = sum(pool.map(replaced, range(_AT_ONCE)))
    return _race("replace the same file", won, how="under the lock; other machines were not tried")


def _lock(tried: _Tried) -> str:
    """Return what is wrong with the locks of the file system; nothing where one keeps a second holder out."""
    tried.key("lock")
    path = tried.path("lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0), ThreadPoolExecutor(1) as other:
            other.submit(FileLock(path, timeout=0).acquire).result()
    except Timeout:
        return ""
    except (NotImplementedError, OSError) as err:
        return f"The file system refused a lock: {err}."
    return "Two holders had the same lock at once."


def _race(what: str, won: int, *, how: str) -> Capability:
    return Capability(
        supported="yes" if won == 1 else "no",
        seen=f"Of {_AT_ONCE} writers at once that were to {what}, {won} did, {how}.",
        means=ONE_WINS if won == 1 else "Two writers could overwrite each other. Use another file system.",
        needed=True,
    )


def _listing(tried: _Tried) -> Capability:
    keys = [tried.key(name) for name in _LISTED]
    for key in reversed(keys):
        tried.store.create(key, b"")
    listed = [info.key for info in tried.store.list(f"{tried.folder}listed/")]
    right = listed == keys
    return Capability(
        supported="yes" if right else "no",
        seen=f"{len(keys)} new files were listed in the order of their keys."
        if right
        else f"Of {len(keys)} new files, {len(listed)} were listed: {', '.join(listed) or 'none'}.",
        means="Lists, plans and the feed are read from it.",
        needed=True,
    )


def _names_by_case(tried: _Tried) -> Capability:
    tried.store.create(tried.key("case"), b"lower")
    apart = tried.store.create(tried.key("CASE"), b"upper")
    return Capability(
        supported="yes" if apart else "no",
        seen="`case` and `CASE` were two files." if apart else "`case` and `CASE` were one file.",
        means="Model ids keep the letters that the Hub has."
        if apart
        else "Two models whose ids differ in capitals only would share a folder: publish one of them.",
    )


def _copy(tried: _Tried) -> Capability:
    return Capability(
        supported="no",
        seen="A folder has no server that could copy.",
        means="A file that stands in the store already is written again from this machine.",
    )


_PROBES: Final[Mapping[str, Callable[[_Tried], Capability]]] = {
    "read_after_write": _read_after_write,
    "conditional_create": _conditional_create,
    "conditional_replace": _conditional_replace,
    "listing": _listing,
    "names_by_case": _names_by_case,
    "copy": _copy,
}

"""A store that says how many bytes of large files went to it, came from it, or were there already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnx_fleet.store.objects import Leftover, ObjectInfo, ObjectStore, Progress

Way = Literal["sent", "reused", "fetched"]
"""How bytes came to be where they are needed: ``sent`` from here; ``reused``, since they stood in the store, which may
have copied them; ``fetched`` from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredStore:
    """Another store, whose large files are counted; ObjectStore says what each operation is for."""

    store: ObjectStore
    count: Callable[[Way, int], None]
    """A function that is called with a number of bytes, from any thread, when a file is there."""

    @property
    def address(self) -> str:
        return self.store.address

    def read(self, key: str) -> bytes:
        return self.store.read(key)

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        return self.store.read_tagged(key)

    def chunks(self, key: str) -> Iterator[bytes]:
        return self.store.chunks(key)

    def stat(self, key: str) -> ObjectInfo | None:
        return self.store.stat(key)

    def create(self, key: str, data: bytes) -> bool:
        return self.store.create(key, data)

    def replace(self, key: str, data: bytes, *, etag: str | None) -> None:
        self.store.replace(key, data, etag=etag)

    def upload(
        self,
        key: str,
        path: Path,
        *,
        sha256: str,
        overwrite: bool = False,
        copy_of: str | None = None,
        progress: Progress | None = None,
    ) -> ObjectInfo:
        sent_bytes = 0

        def counted(done: int, total: int) -> None:
            nonlocal sent_bytes
            sent_bytes = max(sent_bytes, done)
            if progress:
                progress(done, total)

        # A store tells the progress of bytes that it sends, and of no others.
        info = self.store.upload(key, path, sha256=sha256, overwrite=overwrite, copy_of=copy_of, progress=counted)
        if sent_bytes:
            self.count("sent", sent_bytes)
        if info.size_bytes > sent_bytes:
            self.count("reused", info.size_bytes - sent_bytes)
        return info

    def download(self, key: str, path: Path, *, progress: Progress | None = None) -> ObjectInfo:
        info = self.store.download(key, path, progress=progress)
        self.count("fetched", info.size_bytes)
        return info

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self.store.list(prefix)

    def delete(self, key: str) -> None:
        self.store.delete(key)

    def leftovers(self) -> Iterator[Leftover]:
        return self.store.leftovers()

    def discard(self, leftover: Leftover) -> None:
        self.store.discard(leftover)

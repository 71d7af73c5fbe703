"""A store whose operations go to another one, for those that watch or change some of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnx_fleet.store.objects import Leftover, ObjectInfo, ObjectStore, Progress


class ForwardingStore:
    """Every operation goes to another store; ObjectStore says what each is for."""

    def __init__(self, store: ObjectStore) -> None:
        """Make a store in front of another one."""
        self.store = store

    def target(self) -> ObjectStore:
        """Return the store that the next operation goes to."""
        return self.store

    @property
    def address(self) -> str:
        return self.store.address

    def read(self, key: str) -> bytes:
        return self.target().read(key)

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        return self.target().read_tagged(key)

    def chunks(self, key: str) -> Iterator[bytes]:
        return self.target().chunks(key)

    def stat(self, key: str) -> ObjectInfo | None:
        return self.target().stat(key)

    def create(self, key: str, data: bytes) -> bool:
        return self.target().create(key, data)

    def replace(self, key: str, data: bytes, *, etag: str | None) -> None:
        self.target().replace(key, data, etag=etag)

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
        return self.target().upload(key, path, sha256=sha256, overwrite=overwrite, copy_of=copy_of, progress=progress)

    def download(self, key: str, path: Path, *, progress: Progress | None = None) -> ObjectInfo:
        return self.target().download(key, path, progress=progress)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        return self.target().list(prefix, after=after)

    def delete(self, key: str) -> None:
        self.target().delete(key)

    def leftovers(self) -> Iterator[Leftover]:
        return self.target().leftovers()

    def discard(self, leftover: Leftover) -> None:
        self.target().discard(leftover)

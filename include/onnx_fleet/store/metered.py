"""A store that says how many bytes of large files went to it, came from it, or were there already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from onnx_fleet.store.forwarding import ForwardingStore
from onnx_fleet.store.objects import ObjectInfo, ObjectStore, Progress

Way = Literal["sent", "reused", "fetched"]
"""How bytes came to be where they are needed: ``sent`` from here; ``reused``, since they stood in the store, which may
have copied them; ``fetched`` from there."""


class MeteredStore(ForwardingStore):
    """Another store, whose large files are counted."""

    def __init__(self, *, store: ObjectStore, count: Callable[[Way, int], None]) -> None:
        """Make a store in front of another one.

        Args:
            count: a function that is called with a number of bytes, from any thread, when a file is there.
        """
        super().__init__(store)
        self._count = count

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
        info = super().upload(key, path, sha256=sha256, overwrite=overwrite, copy_of=copy_of, progress=counted)
        if sent_bytes:
            self._count("sent", sent_bytes)
        if info.size_bytes > sent_bytes:
            self._count("reused", info.size_bytes - sent_bytes)
        return info

    def download(self, key: str, path: Path, *, progress: Progress | None = None) -> ObjectInfo:
        info = super().download(key, path, progress=progress)
        self._count("fetched", info.size_bytes)
        return info

"""Files of this machine by their digest: what was here before is neither fetched nor made again."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from onnx_fleet.errors import BundleCorrupt, WorkerOutOfResources
from onnx_fleet.store import transfer

LINKED_BYTES: Final = 16 * 1024 * 1024
"""The size in bytes from which on a file gets a second name where it can, and not a second copy.

Smaller files are copied: a step may write to one in place, and the cache's must stay as it is.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobCache:
    """A folder of files that are named by their SHA-256; those that were not used for the longest time go first."""

    folder: Path
    limit_bytes: int
    """The size that the folder is brought back to after each file that is added."""

    def put(self, sha256: str, path: Path, *, fetch: Callable[[Path], object]) -> None:
        """Put the file with a digest where a path says, from here or from where it has to be fetched.

        Args:
            fetch: writes the file to the path that it is given.
        Raises:
            BundleCorrupt: what was fetched has another digest.
            WorkerOutOfResources: the disk is full, even without the files that were kept here.
        """
        try:
            self._put(sha256, path, fetch=fetch)
        except WorkerOutOfResources:
            self.evict(to_bytes=0)
            self._put(sha256, path, fetch=fetch)

    def _put(self, sha256: str, path: Path, *, fetch: Callable[[Path], object]) -> None:
        kept = self.folder / sha256
        with transfer.local_disk(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                os.utime(kept)
                place(kept, path)
                return
        fetch(path)
        with transfer.local_disk(str(path)):
            if transfer.hash_file(path) != sha256:
                path.unlink()
                raise BundleCorrupt(f"{path.name}: the downloaded file does not have the digest {sha256}; run it again")
        self.add(sha256, path)

    def add(self, sha256: str, path: Path) -> None:
        """Keep a file that has this digest; the disk's being full keeps it from being kept, and is no error.

        Raises:
            StoreDenied: the folder may not be written.
        """
        kept = self.folder / sha256
        try:
            with transfer.local_disk(str(kept)):
                self.folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(prefix=".adding-", dir=self.folder) as corner:
                    place(path, Path(corner) / sha256)
                    (Path(corner) / sha256).replace(kept)
                os.utime(kept)
        except WorkerOutOfResources:
            return
        self.evict(to_bytes=self.limit_bytes)

    def evict(self, *, to_bytes: int) -> None:
        """Remove files until no more bytes than these are kept; who has one under another name keeps it."""
        found = []
        for path in self.folder.glob("[0-9a-f]*"):
            with suppress(FileNotFoundError):
                about = path.stat()
                found.append((about.st_mtime_ns, about.st_size, path))
        kept = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if kept <= to_bytes:
                return
            path.unlink(missing_ok=True)
            kept -= size


def place(source: Path, path: Path) -> None:
    """Give a file a second name, or copy it where it is small, or where the file system has no second names."""
    if source.stat().st_size >= LINKED_BYTES:
        with suppress(OSError):
            os.link(source, path)
            return
    shutil.copyfile(source, path)

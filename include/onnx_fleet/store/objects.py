"""What a store is: immutable objects under keys, created once, and small pointers moved by compare-and-swap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

Progress = Callable[[int, int], None]
"""A function that is called with (done_bytes, total_bytes), from any thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One object of a store."""

    key: str
    """The object's POSIX path, relative to the store's address."""
    size_bytes: int
    etag: str
    """A tag without quotes that changes whenever the bytes do; empty in a folder's listing, where telling it would mean
    reading every file."""
    modified_at: datetime | None = None
    """The time when it was put there; only a listing has it."""
    sha256: str | None = None
    """The hexadecimal digest of the bytes that are held; None where only reading them would tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """What a writer has begun to put into a store: under way, or left by one that was killed."""

    name: str
    """An upload's id in a bucket, a file's name in a folder."""
    key: str | None
    """The object that it would have become, where the store knows."""
    began_at: datetime
    """When the upload began, or the file was last written to."""
    size_bytes: int | None
    """None where asking would take a request for each."""


class ObjectStore(Protocol):
    """A bucket, or a folder with the same semantics.

    Every operation may raise StoreUnavailable, StoreDenied and StoreNotFound.
    """

    @property
    def address(self) -> str:
        """The store's address: ``s3://bucket/prefix``, or the folder."""

    def read(self, key: str) -> bytes:
        """Return the whole of a small object.

        Raises:
            BundleNotFound: there is no such object.
        """

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        """Return a small object, and the etag that exactly these bytes have.

        Raises:
            BundleNotFound: there is no such object.
        """

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield the bytes of a large object, in order.

        Raises:
            BundleNotFound: there is no such object.
        """

    def stat(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object without reading it; None when there is none."""

    def create(self, key: str, data: bytes) -> bool:
        """Put a small object where nothing stands; return False, and write nothing, when something does.

        After False the object may still hold these very bytes: a request whose answer was lost is sent again. Read it
        where that matters.
        """

    def replace(self, key: str, data: bytes, *, etag: str | None) -> None:
        """Put a small object in the place of the one with this etag; None says that nothing may stand there.

        Raises:
            VersionConflict: something else stands there.
        """

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
        """Put a large file, verified: afterwards the object is known to hold the bytes with this digest.

        Nothing is done where these bytes stand already.

        Args:
            sha256: the file's digest in hexadecimal.
            overwrite: take the place of other bytes, in one step.
            copy_of: the key of an object that is said to hold these bytes: a server that can copies it, and nothing is
                sent. Where it is gone, or holds other bytes, the file is sent.

        Raises:
            VersionConflict: other bytes stand there, and overwrite is False.
            BundleCorrupt: the file's bytes do not have this digest.
        """

    def download(self, key: str, path: Path, *, progress: Progress | None = None) -> ObjectInfo:
        """Get a large object; the file appears whole or not at all.

        An interrupted download leaves ``<path>.<tag>.part`` beside it, and the next one goes on from there.

        Raises:
            BundleNotFound: there is no such object.
            WorkerOutOfResources: the disk is full.
        """

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key begins with prefix, in the order of their keys.

        Args:
            after: only keys behind this one, which need not be there; what lies before it is not asked for.
        """

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens when there is none."""

    def leftovers(self) -> Iterator[Leftover]:
        """What writers have begun and not finished, which no listing shows; some may be under way."""

    def discard(self, leftover: Leftover) -> None:
        """Remove one; nothing happens where its writer has finished meanwhile, or it was removed before."""

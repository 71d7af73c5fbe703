"""Bytes between a store and the local disk: hashing, partial files, and what a full disk is called."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from onnx_fleet.errors import StoreDenied, StoreUnavailable, WorkerOutOfResources
from onnx_fleet.store.objects import ObjectInfo, Progress

CHUNK_BYTES = 1024 * 1024

FileState = tuple[int, int, int, int]
"""A file's device, inode, size in bytes, and time of change in ns."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 of bytes, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_state(path: Path) -> FileState:
    """Return what tells without reading whether a file was touched since: where it lies, its size and its time."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def hash_chunks(chunks: Iterable[bytes]) -> str:
    """Return the SHA-256 of bytes that come in pieces, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def file_chunks(path: Path, *, start: int = 0) -> Iterator[bytes]:
    """Yield a file's bytes from an offset on."""
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


@contextmanager
def local_disk(where: str) -> Iterator[None]:
    """Translate what the operating system says about a path.

    Raises:
        WorkerOutOfResources: the disk or the quota is full.
        StoreDenied: the path may not be written or read.
        StoreUnavailable: anything else.
    """
    try:
        yield
    except OSError as err:
        why = err.strerror or str(err)
        if err.errno in _FULL:
            raise WorkerOutOfResources(f"{where}: {why}; free some space and run it again; it resumes") from err
        if err.errno in _REFUSED:
            raise StoreDenied(f"{where}: {why}; let this user write there, or choose another folder") from err
        raise StoreUnavailable(
            f"{where}: {why}; make sure that the path is mounted and is a folder, then try again"
        ) from err


def part_path(path: Path, etag: str) -> Path:
    """Return where an unfinished download waits; other bytes under the same key get another name."""
    return path.with_name(f"{path.name}.{sha256_of(etag.encode())[:12]}.part")


def receive(
    info: ObjectInfo, path: Path, *, read_from: Callable[[int], Iterator[bytes]], progress: Progress | None
) -> None:
    """Write an object's bytes to path, going on from what an earlier call left.

    Args:
        read_from: the object's bytes from an offset on.

    Raises:
        StoreUnavailable: the bytes ended early; what came is kept.
        WorkerOutOfResources: the disk is full; what came is kept.
    """
    part = part_path(path, info.etag)
    with local_disk(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        done = part.stat().st_size if part.exists() else 0
        if done > info.size_bytes:
            part.unlink()
            done = 0
        with part.open("ab", buffering=0) as file:
            for chunk in read_from(done) if done < info.size_bytes else ():
                _write_all(file.write, chunk)
                done += len(chunk)
                if progress:
                    progress(done, info.size_bytes)
        if done != info.size_bytes:
            raise StoreUnavailable(
                f"{info.key}: {done} of {info.size_bytes} bytes arrived; run it again, and it continues there"
            )
        part.replace(path)


def discard_parts(path: Path) -> None:
    """Remove unfinished downloads of a file that is there by now."""
    for part in path.parent.glob(f"{path.name}.*.part"):
        with suppress(OSError):
            part.unlink()


def _write_all(write: Callable[[memoryview], int | None], chunk: bytes) -> None:
    """Write all of some bytes: an unbuffered file may take a piece only, and a full disk shows on the next write."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[write(rest) or 0 :]

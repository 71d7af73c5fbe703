"""A folder as a store: what a bucket promises, with the tools of a POSIX file system.

An object becomes visible whole, by link or rename of a finished and synced file; compare-and-swap runs under one lock
file. The folder ``.onnx-fleet-store`` holds that lock and unfinished files; it is not listed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from onnx_fleet.errors import (
    BundleCorrupt,
    BundleNotFound,
    StoreNotFound,
    StoreUnavailable,
    UnsafeModel,
    VersionConflict,
)
from onnx_fleet.store import keys, transfer
from onnx_fleet.store.objects import Leftover, ObjectInfo, Progress
from onnx_fleet.store.transfer import FileState

PRIVATE = ".onnx-fleet-store"
LOCK_TIMEOUT_S = 60.0

_UNFINISHED = ".unfinished"

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV}
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalStore:
    """A store in a folder, which is made on the first write when its parent exists."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._sent: dict[str, tuple[FileState, str]] = {}
        """What this store has written of files, by key: the state of each, and the digest of what was written."""

    def __repr__(self) -> str:
        return f"LocalStore({str(self._root)!r})"

    @property
    def address(self) -> str:
        return str(self._root)

    def read(self, key: str) -> bytes:
        return self.read_tagged(key)[0]

    def read_tagged(self, key: str) -> tuple[bytes, str]:
        path = self._path(key)
        with transfer.local_disk(str(path)):
            try:
                data = path.read_bytes()
            except _ABSENT as err:
                raise _missing(path) from err
        return data, _etag(transfer.sha256_of(data))

    def chunks(self, key: str) -> Iterator[bytes]:
        path = self._path(key)
        with transfer.local_disk(str(path)):
            try:
                yield from transfer.file_chunks(path)
            except _ABSENT as err:
                raise _missing(path) from err

    def stat(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        with transfer.local_disk(str(path)):
            try:
                sent, state = self._sent.get(key), transfer.file_state(path)
                digest = sent[1] if sent and sent[0] == state else transfer.hash_file(path)
                size = path.stat().st_size
            except _ABSENT:
                return None
        return ObjectInfo(key=key, size_bytes=size, etag=_etag(digest), sha256=digest)

    def create(self, key: str, data: bytes) -> bool:
        with self._written([data], key=key) as (unfinished, path, _digest):
            return self._link(unfinished, path)

    def replace(self, key: str, data: bytes, *, etag: str | None) -> None:
        if etag is None:
            if not self.create(key, data):
                raise VersionConflict(f"{self._path(key)}: exists already; read it and decide again")
            return
        with self._locked():
            found = self.stat(key)
            if found is None or found.etag != etag:
                raise VersionConflict(
                    f"{self._path(key)}: another writer changed it meanwhile; read it and decide again"
                )
            with self._written([data], key=key) as (unfinished, path, _digest), transfer.local_disk(str(path)):
                unfinished.replace(path)

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
        found = self.stat(key)
        if found is not None and found.sha256 == sha256:
            return found
        if found is not None and not overwrite:
            raise VersionConflict(f"{self._path(key)}: exists already with other bytes; read them and decide again")
        with transfer.local_disk(str(path)):
            size = path.stat().st_size
        with self._written(_told(transfer.file_chunks(path), size, progress), key=key) as (unfinished, target, digest):
            if digest != sha256:
                raise BundleCorrupt(f"{path}: changed while it was uploaded; make it again and publish again")
            with transfer.local_disk(str(target)):
                state = transfer.file_state(unfinished)
            if overwrite:
                with transfer.local_disk(str(target)):
                    unfinished.replace(target)
            elif not self._link(unfinished, target):
                return self.upload(key, path, sha256=sha256)
        self._sent[key] = state, digest
        return ObjectInfo(key=key, size_bytes=size, etag=_etag(sha256), sha256=sha256)

    def download(self, key: str, path: Path, *, progress: Progress | None = None) -> ObjectInfo:
        info = self.stat(key)
        source = self._path(key)
        if info is None:
            raise _missing(source)
        transfer.receive(
            info, path, read_from=lambda start: transfer.file_chunks(source, start=start), progress=progress
        )
        return info

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        keys.checked_prefix(prefix)
        start = self._root.joinpath(*prefix.split("/")[:-1])

        def before(folder: Path) -> bool:
            first = f"{folder.relative_to(self._root).as_posix()}/"
            return first < after and not after.startswith(first)

        with transfer.local_disk(str(start)):
            self._require_parent()
            for path in _files(start, left_out=before):
                key = path.relative_to(self._root).as_posix()
                if key.startswith(prefix) and key > after and not key.startswith(f"{PRIVATE}/"):
                    with suppress(FileNotFoundError):
                        found = path.stat()
                        modified_at = datetime.fromtimestamp(found.st_mtime, UTC)
                        yield ObjectInfo(key=key, size_bytes=found.st_size, etag="", modified_at=modified_at)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._locked(), transfer.local_disk(str(path)), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()

    def leftovers(self) -> Iterator[Leftover]:
        with transfer.local_disk(str(self._private())):
            self._require_parent()
            for path in sorted(self._private().glob(f"*{_UNFINISHED}")):
                with suppress(FileNotFoundError):
                    found = path.stat()
                    began_at = datetime.fromtimestamp(found.st_mtime, UTC)
                    yield Leftover(name=path.name, key=None, began_at=began_at, size_bytes=found.st_size)

    def discard(self, leftover: Leftover) -> None:
        path = self._private() / Path(leftover.name).name
        with transfer.local_disk(str(path)):
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        path = self._root.joinpath(*keys.checked(key).split("/"))
        if key.split("/")[0] == PRIVATE or not path.resolve().is_relative_to(self._root.resolve()):
            raise UnsafeModel(f"{key!r}: leads out of {self._root}, or into its private folder; choose another name")
        self._require_parent()
        return path

    def _require_parent(self) -> None:
        """Refuse a folder whose parent is missing, by a typo or a lost mount; one that is yet to be made is empty."""
        if not self._root.parent.is_dir():
            raise StoreNotFound(f"{self._root}: its parent folder does not exist; mount it or make it, then try again")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with transfer.local_disk(str(self._root)):
            self._private().mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._private() / "lock", timeout=LOCK_TIMEOUT_S):
                yield
        except Timeout as err:
            raise StoreUnavailable(
                f"{self._root}: another writer has held the lock for {LOCK_TIMEOUT_S:.0f} s; find out which "
                f"process hangs, then try again"
            ) from err

    def _private(self) -> Path:
        return self._root / PRIVATE

    @contextmanager
    def _written(self, chunks: Iterable[bytes], *, key: str) -> Iterator[tuple[Path, Path, str]]:
        """Write an unfinished file with these bytes, on disk for good; yield it, where it will go, and its digest."""
        target = self._path(key)
        unfinished = self._private() / f"{uuid.uuid4().hex}{_UNFINISHED}"
        try:
            with transfer.local_disk(str(target)):
                self._private().mkdir(parents=True, exist_ok=True)
                digest = hashlib.sha256()
                with unfinished.open("xb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                        digest.update(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                target.parent.mkdir(parents=True, exist_ok=True)
            yield unfinished, target, digest.hexdigest()
            _sync_folder(target.parent)
        finally:
            with suppress(FileNotFoundError, NotADirectoryError):
                unfinished.unlink()

    def _link(self, unfinished: Path, target: Path) -> bool:
        """Give the file its name, unless something has it."""
        with transfer.local_disk(str(target)):
            try:
                os.link(unfinished, target)
            except FileExistsError:
                return False
            except OSError as err:
                if err.errno not in _NO_LINKS:
                    raise
                # FAT and some network file systems have no hard links: one writer at a time, then.
                with self._locked():
                    if target.exists():
                        return False
                    unfinished.rename(target)
        return True


def _etag(sha256: str) -> str:
    return sha256[:32]


def _missing(path: Path) -> BundleNotFound:
    return BundleNotFound(f"{path}: there is no such object in the store")


def _told(chunks: Iterator[bytes], total: int, progress: Progress | None) -> Iterator[bytes]:
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        if progress:
            progress(done, total)


def _files(folder: Path, *, left_out: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a folder's files in the order of their POSIX paths, as S3 lists keys; a missing folder has none.

    Args:
        left_out: says of a folder in it that it is not looked into.
    """
    try:
        found = sorted(folder.iterdir(), key=lambda path: f"{path.name}/" if path.is_dir() else path.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in found:
        if path.is_dir() and not path.is_symlink():
            if not left_out(path):
                yield from _files(path, left_out=left_out)
        elif path.is_file():
            yield path


def _sync_folder(folder: Path) -> None:
    """Make a new name durable, as it is once its folder is; not every file system takes the call."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

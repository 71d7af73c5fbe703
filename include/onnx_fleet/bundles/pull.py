"""Pull: a bundle from the store to a folder that appears whole and verified, or not at all; and its update in place."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from onnx_fleet.bundles import bundle, manifest
from onnx_fleet.bundles.bundle import Bundle, Ref
from onnx_fleet.bundles.manifest import FILE_NAME, BundleFile, Manifest
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.errors import BundleCorrupt, BundleNotFound, FolderOccupied, StoreUnavailable, WorkerOutOfResources
from onnx_fleet.store import ObjectStore, Progress, keys, transfer

_THIS_FOLDER: Final = -100
"""The value of AT_FDCWD on Linux: relative paths would be resolved from the working directory."""
_EXCHANGE: Final = 2
"""The value of RENAME_EXCHANGE on Linux and of RENAME_SWAP on macOS: both names exist at every moment."""
_NOT_HERE: Final = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV, errno.EBUSY}
"""The error numbers of a file system without such an exchange, or of a folder that is a mount point."""


def pull(
    ref: Ref | str, *, store: ObjectStore, to: Path, update: bool = False, progress: Progress | None = None
) -> Manifest:
    """Put the bundle into a folder.

    The bytes are gathered in ``.<name>.partial`` beside it; an interrupted pull leaves that folder, and the next one
    goes on from there. Nothing happens when the folder holds this very bundle already.

    An update puts the bundle in the place of another version of its model by exchanging the two folders in one step:
    whoever opens a path in it finds the one version or the other, whole, at any moment and after a kill at any moment.
    Files that are the same in both are not fetched again. A process that has files of the old version open, or mapped,
    keeps their bytes until it closes them. One that opens several files while they are exchanged may get some of each:
    it reads manifest.json before and after, and loads again where they differ.

    Args:
        to: the folder to make; an empty one is taken as well. An update follows a link.
        update: take the place of another version of the model, and mend files that were changed.

    Raises:
        BundleNotFound: there is no such bundle.
        BundleCorrupt: a file in the store is not as the manifest says.
        FolderOccupied: the folder holds something else, or cannot be exchanged in one step.
        WorkerOutOfResources: the disk is full.
    """
    found = bundle.find(ref, store=store)
    target = to.resolve() if update else to.absolute()
    partial = target.with_name(f".{target.name}.partial")
    if not update and _is_occupied(target):
        _require_this(found, target)
        return found.manifest
    with transfer.local_disk(str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
    lock = partial.with_name(f"{partial.name}.lock")
    try:
        with FileLock(lock, timeout=0):
            try:
                if update and _is_occupied(target):
                    _update(found, target, partial, store=store, progress=progress)
                else:
                    _gather(found, partial, store=store, progress=progress)
                    with transfer.local_disk(str(target)):
                        if target.is_dir():
                            target.rmdir()
                        partial.rename(target)
            finally:
                lock.unlink(missing_ok=True)
    except Timeout as err:
        raise StoreUnavailable(
            f"{target}: another pull is writing to it; wait until that has ended, then try again"
        ) from err
    return found.manifest


def _update(found: Bundle, target: Path, partial: Path, *, store: ObjectStore, progress: Progress | None) -> None:
    """Exchange what the folder holds for the bundle; what an update that was killed left behind goes too."""
    standing = _standing(found, target)
    if not _is_this(found, target) or _damaged(found, target):
        _require_nothing_of_others(standing, target)
        _gather(found, partial, store=store, progress=progress, known=target)
        _exchange(partial, target)
    with transfer.local_disk(str(partial)):
        if partial.exists():
            shutil.rmtree(partial)


def _gather(
    found: Bundle, partial: Path, *, store: ObjectStore, progress: Progress | None, known: Path | None = None
) -> None:
    """Gather every file of the bundle, verified, in the partial folder, and remove everything else.

    Args:
        known: a folder with files of another version, of which those that are the same are taken.
    """
    with transfer.local_disk(str(partial)):
        partial.mkdir(exist_ok=True)
        taken = {file.path for file in found.manifest.files if known and _take(file, known, partial)}
        _require_room(found, partial)
    done, total = 0, found.manifest.size_bytes
    for file in found.manifest.files:
        if file.path not in taken:
            _fetch(found, file, partial, store=store, progress=_shifted(progress, start=done, total=total))
        done += file.size_bytes
        if progress:
            progress(done, total)
    with transfer.local_disk(str(partial)):
        (partial / FILE_NAME).write_bytes(found.manifest_json)
        _remove_strangers(found, partial)


def _take(file: BundleFile, known: Path, partial: Path) -> bool:
    """Link or copy a file from the other version where it is the same there; returns whether it is."""
    source, path = known / keys.checked(file.path), partial / keys.checked(file.path)
    if not (source.is_file() and _is(file, source)):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        path.hardlink_to(source)
    except OSError:  # the file system has no second names, or no more of them
        shutil.copyfile(source, path)
        return _is(file, path)
    return True


def _fetch(found: Bundle, file: BundleFile, partial: Path, *, store: ObjectStore, progress: Progress | None) -> None:
    path = partial / keys.checked(file.path)
    with transfer.local_disk(str(path)):
        if path.is_file() and _is(file, path):
            return
    try:
        store.download(found.key(file.path), path, progress=progress)
    except BundleNotFound as err:
        raise BundleCorrupt(
            f"{bundle.Ref(model_id=found.model_id, channel=None, version=found.version)}: {file.path} is missing in"
            f" {store.address}; {manifest.remedy(found.model_id)}"
        ) from err
    with transfer.local_disk(str(path)):
        if not _is(file, path):
            path.unlink()
            raise BundleCorrupt(
                f"{ref_of(found)}: {file.path} has other bytes in {store.address} than its manifest"
                f" lists; `onnx-fleet verify` names all such files; {manifest.remedy(found.model_id)}"
            )
        transfer.discard_parts(path)


def _is(file: BundleFile, path: Path) -> bool:
    return path.stat().st_size == file.size_bytes and transfer.hash_file(path) == file.sha256


def _is_occupied(target: Path) -> bool:
    with transfer.local_disk(str(target)):
        if target.is_dir():
            return any(target.iterdir())
        return target.exists()


def _standing(found: Bundle, target: Path) -> Manifest:
    """Return the manifest of the bundle that the folder holds.

    Raises:
        FolderOccupied: it holds no bundle of the model.
    """
    known = target / FILE_NAME
    with transfer.local_disk(str(target)):
        data = known.read_bytes() if known.is_file() else b""
    try:
        standing = manifest.read(data, where=str(known))
    except BundleCorrupt as err:
        raise FolderOccupied(
            f"{target}: is not empty and does not contain a bundle of {found.model_id}; name another folder,"
            " or an empty one"
        ) from err
    if standing.bundle.model_id != found.model_id:
        raise FolderOccupied(
            f"{target}: holds {ref_of(standing.bundle)}, a different model than {found.model_id}; name another folder"
        )
    return standing


def _is_this(found: Bundle, target: Path) -> bool:
    known = target / FILE_NAME
    with transfer.local_disk(str(target)):
        return known.is_file() and transfer.hash_file(known) == found.manifest_sha256


def _damaged(found: Bundle, target: Path) -> list[str]:
    """Return the bundle's files that are missing in a folder, or differ there."""
    with transfer.local_disk(str(target)):
        files = [(file, target / keys.checked(file.path)) for file in found.manifest.files]
        return [file.path for file, path in files if not (path.is_file() and _is(file, path))]


def _require_this(found: Bundle, target: Path) -> None:
    """Refuse a folder that does not hold this bundle, whole."""
    if not _is_this(found, target):
        raise FolderOccupied(
            f"{target}: holds {ref_of(_standing(found, target).bundle)}; to replace it with {found.version}, pull it"
            " with --update, or name another folder"
        )
    if bad := _damaged(found, target):
        raise BundleCorrupt(
            f"{target}: holds {ref_of(found)} with missing or changed files ({', '.join(bad[:5])});"
            " pull it with --update to restore them"
        )


def _require_nothing_of_others(standing: Manifest, target: Path) -> None:
    """Refuse a folder with files that are not the old version's: they would go with it."""
    own = {file.path for file in standing.files} | {FILE_NAME}
    with transfer.local_disk(str(target)):
        paths = [path for path in sorted(target.rglob("*")) if path.is_symlink() or not path.is_dir()]
    others = [path.relative_to(target).as_posix() for path in paths]
    others = [path for path in others if path not in own]
    if others:
        raise FolderOccupied(
            f"{target}: holds files that do not belong to {ref_of(standing.bundle)} and would be"
            f" lost ({', '.join(others[:5])}); move them to another folder, then update this one"
        )


def _exchange(new: Path, old: Path) -> None:
    """Exchange the names of two folders in one step."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(new), os.fsencode(old)
    if sys.platform == "darwin":
        failed = libc.renamex_np(*names, _EXCHANGE)
    else:
        failed = libc.renameat2(_THIS_FOLDER, names[0], _THIS_FOLDER, names[1], _EXCHANGE)
    if not failed:
        return
    fault = OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if fault.errno in _NOT_HERE:
        raise FolderOccupied(
            f"{old}: cannot be exchanged in one step here ({fault.strerror}): it has to be a folder on a local disk,"
            " and not a mount point; pull into a new folder and let your server use that one"
        ) from fault
    with transfer.local_disk(str(old)):
        raise fault


def _require_room(found: Bundle, partial: Path) -> None:
    there = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    needed, free = found.manifest.size_bytes - there, shutil.disk_usage(partial).free
    if needed > free:
        raise WorkerOutOfResources(
            f"{partial.parent}: {ref_of(found)} needs {needed} more bytes, {free} are free; free some"
            " space or choose another folder"
        )


def _remove_strangers(found: Bundle, partial: Path) -> None:
    """Remove what an earlier pull of another version left here."""
    wanted = {file.path for file in found.manifest.files} | {FILE_NAME}
    for path in sorted(partial.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(partial).as_posix() not in wanted:
            path.unlink()


def _shifted(progress: Progress | None, *, start: int, total: int) -> Progress | None:
    return (lambda done, _size: progress(start + done, total)) if progress else None

"""Pull: a bundle from the store to a folder that appears whole and verified, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from onnx_fleet.bundles import bundle
from onnx_fleet.bundles.bundle import Bundle, Ref
from onnx_fleet.bundles.manifest import FILE_NAME, BundleFile, Manifest
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.errors import BundleCorrupt, BundleNotFound, StoreUnavailable, VersionConflict, WorkerOutOfResources
from onnx_fleet.store import ObjectStore, Progress, keys, transfer


def pull(ref: Ref | str, *, store: ObjectStore, to: Path, progress: Progress | None = None) -> Manifest:
    """Have the bundle in a folder.

    The bytes are gathered in ``.<name>.partial`` beside it; an interrupted pull leaves that folder, and the next one
    goes on from there. Nothing happens when the folder holds this very bundle already.

    Args:
        to: the folder to make; an empty one is taken as well.

    Raises:
        BundleNotFound: there is no such bundle.
        BundleCorrupt: a file in the store is not as the manifest says.
        VersionConflict: the folder holds something else.
        WorkerOutOfResources: the disk is full.
    """
    found = bundle.find(ref, store=store)
    target = to.absolute()
    if _occupied(target):
        _require_this(found, target)
        return found.manifest
    partial = target.with_name(f".{target.name}.partial")
    with transfer.local_disk(str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
    lock = partial.with_name(f"{partial.name}.lock")
    try:
        with FileLock(lock, timeout=0):
            try:
                _gather(found, partial, store=store, progress=progress)
                with transfer.local_disk(str(target)):
                    if target.is_dir():
                        target.rmdir()
                    partial.rename(target)
            finally:
                lock.unlink(missing_ok=True)
    except Timeout as err:
        raise StoreUnavailable(f"{target}: another pull fills it right now; wait for it, then try again") from err
    return found.manifest


def _gather(found: Bundle, partial: Path, *, store: ObjectStore, progress: Progress | None) -> None:
    """Every file of the bundle in the partial folder, verified, and nothing else."""
    with transfer.local_disk(str(partial)):
        partial.mkdir(exist_ok=True)
        _require_room(found, partial)
    done, total = 0, found.manifest.size_bytes
    for file in found.manifest.files:
        _fetch(found, file, partial, store=store, progress=_shifted(progress, start=done, total=total))
        done += file.size_bytes
        if progress:
            progress(done, total)
    with transfer.local_disk(str(partial)):
        (partial / FILE_NAME).write_bytes(found.manifest_json)
        _remove_strangers(found, partial)


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
            f" {store.address}; publish it again with --force"
        ) from err
    with transfer.local_disk(str(path)):
        if not _is(file, path):
            path.unlink()
            raise BundleCorrupt(
                f"{ref_of(found)}: {file.path} has other bytes in {store.address} than its manifest"
                " says; run `onnx-fleet verify`, and publish it again with --force"
            )
        transfer.discard_parts(path)


def _is(file: BundleFile, path: Path) -> bool:
    return path.stat().st_size == file.size_bytes and transfer.hash_file(path) == file.sha256


def _occupied(target: Path) -> bool:
    with transfer.local_disk(str(target)):
        if target.is_dir():
            return any(target.iterdir())
        return target.exists()


def _require_this(found: Bundle, target: Path) -> None:
    """Whether the folder holds this bundle, whole: then there is nothing to do."""
    with transfer.local_disk(str(target)):
        known = target / FILE_NAME
        same = known.is_file() and transfer.hash_file(known) == found.manifest_sha256
        files = [(file, target / keys.checked(file.path)) for file in found.manifest.files] if same else []
        bad = [file.path for file, path in files if not (path.is_file() and _is(file, path))]
    if not same:
        raise VersionConflict(
            f"{target}: is not empty, and does not hold {ref_of(found)}; name another folder, or remove this one first"
        )
    if bad:
        raise BundleCorrupt(
            f"{target}: holds {ref_of(found)} with missing or changed files ({', '.join(bad[:5])});"
            " remove the folder and pull again"
        )


def _require_room(found: Bundle, partial: Path) -> None:
    there = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    needed, free = found.manifest.size_bytes - there, shutil.disk_usage(partial).free
    if needed > free:
        raise WorkerOutOfResources(
            f"{partial.parent}: {ref_of(found)} needs {needed} more bytes, {free} are free; free some"
            " space or choose another folder"
        )


def _remove_strangers(found: Bundle, partial: Path) -> None:
    """What an earlier pull of another version left here."""
    wanted = {file.path for file in found.manifest.files} | {FILE_NAME}
    for path in sorted(partial.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(partial).as_posix() not in wanted:
            path.unlink()


def _shifted(progress: Progress | None, *, start: int, total: int) -> Progress | None:
    return (lambda done, _size: progress(start + done, total)) if progress else None

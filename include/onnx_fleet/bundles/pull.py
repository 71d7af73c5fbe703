"""Pull: a bundle from the store to a folder that appears whole and verified, or not at all; and its update in place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from onnx_fleet.bundles import bundle, folder_exchange, manifest, signatures, trust
from onnx_fleet.bundles.bundle import Bundle, Ref
from onnx_fleet.bundles.manifest import FILE_NAME, BundleFile, Manifest
from onnx_fleet.bundles.stage import SIGNATURES
from onnx_fleet.bundles.trust_policy import TrustPolicy
from onnx_fleet.entities.naming import ref_of
from onnx_fleet.errors import (
    BundleCorrupt,
    BundleNotFound,
    FolderOccupied,
    StoreDenied,
    StoreUnavailable,
    WorkerOutOfResources,
)
from onnx_fleet.store import ObjectStore, Progress, keys, transfer

_READS: Final = 2
"""How often a file is fetched before its bytes in the store are called wrong: they may have been damaged on the way."""


def pull(
    ref: Ref | str,
    *,
    store: ObjectStore,
    to: Path,
    update: bool = False,
    policy: TrustPolicy | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Put the bundle into a folder.

    The bytes are gathered in ``.<name>.partial`` beside it; an interrupted pull leaves that folder, and the next one
    goes on from there. Nothing happens when the folder holds this very bundle already.

    An update puts the bundle in the place of another version of its model by exchanging the two folders in one step:
    whoever opens a path in it finds the one version or the other, whole, at any moment and after a kill at any moment.
    Files that are the same in both are not fetched again. A process that has files of the old version open, or mapped,
    keeps their bytes until it closes them. One that opens several files while they are exchanged may get some of each:
    it reads manifest.json before and after, and loads again where they differ.

    The bundle's signatures come along, in the folder ``signatures``; a folder that holds the bundle already gets those
    that were made since.

    Args:
        to: the folder to make; an empty one is taken as well. An update follows a link.
        update: take the place of another version of the model, and mend files that were changed.
        policy: whose signatures the bundle needs, before anything of it is fetched; None needs none.

    Raises:
        BundleNotFound: there is no such bundle; BundleDeleted where it was removed, also while this gathers its files.
        BundleUntrusted: it does not have the signatures that the policy asks for.
        BundleCorrupt: a file in the store is not as the manifest says.
        FolderOccupied: the folder holds something else, or cannot be exchanged in one step.
        WorkerOutOfResources: the disk is full.
    """
    found = bundle.find(ref, store=store)
    if policy:
        trust.require_trusted(trust.judge(found, policy=policy, store=store))
    target = to.resolve() if update else to.absolute()
    partial = target.with_name(f".{target.name}.partial")
    if not update and _is_occupied(target):
        _require_this(found, target)
        _add_signatures(found, target, store=store)
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
        folder_exchange.exchange(partial, target)
    else:
        _add_signatures(found, target, store=store)
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
    _add_signatures(found, partial, store=store)


def _add_signatures(found: Bundle, folder: Path, *, store: ObjectStore) -> None:
    """Put the bundle's signatures beside its files; what a reader may not list stays away, if no policy needs it."""
    try:
        stored = signatures.find(store, found.model_id, found.version)
    except StoreDenied:
        return
    for each in stored:
        path = folder / SIGNATURES / each.file_name
        with transfer.local_disk(str(path)):
            path.parent.mkdir(exist_ok=True)
            if not (path.is_file() and path.read_bytes() == each.data):
                path.write_bytes(each.data)


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
    for _ in range(_READS):
        try:
            store.download(found.key(file.path), path, progress=progress)
        except BundleNotFound as err:
            bundle.require_undeleted(store, found.model_id, found.version)
            raise BundleCorrupt(
                f"{bundle.Ref(model_id=found.model_id, channel=None, version=found.version)}: {file.path} is missing in"
                f" {store.address}; {manifest.remedy(found.model_id)}"
            ) from err
        with transfer.local_disk(str(path)):
            if _is(file, path):
                transfer.discard_parts(path)
                return
            path.unlink()
    raise BundleCorrupt(
        f"{ref_of(found)}: {file.path} has other bytes in {store.address} than its manifest"
        f" lists; `onnx-fleet verify` names all such files; {manifest.remedy(found.model_id)}"
    )


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
    own = {file.path for file in standing.files} | {FILE_NAME}
    folder_exchange.require_nothing_of_others(
        target,
        is_own=lambda path: path in own or path.startswith(f"{SIGNATURES}/"),
        holds=ref_of(standing.bundle),
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
